"""A report for a terminal: its tables."""

from __future__ import annotations

from collections.abc import Iterator

from ...calibration.describe import Section
from . import tables
from .report import Report
from .tables import Table


def describe(report: Report) -> Iterator[Section]:
    """Yield what a terminal shows, lines and tables; whether the figures are valid comes last."""
    where = f"{report.setting.network} on {tables.where(report.setting)}: {report.setting.clips}"
    yield Section(where, *tables.points(report))
    yield _table("the static network elsewhere", tables.peers(report))
    columns = "ratio,value,95 % interval,bar,verdict"
    yield _table("how close to the limit", _pick(tables.ratios(report), columns))
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
    return Section(text, [], [])


def _table(title: str, table: Table) -> Section:
    """Return a table under its title; without rows, nothing."""
    return Section(f"\n{title}", *table) if table.rows else _line("")
