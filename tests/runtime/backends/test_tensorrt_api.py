"""The TensorRT seam: each version by its own names only, and the whole run of an engine on stubs of three of them."""

import sys

import numpy as np
import onnx
import pytest
from tensorrt_stub import building, parsing, running
from tensorrt_stub.stub import API, UNLISTED, Misuse, Stub

from dynvid.exporter.engines.tensorrt_builder import build
from dynvid.grid.engines.key import Profile
from dynvid.grid.errors import BackendError, MissingPackageError, UsageError
from dynvid.grid.tensors import TensorSpec
from dynvid.runtime.backends.tensorrt_api import ErrorLines, open_api

VERSIONS = ("10.16", "11.1", "rtx-1.7.1")
STREAM = 77


class Ports:
    inputs = (TensorSpec("x", "float16", ("batch", "frames", 3)),)
    outputs = (TensorSpec("y", "float16", ("batch", "frames", 3)),)


def graph(dtype=onnx.TensorProto.FLOAT16):
    """Return y = x + x."""
    ports = [onnx.helper.make_tensor_value_info(name, dtype, ["batch", "frames", 3]) for name in "xy"]
    node = onnx.helper.make_node("Add", ["x", "x"], ["y"], "double")
    opset = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", ports[:1], ports[1:]), opset_imports=opset, ir_version=10
    )
    return model.SerializeToString()


PROFILES = (Profile((1, 1, 1), (2, 4, 8)), Profile((1, 3, 4), (2, 4, 8)))


def open_stub(monkeypatch, version, gpu="sm86"):
    stub = Stub(version, gpu).install(monkeypatch)
    return stub, open_api("tensorrt-rtx" if stub.rtx else "tensorrt")


@pytest.fixture(params=VERSIONS)
def opened(request, monkeypatch):
    return open_stub(monkeypatch, request.param)


class Memory:
    """A fake device: numpy arrays by address."""

    def __init__(self):
        self.arrays = {}

    def allocate(self, shape, dtype):
        raw = np.zeros(int(np.prod(shape)) * np.dtype(dtype).itemsize + 256, np.uint8)
        start = -raw.ctypes.data % 256
        self.arrays[raw.ctypes.data + start] = array = raw[start : start + raw.size - 256].view(dtype).reshape(shape)
        return raw.ctypes.data + start, array


def context_for(api, profile=1, shape=(3, 4, 3)):
    """Return a context that is ready to run, its input and its output."""
    plan, _ = build(api, graph(), Ports(), "double", PROFILES)
    engine = api.deserialize(plan, "double")
    context = api.create_context(engine, "double")
    memory = Memory()
    assert context.set_optimization_profile_async(profile, STREAM)
    assert context.set_input_shape("x", shape)
    assert context.infer_shapes() == []
    (x_address, x), (y_address, y) = (
        memory.allocate(tuple(context.get_tensor_shape(n)), np.float16) for n in ("x", "y")
    )
    assert context.set_tensor_address("x", x_address)
    assert context.set_tensor_address("y", y_address)
    scratch_bytes = api.scratch_bytes(engine, profile)
    api.set_scratch(context, memory.allocate((scratch_bytes,), np.uint8)[0], scratch_bytes)
    return context, memory, x, y


def test_an_engine_runs_in_the_memory_it_is_given(opened):
    stub, api = opened
    context, _memory, x, y = context_for(api)
    x[:] = np.arange(36).reshape(3, 4, 3)
    assert context.execute_async_v3(STREAM)
    np.testing.assert_array_equal(y, 2 * x)
    assert stub.calls == [
        "create_network", "parse", "build_serialized_network", "deserialize_cuda_engine", "create_execution_context",
        "execute_async_v3",
    ]  # fmt: skip


def test_what_is_captured_runs_when_it_is_replayed(monkeypatch):
    stub, api = open_stub(monkeypatch, "11.1")
    context, _memory, x, y = context_for(api)
    stub.recordings[STREAM] = calls = []
    assert context.execute_async_v3(STREAM)
    x[:] = 5
    assert (y == 0).all()
    calls[0]()
    assert (y == 10).all()


def test_shapes_outside_the_profile_and_missing_addresses_are_refused_with_a_reason(opened):
    _, api = opened
    context, _memory, _, _ = context_for(api, profile=0, shape=(1, 2, 3))
    api.errors.clear()
    assert not context.set_input_shape("x", (2, 2, 3))
    assert not context.set_input_shape("x", (1, 9, 3))
    assert not context.set_input_shape("x", (1, 2, 4))
    assert "does not fit profile 0" in api.errors.reason()
    assert not context.set_tensor_address("z", 256)
    assert context.set_tensor_address("y", 0)
    assert not context.execute_async_v3(STREAM)


def test_what_corrupts_memory_on_a_gpu_is_misuse(opened):
    _, api = opened
    context, _memory, _, _ = context_for(api)
    context.set_tensor_address("y", context.get_tensor_address("x"))
    with pytest.raises(Misuse, match="y is written where x lies"):
        context.execute_async_v3(STREAM)
    with pytest.raises(Misuse, match="default stream"):
        context.execute_async_v3(0)
    with pytest.raises(Misuse, match="one context for each profile"):
        context.set_optimization_profile_async(0, STREAM)
    with pytest.raises(Misuse, match="multiple of 256"):
        api.set_scratch(context, 100, 1 << 20)


def test_too_little_scratch_memory_is_refused(opened):
    _, api = opened
    context, memory, _, _ = context_for(api)
    api.set_scratch(context, memory.allocate((256,), np.uint8)[0], 256)
    assert not context.execute_async_v3(STREAM)


def test_scratch_memory_is_lost_with_every_run(monkeypatch):
    _, api = open_stub(monkeypatch, "11.1")
    context, memory, _, _ = context_for(api)
    address, scratch = memory.allocate((1 << 16,), np.uint8)
    api.set_scratch(context, address, 1 << 16)
    assert context.execute_async_v3(STREAM)
    assert scratch[0] == running.JUNK


@pytest.mark.parametrize(
    "spoil", [lambda plan: plan[:-1], lambda plan: b"x" * len(plan), lambda plan: b"", lambda plan: plan[:24] + b"\1\1\1\1" + plan[28:]]
)  # fmt: skip
def test_bytes_that_it_did_not_write_are_refused_with_the_loggers_reason(opened, spoil):
    _, api = opened
    plan, _ = build(api, graph(), Ports(), "double", PROFILES)
    with pytest.raises(BackendError, match="cannot load the engine of double: IRuntime::deserializeCudaEngine: .+ Run"):
        api.deserialize(spoil(plan), "double")


@pytest.mark.parametrize("version", VERSIONS)
def test_without_a_gpu_nothing_is_loaded(monkeypatch, version):
    _, api = open_stub(monkeypatch, version)
    plan, _ = build(api, graph(), Ports(), "double", PROFILES)
    _, bare = open_stub(monkeypatch, version, gpu=None)
    with pytest.raises(BackendError, match="CUDA driver version is insufficient"):
        bare.deserialize(plan, "double")


def test_an_engine_of_another_gpu_is_refused(monkeypatch):
    _, api = open_stub(monkeypatch, "11.1", "sm86")
    plan, _ = build(api, graph(), Ports(), "double", PROFILES)
    _, other = open_stub(monkeypatch, "11.1", "sm89")
    with pytest.raises(BackendError, match=r"built for \['sm86'\], this device is sm89"):
        other.deserialize(plan, "double")


def test_the_first_error_comes_before_the_noise_that_follows_it():
    lines = ErrorLines()
    lines.add("real one\nmore of it")
    lines.add("cudaError 35: CUDA driver version is insufficient for CUDA runtime version")
    lines.add("real two")
    lines.add("real three")
    assert lines.reason() == "real one; real two"
    lines.clear()
    assert lines.reason() == "it gave no reason"
    lines.add("cudaError 35: CUDA driver version is insufficient for CUDA runtime version")
    assert "cudaError 35" in lines.reason()


# versions


@pytest.mark.parametrize("version", ["8.6.1", "9.3.0", "12.0.0", "unknown"])
def test_versions_that_are_not_known_are_refused(monkeypatch, version):
    stub = Stub("11.1").install(monkeypatch)
    stub.module.__version__ = version
    with pytest.raises(
        BackendError, match=rf"tensorrt {version}: expected version 10.x or 11.x. .* 'tensorrt>=10,<12'"
    ):
        open_api("tensorrt")


def test_a_package_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingPackageError, match="pip install tensorrt$"):
        open_api("tensorrt")


def test_libraries_that_do_not_load_are_one_line(monkeypatch, tmp_path):
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.11: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(BackendError, match="its libraries do not load .libnvinfer.so.11"):
        open_api("tensorrt")


def test_the_cuda_of_a_wheel_is_told_by_its_name(monkeypatch):
    from importlib.metadata import PackageNotFoundError

    def version(name):
        if name not in installed:
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr("dynvid.runtime.backends.tensorrt_api.version", version)
    installed = {"tensorrt-cu12", "tensorrt-rtx-cu13"}
    assert open_stub(monkeypatch, "10.16")[1].cuda == "12"
    assert open_stub(monkeypatch, "rtx-1.7.1")[1].cuda == "13"
    installed.clear()
    assert open_stub(monkeypatch, "10.16")[1].cuda == ""


def test_an_unknown_flavour_is_refused():
    with pytest.raises(UsageError, match="'openvino': expected one of tensorrt, tensorrt-rtx"):
        open_api("openvino")


def test_only_rtx_has_targets(monkeypatch):
    assert [open_stub(monkeypatch, version)[1].targets for version in VERSIONS] == [
        (),
        (),
        ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121"),
    ]


def test_kernels_of_rtx_are_ready_before_the_first_run(monkeypatch):
    stub, api = open_stub(monkeypatch, "rtx-1.7.1")
    made = []
    create = stub.module.ICudaEngine.create_runtime_config
    stub.module.ICudaEngine.create_runtime_config = lambda engine: made.append(create(engine)) or made[-1]
    context, *_ = context_for(api)
    assert context._given is made[0]
    assert made[0]._specialization.name == "EAGER"


# the stubs themselves


@pytest.mark.parametrize("version", VERSIONS)
def test_the_stub_has_exactly_the_names_of_its_version(version):
    stub = Stub(version)
    for name, names in API[version].items():
        made = getattr(stub.module, name)
        assert {n for n in dir(made) if not n.startswith("_")} == set(names), name


@pytest.mark.parametrize(
    ("version", "look_up", "missing"),
    [
        ("11.1", lambda trt: trt.BuilderFlag.FP16, "TensorRT 11.1.0.106: BuilderFlag has no attribute 'FP16'"),
        ("11.1", lambda trt: trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH, "no attribute 'EXPLICIT_BATCH'"),
        ("11.1", lambda trt: trt.ICudaEngine().device_memory_size, "ICudaEngine has no attribute 'device_memory_size'"),
        ("11.1", lambda trt: trt.OnnxParser(None, None).supports_model, "OnnxParser has no attribute 'supports_model'"),
        ("11.1", lambda trt: trt.ComputeCapability, "module tensorrt has no attribute 'ComputeCapability'"),
        ("10.16", lambda trt: trt.Builder, None),
        ("10.16", lambda trt: trt.BuilderFlag.FP16, None),
        ("10.16", lambda trt: trt.IBuilderConfig().build_route, "TensorRT 10.16.1.11: IBuilderConfig has no attribute"),
        ("rtx-1.7.1", lambda trt: trt.ComputeCapability.SM90, "ComputeCapability has no attribute 'SM90'"),
    ],
)  # fmt: skip
def test_names_that_a_version_lacks_are_refused(version, look_up, missing):
    if missing is None:
        look_up(Stub(version).module)
    else:
        with pytest.raises(AttributeError, match=missing):
            look_up(Stub(version).module)


def test_a_property_that_a_version_lacks_cannot_be_set():
    config = Stub("11.1").module.Builder(None).create_builder_config()
    with pytest.raises(AttributeError, match="IBuilderConfig has no attribute 'int8_calibrator'"):
        config.int8_calibrator = None


def test_the_whole_sequence_breaks_when_the_seam_touches_a_name_that_is_gone(monkeypatch):
    from dynvid.runtime.backends.tensorrt_api import Api

    def old(self, builder):
        return builder.create_network(1 << int(self.trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))

    _, api = open_stub(monkeypatch, "11.1")
    monkeypatch.setattr(Api, "create_network", old)
    with pytest.raises(
        AttributeError, match="11.1.0.106: NetworkDefinitionCreationFlag has no attribute 'EXPLICIT_BATCH'"
    ):
        build(api, graph(), Ports(), "double", PROFILES)


def test_every_fake_stands_behind_a_name_that_some_version_has():
    everything = [*API.values(), {name: names.split() for name, names in UNLISTED.items()}]
    for name, fake in (building.FAKES | parsing.FAKES | running.FAKES).items():
        known = {n for classes in everything for n in classes.get(name, ())}
        assert {n for n in fake.__dict__ if not n.startswith("_")} <= known, name


def test_the_list_of_rtx_is_the_installed_ones():
    trt = pytest.importorskip("tensorrt_rtx")
    if trt.__version__ != "1.7.1.116":
        pytest.skip(f"the list is of 1.7.1.116, installed is {trt.__version__}")
    for name, names in (*API["rtx-1.7.1"].items(), *((n, v.split()) for n, v in UNLISTED.items())):
        real = {n for n in dir(getattr(trt, name)) if not n.startswith("_")}
        assert set(names) <= real, name
        if name in API["rtx-1.7.1"]:
            assert real - set(names) <= {"name", "value", "itemsize"}, name
