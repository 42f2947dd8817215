"""CUDA's driver API through cuda-python, with checked results, and stream capture. Not yet run on hardware."""

from __future__ import annotations

import importlib
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from ...grid.errors import DeviceError, ResourceError
from .device import INSTALL

_OUT_OF_MEMORY = 2


class CudaDriver:
    """The functions of CUDA's driver, called by name.

    Raises:
        DeviceError: If cuda-python is not installed.
    """

    def __init__(self) -> None:
        try:
            self._functions = importlib.import_module("cuda.bindings.driver")
        except ImportError as error:
            raise DeviceError(f"it is not installed ({error}): {INSTALL['cuda-python']}") from None

    def __call__(self, function: str, *arguments: Any) -> Any:
        """Return a function's results without the result code: None, one value, or several.

        Raises:
            ResourceError: If memory has run out.
            DeviceError: If the function fails, or the driver lacks it or is missing.
        """
        try:
            code, *values = getattr(self._functions, function)(*arguments)
        except RuntimeError as error:  # no driver, or one too old for this function
            line = str(error).strip().splitlines()[0].rstrip(".")
            raise DeviceError(f"{function}: {line}: install an NVIDIA driver, or a newer one") from None
        if int(code) == _OUT_OF_MEMORY:
            raise ResourceError(f"GPU memory: {function}{arguments} failed. Use a smaller batch, or free the GPU.")
        if int(code) != 0:
            text = self._functions.cuGetErrorString(code)[1]
            raise DeviceError(f"{function}: {text.decode() if text else code}")
        return values[0] if len(values) == 1 else tuple(values)

    def constant(self, name: str) -> Any:
        """Return one of the API's enumerations or structures."""
        return getattr(self._functions, name)


class CapturedGraph:
    """A stream's work that is launched as a unit; destroyed once nothing references it."""

    def __init__(self, executable: Any) -> None:
        self.executable = executable


class StreamCapture:
    """Captures one stream's work as graphs.

    Args:
        driver: the driver.
        stream: CUDA's handle of the stream.
    """

    def __init__(self, driver: CudaDriver, stream: int) -> None:
        self._driver = driver
        self._stream = driver.constant("CUstream")(stream)
        self._living: dict[int, Any] = {}
        self._dead: deque[int] = deque()  # filled by any thread that collects garbage, emptied by the device's own

    def capture(self, work: Callable[[], None]) -> CapturedGraph:
        """Return the work that ``work`` puts on the stream; none of it runs.

        Raises:
            DeviceError: If the work cannot be captured, because it waits for the stream or allocates.
        """
        self._bury()
        mode = self._driver.constant("CUstreamCaptureMode").CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._driver("cuStreamBeginCapture", self._stream, mode)
        captured = False
        try:
            work()
            captured = True
        finally:
            if not captured:
                self._abandon()
        graph = self._driver("cuStreamEndCapture", self._stream)
        try:
            executable = self._driver("cuGraphInstantiate", graph, 0)
        finally:
            self._driver("cuGraphDestroy", graph)
        found = CapturedGraph(executable)
        self._living[int(executable)] = executable
        weakref.finalize(found, self._dead.append, int(executable)).atexit = False
        return found

    def launch(self, graph: CapturedGraph) -> None:
        """Run a graph on the stream."""
        self._driver("cuGraphLaunch", graph.executable, self._stream)

    def close(self) -> None:
        """Destroy every graph."""
        self._dead.clear()
        for executable in self._living.values():
            self._driver("cuGraphExecDestroy", executable)
        self._living.clear()

    def _abandon(self) -> None:
        """End a capture whose work failed, and keep that error as the one to show."""
        try:
            self._driver("cuGraphDestroy", self._driver("cuStreamEndCapture", self._stream))
        except DeviceError:
            return

    def _bury(self) -> None:
        while self._dead:
            self._driver("cuGraphExecDestroy", self._living.pop(self._dead.popleft()))
