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
    columns = "ratio,value,95 % interval,target,verdict"
    yield _table("how close to the limit", tables.ratios(report).pick(columns.split(",")))
    for ratio in report.ratios:
        if not ratio.meets and ratio.note:
            yield _line(f"{ratio.name}: {ratio.note}")
    yield _table("why multiply-adds saved are not milliseconds saved", tables.breakdown(report))
    columns = "run,policy,by,rate/s,videos/s,of oracle,p50 ms,p99 ms,growth"
    yield _table("many videos at once", tables.streams(report).pick(columns.split(",")))
    columns = "scenario,verdict,samples,samples/s,p50 ms,p99 ms,asked,differing"
    yield _table("MLPerf LoadGen", tables.scenarios(report).pick(columns.split(",")))
    for run in report.scenarios:
        if run.reason:
            yield _line(f"{run.name}: {run.reason}")
    yield _line(tables.headline(report))
    if report.peers:
        yield _line(tables.against_peers(report))
    yield _line(tables.validity(report))


def _line(text: str) -> Section:
    return Section(text, [], [])


def _table(title: str, table: Table) -> Section:
    """Return a table under its title; without rows, nothing."""
    return Section(f"\n{title}", *table) if table.rows else _line("")
