"""A backend that counts calls and computes nothing, for testing routes and schedules without arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from ...grid.tensors import Ports
from .base import Call, require_ports
from .host_arrays import HostArrays


class NullBackend(HostArrays):
    """Outputs keep their contents. ``launches`` counts calls by subgraph and frames."""

    name = "null"
    engine_host = None

    def __init__(self) -> None:
        self.launches: Counter[tuple[str, int]] = Counter()

    def load(self, content: bytes, ports: Ports, name: str, frames: int | None = None) -> NullProgram:
        """Return a program that only counts."""
        return NullProgram(self, ports, name)

    def write(self, value: NDArray[Any], array: NDArray[Any]) -> None:
        """Check that the shapes agree."""
        if value.shape != array.shape:
            raise ValueError(f"array {array.shape} does not fit a tensor {value.shape}")


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
