"""The plots of a report: each says with units what it shows, and labels its lines where they end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...pages.drawing import draw
from ...pages.numbers import number, share
from ...pages.palette import BLUE, GREEN, INK, RED, SOFT
from .report import Breakdown, Estimate, OperatingPoint, Report, StreamRun
from .svg import name_points, page_svg, say, sequence, spread, text_colour
from .tables import origin, static_point

_LINE_INCHES = 0.16
"""Height of a line of text, for labels one above the other."""

_ACROSS = 6
"""Panels side by side."""


class Plot(NamedTuple):
    """A plot, and when there is one.

    Attributes:
        label: what it shows, for who cannot see it.
        rows: how many there are to draw; 0: no plot.
        height, each: inches; ``each`` for every row on top of ``height``.
        paint: draws.
    """

    label: str
    rows: Callable[[Report], int]
    height: float
    each: float
    paint: Callable[[Figure, Report], None]


def svg(name: str, report: Report) -> str | None:
    """Return the plot of ``PLOTS`` of this name as an ``<svg>`` element; None where there is nothing to draw."""
    plot = PLOTS[name]
    rows = plot.rows(report)
    if not rows:
        return None
    return page_svg(
        draw(name, (7.6, plot.height + plot.each * rows), lambda figure: plot.paint(figure, report)), plot.label
    )


def _cost(figure: Figure, report: Report) -> None:
    """Milliseconds against multiply-adds, the ideal line, and the static network elsewhere."""
    axes = figure.subplots()
    shown, static = _shown(report), static_point(report)
    for point in shown:
        _cross(axes, point, point.gmacs, None, point.latency.mean_ms.value, point.latency.mean_ms)
    peers = [(_cut(peer.name, 36), peer.latency.mean_ms.value) for peer in report.peers]
    peers = [(name, ms) for name, ms in peers if math.isfinite(ms)]
    right = 1.08 * max(point.gmacs for point in shown)
    top = 1.1 * max(
        [point.latency.mean_ms.high for point in shown if _finite([point.latency.mean_ms.high])]
        + [ms for _, ms in peers]
        + [1e-9]
    )
    axes.set(xlim=(0, right), ylim=(0, top), xlabel="multiply-adds, GMACs a video (mean)", ylabel="latency, ms a video (mean, 95 % interval)")  # fmt: skip
    if static is not None and _finite([static.gmacs, static.latency.mean_ms.value]) and static.gmacs > 0:
        slope = static.latency.mean_ms.value / static.gmacs
        end = min(right, top / slope) if slope > 0 else right
        axes.plot([0, end], [0, slope * end], color=SOFT, linewidth=1, linestyle=(0, (5, 3)), zorder=1)
        axes.annotate("ideal: time as multiply-adds", (0.3 * right, slope * 0.3 * right), xytext=(8, -12), textcoords="offset points", color=SOFT)  # fmt: skip
    gap = _gap(figure, top)
    for (name, ms), height in zip(peers, spread([ms for _, ms in peers], gap), strict=True):
        axes.axhline(ms, color=GREEN, linewidth=1, zorder=1)
        say(axes, name, (right, ms), (1.02 * right, height), color=GREEN, va="center")
    above = [(_cut(p.name, 24), p.gmacs, p.latency.mean_ms.value, _colour(p)) for p in shown if p is not static]
    name_points(axes, above, "left", right, gap)
    if static in shown:  # below the lines of its peers
        axes.annotate(
            "static", (static.gmacs, static.latency.mean_ms.value), xytext=(7, -11), textcoords="offset points"
        )


def _quality(figure: Figure, report: Report) -> None:
    """Accuracy, or agreement with the static network where there are no labels, against milliseconds."""
    axes = figure.subplots()
    shown = [point for point in _shown(report) if math.isfinite(_right(point, report).value)]
    for point in shown:
        found = _right(point, report)
        _cross(axes, point, point.latency.mean_ms.value, point.latency.mean_ms, 100 * found.value, found, 100)
    bottom = min([100 * _right(point, report).low for point in shown] + [99.0])
    what = "accuracy" if report.setting.labelled else "same class as the static network"
    axes.set(xlabel="latency, ms a video (mean, 95 % interval)", ylabel=f"{what}, % (95 % interval)")
    axes.set_ylim(max(0.0, bottom - 0.08 * (100 - bottom)), 100 + 0.03 * (100 - bottom))
    axes.margins(x=0.15)
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    width, gap = right - left, _gap(figure, high - low)
    named = [(_cut(p.name, 24), p.latency.mean_ms.value, 100 * _right(p, report).value, _colour(p)) for p in shown]
    name_points(axes, named, "right", width, gap)


def _throughput(figure: Figure, report: Report) -> None:
    """Videos a second of every policy that had all videos from the start."""
    axes = figure.subplots()
    runs = _offline(report)
    for row, run in enumerate(runs):
        axes.barh(row, run.videos_per_s, height=0.62, color=BLUE if run.measured else "none", edgecolor=BLUE if run.measured else SOFT)  # fmt: skip
        of_oracle = "" if run.of_oracle is None else f" ({share(run.of_oracle)} of the oracle)"
        axes.annotate(f"{number(run.videos_per_s)}{of_oracle}", (run.videos_per_s, row), xytext=(5, 0), textcoords="offset points", va="center")  # fmt: skip
    axes.set_yticks(range(len(runs)), [_cut(f"{run.name}: {run.policy}, {origin(run)}", 48) for run in runs], color=INK)
    axes.set_xlabel("throughput, videos a second")
    axes.set_xlim(0, 1.3 * max(run.videos_per_s for run in runs) or 1)
    _rows_down(axes, len(runs))


def _breakdown(figure: Figure, report: Report) -> None:
    """From the ideal time to the measured one, a step a part."""
    found = _explained(report)
    steps = [len(breakdown.parts) + 2 for breakdown in found]
    panels = figure.subplots(len(found), 1, squeeze=False, sharex=True, height_ratios=steps)[:, 0]
    for axes, breakdown in zip(panels, found, strict=True):
        axes.barh(0, breakdown.ideal_ms, height=0.62, color=SOFT)
        _beside(axes, number(breakdown.ideal_ms), breakdown.ideal_ms, 0)
        at = breakdown.ideal_ms
        for row, part in enumerate(breakdown.parts, 1):
            axes.plot([at, at], [row - 1.31, row + 0.31], color=SOFT, linewidth=0.6)
            axes.barh(row, part.ms, left=at, height=0.62, color=RED if part.ms > 0 else GREEN)
            _beside(axes, f"{part.ms:+.3f}", max(at, at + part.ms), row)
            at += part.ms
        last = len(breakdown.parts) + 1
        axes.plot([at, at], [last - 1.31, last - 0.31], color=SOFT, linewidth=0.6)
        axes.barh(last, breakdown.actual_ms, height=0.62, color=BLUE)
        _beside(axes, number(breakdown.actual_ms), breakdown.actual_ms, last)
        axes.set_yticks(
            range(last + 1), ["ideal", *(_cut(part.name, 40) for part in breakdown.parts), "measured"], color=INK
        )
        axes.set_title(_cut(breakdown.name, 80))
        axes.margins(x=0.12)
        _rows_down(axes, last + 1)
    panels[-1].set_xlim(left=0)
    panels[-1].set_xlabel("ms a video")


def _segments(figure: Figure, report: Report) -> None:
    """t_k(n): a video's milliseconds of a launch with n videos, with the quartiles."""
    axes = figure.subplots()
    indices = sorted({time.index for time in report.table}, key=lambda index: (index == 0, index))
    colours = sequence(len([index for index in indices if index]))
    labels = []
    for index in indices:
        found = sorted((time for time in report.table if time.index == index), key=lambda time: time.batch)
        sizes, values = [time.batch for time in found], [time.median_ms / time.batch for time in found]
        colour, line = (colours[indices.index(index)], "-") if index else (INK, (0, (5, 3)))
        low, high = [time.p25_ms / time.batch for time in found], [time.p75_ms / time.batch for time in found]
        axes.fill_between(sizes, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(sizes, values, color=colour, linestyle=line, marker="o", markersize=3.5)
        labels.append((f"segment {index}" if index else "static", sizes[-1], values[-1]))
    batches = sorted({time.batch for time in report.table})
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.minorticks_off()
    axes.set_ylim(0, 1.08 * max(time.p75_ms / time.batch for time in report.table) or 1)
    axes.set(xlabel="n, videos a launch", ylabel="median ms a video, and quartiles")
    right = axes.get_xlim()[1]
    heights = spread([label[2] for label in labels], _gap(figure, axes.get_ylim()[1]))
    for (name, size, value), height in zip(labels, heights, strict=True):
        say(axes, name, (size, value), (right, height), va="center")


def _fills(figure: Figure, report: Report) -> None:
    """How many videos the launches of each segment held, stream by stream."""
    runs = _filled(report)
    count = max(len(run.fills) for run in runs)
    colours, lines = sequence(count), _lines(report)
    widest = max(len(launches) for run in runs for launches in run.fills) - 1
    for part, run in zip(figure.subfigures(len(runs), 1, squeeze=False)[:, 0], runs, strict=True):
        part.suptitle(_cut(f"{run.name}, {origin(run)}", 80), x=0.01, ha="left", fontsize=9)
        panels = part.subplots(lines, min(count, _ACROSS), squeeze=False, sharey=True)
        for k, axes in enumerate(panels.flat):
            launches = run.fills[k] if k < len(run.fills) else ()
            if total := sum(launches):
                shares = [100 * number_of / total for number_of in launches[1:]]
                axes.stairs(shares, [n + 0.5 for n in range(len(shares) + 1)], fill=True, color=colours[k])
            axes.set_title(f"segment {k + 1}\n{total} launches", color=SOFT, fontsize=8)
            axes.set_xlim(0.5, max(widest, 1) + 0.5)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
            axes.set_visible(k < count)
        for axes in panels[:, 0]:
            axes.set_ylabel("% of launches")
    figure.supxlabel("videos a launch", color=SOFT, fontsize=9)


def _exits(figure: Figure, report: Report) -> None:
    """Which part of the videos leaves at which checkpoint."""
    axes = figure.subplots()
    shown = [point for point in report.points if point.shares]
    colours = sequence(max(len(point.shares) for point in shown))
    for row, point in enumerate(shown):
        start = 0.0
        for k, part in enumerate(point.shares):
            axes.barh(row, 100 * part, left=100 * start, height=0.66, color=colours[k], edgecolor="none")
            if part >= 0.06:
                text = f"{k + 1}: {part:.0%}"
                axes.annotate(
                    text, (100 * (start + part / 2), row), ha="center", va="center", color=text_colour(colours[k])
                )
            start += part
    axes.set_yticks(range(len(shown)), [_cut(point.name, 24) for point in shown], color=INK)
    axes.set(xlim=(0, 100), xlabel="checkpoint: % of the videos that leave there")
    _rows_down(axes, len(shown))


def _shown(report: Report) -> list[OperatingPoint]:
    return [point for point in report.points if _finite([point.gmacs, point.latency.mean_ms.value])]


def _offline(report: Report) -> list[StreamRun]:
    return [run for run in report.streams if run.rate_per_s is None and math.isfinite(run.videos_per_s)]


def _explained(report: Report) -> list[Breakdown]:
    return [found for found in report.breakdowns if _finite([found.ideal_ms, found.actual_ms])]


def _filled(report: Report) -> list[StreamRun]:
    return [run for run in report.streams if any(sum(launches) for launches in run.fills)]


def _lines(report: Report) -> int:
    """Return in how many lines the segments of a stream are drawn."""
    return math.ceil(max((len(run.fills) for run in _filled(report)), default=0) / _ACROSS)


def _right(point: OperatingPoint, report: Report) -> Estimate:
    missing = Estimate(math.nan, math.nan, math.nan)
    return (point.accuracy or missing) if report.setting.labelled else point.agreement


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _finite(values: Iterable[float]) -> bool:
    return all(math.isfinite(value) for value in values)


def _colour(point: OperatingPoint) -> str:
    return INK if point.q is None and point.name in ("static", "no exits") else BLUE


def _cross(
    axes: Axes, point: OperatingPoint, x: float, across: Estimate | None, y: float, up: Estimate, scale: float = 1
) -> None:
    """Mark a point and its intervals; ``up`` is in units of y / ``scale``."""
    colour = _colour(point)
    axes.plot([x], [y], color=colour, marker="s" if colour == INK else "o", markersize=5, zorder=3)
    axes.plot([x, x], [scale * up.low, scale * up.high], color=colour, linewidth=1.2, zorder=2)
    if across is not None:
        axes.plot([across.low, across.high], [y, y], color=colour, linewidth=1.2, zorder=2)


def _beside(axes: Axes, text: str, x: float, row: int) -> None:
    axes.annotate(text, (x, row), xytext=(4, 0), textcoords="offset points", va="center")


def _rows_down(axes: Axes, rows: int) -> None:
    """Put row 0 on top, without lines between rows."""
    axes.set_ylim(rows - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _gap(figure: Figure, height: float) -> float:
    """Return the height of a line of text in data, where the axes are ``height`` high."""
    return height * _LINE_INCHES / (figure.get_figheight() - 0.6)


PLOTS = {
    "cost": Plot("Latency against multiply-adds", lambda r: len(_shown(r)), 4.0, 0, _cost),
    "quality": Plot("Accuracy or agreement against latency", lambda r: len(_shown(r)), 3.4, 0, _quality),
    "throughput": Plot("Throughput by policy", lambda r: len(_offline(r)), 0.6, 0.3, _throughput),
    "breakdown": Plot("From the ideal time to the measured one", lambda r: sum(len(b.parts) + 3 for b in _explained(r)), 0.5, 0.26, _breakdown),
    "segments": Plot("Time of a launch by batch", lambda r: len(r.table), 3.6, 0, _segments),
    "fills": Plot("Videos a launch by segment", lambda r: len(_filled(r)) * _lines(r), 0.3, 1.6, _fills),
    "exits": Plot("Shares of the exits", lambda r: sum(bool(p.shares) for p in r.points), 0.6, 0.3, _exits),
}  # fmt: skip
