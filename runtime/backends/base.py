"""What a backend must do: load subgraphs, hold tensors, and prepare calls on fixed tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from ...grid.errors import BackendError, UsageError
from ...grid.tensors import DType, Ports

NAMES = ("onnxruntime", "null")

Value = Any
"""A backend's own tensor: a numpy array on a CPU, device memory elsewhere."""

Call = Callable[[], None]
"""Runs a subgraph on the tensors it was prepared with."""


class Program(Protocol):
    """A loaded subgraph."""

    def prepare(self, inputs: Mapping[str, Value], outputs: Mapping[str, Value]) -> Call:
        """Return a call that reads ``inputs`` and writes ``outputs``, every port of the subgraph by name.

        No tensor may be both an input and an output. The call may be repeated; it raises ``BackendError`` if the
        backend fails.
        """
        ...


class Backend(Protocol):
    """An executor of subgraphs, with the tensors that they read and write."""

    name: str

    def load(self, content: bytes, ports: Ports, name: str) -> Program:
        """Return the program of a graph with these ports.

        ``content`` is what the backend runs, an ONNX model or an engine, whose hash has been checked; ``name`` is for
        errors.
        """
        ...

    def zeros(self, shape: tuple[int, ...], dtype: DType) -> Value:
        """Return a new tensor of zeros."""
        ...

    def frames(self, value: Value, start: int, stop: int) -> Value:
        """Return frames ``[start, stop)`` of a tensor [1, frames, ...] of one video, without a copy."""
        ...

    def write(self, value: Value, array: NDArray[Any]) -> None:
        """Copy a host array of the same shape into a tensor, converting to its dtype."""
        ...

    def read(self, value: Value) -> NDArray[Any]:
        """Return a tensor's contents on the host, valid until the next call that writes it."""
        ...


def open_backend(name: str, threads: int | None = None) -> Backend:
    """Return the backend called ``name``; never another one.

    Args:
        name: one of ``NAMES``.
        threads: CPU threads to compute with; None: one a core.

    Raises:
        UsageError: If the name is unknown.
        MissingPackageError, BackendError: If it cannot run here.
    """
    most = 4 * len(os.sched_getaffinity(0))
    if threads is not None and not 1 <= threads <= most:
        raise UsageError(f"{threads} threads: expected 1 to {most}, four a core of this machine")
    if name == "onnxruntime":
        from .ort import OnnxRuntimeBackend

        return OnnxRuntimeBackend(threads)
    if name == "null":
        from .null import NullBackend

        return NullBackend()
    raise UsageError(f"backend {name!r}: expected one of {', '.join(NAMES)}")


def require_ports(name: str, ports: Ports, inputs: Mapping[str, Value], outputs: Mapping[str, Value]) -> None:
    """Check that a call names every port of a subgraph and no other.

    Raises:
        BackendError: Naming the difference.
    """
    odd = (set(inputs) ^ {s.name for s in ports.inputs}) | (set(outputs) ^ {s.name for s in ports.outputs})
    if odd:
        raise BackendError(f"{name}: ports {', '.join(sorted(odd))} are missing or unknown: prepare every port once")
