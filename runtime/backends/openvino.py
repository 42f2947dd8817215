"""OpenVINO on the CPU: compiled separately for each set of shapes, reading and writing numpy arrays in place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...grid.engines.key import this_processor
from ...grid.errors import BackendError, MissingPackageError
from ...grid.manifest import IN_BF16, Precision, graphs_of
from ...grid.tensors import Ports
from .base import Call, EngineHost, in_turn, require_declared, require_ports
from .host_arrays import Arrays, HostArrays, one_by_one, pass_nan_on

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""Shapes of the inputs, by port."""


class OpenVinoBackend(HostArrays):
    """OpenVINO's CPU plugin. Everything but INT8 is computed in fp32, or in bf16 if ``precision`` says so.

    Shapes are static, because OpenVINO is slower with dynamic ones. Engines are for one video, so they are compiled
    once. A bundle's own graphs are compiled again for new shapes, each time with their own packed weights.
    """

    name = "openvino"

    def __init__(self, threads: int | None = None, precision: Precision = "fp32") -> None:
        try:
            import openvino
        except ImportError as error:
            raise MissingPackageError(
                f"backend 'openvino' cannot run: {error}. Install it: pip install 'dynvid[openvino]'"
            ) from None
        except RuntimeError as error:
            if os.path.expanduser("~") != "~":
                raise
            raise BackendError(
                f"backend 'openvino' cannot run: {error} User {os.getuid()} has no home folder, which the telemetry of "
                "OpenVINO looks for. Set HOME to a folder, such as HOME=/tmp."
            ) from None
        self.openvino, self.core = openvino, openvino.Core()
        self.version: str = openvino.get_version().split("-")[0]
        self.in_bf16 = precision in IN_BF16
        if self.in_bf16 and "BF16" not in self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise BackendError(
                f"precision {precision}: {self.core.get_property('CPU', 'FULL_DEVICE_NAME')} has no bf16 arithmetic, "
                f"expected AVX-512 BF16 or AMX. Give --precision {graphs_of(precision)}."
            )
        self.threads = threads or len(os.sched_getaffinity(0))
        self.settings: Mapping[str, Any] = {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": "bf16" if self.in_bf16 else "f32",
        }

    @property
    def engine_host(self) -> EngineHost:
        """Fused graphs of this version, for any processor; bf16 uses the same graphs."""
        return EngineHost("openvino", self.version, None, None)

    def load(self, content: bytes, ports: Ports, name: str, frames: int | None = None) -> OpenVinoProgram:
        """Return the program of the ONNX model ``content``.

        Raises:
            BackendError: If OpenVINO cannot read the model.
            LintError: If it has other ports.
        """
        try:
            model = self.core.read_model(content)
        except RuntimeError as error:
            raise BackendError(
                f"openvino {self.version} cannot load {name}: {reason(error)}. Run 'dynvid doctor'."
            ) from None
        if any(_is_signed(node) for node in model.get_ops()):
            raise BackendError(
                f"openvino {self.version} computes {name} wrongly: its activations are signed INT8. "
                "Build engines, which have unsigned ones: 'dynvid build-engines "
                f"BUNDLE --backend openvino --precision {'int8-bf16' if self.in_bf16 else 'int8'}'."
            )
        if "vnni" not in this_processor() and any(node.get_type_name() == "FakeQuantize" for node in model.get_ops()):
            raise BackendError(
                f"openvino {self.version} would compute {name} wrongly: products of bytes overflow on this processor, "
                "which has no VNNI. Use --backend onnxruntime."
            )
        require_declared(name, ports, *([port.get_any_name() for port in of] for of in (model.inputs, model.outputs)))
        return OpenVinoProgram(self, model, ports, name)

    def write(self, value: NDArray[Any], array: NDArray[Any]) -> None:
        """Copy ``array`` into ``value``."""
        with np.errstate(over="ignore"):  # out of fp16 range becomes infinity, which never names a class
            np.copyto(value, array, casting="same_kind")


class OpenVinoProgram:
    """One subgraph, compiled once for each set of shapes.

    A graph with only fixed shapes is for one video, so several videos run one after another. Such a graph may omit
    the batch axis of its ports [1, frames, ...]: [frames, ...].
    """

    def __init__(self, backend: OpenVinoBackend, model: Any, ports: Ports, name: str) -> None:
        self._backend = backend
        self._model = model
        self._ports = ports
        self._name = name
        self._compiled: dict[Shapes, Compiled] = {}
        self._is_for_one = not model.is_dynamic()
        self._shapes: dict[str, tuple[int, ...]] = (
            {port.get_any_name(): tuple(port.shape) for port in (*model.inputs, *model.outputs)}
            if self._is_for_one
            else {}
        )

    def prepare(self, inputs: Arrays, outputs: Arrays) -> Call:
        """Return a call on these arrays, which must not move; the call keeps them alive.

        Raises:
            BackendError: If OpenVINO cannot compile the model for these shapes.
        """
        require_ports(self._name, self._ports, inputs, outputs)
        for port, array in (*inputs.items(), *outputs.items()):
            if not array.flags.c_contiguous:
                raise BackendError(f"{self._name}: tensor of port {port} is not contiguous")
        if self._is_for_one:
            rows = list(one_by_one(self._name, self._shapes, inputs, outputs))
            compiled = self._for({port: self._shapes[port] for port in inputs})
            return in_turn([compiled.on(*row, self._shapes) for row in rows])
        arrays = {**inputs, **outputs}
        compiled = self._for({port: array.shape for port, array in inputs.items()})
        return compiled.on(inputs, outputs, {port: array.shape for port, array in arrays.items()})

    def _for(self, inputs: Mapping[str, tuple[int, ...]]) -> Compiled:
        """Return the program compiled for inputs of these shapes."""
        shapes = tuple(sorted(inputs.items()))
        if shapes not in self._compiled:
            self._compiled[shapes] = self._compile(shapes)
        return self._compiled[shapes]

    def _compile(self, shapes: Shapes) -> Compiled:
        backend, model = self._backend, self._model.clone()
        try:
            model.reshape({port: list(shape) for port, shape in shapes})
            request = backend.core.compile_model(model, "CPU", backend.settings).create_infer_request()
        except RuntimeError as error:
            raise BackendError(
                f"openvino {backend.version} cannot compile {self._name} for {dict(shapes)}: {reason(error)}. "
                "Run 'dynvid verify'."
            ) from None
        return Compiled(backend.openvino.Tensor, request, f"{self._name} on {dict(shapes)}")


class Compiled:
    """A program compiled for one set of shapes: one request, bound to the tensors of the current call."""

    def __init__(self, tensor: Any, request: Any, what: str) -> None:
        self._tensor, self._request, self._what = tensor, request, what
        self._bound: object = None

    def on(self, inputs: Arrays, outputs: Arrays, shapes: Mapping[str, tuple[int, ...]]) -> Call:
        """Return a call on these arrays, read and written in these shapes, by port."""
        arrays = {**inputs, **outputs}
        tensors = {
            port: self._tensor(array.reshape(shapes[port]), shared_memory=True) for port, array in arrays.items()
        }
        read, written = tuple(inputs.values()), tuple(outputs.values())

        def call() -> None:
            try:
                if self._bound is not tensors:
                    self._request.set_tensors(tensors)
                    self._bound = tensors
                self._request.infer()
            except RuntimeError as error:
                raise BackendError(f"openvino failed in {self._what}: {reason(error)}. Run 'dynvid verify'.") from None
            pass_nan_on(read, written)  # OpenVINO's ReLU turns NaN into 0

        return call


def _is_signed(node: Any) -> bool:
    """Return whether a node of OpenVINO's graph converts activations to signed bytes."""
    converts = node.get_type_name() == "Convert" and str(node.get_output_element_type(0).get_type_name()) == "i8"
    return converts and node.input_value(0).get_node().get_type_name() != "Constant"


def reason(error: BaseException) -> str:
    """Return the line of an OpenVINO error that gives the reason, at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from ", "Check "))]
    return (said or lines or [""])[0][:300]
