"""The slot ledger: which video holds which row of the state arrays. It knows row numbers and holds no arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ...grid.errors import UsageError


class SlotError(RuntimeError):
    """A slot was used or released by a caller that does not hold it: a programming error, not a user error."""


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """The right to one row, from ``Slots.acquire`` until ``release``. Slots are compared by identity.

    Attributes:
        index: the row, zero-based.
        generation: how many times the row has been handed out, this time included.
    """

    index: int
    generation: int


class Slots:
    """A fixed number of rows, each free or held under one generation.

    Args:
        count: number of rows, at least 1.
        on_release: called with each slot that becomes free, so that its row can be filled with NaN.

    Raises:
        UsageError: If ``count`` is below 1.
    """

    def __init__(self, count: int, on_release: Callable[[Slot], None] | None = None) -> None:
        if count < 1:
            raise UsageError(f"{count} slots: expected at least 1, one for each video in flight")
        self.count = count
        self._on_release = on_release
        self._held: list[Slot | None] = [None] * count
        self._generations = [0] * count
        self._free = list(range(count - 1, -1, -1))

    @property
    def free(self) -> int:
        """The number of free rows."""
        return len(self._free)

    def acquire(self) -> Slot | None:
        """Return a free row under a new generation, or None if all are held."""
        if not self._free:
            return None
        index = self._free.pop()
        self._generations[index] += 1
        slot = self._held[index] = Slot(index, self._generations[index])
        return slot

    def check(self, slot: Slot) -> int:
        """Return the row of ``slot``.

        Raises:
            SlotError: If it is not held: already released, handed out again since, or from another ledger.
        """
        index = slot.index
        if not 0 <= index < self.count:
            raise SlotError(f"slot {index}: this ledger has rows 0 to {self.count - 1}")
        if self._held[index] is not slot:
            state = "free" if self._held[index] is None else f"held under generation {self._generations[index]}"
            raise SlotError(f"slot {index} of generation {slot.generation}: its row is {state}, expected held by it")
        return index

    def release(self, slot: Slot) -> None:
        """Free the row of ``slot``.

        Raises:
            SlotError: As ``check``.
        """
        index = self.check(slot)
        self._held[index] = None
        self._free.append(index)
        if self._on_release is not None:
            self._on_release(slot)


def slots_for(segments: int, batch: int, decoders: int) -> int:
    """Return how many videos in flight keep the batches of every segment full and each decoder busy.

    With more, a video's calls would only find its memory cold.
    """
    return segments * (batch - 1) + 1 + decoders


def slots_within(budget_mb: float, bytes_per_video: int) -> int:
    """Return how many videos in flight fit in a memory budget.

    Args:
        budget_mb: in 10^6 bytes.
        bytes_per_video: states, features and answers of one video.

    Raises:
        UsageError: If not even one fits, or the budget is not finite.
    """
    if not bytes_per_video <= budget_mb * 1e6 < math.inf:
        least = math.ceil(bytes_per_video / 1e3) / 1e3
        raise UsageError(
            f"{budget_mb:g} MB for videos in flight: expected a finite number from {least:g}, "
            "the need of one video per stream"
        )
    return int(budget_mb * 1e6 // bytes_per_video)
