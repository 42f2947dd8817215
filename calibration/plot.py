"""The curve of accuracy against mean cost, as an SVG."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from ..grid.storage.files import whole_file
from .drawing import BLUE, RED, draw
from .sweep import Outcome, Point

_UNITS = {"gmacs": "mean GMACs a video", "ms": "mean ms a video", "exits": "mean exit"}


def write_curve(path: Path, points: list[Point], chosen: Outcome, unit: str) -> None:
    """Write the curve with its 95 % intervals: held-out figures, or, hollow and named so, in-sample ones.

    Args:
        path: of the ``.svg``.
        points: one a q.
        chosen: what the chosen thresholds do, drawn as a ring.
        unit: of the cost axis.

    Raises:
        ResourceError: If it cannot be written.
    """
    drawn = draw("curve", (7.6, 4.6), lambda figure: _paint(figure, points, chosen, unit))
    with whole_file(path, "plot", "give another --plot") as file:
        file.write(drawn.encode())


def _paint(figure: Figure, points: list[Point], chosen: Outcome, unit: str) -> None:
    axes = figure.subplots()
    drawn = sorted(points, key=lambda point: (point.held_out or point.in_sample).means[unit])
    outcomes = [point.held_out or point.in_sample for point in drawn]
    costs, heights = [one.means[unit] for one in outcomes], [100 * one.quality for one in outcomes]
    bounds = [one.accuracy_interval or one.agreement_interval for one in outcomes]
    axes.vlines(costs, [100 * low for low, _ in bounds], [100 * high for _, high in bounds], color=BLUE, alpha=0.4)
    held_out = drawn[0].held_out is not None
    axes.plot(costs, heights, color=BLUE, marker="o", markersize=4, markerfacecolor=BLUE if held_out else "white")
    axes.plot(chosen.means[unit], 100 * chosen.quality, "o", color=RED, fillstyle="none", markersize=10, zorder=3)
    first, last = (f"q = {drawn[end].exits.q:g}" for end in (0, -1))
    axes.annotate(first, (costs[0], 100 * bounds[0][0]), xytext=(6, 0), textcoords="offset points")
    axes.annotate(last, (costs[-1], 100 * bounds[-1][1]), xytext=(0, 4), textcoords="offset points", ha="right")
    name = "agreement with the last checkpoint" if outcomes[0].accuracy is None else "accuracy"
    whose = f"{outcomes[0].videos} {'held-out videos' if held_out else 'videos, in sample'}"
    axes.set_title(f"{name}, {whose}; bars: 95 %; ring: chosen")
    axes.set(xlabel=_UNITS[unit], ylabel=f"{name}, %")
