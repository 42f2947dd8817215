"""What lies behind the fake builder: profiles, configuration, and plans that carry their ONNX."""

import pickle
import struct
import threading

from .stub import Dims, Misuse

HEADER = struct.Struct("<4sIQQ4s36x")  # tag, 0, 2, bytes of the whole plan, version
TAGS = {False: b"ftrt", True: b"vtrt"}  # tensorrt, tensorrt-rtx


class ILogger:
    def __init__(self):
        pass


class IProgressMonitor:
    def __init__(self):
        pass


class Builder:
    def __init__(self, logger):
        self._logger = logger
        if self._stub.gpu is None and not self._stub.rtx:
            logger.log(self._stub.module.ILogger.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags=0):
        stub = self._stub
        stub.calls.append("create_network")
        always = stub.version != "10.16"
        typed = always or bool(flags & 1 << int(stub.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        network = stub.module.INetworkDefinition()
        network._typed, network._model, network._logger = typed, None, self._logger
        return network

    def create_builder_config(self):
        config = self._stub.module.IBuilderConfig()
        config._flags, config._profiles, config._targets = {self._stub.module.BuilderFlag.TF32}, [], []
        config._logger, config._monitor = self._logger, None
        return config

    def create_optimization_profile(self):
        profile = self._stub.module.IOptimizationProfile()
        profile._shapes = {}
        return profile

    def build_serialized_network(self, network, config):
        stub = self._stub
        stub.calls.append("build_serialized_network")
        reason = _objection(stub, network, config)
        if reason:
            stub.log(self._logger, reason)
            return None
        if config._monitor is not None and not _watched(config._monitor):
            stub.log(self._logger, "IBuilder::buildSerializedNetwork: the build was cancelled")
            return None
        content = {
            "onnx": network._model.SerializeToString(),
            "profiles": [profile._shapes for profile in config._profiles],
            "targets": [None if t is None else t.name.lower() for t in config._targets] if stub.rtx else [stub.gpu],
            "flags": sorted(f.name for f in config._flags),
        }
        body = pickle.dumps(content)
        version = bytes(int(part) for part in stub.full_version.split("."))
        memory = stub.module.IHostMemory()
        memory._plan = HEADER.pack(TAGS[stub.rtx], 0, 2, HEADER.size + len(body), version) + body
        return memory


def _objection(stub, network, config):
    """Return why TensorRT would not build this, None if it would."""
    if network._model is None:
        return "Network must have at least one output"
    types = {t.dtype.name for t in (network.get_input(i) for i in range(network.num_inputs))}
    if not network._typed and "HALF" in types and "FP16" not in {f.name for f in config._flags}:
        return "Network has half inputs, but the network is not strongly typed and BuilderFlag FP16 is not set"
    if None in config._targets:
        raise Misuse("a compute capability was counted and never set")
    if stub.gpu is None and any(t.name == "CURRENT" for t in config._targets):
        return "(cudaError 35: CUDA driver version is insufficient for CUDA runtime version)"
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if -1 not in tensor.shape:
            continue
        if not config._profiles:
            return "Network has dynamic or shape inputs, but no optimization profile has been defined."
        for number, profile in enumerate(config._profiles):
            shapes = profile._shapes.get(tensor.name)
            if shapes is None:
                return f"Dynamic input tensor {tensor.name} is missing dimensions in profile {number}."
            for axis, size in enumerate(tensor.shape):
                if size != -1 and {s[axis] for s in shapes} != {size}:
                    return f"Dimension mismatch for tensor {tensor.name} and profile {number}. At dimension axis {axis}"
    return None


def _watched(monitor):
    """Tell a monitor of a build as a builder with threads of its own does; return whether it may go on."""
    monitor.phase_start("Building engine", None, 2)
    going = [monitor.step_complete("Building engine", 0)]

    def inner():
        monitor.phase_start("Timing tactics", "Building engine", 3)
        for step in range(3):
            going.append(monitor.step_complete("Timing tactics", step))
        monitor.phase_finish("Timing tactics")

    thread = threading.Thread(target=inner)
    thread.start()
    thread.join()
    going.append(monitor.step_complete("Building engine", 1))
    monitor.phase_finish("Building engine")
    return all(going)


class IHostMemory:
    @property
    def nbytes(self):
        return len(self._plan)

    def __bytes__(self):
        return self._plan


class IBuilderConfig:
    def set_flag(self, flag):
        self._flags.add(flag)

    def clear_flag(self, flag):
        self._flags.discard(flag)

    def get_flag(self, flag):
        return flag in self._flags

    def set_memory_pool_limit(self, pool, pool_size):
        self._pools = {**getattr(self, "_pools", {}), pool.name: pool_size}

    def add_optimization_profile(self, profile):
        if not profile:
            self._stub.log(
                self._logger, "addOptimizationProfile: Parameter check failed, condition: profile->isValid()"
            )
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    @property
    def num_optimization_profiles(self):
        return len(self._profiles)

    @property
    def progress_monitor(self):
        return self._monitor

    @progress_monitor.setter
    def progress_monitor(self, monitor):
        self._monitor = monitor

    @property
    def num_compute_capabilities(self):
        return len(self._targets)

    @num_compute_capabilities.setter
    def num_compute_capabilities(self, number):
        self._targets = [None] * number

    def set_compute_capability(self, capability, index):
        if not 0 <= index < len(self._targets):
            self._stub.log(self._logger, "setComputeCapability: Index of compute capability is not in a valid range.")
            return False
        self._targets[index] = capability
        return True

    def create_timing_cache(self, serialized):
        if self._stub.rtx:
            raise Misuse("the timing cache of TensorRT-RTX does nothing and asks for a GPU")
        return self._stub.module.ITimingCache()


class IOptimizationProfile:
    def set_shape(self, input, min, opt, max):
        shapes = [tuple(shape) for shape in (min, opt, max)]
        if len({len(shape) for shape in shapes}) != 1:
            raise ValueError("Shape provided for min is inconsistent with other shapes.")
        self._shapes[input] = shapes

    def get_shape(self, input):
        return [Dims(shape) for shape in self._shapes[input]]

    def __bool__(self):
        rows = (zip(*shapes, strict=True) for shapes in self._shapes.values())
        return all(least <= best <= most for row in rows for least, best, most in row)


FAKES = {c.__name__: c for c in (ILogger, IProgressMonitor, Builder, IHostMemory, IBuilderConfig, IOptimizationProfile)}
