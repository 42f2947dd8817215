"""TensorRT and TensorRT-RTX: engines on a GPU, with tensors bound by address. Not yet run on hardware."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from ...grid.errors import BackendError, DeviceError
from ...grid.tensors import Ports
from ..cuda.binding import open_device
from ..cuda.device import ALIGNMENT_BYTES, Device
from ..cuda.tensors import DeviceTensor, DeviceTensors
from .base import Call, EngineHost, in_turn, require_ports
from .tensorrt_api import Api, open_api

Shapes = dict[str, tuple[int, ...]]


def open_tensorrt(flavour: str, gpu: int = 0, cuda_graphs: bool = True) -> TensorRTBackend:
    """Return the backend of one TensorRT flavour on one GPU.

    Raises:
        MissingPackageError: If that TensorRT is not installed.
        BackendError: If it does not load.
        DeviceError: If there is no usable GPU.
    """
    return TensorRTBackend(open_api(flavour), open_device(gpu), cuda_graphs)


class TensorRTBackend(DeviceTensors):
    """See ``Backend``. Everything runs on the device's stream, one call after another.

    So all contexts share one block of scratch memory, as large as the largest need. Blocks that became too small stay
    with the contexts that use them, because a CUDA graph keeps the addresses that it was captured with.

    Args:
        api: the TensorRT.
        device: the GPU; closed with the backend.
        cuda_graphs: whether recorded calls become CUDA graphs, if the device supports it.
    """

    def __init__(self, api: Api, device: Device, cuda_graphs: bool = True) -> None:
        super().__init__(device)
        self.name = api.flavour
        self.api = api
        self.cuda_graphs = cuda_graphs and device.supports_graphs
        self._programs: weakref.WeakSet[TensorRTProgram] = weakref.WeakSet()
        self._scratch_bytes = 1
        self._scratch: DeviceTensor | None = None

    @property
    def engine_host(self) -> EngineHost:
        """Plans of this TensorRT for this GPU."""
        device = self.device
        return EngineHost(self.api.flavour, self.api.version, device.compute_capability, str(device.cuda_version[0]))

    def load(self, content: bytes, ports: Ports, name: str, frames: int | None = None) -> TensorRTProgram:
        """Return the program of the plan ``content``, which the engine cache has checked.

        Raises:
            BackendError: If TensorRT refuses it, or its tensors are not ``ports``.
        """
        self.require_usable()
        engine = self.api.deserialize(content, name)
        self._require_tensors(engine, ports, name)
        program = TensorRTProgram(self, engine, ports, name)
        self._programs.add(program)
        return program

    def record(self, calls: Sequence[Call]) -> Call:
        """Return one call that makes these calls in order, as a CUDA graph if the backend supports it.

        The calls run once before they are captured, because TensorRT's first run does work that cannot be captured.

        Raises:
            BackendError: If the calls fail, or cannot be captured.
        """
        work = in_turn(calls)
        if not calls or not self.cuda_graphs:
            return work
        work()
        self.device.synchronize()
        try:
            graph = self.device.capture(work)
        except DeviceError as error:
            raise BackendError(
                f"{self.name} {self.api.version}: {len(calls)} calls cannot become a CUDA graph ({error}). Open the "
                "backend without CUDA graphs."
            ) from None

        def call(kept: Call = work) -> None:  # keeps the graph's tensors and contexts alive
            self.require_usable()
            self.device.launch(graph)

        return call

    def close(self) -> None:
        """Release everything, contexts before engines before memory. Any later use is an error."""
        if self.is_open:
            self.device.synchronize()
            for program in self._programs:
                program.release()
            self._scratch = None
            super().close()

    def reserve_scratch(self, scratch_bytes: int) -> None:
        """Note that a context needs that much scratch memory."""
        self._scratch_bytes = max(self._scratch_bytes, scratch_bytes)

    def scratch(self) -> DeviceTensor:
        """Return memory that is large enough for every context so far."""
        if self._scratch is None or self._scratch.num_bytes < self._scratch_bytes:
            self._scratch = self.zeros((-(-self._scratch_bytes // 4),), "float32")
        return self._scratch

    def _require_tensors(self, engine: Any, ports: Ports, name: str) -> None:
        modes = self.api.trt.TensorIOMode
        declared = {(s.name, modes.INPUT, s.dtype) for s in ports.inputs}
        declared |= {(s.name, modes.OUTPUT, s.dtype) for s in ports.outputs}
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        found = {(n, engine.get_tensor_mode(n), self.api.dtype(engine.get_tensor_dtype(n))) for n in names}
        if found != declared:
            odd = sorted({f"{tensor} {dtype}" for tensor, _, dtype in found ^ declared})
            raise BackendError(
                f"engine of {name}: its tensors are not those of the bundle ({', '.join(odd)}). "
                "Run 'dynvid build-engines'."
            )


class Context:
    """An execution context with one profile and one set of shapes, so that a graph captured from it stays valid.

    Attributes:
        handle: TensorRT's context; None once the backend is closed.
        scratch: the memory that it was given; None before its first run.
        bound: the call whose tensors it is bound to; it keeps none of them alive.
    """

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.scratch: DeviceTensor | None = None
        self.bound: object = None


class TensorRTProgram:
    """One engine and its contexts."""

    def __init__(self, backend: TensorRTBackend, engine: Any, ports: Ports, name: str) -> None:
        self._backend = backend
        self._engine = engine
        self._ports = ports
        self._name = name
        self._contexts: dict[tuple[object, ...], Context] = {}

    def prepare(self, inputs: Mapping[str, DeviceTensor], outputs: Mapping[str, DeviceTensor]) -> Call:
        """Return a call on these tensors, which it keeps alive.

        Raises:
            BackendError: If the tensors fit neither the ports nor any profile, or an output shares memory with
                another tensor.
        """
        backend = self._backend
        backend.require_usable()
        require_ports(self._name, self._ports, inputs, outputs)
        self._require_apart(inputs, outputs)
        context = self._context({port: tensor.shape for port, tensor in inputs.items()})
        for spec in self._ports.outputs:
            found, given = tuple(context.handle.get_tensor_shape(spec.name)), outputs[spec.name].shape
            if found != given:
                raise BackendError(f"{self._name}: output {spec.name} is {list(found)}, its tensor {list(given)}")
        tensors = {**inputs, **outputs}
        copies_in, copies_out = [], []
        for port, tensor in list(tensors.items()):
            if tensor.address % ALIGNMENT_BYTES:  # frames from the middle of a feature
                tensors[port] = backend.zeros(tensor.shape, tensor.dtype)
                if port in inputs:
                    copies_in.append((tensors[port], tensor))
                else:
                    copies_out.append((tensor, tensors[port]))

        who = object()

        def call() -> None:
            backend.require_usable()
            for to, source in copies_in:
                backend.device.copy(to.address, source.address, to.num_bytes)
            self._run(context, who, tensors)
            for to, source in copies_out:
                backend.device.copy(to.address, source.address, to.num_bytes)

        return call

    def release(self) -> None:
        """Release the contexts, then the engine."""
        for context in self._contexts.values():
            context.handle = None
        self._engine = None

    def _run(self, context: Context, who: object, tensors: dict[str, DeviceTensor]) -> None:
        backend, handle = self._backend, context.handle
        backend.api.errors.clear()
        if context.scratch is None:
            context.scratch = backend.scratch()
            backend.api.set_scratch(handle, context.scratch.address, context.scratch.num_bytes)
        if context.bound is not who:
            context.bound = None
            for port, tensor in tensors.items():
                if not handle.set_tensor_address(port, tensor.address):
                    raise self._refused(f"refuses the address of {port} {list(tensor.shape)}")
            context.bound = who
        if not handle.execute_async_v3(backend.device.stream):
            shapes = ", ".join(f"{s.name} {list(tensors[s.name].shape)}" for s in self._ports.inputs)
            raise self._refused(f"failed on {shapes}")

    def _context(self, shapes: Shapes) -> Context:
        """Return the context for these input shapes."""
        profile = self._profile(shapes)
        key = (profile, *shapes.items())
        if key in self._contexts:
            return self._contexts[key]
        backend = self._backend
        handle = backend.api.create_context(self._engine, self._name)
        backend.api.errors.clear()
        if not handle.set_optimization_profile_async(profile, backend.device.stream):
            raise self._refused(f"refuses profile {profile}")
        for port, shape in shapes.items():
            if not handle.set_input_shape(port, shape):
                raise self._refused(f"refuses the shape {list(shape)} of {port}")
        try:
            missing = handle.infer_shapes()
        except RuntimeError:
            raise self._refused(f"finds no shapes for {shapes}") from None
        if missing:
            raise BackendError(
                f"{self._name}: shapes of {', '.join(missing)} are unknown although every input's was set"
            )
        backend.reserve_scratch(backend.api.scratch_bytes(self._engine, profile))
        self._contexts[key] = Context(handle)
        return self._contexts[key]

    def _profile(self, shapes: Shapes) -> int:
        """Return the first profile that admits these shapes; engines list profiles for fewer videos first."""
        misfits = []
        for profile in range(self._engine.num_optimization_profiles):
            misfit = self._misfit(profile, shapes)
            if misfit is None:
                return profile
            misfits.append(misfit)
        raise BackendError(
            f"engine of {self._name} has no profile for this call: {'; '.join(misfits)}. "
            "Run 'dynvid build-engines' with a larger --max-batch."
        )

    def _misfit(self, profile: int, shapes: Shapes) -> str | None:
        for port, shape in shapes.items():
            if -1 in tuple(self._engine.get_tensor_shape(port)):
                least, _, largest = map(tuple, self._engine.get_tensor_profile_shape(port, profile))
                fits = len(least) == len(shape)
                if not fits or not all(a <= n <= b for a, n, b in zip(least, shape, largest, strict=True)):
                    return f"profile {profile} has {list(least)} to {list(largest)}, not {list(shape)}, for {port}"
        return None

    def _require_apart(self, inputs: Mapping[str, DeviceTensor], outputs: Mapping[str, DeviceTensor]) -> None:
        """Check dtypes, and that no output shares memory with another tensor."""
        tensors = {**inputs, **outputs}
        for spec in (*self._ports.inputs, *self._ports.outputs):
            if tensors[spec.name].dtype != spec.dtype:
                raise BackendError(f"{self._name}: {spec.name} is {spec.dtype}, its tensor {tensors[spec.name].dtype}")
        for port, written in outputs.items():
            for other, tensor in tensors.items():
                if other != port and written.overlaps(tensor):
                    raise BackendError(
                        f"{self._name}: {port} would be written where {other} lies: give it a tensor of its own"
                    )

    def _refused(self, what: str) -> BackendError:
        api = self._backend.api
        return BackendError(
            f"{api.flavour} {api.version} {what} in {self._name}: {api.errors.reason()}. Run 'dynvid doctor'."
        )
