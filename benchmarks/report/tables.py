"""A report's figures as tables of words, for the console and for the page alike."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple

from .report import Estimate, Latency, OperatingPoint, Report, Setting, StreamRun

NONE = "–"
"""Where there is no figure."""

_NUMBER = re.compile(r"[-+]?\d[\d.]*%?( to .*| \(.*| of .*)?")


class Table(NamedTuple):
    """Cells of text; no rows: there is nothing to say."""

    names: list[str]
    rows: list[list[str]]

    @property
    def numeric(self) -> list[bool]:
        """Whether a column's cells are numbers, but for those without any."""
        held = [[cell for cell in column if cell not in ("", NONE)] for column in zip(*self.rows, strict=True)]
        return [bool(cells) and all(_NUMBER.fullmatch(cell) for cell in cells) for cells in held]


def number(value: float | None) -> str:
    """Return three significant digits or more, never an exponent for what is measured here; a dash for no number."""
    if value is None or not math.isfinite(value):
        return NONE
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{decimals}f}"


def share(value: float | None) -> str:
    """Return a share as percents."""
    return NONE if value is None or not math.isfinite(value) else f"{value:.1%}"


def ratio(value: float) -> str:
    """Return a ratio; three decimals, because bars stand at the second."""
    return f"{value:.3f}" if math.isfinite(value) else NONE


def interval(estimate: Estimate | None, form: Callable[[float], str] = number) -> str:
    """Return ``low to high`` of an estimate, each in the form of ``number``, ``share`` or ``ratio``."""
    return NONE if estimate is None else f"{form(estimate.low)} to {form(estimate.high)}"


def where(setting: Setting) -> str:
    """Return what computed, as headings say it: the backend, the precision and the machine.

    The machine is its ``device`` where a GPU computed, else its ``processor``.
    """
    machine = setting.machine.get("device") or setting.machine.get("processor") or "unnamed machine"
    threads = f"{setting.threads} thread{'' if setting.threads == 1 else 's'}"
    return f"{setting.backend} {setting.precision}, {threads}, {machine}"


def static_point(report: Report) -> OperatingPoint | None:
    """Return the static network; None where it was not run."""
    return next((point for point in report.points if point.name == "static"), None)


def headline(report: Report) -> str:
    """Return in one sentence what the first operating point costs, in multiply-adds and in time."""
    static = static_point(report)
    if static is None or static is report.points[0]:
        return "The static network and an operating point were not both measured: there is nothing to compare."
    first = report.points[0]
    mine, its = first.latency.mean_ms.value, static.latency.mean_ms.value
    return (
        f"At {first.name} a video takes {share(first.fraction)} of the static network's multiply-adds and "
        f"{share(mine / its if its else None)} of its time: {number(mine)} ms instead of {number(its)} ms."
    )


def validity(report: Report) -> str:
    """Return whether the figures count, and if not, why."""
    found = report.setting
    if found.faults:
        return f"NOT VALID: {'; '.join(found.faults)}"
    return (
        f"VALID: two copies of the static run differ by {_copies(found)}; CPU time of other processes {_others(found)}"
    )


def ratios(report: Report) -> Table:
    """Return the ratios with intervals, bars, verdicts, and what was measured."""
    rows = []
    for found in report.ratios:
        verdict = {True: "met", False: "MISSED", None: "no bar" if found.estimate else "not measured"}[found.meets]
        value = ratio(found.estimate.value) if found.estimate else NONE
        rows.append([found.name, value, interval(found.estimate, ratio), found.bar or NONE, verdict, found.note])
    return Table(["ratio", "value", "95 % interval", "bar", "verdict", "what was measured"], rows)


def points(report: Report) -> Table:
    """Return what every operating point costs."""
    names = "point,GMACs,of static,accuracy,agreement,mean ms,95 % interval,p50,p90,p99,videos/s"
    rows = [
        [
            point.name, number(point.gmacs), share(point.fraction), share(_value(point.accuracy)),
            share(point.agreement.value), *_latency(point.latency), number(point.offline_videos_per_s),
        ]
        for point in report.points
    ]  # fmt: skip
    return Table(names.split(","), rows)


def quality(report: Report) -> Table:
    """Return multiply-adds by both rules, and how often the answers are right, with intervals."""
    names = ["point", "GMACs", "GMACs by the paper's rule", "accuracy", "95 % interval", "agreement", "95 % interval"]
    rows = [
        [
            point.name, number(point.gmacs), number(point.paper_gmacs),
            share(_value(point.accuracy)), interval(point.accuracy, share),
            share(point.agreement.value), interval(point.agreement, share),
        ]
        for point in report.points
    ]  # fmt: skip
    return Table(names, rows)


def peers(report: Report) -> Table:
    """Return the static network elsewhere."""
    rows = [[peer.name, *_latency(peer.latency)] for peer in report.peers]
    return Table(["static network on", "mean ms", "95 % interval", "p50", "p90", "p99"], rows)


def exits(report: Report) -> Table:
    """Return who leaves where, and when: one row an exit that anybody took."""
    rows = []
    for point in report.points:
        for k, (part, found) in enumerate(zip(point.shares, point.exit_latency, strict=True), 1):
            if part or found:
                times = _latency(found) if found else [NONE] * 5
                rows.append([point.name, str(k), share(part), str(found.videos) if found else NONE, *times])
    return Table(["point", "exit", "of videos", "samples", "mean ms", "95 % interval", "p50", "p90", "p99"], rows)


def breakdown(report: Report) -> Table:
    """Return the way from the ideal time to the measured one, run by run; a part's share is of the ideal time."""
    rows = []
    for found in report.breakdowns:
        rows.append([found.name, "ideal: the static run's time x the MAC ratio", number(found.ideal_ms), ""])
        for part in found.parts:
            of_ideal = f"{part.ms / found.ideal_ms:+.1%}" if found.ideal_ms else NONE
            rows.append(["", part.name, f"{part.ms:+.3f}", of_ideal])
        rows.append(["", "measured", number(found.actual_ms), ""])
    return Table(["run", "part", "ms a video", "of ideal"], rows)


def streams(report: Report) -> Table:
    """Return what many videos at once did, for real and in the simulator."""
    names = (
        "run,policy,by,rate/s,videos,videos/s,of oracle,p50 ms,p90 ms,p99 ms,oracle's p50,oracle's p99,growth,in flight"
    )
    rows = [
        [
            run.name, run.policy, origin(run), number(run.rate_per_s), str(run.videos), number(run.videos_per_s),
            share(run.of_oracle), number(run.p50_ms), number(run.p90_ms), number(run.p99_ms),
            number(run.oracle_p50_ms), number(run.oracle_p99_ms), number(run.growth), str(run.in_flight),
        ]
        for run in report.streams
    ]  # fmt: skip
    return Table(names.split(","), rows)


def origin(run: StreamRun) -> str:
    """Return whether a stream ran or was computed."""
    return "measured" if run.measured else "simulated"


def queues(report: Report) -> Table:
    """Return mean videos a launch and mean wait in the queue by segment."""
    count = max((max(len(run.fills), len(run.wait_ms)) for run in report.streams), default=0)
    rows = []
    for run in report.streams:
        means = [sum(n * m for n, m in enumerate(held)) / sum(held) if sum(held) else None for held in run.fills]
        for what, values in (("mean videos a launch", means), ("mean wait in the queue, ms", run.wait_ms)):
            if values:
                cells = [number(value) for value in values]
                rows.append([f"{run.name}, {origin(run)}", what, *cells, *[NONE] * (count - len(cells))])
    return Table(["run", "", *(f"segment {k}" for k in range(1, count + 1))], rows)


def segments(report: Report) -> Table:
    """Return t_k(n): median milliseconds of a launch, a video's share in brackets; one row a segment."""
    sizes = sorted({time.batch for time in report.table})
    medians = {(time.index, time.batch): time.median_ms for time in report.table}
    rows = []
    for index in sorted({time.index for time in report.table}, key=lambda i: (i == 0, i)):
        found = [(n, medians.get((index, n))) for n in sizes]
        cells = [NONE if ms is None else f"{number(ms)} ({number(ms / n)})" for n, ms in found]
        rows.append([f"segment {index}" if index else "static", *cells])
    return Table(["launch, ms (a video's)", *(f"n = {n}" for n in sizes)], rows)


def scenarios(report: Report) -> Table:
    """Return what LoadGen says; the verdict is its own word."""
    names = "scenario,verdict,samples,seconds,samples/s,p50 ms,p90 ms,p99 ms,asked,differing"
    rows = [
        [
            run.name, run.validity, str(run.samples), number(run.seconds), number(run.samples_per_s),
            number(run.p50_ms), number(run.p90_ms), number(run.p99_ms), run.target or NONE,
            f"{run.accuracy_differing} of {run.accuracy_sampled}",
        ]
        for run in report.scenarios
    ]  # fmt: skip
    return Table(names.split(","), rows)


def setting(report: Report) -> Table:
    """Return where, with what, and on what."""
    found = report.setting
    rows = [
        ["network", f"{found.network}, {found.classes} classes, {number(found.gmacs)} GMACs in full"],
        ["bundle", f"sha256 {found.bundle_sha256}"],
        [
            "computed by",
            f"{found.backend}, {found.precision}, threads: {found.threads}, batch up to {found.batch}, streams: {found.streams}",
        ],
        ["clips", f"{found.clips}, {'with' if found.labelled else 'without'} labels"],
        ["thresholds", found.exits],
        ["rounds", str(found.rounds)],
        ["command", found.command or "not known"],
        *([f"machine: {name}", value] for name, value in found.machine.items()),
        ["versions", ", ".join(f"{name} {value}" for name, value in found.versions.items()) or "not known"],
        ["date", found.date],
        ["two copies of the static run", f"differ by {_copies(found)}"],
        ["CPU time of other processes", _others(found)],
    ]
    return Table(["", ""], rows)


def _value(found: Estimate | None) -> float | None:
    return None if found is None else found.value


def _latency(found: Latency) -> list[str]:
    times = [found.p50_ms, found.p90_ms, found.p99_ms]
    return [number(found.mean_ms.value), interval(found.mean_ms), *map(number, times)]


def _copies(found: Setting) -> str:
    return f"{found.copies_differ:.2%}" if math.isfinite(found.copies_differ) else "an unknown amount"


def _others(found: Setting) -> str:
    return "not known" if found.others_cpu_share is None else f"{share(found.others_cpu_share)} of this one's"
