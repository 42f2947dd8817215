"""A GPU through pycuda. Not yet run on hardware.

pycuda has no CUDA graphs. If cuda-python is installed too, that captures pycuda's stream.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...grid.errors import DeviceError, ResourceError
from .device import INSTALL, Binding
from .driver import CapturedGraph, CudaDriver, StreamCapture

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream


class PycudaDevice:
    """See ``Device``. It retains the GPU's primary context, which TensorRT and PyTorch also use.

    Raises:
        DeviceError: If there is no driver, no such GPU, or pycuda is not installed.
    """

    binding: Binding = "pycuda"

    def __init__(self, index: int) -> None:
        try:
            self._cuda = importlib.import_module("pycuda.driver")
        except ModuleNotFoundError as error:
            raise DeviceError(f"it is not installed ({error}): {INSTALL['pycuda']}") from None
        except ImportError as error:
            raise DeviceError(f"it does not load ({error}): install an NVIDIA driver, or build pycuda again") from None
        with self._checked("cuInit"):
            self._cuda.init()
            count = self._cuda.Device.count()
            if not 0 <= index < count:
                raise DeviceError(f"there are {count} GPUs, expected more than {index}")
            device = self._cuda.Device(index)
            self.index = index
            self.name = str(device.name())
            self.compute_capability = "sm{}{}".format(*device.compute_capability())
            version = self._cuda.get_driver_version()
            self.cuda_version = (version // 1000, version % 1000 // 10)
            _enter(device, index)
            self._stream = self._cuda.Stream(_NON_BLOCKING)
        self.stream = int(self._stream.handle)
        self._capture = _capture_of(self.stream)
        self.supports_graphs = self._capture is not None
        self._memory: dict[int, Any] = {}
        self._pinned: dict[int, Any] = {}
        self._closed = False

    @contextmanager
    def _checked(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._cuda.MemoryError as error:
            raise ResourceError(f"GPU memory: {what}: {error}. Use a smaller batch, or free the GPU.") from None
        except self._cuda.Error as error:
            raise DeviceError(f"{what}: {error}") from None

    def allocate(self, num_bytes: int) -> int:
        """See ``Device``."""
        with self._checked(f"allocating {num_bytes} bytes"):
            block = self._cuda.mem_alloc(num_bytes)
        self._memory[int(block)] = block
        return int(block)

    def free(self, address: int) -> None:
        """See ``Device``."""
        with self._checked("free"):
            self._memory.pop(address).free()

    def pin(self, num_bytes: int) -> NDArray[np.uint8]:
        """See ``Device``."""
        with self._checked(f"pinning {num_bytes} bytes"):
            array: NDArray[np.uint8] = self._cuda.pagelocked_empty(num_bytes, np.uint8)
        self._pinned[array.ctypes.data] = array
        return array

    def unpin(self, array: NDArray[np.uint8]) -> None:
        """See ``Device``."""
        with self._checked("unpin"):
            self._pinned.pop(array.ctypes.data).base.free()

    def copy_in(self, address: int, array: NDArray[np.uint8]) -> None:
        """See ``Device``."""
        with self._checked("copy to the GPU"):
            self._cuda.memcpy_htod_async(address, array, self._stream)

    def copy_out(self, array: NDArray[np.uint8], address: int) -> None:
        """See ``Device``."""
        with self._checked("copy from the GPU"):
            self._cuda.memcpy_dtoh_async(array, address, self._stream)

    def copy(self, to: int, source: int, num_bytes: int) -> None:
        """See ``Device``."""
        with self._checked("copy"):
            self._cuda.memcpy_dtod_async(to, source, num_bytes, self._stream)

    def fill(self, address: int, byte: int, num_bytes: int) -> None:
        """See ``Device``."""
        with self._checked("fill"):
            self._cuda.memset_d8_async(address, byte, num_bytes, self._stream)

    def event(self) -> Any:
        """See ``Device``."""
        with self._checked("event"):
            return self._cuda.Event()

    def record(self, event: Any) -> None:
        """See ``Device``."""
        with self._checked("record"):
            event.record(self._stream)

    def wait(self, event: Any) -> None:
        """See ``Device``."""
        with self._checked("wait"):
            event.synchronize()

    def elapsed_ms(self, start: Any, stop: Any) -> float:
        """See ``Device``."""
        with self._checked("elapsed"):
            return float(start.time_till(stop))

    def capture(self, work: Callable[[], None]) -> CapturedGraph:
        """See ``Device``."""
        if self._capture is None:
            raise DeviceError(f"pycuda has no CUDA graphs. Install cuda-python beside it: {INSTALL['cuda-python']}")
        return self._capture.capture(work)

    def launch(self, graph: CapturedGraph) -> None:
        """See ``Device``."""
        assert self._capture is not None
        self._capture.launch(graph)

    def synchronize(self) -> None:
        """See ``Device``."""
        with self._checked("work on the GPU"):
            self._stream.synchronize()

    def free_bytes(self) -> tuple[int, int]:
        """See ``Device``."""
        with self._checked("memory"):
            free, total = self._cuda.mem_get_info()
        return int(free), int(total)

    def close(self) -> None:
        """See ``Device``."""
        if self._closed:
            return
        self._closed = True
        self.synchronize()
        if self._capture is not None:
            self._capture.close()
        for address in list(self._memory):
            self.free(address)
        for array in list(self._pinned.values()):
            self.unpin(array)
        del self._stream


class _Entered:
    """A thread's current context, popped when the thread ends.

    pycuda keeps a context stack per thread, and aborts the process if a thread ends with a non-empty stack.
    """

    def __init__(self, index: int, context: Any) -> None:
        self.index = index
        self._context = context

    def __del__(self) -> None:
        self._context.pop()
        self._context.detach()


_thread = threading.local()


def _enter(device: Any, index: int) -> None:
    """Make the primary context of a GPU the current one until this thread ends."""
    if not hasattr(_thread, "entered"):
        context = device.retain_primary_context()
        context.push()
        _thread.entered = _Entered(index, context)
    elif _thread.entered.index != index:
        raise DeviceError(f"this thread uses GPU {_thread.entered.index}, expected that GPU: use another thread")


def _capture_of(stream: int) -> StreamCapture | None:
    """Return a capture for a stream, or None if cuda-python is not installed."""
    try:
        return StreamCapture(CudaDriver(), stream)
    except DeviceError:
        return None
