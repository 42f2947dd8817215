"""A report's figures as tables of words, for the console and for the page alike."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from ...pages.numbers import NONE, number, share
from .report import Estimate, Latency, OperatingPoint, Ratio, Report, Setting, StreamRun

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

    @property
    def filled(self) -> Table:
        """The table without the columns that hold nothing."""
        held = [any(cell not in ("", NONE) for cell in column) for column in zip(*self.rows, strict=True)]
        return self.pick([name for name, kept in zip(self.names, held, strict=True) if kept])

    def pick(self, names: Sequence[str]) -> Table:
        """Return these columns alone."""
        kept = [self.names.index(name) for name in names]
        return Table([self.names[i] for i in kept], [[row[i] for i in kept] for row in self.rows])


def ratio(value: float) -> str:
    """Return a ratio; three decimals, because bars stand at the second."""
    return f"{value:.3f}" if math.isfinite(value) else NONE


def interval(estimate: Estimate | None, form: Callable[[float], str] = number) -> str:
    """Return ``low to high`` of an estimate, each in the form of ``number``, ``share`` or ``ratio``; of one run, none."""
    if estimate is None or estimate.low == estimate.high:
        return NONE
    return f"{form(estimate.low)} to {form(estimate.high)}"


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
    """Return what the main operating point takes and how often it is right, beside the static network."""
    static = static_point(report)
    if static is None or static is report.points[0]:
        return "The static network and an operating point were not both measured: there is nothing to compare."
    first = report.points[0]
    mine, its = first.latency.mean_ms.value, static.latency.mean_ms.value
    said = (
        f"{_at(first)} a video takes {number(mine)} ms instead of the static network's {number(its)} ms "
        f"({share(mine / its if its else None)}), for {share(first.fraction)} of its multiply-adds. "
    )
    if first.accuracy is not None and static.accuracy is not None:
        said += f"{share(first.accuracy.value)} of the answers are right, {share(static.accuracy.value)} of the static network's."
    else:
        said += f"{share(first.agreement.value)} of the answers are the static network's; the clips have no labels."
    return said


def against_peers(report: Report) -> str:
    """Return in one sentence the first operating point's time over the fastest peers'; nothing without peers.

    The fastest in its own arithmetic comes first, then the fastest in any.
    """
    found = dict[str, list[str]]()
    for what, peers in (
        (report.setting.precision, [peer for peer in report.peers if peer.precision == report.setting.precision]),
        ("any arithmetic", report.peers),
    ):
        if peers:
            best = min(peers, key=lambda peer: peer.latency.mean_ms.value)
            found[best.name] = [*found.get(best.name, []), what]
    by_name = {peer.name: peer.point_over for peer in report.peers}
    return " ".join(
        f"{_at(report.points[0])} a video takes {share(by_name[name].value)} ({interval(by_name[name], share)}) of the "
        f"time on {name}, the fastest peer in {' and in '.join(what)}."
        for name, what in found.items()
    )


def _at(point: OperatingPoint) -> str:
    return "With the given thresholds" if point.name == "thresholds" else f"At {point.name}"


def validity(report: Report) -> str:
    """Return whether the figures count, and if not, why."""
    found = report.setting
    if found.faults:
        return f"NOT VALID: {'; '.join(found.faults)}"
    return (
        f"VALID: two copies of the static run differ by {_copies(found)}; CPU time of other processes {_others(found)}"
    )


def ratios(report: Report) -> Table:
    """Return the ratios with intervals, targets, verdicts, and what was measured."""
    rows = []
    for found in report.ratios:
        value = ratio(found.estimate.value) if found.estimate else NONE
        bounds = interval(found.estimate, ratio)
        rows.append([found.name, value, bounds, found.bar or NONE, verdict(found), found.note])
    return Table(["ratio", "value", "95 % interval", "target", "verdict", "what was measured"], rows)


def verdict(found: Ratio) -> str:
    """Return whether a ratio meets its target."""
    return {True: "met", False: "missed", None: "no target" if found.estimate else "not measured"}[found.meets]


RATIOS = {
    "split_overhead": ("Cost of cutting the network into segments", "All segments, one graph each, without heads, over the static network. 1 is free."),
    "split_overhead_cells": ("Cost of cutting it into cells", "The same, a call for every span of cells."),
    "progressive_penalty": ("Cost of a video that never leaves early", "The route to its end, with every head and decision, over the static network."),
    "flops_realisation": ("How much of the saving arrives, one video at a time", "How many times faster than the static network, over how many times fewer multiply-adds. 1: all of it."),
    "flops_realisation_offline": ("How much of the saving arrives, many videos at once", "The same for throughput, both in batches."),
    "scheduler_efficiency": ("How near the scheduler comes to the best possible", "Throughput over that of an oracle, which knows every exit before and runs full batches."),
    "latency_ratio_p50": ("Waiting under load, median", "Latency over the oracle's, for the same arrivals."),
    "latency_ratio_p99": ("Waiting under load, 99th percentile", "Latency over the oracle's, for the same arrivals."),
}  # fmt: skip
"""Of each ratio, by its name in the JSON: what it is, and how to read it."""


def ordered(report: Report) -> list[OperatingPoint]:
    """Return the operating points by their multiply-adds, the static network last."""
    return sorted(report.points, key=lambda point: (point is static_point(report), point.gmacs))


def points(report: Report) -> Table:
    """Return what every operating point costs."""
    names = "point,GMACs,of static,accuracy,same as static,mean ms,95 % interval,p50 ms,p90 ms,p99 ms,videos/s"
    rows = [
        [
            point.name, number(point.gmacs), share(point.fraction), share(_value(point.accuracy)),
            share(point.agreement.value), *_latency(point.latency), number(point.offline_videos_per_s),
        ]
        for point in ordered(report)
    ]  # fmt: skip
    return Table(names.split(","), rows)


def choices(report: Report) -> Table:
    """Return what a user decides by: accuracy, time and cost of every operating point and of the peers."""
    right = "accuracy" if report.setting.labelled else "same as static"
    rows = [
        [
            f"{point.name}, main" if point is report.points[0] else point.name,
            share(_value(point.accuracy) if report.setting.labelled else point.agreement.value),
            *_latency(point.latency)[:2], *_latency(point.latency)[4:], number(point.gmacs), share(point.fraction),
        ]
        for point in ordered(report)
    ]  # fmt: skip
    for peer in report.peers:
        found = _latency(peer.latency)
        rows.append([f"static on {peer.name}", NONE, *found[:2], found[4], NONE, NONE])
    return Table(["", right, "mean ms", "95 % interval", "p99 ms", "GMACs", "of static"], rows)


def quality(report: Report) -> Table:
    """Return multiply-adds by both rules, and how often the answers are right, with intervals."""
    names = [
        "point",
        "GMACs",
        "GMACs by the paper's rule",
        "accuracy",
        "its 95 % interval",
        "same as static",
        "95 % interval",
    ]
    rows = [
        [
            point.name, number(point.gmacs), number(point.paper_gmacs),
            share(_value(point.accuracy)), interval(point.accuracy, share),
            share(point.agreement.value), interval(point.agreement, share),
        ]
        for point in ordered(report)
    ]  # fmt: skip
    return Table(names, rows)


def peers(report: Report) -> Table:
    """Return the static network elsewhere."""
    rows = [[peer.name, *_latency(peer.latency), ratio(peer.point_over.value)] for peer in report.peers]
    over = [f"{point.name} over it" for point in report.points[:1]]
    return Table(["static network on", "mean ms", "95 % interval", "p50 ms", "p90 ms", "p99 ms", *over], rows)


def exits(report: Report) -> Table:
    """Return who leaves where, and when: one row an exit that anybody took."""
    rows = []
    for point in ordered(report):
        for k, (part, found) in enumerate(zip(point.shares, point.exit_latency, strict=True), 1):
            if part or found:
                times = _latency(found) if found else [NONE] * 5
                rows.append([point.name, str(k), share(part), str(found.videos) if found else NONE, *times])
    return Table(
        ["point", "exit", "of videos", "samples", "mean ms", "95 % interval", "p50 ms", "p90 ms", "p99 ms"], rows
    )


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
    names = "run,policy,by,rate/s,videos,videos/s,of oracle,p50 ms,p90 ms,p99 ms,oracle's p50 ms,oracle's p99 ms,growth,in flight"
    rows = [
        [
            run.name, run.policy, origin(run), number(run.rate_per_s), str(run.videos), number(run.videos_per_s),
            share(run.of_oracle), number(run.p50_ms), number(run.p90_ms), number(run.p99_ms),
            number(run.oracle_p50_ms), number(run.oracle_p99_ms), number(run.growth), str(run.in_flight),
        ]
        for run in report.streams
    ]  # fmt: skip
    return Table(names.split(","), rows)


def throughput(report: Report) -> Table:
    """Return the streams that had all videos from the start."""
    names = ["run", "policy", "by", "videos", "videos/s", "of oracle", "in flight"]
    return _streams(report, names, under_load=False)


def load(report: Report) -> Table:
    """Return the streams whose videos arrived at random, and the oracle with the same arrivals."""
    names = "run,rate/s,videos/s,p50 ms,oracle's p50 ms,p99 ms,oracle's p99 ms,growth,in flight"
    return _streams(report, names.split(","), under_load=True)


def _streams(report: Report, names: Sequence[str], under_load: bool) -> Table:
    runs = tuple(run for run in report.streams if (run.rate_per_s is not None) == under_load)
    found = streams(replace(report, streams=runs))
    return found.pick(names)


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
    return Table(["run", "figure", *(f"segment {k}" for k in range(1, count + 1))], rows)


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
    return Table(["what", "figure"], rows)


def _value(found: Estimate | None) -> float | None:
    return None if found is None else found.value


def _latency(found: Latency) -> list[str]:
    times = [found.p50_ms, found.p90_ms, found.p99_ms]
    return [number(found.mean_ms.value), interval(found.mean_ms), *map(number, times)]


def _copies(found: Setting) -> str:
    return f"{found.copies_differ:.2%}" if math.isfinite(found.copies_differ) else "an unknown amount"


def _others(found: Setting) -> str:
    return "not known" if found.others_cpu_share is None else f"{share(found.others_cpu_share)} of this one's"
