"""A GPU's memory and one stream of its own, behind a small protocol; which CUDA binding is behind it is chosen here.

Everything that is called asynchronous waits for its turn on the stream and returns at once. A device belongs to the
thread that opened it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Binding = Literal["pycuda", "cuda-python"]
BINDINGS: tuple[Binding, ...] = ("pycuda", "cuda-python")
"""In the order in which they are tried."""

ALIGNMENT_BYTES = 256
"""Addresses from ``allocate`` are multiples of this; TensorRT demands it of every tensor."""

INSTALL = {
    "pycuda": "pip install pycuda (it is compiled: nvcc on PATH)",
    "cuda-python": "pip install cuda-python",
}

Event = Any
"""A point of the stream."""

Graph = Any
"""Captured work that is launched as one; it lives as long as it is referred to."""


class Device(Protocol):
    """One GPU with one stream, never the default one.

    Attributes:
        binding: the package behind it.
        index: of the GPU, from 0.
        name: of the GPU.
        compute_capability: like ``sm90``.
        cuda_version: the newest CUDA that the driver runs, (major, minor).
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
            ResourceError: If there is not that much.
        """
        ...

    def free(self, address: int) -> None:
        """Give memory back; wait for work that may use it first."""
        ...

    def pin(self, num_bytes: int) -> NDArray[np.uint8]:
        """Return page-locked host memory, which copies need to be asynchronous; valid until it is unpinned.

        Raises:
            ResourceError: If there is not that much.
        """
        ...

    def unpin(self, array: NDArray[np.uint8]) -> None:
        """Give page-locked memory back."""
        ...

    def copy_in(self, address: int, array: NDArray[np.uint8]) -> None:
        """Copy pinned host memory to the device, asynchronously."""
        ...

    def copy_out(self, array: NDArray[np.uint8], address: int) -> None:
        """Copy device memory to pinned host memory, asynchronously."""
        ...

    def copy(self, to: int, source: int, num_bytes: int) -> None:
        """Copy within the device, asynchronously; the ranges may not overlap."""
        ...

    def fill(self, address: int, byte: int, num_bytes: int) -> None:
        """Set every byte, asynchronously."""
        ...

    def event(self) -> Event:
        """Return an event that has not been recorded."""
        ...

    def record(self, event: Event) -> None:
        """Put an event at the end of the stream as it is now."""
        ...

    def wait(self, event: Event) -> None:
        """Wait on the host until the stream has passed an event; at once where it was never recorded."""
        ...

    def elapsed_ms(self, start: Event, stop: Event) -> float:
        """Return the time between two events that the stream has passed."""
        ...

    def capture(self, work: Callable[[], None]) -> Graph:
        """Return what ``work`` put on the stream, as a graph; nothing of it has run.

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
        """Return the bytes of device memory that are free, and all of them."""
        ...

    def close(self) -> None:
        """Give everything back. Afterwards only ``close`` may be called."""
        ...
