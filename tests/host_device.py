"""A device of the ``Device`` protocol in host memory, with a stream that is as late as it may be.

Nothing that is put on the stream happens before somebody waits for it, so whoever forgets to wait reads what was there
before, and whoever reuses a staging block too early sends what was there after. New memory holds junk.
"""

import ctypes
import itertools

import numpy as np

from dynvid.grid.errors import DeviceError, ResourceError
from dynvid.runtime.cuda.device import ALIGNMENT_BYTES

JUNK = 0x7B
_streams = itertools.count(0x1000, 0x10)


class HostDevice:
    """See ``Device``.

    Attributes:
        calls: names of the calls that allocate, wait or launch, in order.
        append: what a fake library calls to put work on the stream.
    """

    binding = "cuda-python"
    name = "a device in host memory"
    index = 0
    cuda_version = (13, 0)

    def __init__(self, compute_capability="sm86", supports_graphs=True, memory_bytes=1 << 30):
        self.compute_capability = compute_capability
        self.supports_graphs = supports_graphs
        self.stream = next(_streams)
        self.calls = []
        self.closed = False
        self._left = memory_bytes
        self._memory = {}  # address -> the array that holds it
        self._pinned = {}
        self._queue = []
        self._capturing = None

    # the stream

    def append(self, work):
        self._alive()
        (self._queue if self._capturing is None else self._capturing).append(work)

    def synchronize(self):
        self._alive()
        self._not_captured("a wait")
        self.calls.append("synchronize")
        while self._queue:
            self._queue.pop(0)()

    def event(self):
        self._alive()
        return {"passed": True, "ms": 0.0}

    def record(self, event):
        event["passed"] = False
        self.append(lambda: event.update(passed=True))

    def wait(self, event):
        self._alive()
        while not event["passed"]:
            self._queue.pop(0)()

    def elapsed_ms(self, start, stop):
        assert start["passed"] and stop["passed"]
        return 1.0

    def capture(self, work):
        self._not_captured("a capture")
        if not self.supports_graphs:
            raise DeviceError("this device has no CUDA graphs")
        self._capturing = []
        try:
            work()
            return tuple(self._capturing)
        finally:
            self._capturing = None

    def launch(self, graph):
        self.calls.append("launch")
        for work in graph:
            self.append(work)

    # memory

    def allocate(self, num_bytes):
        self._alive()
        self._not_captured("an allocation")
        self.calls.append("allocate")
        if num_bytes > self._left:
            raise ResourceError(f"GPU memory: {num_bytes} bytes of {self._left}")
        self._left -= num_bytes
        block = np.full(num_bytes + ALIGNMENT_BYTES, JUNK, np.uint8)
        address = -(-block.ctypes.data // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        self._memory[address] = (block, num_bytes)
        return address

    def free(self, address):
        self._alive()
        self._left += self._memory.pop(address)[1]

    def pin(self, num_bytes):
        self._alive()
        array = np.full(num_bytes, JUNK, np.uint8)
        self._pinned[array.ctypes.data] = array
        return array

    def unpin(self, array):
        self._pinned.pop(array.ctypes.data)
        array[:] = JUNK

    def copy_in(self, address, array):
        assert self._is_pinned(array), "only page-locked memory is copied asynchronously"
        self._require(address, array.nbytes)
        self.append(lambda: ctypes.memmove(address, array.ctypes.data, array.nbytes))

    def copy_out(self, array, address):
        assert self._is_pinned(array), "only page-locked memory is copied asynchronously"
        self._require(address, array.nbytes)
        self.append(lambda: ctypes.memmove(array.ctypes.data, address, array.nbytes))

    def copy(self, to, source, num_bytes):
        self._require(to, num_bytes)
        self._require(source, num_bytes)
        assert to + num_bytes <= source or source + num_bytes <= to, "the ranges overlap"
        self.append(lambda: ctypes.memmove(to, source, num_bytes))

    def fill(self, address, byte, num_bytes):
        self._require(address, num_bytes)
        self.append(lambda: ctypes.memset(address, byte, num_bytes))

    def free_bytes(self):
        return self._left, 1 << 30

    def blocks(self):
        """Return how many blocks of memory are allocated."""
        return len(self._memory)

    def close(self):
        if not self.closed:
            self.synchronize()
            self.closed = True

    def _alive(self):
        assert not self.closed, "the device is closed"

    def _not_captured(self, what):
        if self._capturing is not None:
            raise DeviceError(f"{what} while the stream is captured")

    def _is_pinned(self, array):
        return any(p.ctypes.data <= array.ctypes.data < p.ctypes.data + p.nbytes for p in self._pinned.values())

    def _require(self, address, num_bytes):
        inside = any(a <= address and address + num_bytes <= a + n for a, (_, n) in self._memory.items())
        assert inside, f"{num_bytes} bytes at {address:#x} are not in any block"
