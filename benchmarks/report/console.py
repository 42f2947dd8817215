"""A report for a terminal: its tables, no wider than it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from ...calibration.describe import Section
from . import tables as tables
from .report import Report
from .tables import Table, cut

WIDTH = 110
"""Characters of a line."""


def describe(report: Report) -> Iterator[Section]:
    """Yield what a terminal shows, lines and tables; whether the figures are valid comes last."""
    yield _line(f"{report.setting.network} on {tables.where(report.setting)}: {report.setting.clips}")
    yield _table("", tables.points(report))
    yield _table("the static network elsewhere", tables.peers(report))
    yield _table("how close to the limit", tables.ratios(report))
    for ratio in report.ratios:
        if not ratio.meets and ratio.note:
            yield _line(f"{ratio.name}: {ratio.note}")
    yield _table("why multiply-adds saved are not milliseconds saved", tables.breakdown(report))
    columns = "run,policy,by,rate/s,videos/s,of oracle,p50 ms,p99 ms,growth"
    yield _table("many videos at once", _pick(tables.streams(report), columns))
    columns = "scenario,verdict,samples,samples/s,p50 ms,p99 ms,asked,differing"
    yield _table("MLPerf LoadGen", _pick(tables.scenarios(report), columns))
    for run in report.scenarios:
        if run.reason:
            yield _line(f"{run.name}: {run.reason}")
    yield _line(tables.headline(report))
    yield _line(tables.validity(report))


def _pick(table: Table, columns: str) -> Table:
    """Return these columns alone."""
    kept = [table.names.index(name) for name in columns.split(",")]
    return Table([table.names[i] for i in kept], [[row[i] for i in kept] for row in table.rows])


def _line(text: str) -> Section:
    return Section("\n".join(textwrap.wrap(text, WIDTH, subsequent_indent="  ")), [], [])


def _table(title: str, table: Table) -> Section:
    """Return a table under its title; the widest columns are cut until it fits; without rows, nothing."""
    if not table.rows:
        return Section("", [], [])
    widths = [max(len(line[i]) for line in [table.names, *table.rows]) for i in range(len(table.names))]
    while sum(widths) + 2 * (len(widths) - 1) > WIDTH:
        widths[widths.index(max(widths))] -= 1
    rows = [[cut(cell, width) for cell, width in zip(row, widths, strict=True)] for row in table.rows]
    return Section(
        f"\n{title}" if title else "",
        [cut(name, width) for name, width in zip(table.names, widths, strict=True)],
        rows,
    )
