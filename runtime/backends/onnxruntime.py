"""onnxruntime on the CPU: tensors are numpy arrays bound by address, so that no call copies."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from ...grid.engines.key import this_processor
from ...grid.errors import BackendError, MissingPackageError
from ...grid.tensors import Ports
from .base import Call, EngineHost, in_turn, require_declared, require_ports
from .host_arrays import HostArrays, one_by_one, pass_nan_on
from .optimised_graph import unpack

_lock = threading.Lock()  # guards the arena and the weights
_arena_is_shared = False  # in this process
_CACHE_LINE = 64  # bytes
# of this process, by name, for as long as a program uses them
_weights: WeakValueDictionary[str, Any] = WeakValueDictionary()


class OnnxRuntimeBackend(HostArrays):
    """onnxruntime's CPU execution provider.

    Each session has its own thread pool, which sleeps while the session does not run. Pools that keep spinning cost
    the running session a quarter of its time, and a process-wide pool would break every session that others create in
    the process. All sessions share one arena, so graphs that run in turn use the same memory.

    Args:
        threads: compute threads, including the caller's; None: one per core.
    """

    name = "onnxruntime"

    def __init__(self, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingPackageError(
                f"backend 'onnxruntime' cannot run: {error}. Install it: pip install 'dynvid[cpu]'"
            ) from None
        self._ort = onnxruntime
        onnxruntime.set_default_logger_severity(3)
        self.threads = threads or len(os.sched_getaffinity(0))
        _share_arena(onnxruntime)

    @property
    def engine_host(self) -> EngineHost:
        """Graphs that this version optimised for processors like this one."""
        return EngineHost("onnxruntime", self._ort.__version__, this_processor(), None)

    def load(self, content: bytes, ports: Ports, name: str, frames: int | None = None) -> OrtProgram:
        """Return the program of ``content``: an ONNX model, or an optimised one that shares its weights.

        Raises:
            BackendError: If onnxruntime refuses the model, or uses another provider than the CPU's.
            LintError: If it has other ports.
        """
        options = session_options(self._ort, self.threads)
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.enable_mem_pattern = False  # it would keep a memory plan for every shape it meets
        options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        for dimension, size in {} if frames is None else {"batch": 1, "frames": frames}.items():
            # onnxruntime fuses a residual into a convolution only if it knows that the frame counts match
            options.add_free_dimension_override_by_name(dimension, size)
        weights: dict[str, Any] = {}
        try:
            optimised = unpack(content)
            if optimised is not None:
                content = optimised.model
                options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_DISABLE_ALL
                # in file order a residual's last reader is the convolution that adds to it, so it may be overwritten
                options.execution_order = self._ort.ExecutionOrder.PRIORITY_BASED
                weights = {weight: self._shared(weight, optimised.weights) for weight in optimised.weights}
                options.add_external_initializers(list(weights), list(weights.values()))
                for weight, value in weights.items():  # otherwise the session would hold a copy
                    options.add_initializer(weight, value)
            session = self._ort.InferenceSession(
                content, options, providers=["CPUExecutionProvider"], enable_fallback=False
            )
        except ort_errors() as error:
            raise BackendError(
                f"onnxruntime {self._ort.__version__} cannot load {name}: {first_line(error)}. Run 'dynvid doctor'."
            ) from None
        if session.get_providers()[0] != "CPUExecutionProvider":
            raise BackendError(f"onnxruntime runs {name} on {session.get_providers()[0]} instead of the CPU")
        require_declared(
            name, ports, *([port.name for port in of] for of in (session.get_inputs(), session.get_outputs()))
        )
        return OrtProgram(session, ports, name, tuple(weights.values()), hides_nan=b"QuantizeLinear" in content)

    def _shared(self, name: str, weights: Mapping[str, NDArray[Any]]) -> Any:
        """Return a weight that all programs of this process share."""
        with _lock:
            found = _weights.get(name)
            if found is None:
                found = _weights[name] = self._ort.OrtValue.ortvalue_from_numpy(_aligned(weights[name]))
            return found

    def write(self, value: NDArray[Any], array: NDArray[Any]) -> None:
        """Copy ``array`` into ``value``."""
        with np.errstate(over="ignore"):  # out of fp16 range becomes infinity, which never names a class
            np.copyto(value, array, casting="same_kind")


class OrtProgram:
    """One subgraph as an onnxruntime session.

    A graph with only fixed shapes is for one video, so several videos run one after another. Such a graph may omit
    the batch axis of its ports [1, frames, ...]: [frames, ...].

    Args:
        session: the onnxruntime session.
        ports: the ports that it must have.
        name: for errors.
        weights: the weights that the session references.
        hides_nan: whether it quantises, which turns NaN into a number. Outputs computed from NaN are then set to NaN.
    """

    def __init__(
        self, session: Any, ports: Ports, name: str, weights: Sequence[Any] = (), hides_nan: bool = False
    ) -> None:
        self._hides_nan = hides_nan
        self._session = session
        self._weights = weights  # the session only references them
        self._ports = ports
        self._name = name
        self._shapes = {port.name: tuple(port.shape) for port in (*session.get_inputs(), *session.get_outputs())}
        self._is_for_one = all(isinstance(size, int) for shape in self._shapes.values() for size in shape)

    def prepare(self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> Call:
        """Return a call on these arrays, which must not move; the call keeps them alive."""
        require_ports(self._name, self._ports, inputs, outputs)
        if self._is_for_one:
            return in_turn([self._bound(*row) for row in one_by_one(self._name, self._shapes, inputs, outputs)])
        return self._bound(inputs, outputs)

    def _bound(self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> Call:
        binding = self._session.io_binding()
        for bind, arrays in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for port, array in arrays.items():
                if not array.flags.c_contiguous:
                    raise BackendError(f"{self._name}: tensor of port {port} is not contiguous")
                shape = self._shapes[port] if self._is_for_one else array.shape
                bind(port, "cpu", 0, array.dtype.type, shape, array.ctypes.data)
        kept = (dict(inputs), dict(outputs))
        read, written = tuple(inputs.values()), tuple(outputs.values())

        def call() -> None:
            try:
                self._session.run_with_iobinding(binding)
            except ort_errors() as error:
                shapes = {port: array.shape for port, array in kept[0].items()}
                raise BackendError(
                    f"onnxruntime failed in {self._name} on {shapes}: {first_line(error)}. Run 'dynvid verify'."
                ) from None
            if self._hides_nan:
                pass_nan_on(read, written)

        return call


def _aligned(array: NDArray[Any]) -> NDArray[Any]:
    """Return a copy that begins at a cache line, as onnxruntime's own tensors do and numpy's may not."""
    memory = np.empty(array.nbytes + _CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % _CACHE_LINE
    found = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    found[...] = array
    return found


def session_options(ort: Any, threads: int) -> Any:
    """Return options of a session that computes with this many threads, including the caller's."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # stop spinning when a run ends
    if "vnni" not in this_processor():
        # without VNNI, sums of products of bytes overflow unless weights are unsigned, which is slower. With VNNI this
        # is not set: onnxruntime 1.31 would make weights unsigned there too, and then not use VNNI
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _share_arena(ort: Any) -> None:
    """Let sessions that ask for it allocate from one arena of this process; create it if there is none."""
    global _arena_is_shared
    with _lock:
        if _arena_is_shared:
            return
        memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
        with contextlib.suppress(*ort_errors()):  # one that other code in this process shared will do
            ort.create_and_register_allocator(memory, None)
        _arena_is_shared = True


def ort_errors() -> tuple[type[BaseException], ...]:
    """Return the exception types that onnxruntime raises."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    return (RuntimeError, ValueError, *(getattr(state, name) for name in names if hasattr(state, name)))


def first_line(error: BaseException) -> str:
    """Return the first line of an error, at most 300 characters."""
    return str(error).strip().split("\n")[0][:300]
