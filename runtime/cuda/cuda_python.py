"""A GPU through cuda-python. Not yet run on hardware."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...grid.errors import DeviceError
from .device import Binding
from .driver import CapturedGraph, CudaDriver, StreamCapture

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream


class CudaPythonDevice:
    """See ``Device``. It retains the GPU's primary context, which TensorRT and PyTorch also use.

    Raises:
        DeviceError: If there is no driver, no such GPU, or cuda-python is not installed.
    """

    binding: Binding = "cuda-python"
    supports_graphs = True

    def __init__(self, index: int) -> None:
        self._call = CudaDriver()
        self._call("cuInit", 0)
        count = int(self._call("cuDeviceGetCount"))
        if not 0 <= index < count:
            raise DeviceError(f"there are {count} GPUs, expected more than {index}")
        self.index = index
        self._device = self._call("cuDeviceGet", index)
        self.name = str(self._call("cuDeviceGetName", 256, self._device).split(b"\0")[0].decode())
        self.compute_capability = f"sm{self._attribute('MAJOR')}{self._attribute('MINOR')}"
        version = int(self._call("cuDriverGetVersion"))
        self.cuda_version = (version // 1000, version % 1000 // 10)
        self._call("cuCtxSetCurrent", self._call("cuDevicePrimaryCtxRetain", self._device))
        self._stream = self._call("cuStreamCreate", _NON_BLOCKING)
        self.stream = int(self._stream)
        self._capture = StreamCapture(self._call, self.stream)
        self._events: list[Any] = []
        self._memory: set[int] = set()
        self._pinned: set[int] = set()
        self._closed = False

    def _attribute(self, name: str) -> int:
        attribute = getattr(self._call.constant("CUdevice_attribute"), f"CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{name}")
        return int(self._call("cuDeviceGetAttribute", attribute, self._device))

    def allocate(self, num_bytes: int) -> int:
        """See ``Device``."""
        address = int(self._call("cuMemAlloc", num_bytes))
        self._memory.add(address)
        return address

    def free(self, address: int) -> None:
        """See ``Device``."""
        self._memory.remove(address)
        self._call("cuMemFree", address)

    def pin(self, num_bytes: int) -> NDArray[np.uint8]:
        """See ``Device``."""
        address = int(self._call("cuMemHostAlloc", num_bytes, 0))
        self._pinned.add(address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * num_bytes).from_address(address))

    def unpin(self, array: NDArray[np.uint8]) -> None:
        """See ``Device``."""
        self._pinned.remove(array.ctypes.data)
        self._call("cuMemFreeHost", array.ctypes.data)

    def copy_in(self, address: int, array: NDArray[np.uint8]) -> None:
        """See ``Device``."""
        self._call("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, self._stream)

    def copy_out(self, array: NDArray[np.uint8], address: int) -> None:
        """See ``Device``."""
        self._call("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, self._stream)

    def copy(self, to: int, source: int, num_bytes: int) -> None:
        """See ``Device``."""
        self._call("cuMemcpyDtoDAsync", to, source, num_bytes, self._stream)

    def fill(self, address: int, byte: int, num_bytes: int) -> None:
        """See ``Device``."""
        self._call("cuMemsetD8Async", address, byte, num_bytes, self._stream)

    def event(self) -> Any:
        """See ``Device``."""
        self._events.append(self._call("cuEventCreate", 0))
        return self._events[-1]

    def record(self, event: Any) -> None:
        """See ``Device``."""
        self._call("cuEventRecord", event, self._stream)

    def wait(self, event: Any) -> None:
        """See ``Device``."""
        self._call("cuEventSynchronize", event)

    def elapsed_ms(self, start: Any, stop: Any) -> float:
        """See ``Device``."""
        return float(self._call("cuEventElapsedTime", start, stop))

    def capture(self, work: Callable[[], None]) -> CapturedGraph:
        """See ``Device``."""
        return self._capture.capture(work)

    def launch(self, graph: CapturedGraph) -> None:
        """See ``Device``."""
        self._capture.launch(graph)

    def synchronize(self) -> None:
        """See ``Device``."""
        self._call("cuStreamSynchronize", self._stream)

    def free_bytes(self) -> tuple[int, int]:
        """See ``Device``."""
        free, total = self._call("cuMemGetInfo")
        return int(free), int(total)

    def close(self) -> None:
        """See ``Device``."""
        if self._closed:
            return
        self._closed = True
        self.synchronize()
        self._capture.close()
        for event in self._events:
            self._call("cuEventDestroy", event)
        for address in self._memory:
            self._call("cuMemFree", address)
        for address in self._pinned:
            self._call("cuMemFreeHost", address)
        self._call("cuStreamDestroy", self._stream)
        self._call("cuDevicePrimaryCtxRelease", self._device)
