"""A backend that counts calls and computes nothing, so that routes and schedules are tested without arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...grid.tensors import DType, Ports
from .base import Call, in_turn, require_ports


class NullBackend:
    """Every output keeps what it held. ``launches`` counts calls by subgraph and frames."""

    name = "null"

    def __init__(self) -> None:
        self.launches: Counter[tuple[str, int]] = Counter()

    def load(self, content: bytes, ports: Ports, name: str) -> NullProgram:
        """Return a program that only counts."""
        return NullProgram(self, ports, name)

    def zeros(self, shape: tuple[int, ...], dtype: DType) -> NDArray[Any]:
        """Return a new array of zeros."""
        return np.zeros(shape, dtype)

    def frames(self, value: NDArray[Any], start: int, stop: int) -> NDArray[Any]:
        """Return frames ``[start, stop)`` of an array [1, frames, ...]."""
        return value[:, start:stop]

    def rows(self, value: NDArray[Any], count: int) -> NDArray[Any]:
        """Return the first ``count`` rows, as a view."""
        return value[:count]

    def write(self, value: NDArray[Any], array: NDArray[Any]) -> None:
        """Check that the shapes agree."""
        if value.shape != array.shape:
            raise ValueError(f"array {array.shape} does not fit a tensor {value.shape}")

    def read(self, value: NDArray[Any]) -> NDArray[Any]:
        """Return ``value`` itself."""
        return value

    def fetch(self, values: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return ``values`` themselves."""
        return list(values)

    def take(self, value: NDArray[Any], rows: Sequence[int], out: NDArray[Any]) -> None:
        """Copy rows of ``value`` to the first rows of ``out``."""
        for place, row in enumerate(rows):  # as one fancy index it would copy twice
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
        """Do nothing: arrays and sessions go when nothing refers to them."""


class NullProgram:
    """One subgraph that is never computed."""

    def __init__(self, backend: NullBackend, ports: Ports, name: str) -> None:
        self._backend = backend
        self._ports = ports
        self._name = name

    def prepare(self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> Call:
        """Return a call that counts itself."""
        require_ports(self._name, self._ports, inputs, outputs)
        frames = inputs[self._ports.inputs[0].name].shape[1]

        def call() -> None:
            self._backend.launches[self._name, frames] += 1

        return call
