"""A report as one HTML page that needs nothing else: no network, no JavaScript; plots are inside."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from html import escape

from . import plots as plots
from . import tables as tables
from .report import Report
from .svg import COLOURS
from .tables import NONE, Table, number

_VERDICTS = {"met": "good", "VALID": "good", "MISSED": "bad", "INVALID": "bad", "ABORTED": "bad"}

_STYLE = """
:root { color-scheme: light dark; LIGHT }
@media (prefers-color-scheme: dark) { :root { DARK } }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 "DejaVu Sans", system-ui, sans-serif; margin: 2.5rem auto;
  max-width: 60rem; padding: 0 1.25rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 } h2 { font-size: 1.15rem; margin: 3rem 0 .5rem }
h2 small, .where, figcaption { color: var(--soft); display: block; font-size: .8rem; font-weight: normal }
.validity { border-left: .3rem solid; font-weight: bold; margin: 1.25rem 0; padding: .3rem .8rem }
.good { color: var(--green) } .bad { color: var(--red); font-weight: bold }
.lead { font-size: 1.1rem } .empty { color: var(--soft); font-style: italic }
.scroll { margin: 1rem 0; overflow-x: auto } table { border-collapse: collapse; font-size: .8rem }
sub { font-size: .7em } th, td { border-bottom: 1px solid var(--rule); padding: .25rem .7rem .25rem 0; text-align: left; vertical-align: top }
th { color: var(--soft); font-weight: normal } td:first-child { white-space: nowrap }
.n { font-variant-numeric: tabular-nums; text-align: right; white-space: nowrap }
figure { margin: 1.25rem 0 } svg { height: auto; max-width: 100% } svg * { stroke-linecap: butt; stroke-linejoin: round }
"""


def page(report: Report) -> str:
    """Return the page; all text of the report is escaped."""
    setting = report.setting
    style = _STYLE.replace("LIGHT", _variables(0)).replace("DARK", _variables(1))
    name = escape(setting.network)
    body = "\n".join(section(report) for section in _SECTIONS)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name} on {escape(setting.backend)}: dynvid bench</title>\n<style>{style}</style>\n</head>\n<body>\n{body}\n"
        "</body>\n</html>\n"
    )


def _head(report: Report) -> str:
    setting = report.setting
    state = "bad" if setting.faults else "good"
    ratios = tables.ratios(report)
    rows = [[*row, ratio.note] for row, ratio in zip(ratios.rows, report.ratios, strict=True)]
    return (
        f"<h1>{escape(setting.network)}: latency against multiply-adds</h1>\n"
        f'<p class="where">{escape(tables.where(setting))} · {escape(setting.clips)} · {escape(setting.date)}</p>\n'
        f'<p class="validity {state}">{escape(tables.validity(report))}</p>\n<p class="lead">{escape(tables.headline(report))}</p>\n'
        + _table(Table([*ratios.names, "what was measured"], rows), "No ratio was asked for.")
    )


def _cost(report: Report) -> str:
    caption = (
        "Mean of one video at a time, from the first call to the answer, without decoding. The dashed line is what a video "
        "would take if time fell as multiply-adds do; squares run without exits; green: the static network on another runtime, in "
        "the same rounds."
    )
    return (
        _title(report, "Latency against multiply-adds")
        + _plot(report, "cost", caption, "No operating point has a latency that is a number.")
        + _table(tables.points(report), "No operating point was measured.")
        + _table(tables.peers(report), "No peer was measured: the static network ran on this backend only.")
    )


def _quality(report: Report) -> str:
    labelled = any(point.accuracy for point in report.points)
    title = "Accuracy against latency" if labelled else "Agreement against latency"
    caption = (
        ""
        if labelled
        else "The clips have no labels: the share whose class is the static network's stands for accuracy."
    )
    return (
        _title(report, title)
        + _plot(report, "quality", caption, "No operating point has a latency that is a number.")
        + _table(tables.quality(report), "No operating point was measured.")
    )


def _breakdown(report: Report) -> str:
    caption = (
        "From the static run's time, scaled by multiply-adds, to the time that was measured: what comes on top, and in green what "
        "is saved beyond."
    )
    empty = "No breakdown: there is none without the static run and an operating point in the same rounds."
    drawn = _plot(report, "breakdown", caption, empty)
    return (
        _title(report, "Why FLOPs saved are not milliseconds saved")
        + drawn
        + _table(tables.breakdown(report), "" if not report.breakdowns else "No parts.")
    )


def _streams(report: Report) -> str:
    caption = "All videos there from the start. Filled: ran for real; hollow: simulated from the t_k(n) that was measured here."
    text = (
        _title(report, "Many videos at once")
        + _plot(report, "throughput", caption, "No stream was run with all videos there from the start.")
        + _table(tables.streams(report), "No stream was run.")
    )
    if not report.streams:
        return text
    caption = "How many videos the launches of a segment held. A launch that is not full costs its videos more each."
    return (
        text
        + _table(tables.queues(report), "The launches were not counted.")
        + _plot(report, "fills", caption, "The launches were not counted.")
    )


def _segments(report: Report) -> str:
    empty = "No segment was timed by batch."
    return (
        _title(report, "Time of a segment by batch, t<sub>k</sub>(n)")
        + _plot(report, "segments", "A segment with its checkpoint's head; dashed: the static network.", empty)
        + (_table(tables.segments(report), empty) if report.table else "")
    )


def _exits(report: Report) -> str:
    empty = "Nothing that was run has exits."
    return (
        _title(report, "Exits")
        + _plot(report, "exits", "", empty)
        + (_table(tables.exits(report), empty) if tables.exits(report).rows else "")
    )


def _referee(report: Report) -> str:
    reasons = [f"<p>{escape(run.name)}: {escape(run.reason)}</p>\n" for run in report.scenarios if run.reason]
    note = (
        '<p class="where">The verdict is LoadGen\'s own. Differing: answers logged while performance was measured that are not what '
        "the same clip gets alone.</p>\n"
    )
    return (
        _title(report, "MLPerf LoadGen")
        + _table(tables.scenarios(report), "LoadGen was not run.")
        + "".join(reasons)
        + (note if report.scenarios else "")
    )


def _resources(report: Report) -> str:
    memory, decode = report.memory, report.decode
    held = (
        f"<p>Memory: {number(memory.peak_bytes / 1e6)} MB at the peak, everything included; {number(memory.state_bytes_per_video / 1e6)} "
        f"MB of state a video in flight, at most {memory.slots} of them.</p>\n"
    )
    read = (
        '<p class="empty">Decoding: none. The clips were arrays.</p>\n'
        if decode is None
        else f"<p>Reading, decoding and preparing a video, apart from all latencies above: {number(decode.mean_ms)} ms mean, "
        f"{number(decode.p50_ms)} ms median, {number(decode.p99_ms)} ms p99, of {decode.videos} videos.</p>\n"
    )
    return _title(report, "Memory and decoding") + held + read


def _setting(report: Report) -> str:
    return (
        _title(report, "Setting")
        + _table(tables.setting(report), "")
        + "<p>Beside this page: report.json (all figures), points.csv, table.csv (t<sub>k</sub>(n)), samples.csv (every measurement) "
        "and trace.json (the launches; open it in ui.perfetto.dev).</p>"
    )


_SECTIONS: tuple[Callable[[Report], str], ...] = (
    _head, _cost, _quality, _breakdown, _streams, _segments, _exits, _referee, _resources, _setting,
)  # fmt: skip


def _title(report: Report, title: str) -> str:
    """Return a heading; it names what computed, so that no figure of one machine stands under another's name."""
    return f"<h2>{title} <small>{escape(tables.where(report.setting))}</small></h2>\n"


def _plot(report: Report, name: str, caption: str, empty: str) -> str:
    drawn = plots.svg(name, report)
    if drawn is None:
        return _empty(empty)
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{drawn}{below}</figure>\n"


def _table(table: Table, empty: str) -> str:
    if not table.rows:
        return _empty(empty)
    numeric = [_numeric(column) for column in zip(*table.rows, strict=True)]
    lines = [
        f"<tr>{''.join(_cell(cell, right) for cell, right in zip(row, numeric, strict=True))}</tr>"
        for row in table.rows
    ]
    body = "\n".join(lines)
    names = [f"<th{' class=n' if n else ''}>{escape(name)}</th>" for name, n in zip(table.names, numeric, strict=True)]
    head = f"<thead><tr>{''.join(names)}</tr></thead>\n" if any(table.names) else ""
    return f'<div class="scroll"><table>\n{head}<tbody>\n{body}\n</tbody></table></div>\n'


def _cell(text: str, numeric: bool) -> str:
    kind = _VERDICTS.get(text) or ("n" if numeric else "")
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"


def _numeric(column: Sequence[str]) -> bool:
    """Return whether a column's cells are numbers, but for those without any."""
    cells = [cell for cell in column if cell not in ("", NONE)]
    return bool(cells) and all(re.fullmatch(r"[-+]?\d[\d.]*%?( to .*| \(.*| of .*)?", cell) for cell in cells)


def _empty(why: str) -> str:
    return f'<p class="empty">{escape(why)}</p>\n' if why else ""


def _variables(shade: int) -> str:
    return " ".join(f"--{name}: {pair[shade]};" for name, pair in COLOURS.items())
