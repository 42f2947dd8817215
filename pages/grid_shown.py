"""The grid of a network with its route, as it is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
        samples: in the order of reading, the numbers of each input set's frames: in the video, or, of a route without a
            video, among the sampled frames.
        points: the cells of the checkpoints.
        cells: those that the route needs, in the order of its calls.
        answered: the checkpoint that answered, 1-based; None: a route without a video.
    """

    input_sets: int
    blocks: int
    frames_per_set: int
    samples: tuple[tuple[int, ...], ...]
    points: tuple[Cell, ...]
    cells: tuple[CellShown, ...]
    answered: int | None


def grid_of(route: Route, answered: int, numbers: Sequence[int]) -> GridShown:
    """Return a route as a video went it.

    Args:
        route: the route.
        answered: the checkpoint that answered, 1-based; cells are computed up to there.
        numbers: in the video, of every sampled frame in time order.
    """
    grid = route.grid
    return GridShown(
        grid.input_sets,
        grid.blocks,
        grid.frames_per_set,
        samples_of(grid.set_order, grid.frames_per_set, numbers),
        route.cells,
        tuple(_cells(route, answered)),
        answered,
    )


def samples_of(set_order: Sequence[int], size: int, numbers: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return the numbers of the frames of each input set, in the order of reading."""
    return tuple(tuple(numbers[place * size : (place + 1) * size]) for place in set_order)


def _cells(route: Route, computed: int) -> Iterator[CellShown]:
    call = 0
    for segment in route.segments:
        for span in segment.spans:
            call += 1
            for input_set in range(span.start, span.stop):
                yield CellShown(input_set, span.block, segment.index, call, segment.index <= computed)


_MOST_BELOW = 4


def below(grid: GridShown) -> list[list[str]]:
    """Return what stands below each column of a grid: its frames, the first and the last where they are many."""
    return [
        list(map(str, set_)) if len(set_) <= _MOST_BELOW else [*map(str, set_[: _MOST_BELOW - 2]), "⋮", str(set_[-1])]
        for set_ in grid.samples
    ]


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
