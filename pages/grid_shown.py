"""The grid of a network with its route, as it is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..grid.route import Route
from ..grid.topology import Cell
from .numbers import counted


@dataclass(frozen=True)
class CellShown:
    """A cell of the grid that the route needs.

    Attributes:
        input_set, block: zero-based; ``input_set`` counts in the order of reading.
        segment: the segment that computes it, 1-based.
        call: place among the calls of the route, 1-based; cells of one span share a call.
        computed: whether the video needed it to get its answer.
    """

    input_set: int
    block: int
    segment: int
    call: int
    computed: bool

    @property
    def place(self) -> tuple[int, int]:
        """Its input set and block."""
        return self.input_set, self.block


@dataclass(frozen=True)
class GridShown:
    """A grid and a route through it.

    Attributes:
        input_sets, blocks, frames_per_set: of the grid.
        set_order: place in time of each input set, in the order of reading.
        points: the cells of the checkpoints.
        cells: those that the route needs, in the order of its calls.
        answered: the checkpoint that answered, 1-based; None: a route without a video.
    """

    input_sets: int
    blocks: int
    frames_per_set: int
    set_order: tuple[int, ...]
    points: tuple[Cell, ...]
    cells: tuple[CellShown, ...]
    answered: int | None


def grid_of(route: Route, answered: int | None = None) -> GridShown:
    """Return a route as it is drawn: cells are computed up to the checkpoint that ``answered``, or all."""
    grid = route.grid
    return GridShown(
        grid.input_sets,
        grid.blocks,
        grid.frames_per_set,
        grid.set_order,
        route.cells,
        tuple(_cells(route, len(route.cells) if answered is None else answered)),
        answered,
    )


def _cells(route: Route, computed: int) -> Iterator[CellShown]:
    call = 0
    for segment in route.segments:
        for span in segment.spans:
            call += 1
            for input_set in range(span.start, span.stop):
                yield CellShown(input_set, span.block, segment.index, call, segment.index <= computed)


def grid_title(grid: GridShown) -> str:
    """Return the title of a grid's figure."""
    said = f"{counted(grid.input_sets, 'input set')} by {counted(grid.blocks, 'block')}"
    points = counted(len(grid.points), "checkpoint")
    return f"{said}: {points}" + ("" if grid.answered is None else f", answered at checkpoint {grid.answered}")


def grid_about(grid: GridShown) -> str:
    """Return what a grid's figure shows."""
    route = " ".join(f"{k}: {cell}" for k, cell in enumerate(grid.points, 1))
    done = sum(cell.computed for cell in grid.cells)
    computed = f"{done} of {grid.input_sets * grid.blocks} cells are computed"
    return f"Checkpoints (input set, block) {route}. {computed}{'' if grid.answered is None else ' for the answer'}."
