"""The state store: what segments hand on to later ones, of every video in flight, one row a video.

A row that nobody holds is filled with NaN: whoever read it would answer with a numeric error, never with the class of
another video.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ..grid.fusion import FusedSegment
from ..grid.tensors import DType, TensorSpec
from .backends.base import Backend, Value
from .slots import Slot, SlotError, Slots

Key = tuple[str, tuple[int, ...], DType]
"""What is handed on: its name, the shape of one video's, its dtype. A feature has another shape where more of it waits."""


class StateStore:
    """Rows of tensors [slots, ...] and the ledger of who holds them.

    Args:
        backend: whose tensors.
        segments: of the route.
        count: rows, at least 1: the most videos in flight.

    Attributes:
        slots: the ledger; a row becomes NaN when its slot is released.
        arrays: [slots, ...] by key.

    Raises:
        UsageError: If there would be no row.
        ResourceError: If the backend has no memory for them.
    """

    def __init__(self, backend: Backend, segments: Sequence[FusedSegment], count: int) -> None:
        self._backend = backend
        self.slots = Slots(count, lambda slot: self._poison(slot.index))
        self.arrays: dict[Key, Value] = {
            (name, shape, dtype): backend.zeros((count, *shape), dtype) for name, shape, dtype in keys(segments)
        }
        self._written: list[set[Key]] = [set(self.arrays) for _ in range(count)]  # what of a row is not NaN
        for row in range(count):
            self._poison(row)

    def rows(self, slots: Sequence[Slot]) -> list[int]:
        """Return the rows of ``slots``.

        Raises:
            SlotError: If one is not held, or given twice.
        """
        rows = [self.slots.check(slot) for slot in slots]
        if len(set(rows)) < len(rows):
            raise SlotError(f"rows {rows}: expected each video once")
        return rows

    def gather(self, rows: Sequence[int], buffers: Mapping[Key, Value]) -> None:
        """Copy ``rows`` to the first rows of ``buffers``, [at least rows, ...]; a row may be there twice."""
        for key, buffer in buffers.items():
            self._backend.take(self.arrays[key], rows, buffer)

    def scatter(self, buffers: Mapping[Key, Value], rows: Sequence[int]) -> None:
        """Copy the first rows of ``buffers`` to ``rows``."""
        for row in rows:
            self._written[row].update(buffers)
        for key, buffer in buffers.items():
            self._backend.put(buffer, self.arrays[key], rows)

    def _poison(self, row: int) -> None:
        for key in self._written[row]:
            self._backend.poison(self.arrays[key], row)
        self._written[row].clear()


def key_of(spec: TensorSpec) -> Key:
    """Return under what a port finds its tensor: ``in.NAME`` and ``out.NAME`` are the same one."""
    return spec.name.removeprefix("in.").removeprefix("out."), spec.concrete(1, 1)[1:], spec.dtype


def keys(segments: Sequence[FusedSegment]) -> Iterator[Key]:
    """Yield what the segments hand on, each once."""
    yield from dict.fromkeys(key_of(spec) for s in segments for spec in s.outputs if spec.name.startswith("out."))


def bytes_per_video(segments: Sequence[FusedSegment]) -> int:
    """Return the size of a row: what one video in flight needs of a backend's memory, known before anything runs."""
    return sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for _, shape, dtype in keys(segments))
