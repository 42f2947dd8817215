"""The route: checkpoints, and the segments and spans between them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from .errors import RouteError
from .topology import Cell, Grid

PRESETS = ("joint", "depth", "input", "full")

# Fig. 2(d), inferred from the paper's text and its average FLOPs: the last block of the first four sets lies between
# checkpoints 4 and 5, and the other four sets lie entirely between 5 and 6.
_JOINT = (Cell(1, 0), Cell(2, 1), Cell(3, 2), Cell(3, 3), Cell(3, 4), Cell(7, 4))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A cell after which a prediction head may answer; ``index`` is 1-based."""

    index: int
    cell: Cell


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive cells of one block, input sets ``[start, stop)``, run in one call."""

    block: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Segment:
    """The cells between two checkpoints of a route, with their spans in the order in which they must run."""

    index: int
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Route:
    """The checkpoints of a grid in order; neither coordinate ever decreases.

    Raises:
        RouteError: If there is no checkpoint, one lies outside the grid, or one steps back or stands still.
    """

    grid: Grid
    cells: tuple[Cell, ...]

    def __post_init__(self) -> None:
        """Check every checkpoint against the grid and the previous one."""
        if not self.cells:
            raise RouteError("the route has no checkpoints: give --route a preset or at least one cell")
        for index, cell in enumerate(self.cells, 1):
            if not (0 <= cell.input_set < self.grid.input_sets and 0 <= cell.block < self.grid.blocks):
                raise RouteError(
                    f"checkpoint {index} at {cell} lies outside the grid of {self.grid.input_sets} input sets x "
                    f"{self.grid.blocks} blocks (zero-based). Change --route."
                )
        for index, (before, cell) in enumerate(pairwise(self.cells), 2):
            if cell.input_set < before.input_set or cell.block < before.block or cell == before:
                raise RouteError(
                    f"checkpoint {index} at {cell} comes after {before}: neither the input set nor the block may "
                    "decrease, and one must increase. Reorder the checkpoints of --route."
                )

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The checkpoints with their 1-based indices."""
        return tuple(Checkpoint(k, cell) for k, cell in enumerate(self.cells, 1))

    @property
    def full(self) -> Route:
        """The route that consists of this one's last checkpoint."""
        return Route(self.grid, self.cells[-1:])

    @property
    def head_blocks(self) -> tuple[int, ...]:
        """The blocks that have a checkpoint, ascending."""
        return tuple(sorted({cell.block for cell in self.cells}))

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """One segment per checkpoint; together their spans hold each needed cell exactly once.

        Segment k computes, block by block, the input sets that checkpoint k needs and no earlier one did.
        """
        done = [0] * self.grid.blocks  # input sets [0, done[m]) of block m are computed
        segments = []
        for index, cell in enumerate(self.cells, 1):
            spans: list[Span] = []
            for block in range(cell.block + 1):
                spans += self._unbroken(block, done[block], cell.input_set + 1)
                done[block] = cell.input_set + 1
            segments.append(Segment(index, tuple(spans)))
        return tuple(segments)

    def _unbroken(self, block: int, start: int, stop: int) -> list[Span]:
        border = self.grid.border
        if border is not None and start < border < stop:
            return [Span(block, start, border), Span(block, border, stop)]
        return [Span(block, start, stop)] if start < stop else []

    def progress(self, index: int, block: int) -> int:
        """Return how many input sets of ``block`` are computed after segment ``index`` (0: before the first)."""
        return max((c.input_set + 1 for c in self.cells[:index] if c.block >= block), default=0)

    def embedded(self, index: int, block: int) -> int:
        """Return how many input sets the head of ``block`` has embedded after checkpoint ``index``."""
        return max((c.input_set + 1 for c in self.cells[:index] if c.block == block), default=0)


def preset(name: str, grid: Grid, head_blocks: Sequence[int]) -> Route:
    """Return the preset route ``joint``, ``depth``, ``input`` or ``full`` for a network's head-bearing blocks.

    Raises:
        RouteError: If the name is unknown, or ``joint`` does not fit the grid or the heads.
    """
    last = max(head_blocks)
    final = grid.input_sets - 1
    if name == "full":
        return Route(grid, (Cell(final, last),))
    if name == "depth":
        return Route(grid, tuple(Cell(final, m) for m in sorted(head_blocks)))
    if name == "input":
        stops = sorted({grid.input_sets * quarter // 4 for quarter in (1, 2, 3, 4)} - {0})
        return Route(grid, tuple(Cell(stop - 1, last) for stop in stops))
    if name != "joint":
        raise RouteError(
            f"route {name!r}: expected one of {', '.join(PRESETS)} or cells such as '1,0 3,2 7,4'. Change --route."
        )
    if (grid.input_sets, grid.blocks) != (8, 5):
        raise RouteError(
            f"route 'joint' is defined for 8 input sets x 5 blocks, but this grid has {grid.input_sets} x "
            f"{grid.blocks}. Give --route cells or another preset."
        )
    cells = tuple(cell for cell in _JOINT if cell.block in head_blocks)
    if len(head_blocks) == 1:
        raise RouteError(
            f"route 'joint' needs heads on several blocks, but this network has one, on block {last}. Use --route "
            "input."
        )
    return Route(grid, cells)


def parse_route(text: str, grid: Grid, head_blocks: Sequence[int]) -> Route:
    """Return the route that ``text`` names: a preset, or cells ``"1,0 2,1 3,4"`` (zero-based set, block).

    Raises:
        RouteError: If the text is neither, a cell is misplaced, or a checkpoint lies on a block without a head.
    """
    if re.fullmatch(r"\s*[a-z]+\s*", text):
        return preset(text.strip(), grid, head_blocks)
    if not re.fullmatch(r"[\s;]*(\(?\s*\d+\s*,\s*\d+\s*\)?[\s;]*)+", text):
        raise RouteError(
            f"route {text!r}: expected one of {', '.join(PRESETS)} or cells such as '1,0 3,2 7,4'. Change --route."
        )
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    cells = (Cell(n, m) for n, m in zip(numbers[::2], numbers[1::2], strict=True))
    return require_heads(Route(grid, tuple(cells)), head_blocks)


def static_route(text: str | None, grid: Grid, head_blocks: Sequence[int]) -> Route:
    """Return the route of a static network, ``full``, if ``text`` names it or is None.

    Raises:
        RouteError: If it names another one.
    """
    full = preset("full", grid, head_blocks)
    name = "full" if text is None else text.strip()
    if name != "full" and (name in PRESETS or parse_route(name, grid, head_blocks) != full):
        raise RouteError(
            f"route {name!r}: this network is static and answers once, at {full.cells[0]}: expected 'full'. Leave "
            "--route out."
        )
    return full


def require_heads(route: Route, head_blocks: Iterable[int]) -> Route:
    """Return ``route`` if every checkpoint lies on a block that has a head.

    Raises:
        RouteError: With each checkpoint that does not.
    """
    have = sorted(head_blocks)
    bare = [f"{c.index} at {c.cell}" for c in route.checkpoints if c.cell.block not in have]
    if bare:
        raise RouteError(
            f"checkpoint {', '.join(bare)}: no head on that block; this network has heads on "
            f"block{'s' if len(have) > 1 else ''} {', '.join(map(str, have))}. Choose --route among those."
        )
    return route
