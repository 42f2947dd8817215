"""What lies behind the fake runtime: engines that compute by onnxruntime, on the memory at the addresses they are given."""

import ctypes
import pickle
from types import SimpleNamespace

import numpy as np
import onnx

from dynvid.grid.tensors import TensorSpec
from dynvid.runtime.backends.registry import open_backend

from .building import HEADER, TAGS
from .parsing import DTYPES
from .stub import Dims, Misuse

NUMPY = {"FLOAT": np.float32, "HALF": np.float16}
SCRATCH = 4096  # bytes that profile 0 needs; each further one needs as much more
JUNK = 0x7B


class Runtime:
    def __init__(self, logger):
        self._logger = logger

    def deserialize_cuda_engine(self, plan):
        stub = self._stub
        stub.calls.append("deserialize_cuda_engine")
        plan = bytes(plan)
        if len(plan) < HEADER.size or HEADER.unpack_from(plan)[0] != TAGS[stub.rtx]:
            return self._refuse("Serialization assertion header.magicTag == kEXPECTED_MAGIC_TAG failed.")
        if stub.gpu is None:
            return self._refuse("(cudaError 35: CUDA driver version is insufficient for CUDA runtime version)")
        if HEADER.unpack_from(plan)[3] != len(plan):
            return self._refuse("Serialization assertion: the engine is truncated")
        version = bytes(int(part) for part in stub.full_version.split("."))
        if HEADER.unpack_from(plan)[4] != version:
            return self._refuse("The engine plan file is not compatible with this version of TensorRT")
        content = pickle.loads(plan[HEADER.size :])
        if content["targets"] and stub.gpu not in content["targets"]:
            return self._refuse(f"The engine was built for {content['targets']}, this device is {stub.gpu}")
        engine = stub.module.ICudaEngine()
        engine._model = onnx.load_model_from_string(content["onnx"])
        engine._profiles, engine._logger, engine._flags = content["profiles"], self._logger, content["flags"]
        engine._program = None
        return engine

    def _refuse(self, reason):
        self._stub.log(self._logger, f"IRuntime::deserializeCudaEngine: {reason}")


class IRuntimeConfig:
    def set_execution_context_allocation_strategy(self, strategy):
        self._strategy = strategy

    @property
    def dynamic_shapes_kernel_specialization_strategy(self):
        return self._specialization

    @dynamic_shapes_kernel_specialization_strategy.setter
    def dynamic_shapes_kernel_specialization_strategy(self, strategy):
        self._specialization = strategy


class ICudaEngine:
    @property
    def num_io_tensors(self):
        return len(self._model.graph.input) + len(self._model.graph.output)

    @property
    def num_optimization_profiles(self):
        return len(self._profiles)

    def get_tensor_name(self, index):
        return [*self._model.graph.input, *self._model.graph.output][index].name

    def get_tensor_mode(self, name):
        mode = self._stub.module.TensorIOMode
        if any(v.name == name for v in self._model.graph.input):
            return mode.INPUT
        return mode.OUTPUT if any(v.name == name for v in self._model.graph.output) else mode.NONE

    def get_tensor_dtype(self, name):
        return getattr(self._stub.module.DataType, DTYPES[_value(self._model, name).type.tensor_type.elem_type])

    def get_tensor_shape(self, name):
        return Dims(-1 if isinstance(d, str) else d for d in _dims(self._model, name))

    def get_tensor_profile_shape(self, name, profile_index):
        return [Dims(shape) for shape in self._profiles[profile_index][name]]

    def get_tensor_location(self, name):
        return self._stub.module.TensorLocation.DEVICE

    def is_shape_inference_io(self, name):
        return False

    @property
    def device_memory_size_v2(self):
        return SCRATCH * max(1, len(self._profiles))

    @property
    def device_memory_size(self):
        return self.device_memory_size_v2

    def get_device_memory_size_for_profile_v2(self, profile_index):
        return SCRATCH * (profile_index + 1)

    def get_device_memory_size_for_profile(self, profile_index):
        return SCRATCH * (profile_index + 1)

    def create_runtime_config(self):
        config = self._stub.module.IRuntimeConfig()
        config._strategy = self._stub.module.ExecutionContextAllocationStrategy.STATIC
        return config

    def create_execution_context(self, strategy=None, runtime_config=None):
        stub = self._stub
        stub.calls.append("create_execution_context")
        strategies = stub.module.ExecutionContextAllocationStrategy
        given = runtime_config if strategy is None else strategy
        chosen = getattr(given, "_strategy", given) or strategies.STATIC
        if "REQUIRE_USER_ALLOCATION" in self._flags and chosen is not strategies.USER_MANAGED:
            stub.log(self._logger, "createExecutionContext: this engine requires user allocation")
            return None
        context = stub.module.IExecutionContext()
        context._engine, context._logger, context._given = self, self._logger, given
        context._profile, context._shapes, context._addresses = None, {}, {}
        context._scratch = None if chosen is strategies.USER_MANAGED else (0, 1 << 60)
        return context


class IExecutionContext:
    @property
    def engine(self):
        return self._engine

    @property
    def active_optimization_profile(self):
        return self._profile or 0

    def set_optimization_profile_async(self, profile_index, stream_handle):
        if self._profile not in (None, profile_index):
            raise Misuse(f"profile {profile_index} after {self._profile}: one context for each profile")
        if self._shapes or self._addresses:
            raise Misuse("the profile is set before shapes and addresses")
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            self._stub.log(self._logger, f"setOptimizationProfileAsync: there is no profile {profile_index}")
            return False
        self._profile = profile_index
        return True

    def set_input_shape(self, name, shape):
        graph = self._engine._model.graph
        shape = tuple(shape)
        declared = self._engine.get_tensor_shape(name)
        fits = any(v.name == name for v in graph.input) and len(shape) == len(declared)
        fits = fits and all(d in (-1, size) for d, size in zip(declared, shape, strict=True))
        if fits and -1 in declared:
            least, _, most = self._engine._profiles[self._profile or 0][name]
            fits = all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))
        if not fits:
            self._stub.log(self._logger, f"setInputShape: {name} {shape} does not fit profile {self._profile or 0}")
            return False
        self._shapes[name] = shape
        return True

    def infer_shapes(self):
        inputs = (v.name for v in self._engine._model.graph.input)
        return [name for name in inputs if -1 in self._engine.get_tensor_shape(name) and name not in self._shapes]

    def get_tensor_shape(self, name):
        return Dims(self._sizes().get(d, -1) if isinstance(d, str) else d for d in _dims(self._engine._model, name))

    def _sizes(self):
        """Return the size of each named dimension, from the shapes that are set."""
        sizes = {}
        for name, shape in self._shapes.items():
            for dimension, size in zip(_dims(self._engine._model, name), shape, strict=True):
                if isinstance(dimension, str) and sizes.setdefault(dimension, size) != size:
                    raise Misuse(f"input {name} has {dimension} {size}, another one {sizes[dimension]}")
        return sizes

    def set_tensor_address(self, name, memory):
        if _value(self._engine._model, name) is None:
            self._stub.log(self._logger, f"setTensorAddress: there is no tensor {name}")
            return False
        if int(memory) % 256:
            raise Misuse(f"{name} at {memory}: it must lie at a multiple of 256")
        self._addresses[name] = int(memory)
        return True

    def get_tensor_address(self, name):
        return self._addresses.get(name, 0)

    def set_device_memory(self, memory, size):
        if memory % 256:
            raise Misuse(f"scratch memory at {memory}: it must lie at a multiple of 256")
        self._scratch = (memory, size)

    @property
    def device_memory(self):
        return self._scratch[0]

    @device_memory.setter
    def device_memory(self, memory):
        self.set_device_memory(memory, 1 << 60)

    def update_device_memory_size_for_shapes(self):
        return SCRATCH * ((self._profile or 0) + 1)

    def is_stream_capturable(self, stream):
        return True

    def execute_async_v3(self, stream_handle):
        stub = self._stub
        stub.calls.append("execute_async_v3")
        reason = self._objection(stream_handle)
        if reason:
            stub.log(self._logger, f"enqueueV3: {reason}")
            return False
        call = self._prepared()
        if stream_handle in stub.recordings:
            stub.recordings[stream_handle].append(call)
        else:
            call()
        return True

    def _objection(self, stream):
        """Return why TensorRT would not run this; raise where it would and should not."""
        graph = self._engine._model.graph
        if not stream:
            raise Misuse("the default stream synchronises the whole device: use another one")
        if self._profile is None and self._engine.num_optimization_profiles > 1:
            raise Misuse("no profile was set")
        missing = [v.name for v in (*graph.input, *graph.output) if not self._addresses.get(v.name)]
        if missing:
            return f"no address for {', '.join(missing)}"
        if self.infer_shapes():
            return f"no shape for {', '.join(self.infer_shapes())}"
        if self._scratch is None or self._scratch[1] < self.update_device_memory_size_for_shapes():
            return "device memory was not set, or is too small"
        spans = {v.name: self._span(v.name) for v in (*graph.input, *graph.output)}
        for output in graph.output:
            for other in (*graph.input, *graph.output):
                if other.name != output.name and _overlap(spans[output.name], spans[other.name]):
                    raise Misuse(f"{output.name} is written where {other.name} lies")
        return None

    def _span(self, name):
        shape, dtype = self.get_tensor_shape(name), NUMPY[self._engine.get_tensor_dtype(name).name]
        return self._addresses[name], int(np.prod(shape)) * np.dtype(dtype).itemsize

    def _array(self, name):
        address, size = self._span(name)
        memory = (ctypes.c_byte * size).from_address(address)
        return np.frombuffer(memory, NUMPY[self._engine.get_tensor_dtype(name).name]).reshape(
            self.get_tensor_shape(name)
        )

    def _prepared(self):
        """Return the call on the shapes and addresses of this moment."""
        engine, graph = self._engine, self._engine._model.graph
        if engine._program is None:
            ports = SimpleNamespace(inputs=_specs(graph.input), outputs=_specs(graph.output))
            engine._program = open_backend("onnxruntime").load(engine._model.SerializeToString(), ports, graph.name)
        inputs = {v.name: self._array(v.name) for v in graph.input}
        outputs = {v.name: self._array(v.name) for v in graph.output}
        compute, scratch = engine._program.prepare(inputs, outputs), self._scratch

        def call():
            if scratch[0]:  # what lay there is lost
                ctypes.memset(scratch[0], JUNK, self.update_device_memory_size_for_shapes())
            compute()

        return call


def _value(model, name):
    return next((v for v in (*model.graph.input, *model.graph.output) if v.name == name), None)


def _dims(model, name):
    dims = _value(model, name).type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else d.dim_param for d in dims]


def _specs(values):
    kinds = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16"}
    return tuple(TensorSpec(v.name, kinds[v.type.tensor_type.elem_type], ()) for v in values)


def _overlap(one, other):
    return one[0] < other[0] + other[1] and other[0] < one[0] + one[1]


FAKES = {c.__name__: c for c in (Runtime, IRuntimeConfig, ICudaEngine, IExecutionContext)}
