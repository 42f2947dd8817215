"""A plan as a figure: the grid, the route, and what every checkpoint costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..grid.storage.files import whole_file
from ..grid.topology import Cell
from . import grid_shown
from .grid_shown import CellShown, GridShown, samples_of
from .palette import DARK, LIGHT, in_colours
from .render import read, render


def write_plan(path: Path, plan: dict[str, Any]) -> None:
    """Write the figure of a plan, as ``dynvid.plan`` returns it.

    Args:
        path: of the ``.svg``, which turns dark where its reader prefers that.
        plan: the plan.

    Raises:
        ResourceError: If it cannot be written.
    """
    with whole_file(path, "figure", "give another --svg") as file:
        file.write(figure(plan).encode())


def figure(plan: dict[str, Any]) -> str:
    """Return the SVG of a plan."""
    shown, style = _grid(plan), read("figure.css")
    style = in_colours(style, LIGHT) + "@media (prefers-color-scheme: dark) {\n" + in_colours(style, DARK) + "}\n"
    left, rows = 66 + 44 * shown.input_sets + 40, len(plan["checkpoints"])
    height = max(44 * shown.blocks + 56, 24 * rows + 60) + 60
    return render(
        "plan.svg.jinja", plan=plan, shown=shown, style=style, words=grid_shown, left=left, width=left + 360, height=height
    )  # fmt: skip


def _grid(plan: dict[str, Any]) -> GridShown:
    grid, cells, call = plan["grid"], list[CellShown](), 0
    for segment in plan["segments"]:
        for span in segment["spans"]:
            call += 1
            cells += [
                CellShown(place, span["block"], segment["index"], call, computed=True)
                for place in range(span["start"], span["stop"])
            ]
    points = tuple(Cell(point["input_set"], point["block"]) for point in plan["checkpoints"])
    size = grid["frames_per_set"]
    samples = samples_of(grid["set_order"], size, range(size * grid["input_sets"]))
    return GridShown(grid["input_sets"], grid["blocks"], size, samples, points, tuple(cells), None)
