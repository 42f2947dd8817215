"""The protocol for one GPU: its memory and one stream of its own, independent of the CUDA binding.

Asynchronous operations are queued on the stream and return at once. A device belongs to the thread that opened it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Binding = Literal["pycuda", "cuda-python"]
BINDINGS: tuple[Binding, ...] = ("pycuda", "cuda-python")
"""In the order in which ``open_device`` tries them."""

ALIGNMENT_BYTES = 256
"""Addresses from ``allocate`` are multiples of this, as TensorRT requires of every tensor."""

INSTALL = {
    "pycuda": "pip install pycuda (compiles from source: needs nvcc on PATH)",
    "cuda-python": "pip install cuda-python",
}

Event = Any
"""A point in the stream."""

Graph = Any
"""Captured work that is launched as a unit; it lives as long as it is referenced."""


class Device(Protocol):
    """One GPU with one stream, never the default stream.

    Attributes:
        binding: the CUDA package in use.
        index: index of the GPU, from 0.
        name: name of the GPU.
        compute_capability: like ``sm90``.
        cuda_version: the newest CUDA that the driver supports, (major, minor).
        supports_graphs: whether ``capture`` works.
        stream: CUDA's handle of the stream.
    """

    binding: Binding
    index: int
    name: str
    compute_capability: str
    cuda_version: tuple[int, int]
    supports_graphs: bool
    stream: int

    def allocate(self, num_bytes: int) -> int:
        """Return the address of new memory, a multiple of ``ALIGNMENT_BYTES``.

        Raises:
            ResourceError: If not enough memory is free.
        """
        ...

    def free(self, address: int) -> None:
        """Free memory; wait first for work that may use it."""
        ...

    def pin(self, num_bytes: int) -> NDArray[np.uint8]:
        """Return page-locked host memory, which asynchronous copies need; valid until it is unpinned.

        Raises:
            ResourceError: If not enough memory is free.
        """
        ...

    def unpin(self, array: NDArray[np.uint8]) -> None:
        """Free page-locked memory."""
        ...

    def copy_in(self, address: int, array: NDArray[np.uint8]) -> None:
        """Copy pinned host memory to the device, asynchronously."""
        ...

    def copy_out(self, array: NDArray[np.uint8], address: int) -> None:
        """Copy device memory to pinned host memory, asynchronously."""
        ...

    def copy(self, to: int, source: int, num_bytes: int) -> None:
        """Copy within the device, asynchronously; the ranges must not overlap."""
        ...

    def fill(self, address: int, byte: int, num_bytes: int) -> None:
        """Set every byte, asynchronously."""
        ...

    def event(self) -> Event:
        """Return an event that has not been recorded."""
        ...

    def record(self, event: Event) -> None:
        """Record an event at the current end of the stream."""
        ...

    def wait(self, event: Event) -> None:
        """Wait on the host until the stream has passed an event; return at once if it was never recorded."""
        ...

    def elapsed_ms(self, start: Event, stop: Event) -> float:
        """Return the time between two events that the stream has passed."""
        ...

    def capture(self, work: Callable[[], None]) -> Graph:
        """Return the work that ``work`` puts on the stream, as a graph; none of it runs.

        Raises:
            DeviceError: If ``supports_graphs`` is false, or the work cannot be captured.
        """
        ...

    def launch(self, graph: Graph) -> None:
        """Run a graph, asynchronously."""
        ...

    def synchronize(self) -> None:
        """Wait until the stream is empty.

        Raises:
            DeviceError: If work on it failed.
        """
        ...

    def free_bytes(self) -> tuple[int, int]:
        """Return the free and the total bytes of device memory."""
        ...

    def close(self) -> None:
        """Release everything. Afterwards only ``close`` may be called."""
        ...
