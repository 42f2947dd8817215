"""onnxruntime with only its CUDA provider, on tensors bound by address. Not yet run on hardware."""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...grid.errors import BackendError, MissingPackageError
from ...grid.tensors import Ports
from ..cuda.binding import open_device
from ..cuda.device import Device
from ..cuda.tensors import DeviceTensor, DeviceTensors
from .base import Call, in_turn, require_ports
from .onnxruntime import first_line, ort_errors, session_options

PROVIDER = "CUDAExecutionProvider"
_INSTALL = "pip uninstall onnxruntime, then pip install 'dynvid[gpu]', with cuDNN 9 and cuBLAS of the same CUDA"

# onnxruntime computes shapes on the CPU on purpose; its CUDA provider has all of these operators for data
_SHAPE_OPERATORS = {"Shape", "Concat", "Gather", "Slice", "Squeeze", "Unsqueeze", "Cast"}


def open_ort_cuda(gpu: int = 0, threads: int | None = None) -> OrtCudaBackend:
    """Return the backend on one GPU. ``threads`` is the number of CPU threads that compute shapes; None: one per core.

    Raises:
        MissingPackageError: If onnxruntime is not installed.
        BackendError: If it is not the CUDA build.
        DeviceError: If there is no usable GPU.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError(
            f"backend 'onnxruntime-cuda' cannot run: {error}. Install it: pip install 'dynvid[gpu]'"
        ) from None
    available = onnxruntime.get_available_providers()
    if PROVIDER not in available:
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} has {', '.join(available)}, "
            f"expected {PROVIDER} among them: {_INSTALL}"
        )
    return OrtCudaBackend(onnxruntime, open_device(gpu), threads)


class OrtCudaBackend(DeviceTensors):
    """See ``Backend``. onnxruntime computes on the device's stream and does not wait.

    TF32 is off, so fp32 is true fp32. cuDNN reads only the environment, so this holds for the whole process, unless its
    environment says otherwise.

    Args:
        ort: the module onnxruntime.
        device: the GPU; closed with the backend.
        threads: CPU threads for what onnxruntime keeps off the GPU on purpose; None: one per core.
    """

    name = "onnxruntime-cuda"
    engine_host = None

    def __init__(self, ort: Any, device: Device, threads: int | None = None) -> None:
        super().__init__(device)
        self._ort = ort
        ort.set_default_logger_severity(3)
        self._threads = threads or len(os.sched_getaffinity(0))
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
        if hasattr(ort, "preload_dlls"):
            with contextlib.redirect_stdout(sys.stderr):  # it prints the libraries that it does not find
                ort.preload_dlls(directory="")
        self._programs: weakref.WeakSet[OrtCudaProgram] = weakref.WeakSet()

    def load(self, content: bytes, ports: Ports, name: str, frames: int | None = None) -> OrtCudaProgram:
        """Return the program of the ONNX model ``content``.

        Raises:
            BackendError: If onnxruntime refuses the model, or would compute any of it on the CPU.
        """
        self.require_usable()
        options = session_options(self._ort, self._threads)
        options.log_severity_level = 3
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        given = {"device_id": str(self.device.index), "user_compute_stream": str(self.device.stream), "use_tf32": "0"}
        try:
            session = self._ort.InferenceSession(content, options, providers=[(PROVIDER, given)], enable_fallback=False)
        except ort_errors() as error:
            raise BackendError(
                f"onnxruntime {self._ort.__version__} cannot load {name} on CUDA: {first_line(error)}. "
                "Run 'dynvid doctor'."
            ) from None
        provider = session.get_providers()[0]
        if provider != PROVIDER:
            raise BackendError(f"onnxruntime runs {name} on {provider}, expected {PROVIDER}: {_INSTALL}")
        odd = _nodes_elsewhere(session)
        if odd:
            raise BackendError(f"onnxruntime does not run {len(odd)} nodes of {name} on CUDA: {', '.join(odd[:5])}")
        program = OrtCudaProgram(self, session, self._run_options(), ports, name)
        self._programs.add(program)
        return program

    def record(self, calls: Sequence[Call]) -> Call:
        """Return one call that makes these calls in order."""
        return in_turn(calls)

    def close(self) -> None:
        """Release everything, sessions before memory. Any later use is an error."""
        if self.is_open:
            self.device.synchronize()
            for program in self._programs:
                program.release()
            super().close()

    def _run_options(self) -> Any:
        options = self._ort.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        return options


class OrtCudaProgram:
    """One subgraph as an onnxruntime session."""

    def __init__(self, backend: OrtCudaBackend, session: Any, options: Any, ports: Ports, name: str) -> None:
        self._backend = backend
        self._session = session
        self._options = options
        self._ports = ports
        self._name = name
        self._bindings: list[Any] = []

    def prepare(self, inputs: Mapping[str, DeviceTensor], outputs: Mapping[str, DeviceTensor]) -> Call:
        """Return a call on these tensors, which it keeps alive.

        Raises:
            BackendError: If a port is missing or unknown.
        """
        self._backend.require_usable()
        require_ports(self._name, self._ports, inputs, outputs)
        binding = self._session.io_binding()
        gpu = self._backend.device.index
        for bind, tensors in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for port, tensor in tensors.items():
                bind(port, "cuda", gpu, np.dtype(tensor.dtype).type, tensor.shape, tensor.address)
        place = len(self._bindings)
        self._bindings.append(binding)
        kept = (dict(inputs), dict(outputs))

        def call() -> None:
            self._backend.require_usable()
            try:
                self._session.run_with_iobinding(self._bindings[place], self._options)
            except ort_errors() as error:
                shapes = {port: tensor.shape for port, tensor in kept[0].items()}
                raise BackendError(
                    f"onnxruntime failed in {self._name} on CUDA on {shapes}: {first_line(error)}. Run 'dynvid doctor'."
                ) from None

        return call

    def release(self) -> None:
        """Release the bindings, then the session."""
        self._bindings.clear()
        self._session = None


def _nodes_elsewhere(session: Any) -> list[str]:
    """Return the nodes that compute data off CUDA, if this onnxruntime can tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return []
    parts = (part for part in session.get_provider_graph_assignment_info() if part.ep_name != PROVIDER)
    nodes = (node for part in parts for node in part.get_nodes())
    return [f"{node.op_type} {node.name!r}" for node in nodes if node.op_type not in _SHAPE_OPERATORS]
