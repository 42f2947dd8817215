"""The grid of a dynamic-inference network: input sets by blocks, and the order in which sets are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from .errors import UsageError

Permutation = Literal["evil_odious", "none"]


class Cell(NamedTuple):
    """Block ``block`` applied to input set ``input_set``; both zero-based, like the paper's i and j.

    ``input_set`` counts positions in the permuted order, not in time.
    """

    input_set: int
    block: int

    def __str__(self) -> str:
        return f"({self.input_set},{self.block})"


@dataclass(frozen=True, slots=True)
class Grid:
    """``input_sets`` x ``blocks`` cells; a set is ``frames_per_set`` consecutive sampled frames.

    With ``groups_linked``, shift state crosses from the evil sets into the odious ones (paper, section 3.2.2: "for
    arbitrary n"). Without it, no span crosses that border, and state restarts at zeros there.
    """

    input_sets: int
    blocks: int
    frames_per_set: int
    permutation: Permutation = "evil_odious"
    groups_linked: bool = True

    def __post_init__(self) -> None:
        """Reject grids without cells and unknown permutations."""
        if min(self.input_sets, self.blocks, self.frames_per_set) < 1:
            raise UsageError(
                f"grid of {self.input_sets} input sets x {self.blocks} blocks, {self.frames_per_set} frames per set: "
                "every number must be at least 1"
            )
        if self.num_frames > 65536:
            raise UsageError(
                f"grid of {self.input_sets} input sets of {self.frames_per_set} frames: expected at most 65536 frames"
            )
        if self.permutation not in get_args(Permutation):
            raise UsageError(f"permutation {self.permutation!r}: expected one of {', '.join(get_args(Permutation))}")

    @property
    def num_frames(self) -> int:
        """The number l of frames sampled from a video."""
        return self.input_sets * self.frames_per_set

    @property
    def set_order(self) -> tuple[int, ...]:
        """The temporal number of the set at each position: evil numbers, then odious ones (paper, eq. 4).

        Evil numbers have an even count of one-bits; for eight sets the order is 0 3 5 6 1 2 4 7.
        """
        if self.permutation == "none":
            return tuple(range(self.input_sets))
        return tuple(sorted(range(self.input_sets), key=lambda i: (i.bit_count() % 2, i)))

    @property
    def frame_order(self) -> tuple[int, ...]:
        """The temporal number of the sampled frame at each position of the permuted order, length l."""
        size = self.frames_per_set
        return tuple(s * size + e for s in self.set_order for e in range(size))

    @property
    def border(self) -> int | None:
        """The position at which state restarts at zeros, or None if it never does."""
        if self.groups_linked or self.permutation == "none":
            return None
        evil = sum(i.bit_count() % 2 == 0 for i in range(self.input_sets))
        return evil if evil < self.input_sets else None

    def cells(self) -> list[Cell]:
        """Return every cell, set by set."""
        return [Cell(n, m) for n in range(self.input_sets) for m in range(self.blocks)]
