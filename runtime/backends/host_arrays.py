"""Tensors in host memory, as numpy arrays: what all CPU backends share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...grid.errors import BackendError
from ...grid.tensors import DType
from .base import Call, in_turn

Arrays = Mapping[str, NDArray[Any]]
"""Arrays by port."""


class HostArrays:
    """Part of a backend: its tensors are numpy arrays. See ``Backend``."""

    def zeros(self, shape: tuple[int, ...], dtype: DType) -> NDArray[Any]:
        """Return a new array of zeros."""
        return np.zeros(shape, dtype)

    def frames(self, value: NDArray[Any], start: int, stop: int) -> NDArray[Any]:
        """Return frames ``[start, stop)`` of an array [1, frames, ...], as a contiguous view."""
        return value[:, start:stop]

    def rows(self, value: NDArray[Any], count: int) -> NDArray[Any]:
        """Return the first ``count`` rows, as a view."""
        return value[:count]

    def row(self, value: NDArray[Any], index: int) -> NDArray[Any]:
        """Return one row, as a view."""
        return value[index : index + 1]

    def read(self, value: NDArray[Any]) -> NDArray[Any]:
        """Return ``value`` itself."""
        return value

    def fetch(self, values: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return ``values`` themselves."""
        return list(values)

    def take(self, value: NDArray[Any], rows: Sequence[int], out: NDArray[Any]) -> None:
        """Copy rows of ``value`` to the first rows of ``out``."""
        for place, row in enumerate(rows):  # a single fancy index would copy twice
            out[place] = value[row]

    def put(self, value: NDArray[Any], store: NDArray[Any], rows: Sequence[int]) -> None:
        """Copy the first rows of ``value`` to ``rows`` of ``store``."""
        store[list(rows)] = value[: len(rows)]

    def poison(self, store: NDArray[Any], row: int) -> None:
        """Fill a row with NaN."""
        store[row] = np.nan

    def record(self, calls: Sequence[Call]) -> Call:
        """Return one call that makes these calls in order."""
        return in_turn(calls)

    def close(self) -> None:
        """Do nothing: arrays and sessions are freed once nothing references them."""


def one_by_one(
    name: str, shapes: Mapping[str, tuple[int, ...]], inputs: Arrays, outputs: Arrays
) -> Iterator[tuple[Arrays, Arrays]]:
    """Yield the inputs and outputs of one video at a time, [1, ...], for a graph with ports of these shapes.

    Raises:
        BackendError: If a tensor does not have the graph's shape for one video, or the numbers of videos differ.
    """
    count = next(iter(outputs.values())).shape[0]
    for port, array in (*inputs.items(), *outputs.items()):
        own = (1, *array.shape[1:])
        if array.shape[0] != count or shapes[port] not in (own, own[1:]):
            raise BackendError(
                f"{name}: tensor of port {port} has shape {list(array.shape)}, expected {count} times "
                f"{list(shapes[port])}. Run 'dynvid build-engines' again."
            )
    for row in range(count):
        of_row = [{port: array[row : row + 1] for port, array in p.items()} for p in (inputs, outputs)]
        yield of_row[0], of_row[1]


def pass_nan_on(inputs: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]]) -> None:
    """Fill outputs with NaN in rows where any input holds NaN or Inf, in case the backend has hidden it."""
    for row in poisoned_rows(inputs):
        for array in outputs:
            array[row] = np.nan


def poisoned_rows(arrays: Sequence[NDArray[Any]]) -> list[int]:
    """Return the rows that hold NaN or Inf in any of these arrays [batch, ...]."""
    with np.errstate(invalid="ignore", over="ignore"):
        sums = [array.reshape(len(array), -1).sum(axis=1, dtype=np.float32) for array in arrays]
        return np.flatnonzero(~np.isfinite(sum(sums))).tolist()
