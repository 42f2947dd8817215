"""The backend interface: load subgraphs, hold tensors, and prepare calls on fixed tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from ...grid.engines.key import Flavour
from ...grid.errors import BackendError, LintError
from ...grid.tensors import DType, Ports

Value = Any
"""A backend's own tensor: a numpy array on a CPU, device memory elsewhere."""

Call = Callable[[], None]
"""Runs a subgraph on the tensors it was prepared with."""


class EngineHost(NamedTuple):
    """What the engines of a backend must have been built for, as in ``EngineRequest``.

    Attributes:
        flavour: what runs them; ``version``: its version.
        device: compute capability of the GPU, or the processor; None if any will do.
        cuda: major version of CUDA that the driver supports; None without a GPU.
    """

    flavour: Flavour
    version: str
    device: str | None
    cuda: str | None


class Program(Protocol):
    """A loaded subgraph."""

    def prepare(self, inputs: Mapping[str, Value], outputs: Mapping[str, Value]) -> Call:
        """Return a call that reads ``inputs`` and writes ``outputs``, with every port of the subgraph by name.

        No tensor may be both input and output. The call may be repeated; it raises ``BackendError`` if the backend
        fails.
        """
        ...


class Backend(Protocol):
    """Executes subgraphs, and owns the tensors that they read and write."""

    name: str

    @property
    def engine_host(self) -> EngineHost | None:
        """What engines must be built for to run here; None if only the bundle's graphs run."""
        ...

    def load(self, content: bytes, ports: Ports, name: str, frames: int | None = None) -> Program:
        """Return the program of a graph with these ports.

        ``content`` is what the backend runs, an ONNX model or an engine whose hash has been checked. ``name`` is for
        errors. With ``frames``, every call is for one video and this number of frames, so the backend may compile for
        these shapes only.
        """
        ...

    def zeros(self, shape: tuple[int, ...], dtype: DType) -> Value:
        """Return a new tensor of zeros."""
        ...

    def frames(self, value: Value, start: int, stop: int) -> Value:
        """Return frames ``[start, stop)`` of a tensor [1, frames, ...] of one video, without a copy."""
        ...

    def rows(self, value: Value, count: int) -> Value:
        """Return the first ``count`` rows of a tensor [batch, ...], without a copy, at the same address."""
        ...

    def row(self, value: Value, index: int) -> Value | None:
        """Return one row [1, ...] of a tensor [batch, ...] as a view; None if a call per row would cost too much."""
        ...

    def write(self, value: Value, array: NDArray[Any]) -> None:
        """Copy a host array of the same shape into a tensor, converting to its dtype."""
        ...

    def read(self, value: Value) -> NDArray[Any]:
        """Return a tensor's contents on the host, valid until the next call that writes it."""
        ...

    def fetch(self, values: Sequence[Value]) -> list[NDArray[Any]]:
        """Return the contents of several tensors, as ``read`` does, but wait for the device only once."""
        ...

    def take(self, value: Value, rows: Sequence[int], out: Value) -> None:
        """Copy rows of ``value`` [batch, ...] to the first rows of ``out``, another tensor, on the device."""
        ...

    def put(self, value: Value, store: Value, rows: Sequence[int]) -> None:
        """Copy the first rows of ``value`` [batch, ...] to ``rows`` of ``store``, another tensor, on the device."""
        ...

    def poison(self, store: Value, row: int) -> None:
        """Fill one row of a tensor [batch, ...] with NaN."""
        ...

    def record(self, calls: Sequence[Call]) -> Call:
        """Return one call that makes these calls in order, as fast as the backend can.

        A backend may run them once now, so record them before the first video: what this leaves in states and
        features is then overwritten before a video reads it.
        """
        ...

    def close(self) -> None:
        """Release everything that the backend holds; neither it nor its calls may be used afterwards."""
        ...


def require_ports(name: str, ports: Ports, inputs: Mapping[str, Value], outputs: Mapping[str, Value]) -> None:
    """Check that a call names exactly the ports of a subgraph.

    Raises:
        BackendError: With the difference.
    """
    odd = (set(inputs) ^ {s.name for s in ports.inputs}) | (set(outputs) ^ {s.name for s in ports.outputs})
    if odd:
        raise BackendError(f"{name}: ports {', '.join(sorted(odd))} are missing or unknown: give every port once")


def require_declared(name: str, ports: Ports, inputs: Iterable[str], outputs: Iterable[str]) -> None:
    """Check that a graph has exactly the ports that were declared for it; ``inputs`` and ``outputs`` are its own.

    Raises:
        LintError: With the difference.
    """
    odd = (set(inputs) ^ {s.name for s in ports.inputs}) | (set(outputs) ^ {s.name for s in ports.outputs})
    if odd:
        raise LintError(
            f"{name}: ports {', '.join(sorted(odd))} are in its graph or in the manifest, but not in both. "
            "Run 'dynvid export' again."
        )


def in_turn(calls: Sequence[Call]) -> Call:
    """Return a call that makes ``calls`` one after another: ``record`` for backends that cannot do better."""
    kept = tuple(calls)

    def call() -> None:
        for one in kept:
            one()

    return call
