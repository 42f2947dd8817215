"""Building one engine: on stubs of each TensorRT, and for real with tensorrt-rtx, which needs no GPU to build."""

import dataclasses
import pickle
import threading
from types import SimpleNamespace

import onnx
import pytest
from disguise import disguised
from engine_samples import graph_of
from tensorrt_stub.building import HEADER
from tensorrt_stub.stub import Stub

from dynvid.exporter.engines.dtype_census import require_census
from dynvid.exporter.engines.jobs import jobs
from dynvid.exporter.engines.tensorrt_builder import build
from dynvid.grid.engines.key import Profile
from dynvid.grid.errors import BackendError, CensusError, EngineBuildError, UsageError
from dynvid.grid.tensors import TensorSpec
from dynvid.runtime.backends.tensorrt_api import Api, open_api

TARGETS = ("sm86", "sm89", "sm120")
PROFILES = (Profile((1, 1, 1), (2, 4, 8)), Profile((1, 3, 4), (2, 4, 8)))
X = TensorSpec("x", "float32", ("batch", "frames", 4, 8, 8))
Y = TensorSpec("y", "float32", ("batch", "frames", 4, 8, 8))
PORTS = SimpleNamespace(inputs=(X,), outputs=(Y,))


def model(operator="Relu", nodes=None, dtype=onnx.TensorProto.FLOAT):
    """Return y = operator(x), or ``nodes``."""
    dims = ["batch", "frames", 4, 8, 8]
    ports = [onnx.helper.make_tensor_value_info(name, dtype, dims) for name in "xy"]
    nodes = nodes or [onnx.helper.make_node(operator, ["x"], ["y"], "the_node")]
    made = onnx.helper.make_graph(nodes, "g", ports[:1], ports[1:])
    return onnx.helper.make_model(
        made, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    ).SerializeToString()


@pytest.fixture(params=["10.16", "11.1", "rtx-1.7.1"])
def stub(request, monkeypatch):
    return Stub(request.param).install(monkeypatch)


@pytest.fixture
def stubbed(stub):
    return open_api("tensorrt-rtx" if stub.rtx else "tensorrt")


@pytest.fixture
def rtx():
    pytest.importorskip("tensorrt_rtx")
    return open_api("tensorrt-rtx")


def content_of(plan):
    return pickle.loads(plan[HEADER.size :])


# on stubs of every version


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_whole_sequence_runs_on_every_version(stub, stubbed, tiny_bundle, precision):
    for job in jobs(tiny_bundle, precision, 8):
        plan, census = build(stubbed, graph_of(job, tiny_bundle, precision), job, job.name, job.profiles)
        require_census(census, job, precision)
        made = content_of(plan)
        assert "TF32" not in made["flags"]  # fp32 means fp32
        assert ("REQUIRE_USER_ALLOCATION" in made["flags"]) == stub.rtx
        assert len(made["profiles"]) == 2
        for number, profile in enumerate(job.profiles):
            for spec in job.inputs:
                frames = profile.frames or (1, 1, 1)
                shapes = [spec.concrete(b, f) for b, f in zip(profile.batch, frames, strict=True)]
                assert made["profiles"][number][spec.name] == shapes
    assert stub.calls == ["create_network", "parse", "build_serialized_network"] * len(jobs(tiny_bundle, precision, 8))


def test_targets_are_set_in_rtx_and_only_there(stub, stubbed):
    plan, _ = build(stubbed, model(), PORTS, "it", PROFILES, TARGETS if stub.rtx else ())
    assert content_of(plan)["targets"] == (list(TARGETS) if stub.rtx else ["sm86"])


def test_a_workspace_is_limited_only_where_that_is_asked(monkeypatch):
    stub, seen = Stub("11.1").install(monkeypatch), []
    stub.module.IBuilderConfig.set_memory_pool_limit = lambda config, pool, size: seen.append((pool.name, size))
    build(open_api("tensorrt"), model(), PORTS, "it", PROFILES)
    build(open_api("tensorrt"), model(), PORTS, "it", PROFILES, workspace_bytes=1 << 30)
    assert seen == [("WORKSPACE", 1 << 30)]


def test_a_network_that_is_not_strongly_typed_is_refused_by_tensorrt_10(monkeypatch):
    Stub("10.16").install(monkeypatch)
    monkeypatch.setattr(Api, "create_network", lambda api, builder: builder.create_network(0))
    half = SimpleNamespace(
        inputs=(dataclasses.replace(X, dtype="float16"),), outputs=(dataclasses.replace(Y, dtype="float16"),)
    )
    with pytest.raises(EngineBuildError, match="not strongly typed and BuilderFlag FP16 is not set"):
        build(open_api("tensorrt"), model(dtype=onnx.TensorProto.FLOAT16), half, "it", PROFILES)


def test_a_network_that_says_it_is_not_strongly_typed_is_refused(monkeypatch):
    stub = Stub("10.16").install(monkeypatch)
    stub.module.INetworkDefinition.get_flag = lambda network, flag: False
    with pytest.raises(BackendError, match="not strongly typed"):
        build(open_api("tensorrt"), model(), PORTS, "it", PROFILES)


def test_a_target_that_is_refused_is_an_error(monkeypatch):
    stub = Stub("rtx-1.7.1").install(monkeypatch)
    stub.module.IBuilderConfig.set_compute_capability = lambda config, capability, place: False
    with pytest.raises(EngineBuildError, match="it: tensorrt-rtx 1.7.1.116 cannot build an engine: target sm86"):
        build(open_api("tensorrt-rtx"), model(), PORTS, "it", PROFILES, ("sm86",))


def test_a_shape_that_is_refused_is_an_error(monkeypatch):
    stub = Stub("11.1").install(monkeypatch)

    def refuse(profile, *arguments):
        raise ValueError("Shape provided for min is inconsistent")

    stub.module.IOptimizationProfile.set_shape = refuse
    with pytest.raises(EngineBuildError, match=r"profile 0 \(x \[1, 2, 4, 8, 8\] .*: Shape provided for min"):
        build(open_api("tensorrt"), model(), PORTS, "it", PROFILES)


def test_tensorrt_without_a_gpu_is_one_error(monkeypatch):
    Stub("11.1", gpu=None).install(monkeypatch)
    with pytest.raises(
        BackendError, match="cannot start a builder: CUDA initialization failure .*dynvid doctor"
    ) as error:
        build(open_api("tensorrt"), model(), PORTS, "it", PROFILES)
    assert error.value.exit_code == 5


# for real, and on stubs


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_rtx_builds_every_subgraph_and_segment_of_a_small_network(rtx, tiny_bundle, precision):
    for job in jobs(tiny_bundle, precision, 8):
        plan, census = build(rtx, graph_of(job, tiny_bundle, precision), job, job.name, job.profiles, TARGETS)
        require_census(census, job, precision)
        assert set(census["convolution"]) == {"float16" if precision == "fp16" else "float32"}
        assert plan[:4] == b"vtrt"
        assert int.from_bytes(plan[16:24], "little") == len(plan)


@pytest.fixture(params=["stub", "real"])
def api(request, monkeypatch):
    if request.param == "real":
        return request.getfixturevalue("rtx")
    Stub("rtx-1.7.1", gpu=None).install(monkeypatch)
    return open_api("tensorrt-rtx")


def test_the_parsers_errors_name_the_node_and_its_operator(api):
    with pytest.raises(
        EngineBuildError, match=r"it: tensorrt-rtx \S+ cannot build an engine: the parser refuses it: .*Frobnicate"
    ) as error:
        build(api, model("Frobnicate"), PORTS, "it", PROFILES)
    assert "node 'the_node'" in str(error.value)
    assert "CUDA driver" not in str(error.value)
    assert "\n" not in str(error.value)


def test_an_operator_that_the_parser_does_not_know_is_named(api):
    node = onnx.helper.make_node("Det", ["x"], ["y"], "the_node")
    with pytest.raises(EngineBuildError, match=r"node 'the_node' \(Det\): unsupported node\. Run"):
        build(api, model(nodes=[node]), PORTS, "it", PROFILES)


def test_bytes_that_are_no_graph_are_refused(api):
    with pytest.raises(EngineBuildError, match="the parser refuses it: .*Failed to parse the ONNX model"):
        build(api, b"no graph", PORTS, "it", PROFILES)


def test_a_profile_out_of_order_names_the_port_and_its_shapes(api):
    wrong = SimpleNamespace(batch=(3, 2, 4), frames=(1, 1, 1))
    shapes = r"x \[3, 1, 4, 8, 8\] \[2, 1, 4, 8, 8\] \[4, 1, 4, 8, 8\]"
    with pytest.raises(EngineBuildError, match=rf"profile 1 \({shapes}\): .*[vV]alid"):
        build(api, model(), PORTS, "it", (PROFILES[0], wrong))


def test_a_profile_without_frames_for_a_graph_with_frames_is_refused(api):
    with pytest.raises(UsageError, match="gives no frames, but input x has"):
        build(api, model(), PORTS, "it", (Profile((1, 1, 1), None),))


def test_a_build_that_returns_nothing_gives_the_builders_first_reason(api):
    with pytest.raises(
        EngineBuildError, match="the builder refuses it: .*CUDA driver version is insufficient"
    ) as error:
        build(api, model(), PORTS, "it", PROFILES, ("current",))  # without a GPU
    assert error.value.exit_code == 5


@pytest.mark.parametrize(
    ("side", "spec", "message"),
    [
        ("inputs", TensorSpec("z", "float32", X.shape), "input z of the graph is missing, but the bundle declares float32"),
        ("inputs", TensorSpec("x", "float16", X.shape), r"input x of the graph is float32 \[-1, -1, 4, 8, 8\], but the bundle declares float16"),
        ("outputs", TensorSpec("y", "float32", ("batch", "frames", 4, 8, 9)), r"output y of the graph is .* declares float32 \[-1, -1, 4, 8, 9\]"),
        ("outputs", TensorSpec("y", "float32", ("batch", 2, 4, 8, 8)), r"declares float32 \[-1, 2, 4, 8, 8\]"),
    ],
)  # fmt: skip
def test_ports_that_are_not_the_declared_ones_are_refused(api, side, spec, message):
    ports = SimpleNamespace(**{"inputs": (X,), "outputs": (Y,), side: (spec,)})
    with pytest.raises(CensusError, match=message) as error:
        build(api, model(), ports, "it", PROFILES)
    assert error.value.exit_code == 4


def test_a_port_too_many_is_refused(api):
    ports = SimpleNamespace(inputs=(X,), outputs=())
    with pytest.raises(CensusError, match=r"output y of the graph is float32 .*, but the bundle declares missing"):
        build(api, model(), ports, "it", PROFILES)


# the census


@pytest.fixture(params=["block1", "segment3", "full"])
def job(request, tiny_bundle):
    return next(job for job in jobs(tiny_bundle, "fp16", 8) if job.name == request.param)


def test_an_fp32_graph_passed_off_as_fp16_is_refused_for_its_ports(api, tiny_bundle, job):
    other = next(j for j in jobs(tiny_bundle, "fp32", 8) if j.name == job.name)
    with pytest.raises(CensusError, match=r"of the graph is float32 .*, but the bundle declares float16"):
        build(api, graph_of(other, tiny_bundle, "fp32"), job, job.name, job.profiles)


def test_an_fp32_graph_behind_fp16_ports_is_refused_for_its_layers(api, tiny_bundle, job):
    other = next(j for j in jobs(tiny_bundle, "fp32", 8) if j.name == job.name)
    content = disguised(graph_of(other, tiny_bundle, "fp32"), job)
    _, census = build(api, content, job, job.name, job.profiles)
    with pytest.raises(CensusError, match=r"'convolution': \{'float32': \d+\}.*expected the convolutions of .*float16"):
        require_census(census, job, "fp16")


def test_an_fp16_graph_passed_off_as_fp32_is_refused(api, tiny_bundle, job):
    _, census = build(api, graph_of(job, tiny_bundle, "fp16"), job, job.name, job.profiles)
    declared = dataclasses.replace(job, parts=tuple((part, "float32") for part, _ in job.parts))
    with pytest.raises(CensusError, match="expected every layer of .*float32"):
        require_census(census, declared, "fp32")
    with pytest.raises(CensusError, match="expected the convolutions of .*float32"):
        require_census(census, declared, "fp16")


def test_a_segment_of_both_kinds_is_checked_part_by_part(api, tiny_bundle):
    (job,) = (job for job in jobs(tiny_bundle, "fp16", 8) if job.name == "segment3")
    _, census = build(api, graph_of(job, tiny_bundle, "fp16"), job, job.name, job.profiles)
    assert set(census["parts"]) == {"block0", "block1", "block2", "head2"} == set(dict(job.parts))
    mixed = dataclasses.replace(job, parts=tuple((p, "float32" if p == "block1" else d) for p, d in job.parts))
    with pytest.raises(CensusError, match="'block1': 'float32'"):
        require_census(census, mixed, "fp16")
    as_kept = census["parts"] | {"block1": {"float32": sum(census["parts"]["block1"].values())}}
    require_census(census | {"parts": as_kept}, mixed, "fp16")
    del as_kept["block1"]  # convolutions that nobody accounts for
    with pytest.raises(CensusError, match="segment3 fp16: layers"):
        require_census(census | {"parts": as_kept}, mixed, "fp16")


def test_ports_of_another_dtype_are_refused(api, tiny_bundle, job):
    _, census = build(api, graph_of(job, tiny_bundle, "fp16"), job, job.name, job.profiles)
    wrong = census | {"inputs": dict.fromkeys(census["inputs"], "float64")}
    with pytest.raises(CensusError, match="fp16: inputs .*float64"):
        require_census(wrong, job, "fp16")


# progress


def test_progress_is_told_from_the_builders_threads(api):
    lines = []
    build(api, model(), PORTS, "it", PROFILES, ("sm86",), tell=lines.append)
    assert lines
    assert lines[0] == "building engine"


def test_a_build_may_run_in_any_thread(api):
    plans = []
    thread = threading.Thread(target=lambda: plans.append(build(api, model(), PORTS, "it", PROFILES, ("sm86",))))
    thread.start()
    thread.join()
    assert plans[0][0][:4] == b"vtrt"
