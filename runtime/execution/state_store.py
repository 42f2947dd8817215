"""The state store: what segments hand on to later ones, for every video in flight, one row per video.

A free row is filled with NaN, so that reading one gives a numeric error, never the class of another video.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ...grid.segments import FusedSegment
from ...grid.tensors import DType, TensorSpec
from ..backends.base import Backend, Value
from ..scheduling.slots import Slot, SlotError, Slots

Kind = tuple[str, tuple[int, ...], DType]
"""What is handed on: its name, its shape for one video, its dtype. The shape of a feature depends on how much waits."""

Held = NDArray[np.generic]

Key = tuple[str, tuple[int, ...], DType, int]
"""A kind and its place, 0 or 1. A segment that reads and writes the same kind writes to the other place.

So no call reads what it writes, and a failed call can be repeated.
"""


class StateStore:
    """Rows of tensors [slots, ...] and the ledger of who holds them.

    Args:
        backend: the backend of the tensors.
        segments: of the route.
        count: number of rows, at least 1: the most videos in flight.

    Attributes:
        slots: the ledger; a row becomes NaN when its slot is released.
        arrays: [slots, ...] by key.
        reads, writes: for each segment, the keys of its ports by name.

    Raises:
        UsageError: If ``count`` is below 1.
        ResourceError: If the backend has no memory for them.
    """

    def __init__(self, backend: Backend, segments: Sequence[FusedSegment], count: int) -> None:
        self._backend = backend
        self.slots = Slots(count, lambda slot: self._poison(slot.index))
        self.reads, self.writes = ports(segments)
        self.arrays: dict[Key, Value] = {key: backend.zeros((count, *key[1]), key[2]) for key in keys(segments)}
        self._written: list[set[Key]] = [set(self.arrays) for _ in range(count)]  # the keys whose row is not NaN
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
        """Copy ``rows`` to the first rows of ``buffers``, [at least rows, ...]; a row may occur twice."""
        for key, buffer in buffers.items():
            self._backend.take(self.arrays[key], rows, buffer)

    def row(self, index: int, row: int) -> tuple[dict[str, Value], dict[str, Value]] | None:
        """Return what segment ``index`` (1-based) reads and writes of one row, by port, [1, ...], without copies.

        None if the backend only has calls on separate buffers. What is written there is NaN again after a release.
        """
        found = [
            {port: self._backend.row(self.arrays[key], row) for port, key in ports.items()}
            for ports in (self.reads[index - 1], self.writes[index - 1])
        ]
        return None if any(value is None for values in found for value in values.values()) else (found[0], found[1])

    def writing(self, keys: Iterable[Key], rows: Sequence[int]) -> None:
        """Note that these keys of ``rows`` will be written; must come before the call that writes them."""
        for row in rows:
            self._written[row].update(keys)

    def scatter(self, buffers: Mapping[Key, Value], rows: Sequence[int]) -> None:
        """Copy the first rows of ``buffers`` to ``rows``."""
        self.writing(buffers, rows)
        for key, buffer in buffers.items():
            self._backend.put(buffer, self.arrays[key], rows)

    def read(self, index: int, slots: Sequence[Slot]) -> dict[str, Held]:
        """Return what segment ``index`` (1-based) handed on when it last ran, by port, [videos, ...]."""
        rows = self.rows(slots)
        return {port: self._backend.read(self.arrays[key])[rows] for port, key in self.writes[index - 1].items()}

    def holds(self, name: str) -> bool:
        """Return whether segments hand on a state or feature of this name."""
        return any(key[0] == name for key in self.arrays)

    def copy(self) -> dict[Key, Held]:
        """Return a copy on the host of everything held for all videos."""
        return {key: self._backend.read(value).copy() for key, value in self.arrays.items()}

    def restore(self, held: Mapping[Key, Held]) -> None:
        """Write back what ``copy`` returned; only for rows that are currently held."""
        for key, values in held.items():
            self._backend.write(self.arrays[key], values)
        self.writing(held, range(self.slots.count))

    def zero(self, name: str) -> None:
        """Fill everything handed on under a name with zeros, for every video; a proof must notice this."""
        for key, value in self.arrays.items():
            if key[0] == name:
                self._backend.write(value, np.zeros(value.shape, key[2]))

    def _poison(self, row: int) -> None:
        for key in self._written[row]:
            self._backend.poison(self.arrays[key], row)
        self._written[row].clear()


def kind_of(spec: TensorSpec) -> Kind:
    """Return the kind that a port carries, the same for ``in.NAME`` and ``out.NAME``."""
    return spec.name.removeprefix("in.").removeprefix("out."), spec.concrete(1, 1)[1:], spec.dtype


def ports(segments: Sequence[FusedSegment]) -> tuple[list[dict[str, Key]], list[dict[str, Key]]]:
    """Return, for each segment, the keys of its ``in.`` and of its ``out.`` ports, by name."""
    held: dict[Kind, int] = {}  # the current place of each kind
    reads, writes = [], []
    for segment in segments:
        read = {s.name: kind_of(s) for s in segment.inputs if s.name.startswith("in.")}
        written = {s.name: kind_of(s) for s in segment.outputs if s.name.startswith("out.")}
        reads.append({port: (*kind, held[kind]) for port, kind in read.items()})
        held |= {kind: 1 - held[kind] if kind in read.values() else held.get(kind, 0) for kind in written.values()}
        writes.append({port: (*kind, held[kind]) for port, kind in written.items()})
    return reads, writes


def keys(segments: Sequence[FusedSegment]) -> Iterator[Key]:
    """Yield the keys that the segments hand on, each once."""
    yield from dict.fromkeys(key for written in ports(segments)[1] for key in written.values())


def bytes_per_video(segments: Sequence[FusedSegment]) -> int:
    """Return the size of a row: the backend memory per video in flight, known before anything runs."""
    return sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for _, shape, dtype, _ in keys(segments))
