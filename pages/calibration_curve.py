"""The curves of accuracy against mean cost, as an SVG."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..calibration.calibrate import Calibration
from ..calibration.choosing.sweep import Point
from ..grid.storage.files import whole_file
from .drawing import draw
from .palette import BLUE, GREEN, RED, follows_the_reader

_UNITS = {"gmacs": "mean GMACs a video", "ms": "mean ms a video", "exits": "mean exit"}


def write_curve(path: Path, calibration: Calibration) -> None:
    """Write both rules' curves with 95 % intervals: held-out figures, or, hollow and named so, in-sample ones.

    The chosen thresholds are drawn as a ring.

    Args:
        path: of the ``.svg``, which turns dark where its reader prefers that.
        calibration: what to draw.

    Raises:
        ResourceError: If it cannot be written.
    """
    drawn = follows_the_reader(
        draw("curve", (7.6, 4.6), lambda figure: _paint(figure, calibration)), _label(calibration)
    )
    with whole_file(path, "plot", "give another --plot") as file:
        file.write(drawn.encode())


def _label(calibration: Calibration) -> str:
    chosen, unit = calibration.judged, calibration.report["cost"]
    return (
        f"{_quality_of(calibration)} against {_UNITS[unit]}, by the geometric and by the optimal rule. Chosen: "
        f"{100 * chosen.quality:.1f} % at {chosen.means[unit]:.3g}."
    )


def _quality_of(calibration: Calibration) -> str:
    return "agreement with the last checkpoint" if calibration.judged.accuracy is None else "accuracy"


def _paint(figure: Figure, calibration: Calibration) -> None:
    axes, unit, chosen = figure.subplots(), calibration.report["cost"], calibration.judged
    _draw(axes, calibration.curve, unit, BLUE, "geometric: shares q^k")
    _draw(axes, calibration.optimal_curve, unit, GREEN, "optimal: each threshold optimised")
    cheapest, dearest = (calibration.curve[end] for end in (0, -1))
    for point, offset, side in ((cheapest, (6, -10), "left"), (dearest, (0, 7), "right")):
        at = point.held_out or point.in_sample
        axes.annotate(
            f"q = {point.exits.q:g}",
            (at.means[unit], 100 * at.quality),
            xytext=offset,
            textcoords="offset points",
            ha=side,
            color=BLUE,
        )
    axes.plot(
        chosen.means[unit],
        100 * chosen.quality,
        "o",
        color=RED,
        fillstyle="none",
        markersize=10,
        zorder=3,
        label="chosen",
    )
    name = _quality_of(calibration)
    held_out = calibration.curve[0].held_out is not None
    whose = f"{chosen.videos} {'held-out videos' if held_out else 'videos, in sample'}"
    axes.set_title(f"{name}, {whose}; bars: 95 %")
    axes.set(xlabel=_UNITS[unit], ylabel=f"{name}, %")
    axes.legend(loc="lower right", frameon=False)


def _draw(axes: Axes, points: list[Point], unit: str, colour: str, label: str) -> None:
    held_out = points[0].held_out is not None
    outcomes = sorted((point.held_out or point.in_sample for point in points), key=lambda one: one.means[unit])
    costs, heights = [one.means[unit] for one in outcomes], [100 * one.quality for one in outcomes]
    bounds = [one.accuracy_interval or one.agreement_interval for one in outcomes]
    axes.vlines(costs, [100 * low for low, _ in bounds], [100 * high for _, high in bounds], color=colour, alpha=0.4)
    fill = colour if held_out else "white"
    axes.plot(costs, heights, color=colour, marker="o", markersize=4, markerfacecolor=fill, label=label)
