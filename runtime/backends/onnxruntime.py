"""onnxruntime on the CPU: tensors are numpy arrays, bound by address, so that no call copies."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from ...grid.engines.key import this_processor
from ...grid.errors import BackendError, MissingPackageError
from ...grid.tensors import Ports
from .base import Call, EngineHost, in_turn, require_ports
from .host_arrays import HostArrays, pass_nan_on
from .optimised_graph import unpack

_lock = threading.Lock()  # of the arena and the weights
_arena_is_shared = False  # in this process
_CACHE_LINE = 64  # bytes
_weights: WeakValueDictionary[str, Any] = (
    WeakValueDictionary()
)  # of this process, by name, as long as a program has them


class OnnxRuntimeBackend(HostArrays):
    """onnxruntime's CPU execution provider.

    Each session has a pool of threads of its own, which sleeps whenever the session does not run: pools that spin on cost the
    session at work a quarter of its time, and a pool for the whole process would break every session that others make in it.
    All sessions share one arena: graphs that run in turn use the same memory.

    Args:
        threads: that compute, the caller's among them; None: one a core.
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
        """Graphs that this version optimised, for processors like this one."""
        return EngineHost("onnxruntime", self._ort.__version__, this_processor(), None)

    def load(self, content: bytes, ports: Ports, name: str, frames: int | None = None) -> OrtProgram:
        """Return the program of ``content``: an ONNX model, or one that is optimised and shares its weights.

        Raises:
            BackendError: If onnxruntime refuses the model, or takes another provider than the CPU's.
        """
        options = session_options(self._ort, self.threads)
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.enable_mem_pattern = False  # which keeps a plan of the memory for every shape it meets
        options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        for dimension, size in {} if frames is None else {"batch": 1, "frames": frames}.items():
            # onnxruntime adds a residual inside a convolution only where it sees that the frames are as many
            options.add_free_dimension_override_by_name(dimension, size)
        weights: dict[str, Any] = {}
        try:
            optimised = unpack(content)
            if optimised is not None:
                content = optimised.model
                options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_DISABLE_ALL
                # as written: a residual's last reader is then the convolution that adds to it, and may overwrite it
                options.execution_order = self._ort.ExecutionOrder.PRIORITY_BASED
                weights = {weight: self._shared(weight, optimised.weights) for weight in optimised.weights}
                options.add_external_initializers(list(weights), list(weights.values()))
                for weight, value in weights.items():  # without this the session would hold a copy
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
        with np.errstate(over="ignore"):  # beyond half precision: infinity, which never answers with a class
            np.copyto(value, array, casting="same_kind")


class OrtProgram:
    """One subgraph as an onnxruntime session.

    A graph whose shapes are all fixed is for one video, so several run one after the other. Of its ports [1, frames, ...] it may
    leave the batch out: [frames, ...].

    Args:
        session: onnxruntime's.
        ports: that it must have.
        name: for errors.
        weights: that the session refers to.
        hides_nan: it quantises, which makes a number of NaN: what was computed from NaN is NaN all the same.
    """

    def __init__(
        self, session: Any, ports: Ports, name: str, weights: Sequence[Any] = (), hides_nan: bool = False
    ) -> None:
        self._hides_nan = hides_nan
        self._session = session
        self._weights = weights  # the session only refers to them
        self._ports = ports
        self._name = name
        self._shapes = {port.name: tuple(port.shape) for port in (*session.get_inputs(), *session.get_outputs())}
        self._is_for_one = all(isinstance(size, int) for shape in self._shapes.values() for size in shape)

    def prepare(self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> Call:
        """Return a call on these arrays; they must stay where they are, and the call keeps them alive."""
        require_ports(self._name, self._ports, inputs, outputs)
        if self._is_for_one:
            return in_turn([self._bound(*row) for row in self._rows(inputs, outputs)])
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

    def _rows(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
    ) -> Iterator[tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]]:
        """Yield inputs and outputs of one video at a time, [1, ...].

        Raises:
            BackendError: If a tensor is not of the shape that the graph has for one video, or has another number of them.
        """
        count = next(iter(outputs.values())).shape[0]
        for port, array in (*inputs.items(), *outputs.items()):
            own = (1, *array.shape[1:])
            if array.shape[0] != count or self._shapes[port] not in (own, own[1:]):
                raise BackendError(
                    f"{self._name}: tensor of port {port} has shape {list(array.shape)}, expected {count} times "
                    f"{list(self._shapes[port])}. Run 'dynvid build-engines' again."
                )
        for row in range(count):
            of_row = [{port: array[row : row + 1] for port, array in p.items()} for p in (inputs, outputs)]
            yield of_row[0], of_row[1]


def _aligned(array: NDArray[Any]) -> NDArray[Any]:
    """Return a copy that begins at a cache line, as onnxruntime's own tensors do and numpy's need not."""
    memory = np.empty(array.nbytes + _CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % _CACHE_LINE
    found = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    found[...] = array
    return found


def session_options(ort: Any, threads: int) -> Any:
    """Return options of a session that computes with so many threads, the caller's among them."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # when a run ends
    if "vnni" not in this_processor():
        # sums of products of bytes overflow there; with unsigned weights they do not, and take longer. onnxruntime 1.31 would
        # make weights unsigned on processors with VNNI, too, and then not use it
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _share_arena(ort: Any) -> None:
    """Let sessions that ask for it allocate from one arena of this process, where none is shared yet."""
    global _arena_is_shared
    with _lock:
        if _arena_is_shared:
            return
        memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
        with contextlib.suppress(*ort_errors()):  # somebody else in this process shared one: that serves as well
            ort.create_and_register_allocator(memory, None)
        _arena_is_shared = True


def ort_errors() -> tuple[type[BaseException], ...]:
    """Return what onnxruntime raises."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    return (RuntimeError, ValueError, *(getattr(state, name) for name in names if hasattr(state, name)))


def first_line(error: BaseException) -> str:
    """Return the first line of an error, at most 300 characters of it."""
    return str(error).strip().split("\n")[0][:300]
