"""INT8 twins: the form that strongly typed TensorRT parses, one scale a wire, fp32 where the loss is, and no wrong backend."""

import functools
import json
import platform
import shutil
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from click.testing import CliRunner
from onnx import TensorProto, numpy_helper
from samples import TINY, write_noise
from tensorrt_stub.stub import Stub, write_package

from dynvid.calibration.scores import Scores
from dynvid.cli import cli
from dynvid.exporter.engines import build as build_module
from dynvid.exporter.engines import int8_speed as faster_module
from dynvid.exporter.engines.build import build_engines
from dynvid.exporter.engines.jobs import fused_jobs
from dynvid.exporter.engines.makers import for_onnxruntime, for_openvino, preparation
from dynvid.exporter.engines.segment_graphs import EngineGraphs
from dynvid.exporter.graphs.fuse import fuse
from dynvid.exporter.graphs.rewrites import rewrite
from dynvid.exporter.graphs.uint8_activations import uint8_activations
from dynvid.exporter.int8 import layer_selection as layers_module
from dynvid.exporter.int8.layer_selection import choose, drops, exits_agree
from dynvid.exporter.int8.quantized_variants import QuantizedVariants
from dynvid.exporter.int8.range_observers import observe_ranges
from dynvid.exporter.int8.range_pass import largest
from dynvid.exporter.int8.ranges import FORMAT, VERSION, Ranges
from dynvid.exporter.int8.scale_groups import ScaleGroups, Tensor
from dynvid.exporter.proof.clips import proof_clips
from dynvid.exporter.proof.segment_equivalence import prove_fused, prove_segments
from dynvid.grid.bundle import Bundle, write_bundle
from dynvid.grid.engines.cache import EngineCache
from dynvid.grid.engines.key import this_processor
from dynvid.grid.errors import (
    BackendError,
    CensusError,
    InputRefusedError,
    ProofError,
    StaleRangesError,
    StaleThresholdsError,
    UsageError,
)
from dynvid.grid.segments import fused_full, fused_segments
from dynvid.grid.storage.sealed import seal, unseal
from dynvid.grid.thresholds import Thresholds
from dynvid.runtime.backends import onnxruntime as ort_module
from dynvid.runtime.backends import openvino as openvino_module
from dynvid.runtime.backends.onnxruntime import session_options
from dynvid.runtime.backends.optimised_graph import unpack
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.execution.composed import CELLS
from dynvid.runtime.execution.engine_lookup import open_engines
from dynvid.runtime.execution.executor import Executor
from dynvid.runtime.session import ArraySource, Session

NEEDS_VNNI = pytest.mark.skipif(
    "vnni" not in this_processor(), reason="no VNNI, and dynvid refuses OpenVINO's INT8 without: it computes wrongly"
)
NEEDS_BF16 = pytest.mark.skipif(
    "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"), reason="no bf16 arithmetic"
)
OPENVINO = pytest.param("openvino", marks=NEEDS_VNNI)


@functools.cache
def measured(root):
    """Return the largest activations of a bundle on the proof's clips."""
    bundle = Bundle.open(root)
    watched, manifest = observe_ranges(bundle), bundle.manifest
    executor = Executor(watched.bundle, open_backend("onnxruntime"))
    found = {name: np.zeros(len(tensors), np.float32) for name, tensors in watched.tensors.items()}
    for clip in proof_clips(3, manifest.grid.num_frames, manifest.preprocessing):
        for at in executor.walk([ArraySource(clip)]):
            for name, values in largest(executor, at.index, watched.tensors).items():
                found[name] = np.maximum(found[name], values)
    return {name: dict(zip(watched.tensors[name], found[name].tolist(), strict=True)) for name in found}


def ranges_of(bundle):
    largest = {name: dict(tensors) for name, tensors in measured(bundle.root).items()}
    return Ranges(bundle.sha256, "0" * 64, 40, None, (40,) * len(bundle.manifest.route_cells), largest)


@pytest.fixture(scope="module")
def twins(tiny_bundle):
    return QuantizedVariants(tiny_bundle, ranges_of(tiny_bundle))


@pytest.fixture(scope="module")
def int8_bundle(twins, tmp_path_factory):
    made = twins.bundle({})
    return write_bundle(tmp_path_factory.mktemp("int8") / "bundle", made.manifest, made.held)


def models(bundle, precision="int8"):
    return {s.name: onnx.load_model_from_string(bundle.read(s.variant(precision))) for s in bundle.manifest.subgraphs}


def quantised(model):
    """Yield each tensor that a graph quantises, with its scale."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            yield node.input[0], float(constants[node.input[1]])


def test_every_pair_has_the_form_that_strongly_typed_tensorrt_parses(int8_bundle):
    convolutions = 0
    for name, model in models(int8_bundle).items():
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        writers = {tensor: node for node in model.graph.node for tensor in node.output}
        for node in model.graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                zero = numpy_helper.to_array(constants[node.input[2]])
                assert zero.dtype == np.int8, name
                assert not zero.any(), name
            if node.op_type == "Conv":
                convolutions += 1
                assert [writers[tensor].op_type for tensor in node.input[:2]] == ["DequantizeLinear"] * 2
                weights = constants[writers[node.input[1]].input[0]]
                assert weights.data_type == TensorProto.INT8
                scales = constants[writers[node.input[1]].input[1]]
                assert list(scales.dims) == [weights.dims[0]]  # one an output channel
                assert constants[node.input[2]].data_type == TensorProto.FLOAT  # no quantised bias
    assert convolutions > 20


def test_twins_have_the_ports_of_fp32_and_the_old_files_stay(tiny_bundle, int8_bundle):
    assert int8_bundle.manifest.precisions == (*tiny_bundle.manifest.precisions, "int8")
    for old, new in zip(tiny_bundle.manifest.subgraphs, int8_bundle.manifest.subgraphs, strict=True):
        twin = new.variant("int8")
        assert (twin.inputs, twin.outputs) == (old.variant("fp32").inputs, old.variant("fp32").outputs)
        for precision in tiny_bundle.manifest.precisions:
            assert int8_bundle.read(new.variant(precision)) == tiny_bundle.read(old.variant(precision))


def test_a_wire_has_one_scale_in_every_subgraph(tiny_bundle, int8_bundle):
    wires = ScaleGroups(models(tiny_bundle, "fp32"), tiny_bundle)
    scales = defaultdict(set)
    places = defaultdict(set)
    for name, model in models(int8_bundle).items():
        for tensor, scale in quantised(model):
            scales[wires.of(Tensor(name, tensor))].add(scale)
            places[wires.of(Tensor(name, tensor))].add(name)
    assert all(len(found) == 1 for found in scales.values())
    assert len(scales) > 5
    assert any(len(found) > 1 for found in places.values())  # a feature, on both sides of a boundary


def test_states_and_features_are_wires(tiny_bundle):
    wires = ScaleGroups(models(tiny_bundle, "fp32"), tiny_bundle)
    block = tiny_bundle.manifest.subgraph("block1")
    for state in block.states:
        assert wires.of(Tensor("block1", state.input)) == wires.of(Tensor("block1", state.output))
    for spec in block.variant("fp32").inputs:
        if spec.name.startswith("block0."):
            assert wires.of(Tensor("block0", spec.name)) == wires.of(Tensor("block1", spec.name))
    ends = {
        wires.of(Tensor("block0", spec.name))
        for spec in tiny_bundle.manifest.subgraph("block0").variant("fp32").outputs
    }
    assert wires.of(Tensor("block0", "frames")) not in ends


def test_a_dead_activation_and_what_is_kept_stay_in_fp32(tiny_bundle):
    ranges = ranges_of(tiny_bundle)
    dead = next(iter(ranges.largest["head1"]))
    ranges.largest["head1"] = {name: 0.0 for name in ranges.largest["head1"]}
    wires = ScaleGroups(models(tiny_bundle, "fp32"), tiny_bundle)
    for name, tensors in ranges.largest.items():
        for tensor in tensors:
            if wires.of(Tensor(name, tensor)) == wires.of(Tensor("head1", dead)):
                tensors[tensor] = 0.0
    made = QuantizedVariants(tiny_bundle, ranges)
    kept = made.layers["block2"][0]
    found = models(made.bundle({"block2": [kept], "block0": made.layers["block0"]}))
    assert not list(quantised(found["head1"]))
    assert not list(quantised(found["block0"]))  # wholly kept: its fp32 graph
    assert made.layers["head1"] == ()
    assert len(made.unscaled["head1"]) > 0
    (node,) = [node for node in found["block2"].graph.node if node.name == kept]
    plain = {node.name: node for node in models(tiny_bundle, "fp32")["block2"].graph.node}
    assert node.input[0] == plain[kept].input[0]  # not what others read quantised
    assert node.input[1] in {tensor.name for tensor in found["block2"].graph.initializer}


def test_ranges_of_other_graphs_are_refused(tiny_bundle):
    ranges = ranges_of(tiny_bundle)
    del ranges.largest["block1"][next(iter(ranges.largest["block1"]))]
    with pytest.raises(StaleRangesError, match="block1"):
        QuantizedVariants(tiny_bundle, ranges)


def test_unsigned_activations_stand_for_the_same_values(int8_bundle):
    """Without optimisations every pair is computed as written; a clip that the ranges are of clips nowhere."""
    segment = fused_segments(int8_bundle.manifest, "int8")[0]
    graph = fuse(int8_bundle, segment, "int8")
    other = rewrite(graph, (uint8_activations,))
    zero_points = {
        int(numpy_helper.to_array(tensor))
        for tensor in onnx.load_model_from_string(other).graph.initializer
        if tensor.data_type == TensorProto.UINT8
    }
    assert zero_points == {0, 128}
    manifest = int8_bundle.manifest
    (clip,) = proof_clips(1, manifest.grid.num_frames, manifest.preprocessing)
    frames = clip[list(manifest.grid.frame_order)][None, segment.start : segment.stop]
    answers = []
    for content in (graph, other):
        options = session_options(onnxruntime, 1)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        answers.append(onnxruntime.InferenceSession(content, options).run(None, {"frames": frames}))
    assert all(np.array_equal(one, two) for one, two in zip(*answers, strict=True))


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="elsewhere weights stay signed")
@pytest.mark.parametrize(
    ("processor", "weights"),
    [("avx512_vnni", "INT8"), ("avx_vnni", "INT8"), ("avx512f", "UINT8"), ("avx2", "UINT8")],
)
def test_convolutions_multiply_unsigned_bytes_by_signed_ones_where_vnni_does(
    int8_bundle, monkeypatch, processor, weights
):
    monkeypatch.setattr(ort_module, "this_processor", lambda: processor)
    segment = fused_full(int8_bundle.manifest, "int8")
    plan = for_onnxruntime(fuse(int8_bundle, segment, "int8"))
    graph = onnx.load_model_from_string(unpack(plan).model).graph
    dtypes = {tensor.name: TensorProto.DataType.Name(tensor.data_type) for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "QLinearConv"]
    assert {(dtypes[node.input[2]], dtypes[node.input[3]]) for node in convolutions} == {("UINT8", weights)}


def test_fused_segments_compute_what_the_cells_compute(int8_bundle):
    manifest = int8_bundle.manifest
    clips = proof_clips(3, manifest.grid.num_frames, manifest.preprocessing)
    figures = prove_fused(EngineGraphs(int8_bundle, "int8", preparation("onnxruntime")), clips)
    assert max(figures["checkpoints"]) < 0.2


@pytest.mark.full
@pytest.mark.parametrize("backend", ["onnxruntime", OPENVINO])
def test_bench_measures_an_int8_set(backend, int8_bundle, tmp_path):
    done = run(
        "bench", int8_bundle.root, "--precision", "int8", "--backend", backend, "--engines", tmp_path / "engines", "-o",
        tmp_path / "report", "--batch", 1, "--rounds", 1, "--clips", 12, "--seconds", 0.2, "--stream-seconds", 0.2,
        "--q", 1.2,
    )  # fmt: skip
    assert done.exit_code == 0, (done.output, done.exception)
    assert "split_overhead_cells" in done.stdout


@pytest.mark.parametrize(
    ("backend", "precision"),
    [
        ("onnxruntime", "int8"),
        pytest.param("openvino", "int8", marks=NEEDS_VNNI),
        pytest.param("openvino", "int8-bf16", marks=[NEEDS_VNNI, NEEDS_BF16]),
    ],
)
def test_engines_answer_what_the_cells_answer(backend, precision, int8_bundle, tmp_path, monkeypatch):
    raced = []
    monkeypatch.setattr(build_module, "is_faster", lambda runs, *_: raced.append(runs) or (True, 1.0, 2.0))
    rows = build_engines(int8_bundle, tmp_path, backend, precision)
    assert {getattr(runs, "in_bf16", False) for runs in raced} == {precision == "int8-bf16"}
    assert [row.status for row in rows] == ["built"] * len(rows)
    assert all(row.engine.dtype_census["convolution"].keys() == {"int8"} for row in rows)
    runs = open_backend(backend, precision=precision)
    engines = open_engines(int8_bundle, runs, tmp_path, precision)
    session = Session.open(int8_bundle, runs, precision=precision, programs=engines.plan)
    cells = Session.open(int8_bundle, open_backend("onnxruntime"), precision="int8")
    manifest = int8_bundle.manifest
    for clip in proof_clips(3, manifest.grid.num_frames, manifest.preprocessing):
        found, wanted = (np.stack(s.classify(ArraySource(clip), trace=True).logits) for s in (session, cells))
        assert np.sqrt(np.square(found - wanted).mean()) <= 0.1 * wanted.std()


@pytest.mark.parametrize(
    ("backend", "engines"),
    [("onnxruntime", False), ("onnxruntime", True), pytest.param("openvino", True, marks=NEEDS_VNNI)],
)
def test_nan_and_infinity_are_not_quantised_away(backend, engines, int8_bundle, tmp_path, monkeypatch):
    """Quantising makes a number of NaN; a video with one in its first frame must still end as a numeric error."""
    monkeypatch.setattr(build_module, "is_faster", lambda *_: (True, 1.0, 2.0))
    runs, programs = open_backend(backend), CELLS
    if engines:
        build_engines(int8_bundle, tmp_path, backend, "int8")
        programs = open_engines(int8_bundle, runs, tmp_path, "int8").plan
    session = Session.open(int8_bundle, runs, precision="int8", programs=programs)
    manifest = int8_bundle.manifest
    (clip,) = proof_clips(1, manifest.grid.num_frames, manifest.preprocessing)
    for poison in (np.nan, np.inf):
        bad = ArraySource(clip)
        bad._frames = clip.copy()
        bad._frames[0, 0, 0, 0] = poison
        found = session.classify(bad, trace=True)
        assert found.status == "numeric_error"
        assert np.isnan(found.logits[-1]).all()
    assert session.classify(ArraySource(clip)).status == "ok"


@NEEDS_VNNI
def test_openvino_refuses_signed_activations(int8_bundle):
    """It computes them wrongly, without a word (2026.4.1)."""
    with pytest.raises(BackendError, match="signed INT8.*build-engines BUNDLE --backend openvino --precision int8"):
        Session.open(int8_bundle, open_backend("openvino"), precision="int8")
    segment = fused_full(int8_bundle.manifest, "int8")
    graph = fuse(int8_bundle, segment, "int8")
    backend = open_backend("openvino")
    with pytest.raises(BackendError, match="signed INT8"):
        backend.load(graph, segment, segment.name)
    backend.load(for_openvino(graph), segment, segment.name)


def test_what_is_not_faster_in_int8_stays_in_fp32_and_runs_beside_the_rest(int8_bundle, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(build_module, "is_faster", lambda _, job, *__: (job.name == "segment2", 1.0, 1.0))
    caplog.set_level("INFO", "dynvid")
    rows = build_engines(int8_bundle, tmp_path, "onnxruntime", "int8")
    kinds = {row.subgraph: set(row.engine.dtype_census["convolution"]) for row in rows}
    assert kinds.pop("segment2") == {"int8"}
    assert all(kind == {"float32"} for kind in kinds.values())
    assert "segment1 int8: 1 ms in INT8, 1 ms without" in caplog.messages
    backend = open_backend("onnxruntime")
    session = Session.open(
        int8_bundle, backend, precision="int8", programs=open_engines(int8_bundle, backend, tmp_path, "int8").plan
    )
    manifest = int8_bundle.manifest
    (clip,) = proof_clips(1, manifest.grid.num_frames, manifest.preprocessing)
    found = np.stack(session.classify(ArraySource(clip), trace=True).logits)
    plain = np.stack(Session.open(int8_bundle, backend).classify(ArraySource(clip), trace=True).logits)
    assert np.abs(found[0] - plain[0]).max() <= 1e-4 * plain[0].std()
    assert 1e-4 * plain.std() < np.abs(found[1] - plain[1]).max() < 0.5 * plain.std()


def test_fp32_in_the_place_of_int8_is_proved_too(int8_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(build_module, "is_faster", lambda _, job, *__: (job.name == "segment2", 1.0, 1.0))
    proved = {}

    def prove(graphs):
        prove_segments(graphs)
        manifest, precision = int8_bundle.manifest, graphs.precision
        segments = (*fused_segments(manifest, precision), fused_full(manifest, precision))
        proved[precision] = {segment.name: graphs.lend(segment) for segment in segments}

    rows = build_engines(int8_bundle, tmp_path, "onnxruntime", "int8", prove=prove)
    for row in rows:
        kept = proved["int8" if row.subgraph == "segment2" else "fp32"][row.subgraph]
        assert (tmp_path / row.engine.plan).read_bytes() == kept


def test_fp32_that_is_not_proved_takes_no_place(int8_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(build_module, "is_faster", lambda _, job, *__: (job.name == "segment2", 1.0, 1.0))

    def prove(graphs):
        if graphs.precision == "fp32":
            raise ProofError("proof failed: segment1")

    rows = build_engines(int8_bundle, tmp_path, "onnxruntime", "int8", prove=prove)
    assert {row.subgraph for row in rows if row.status == "built"} == {"segment2"}
    assert {engine.key.subgraph for engine in EngineCache(tmp_path).engines().engines} == {"segment2"}


def test_int8_engines_are_measured_one_at_a_time(int8_bundle, tmp_path):
    with pytest.raises(UsageError, match="2 workers with INT8 on openvino: .* expected 1"):
        build_engines(int8_bundle, tmp_path, "openvino", "int8", workers=2)


def test_openvino_refuses_int8_where_products_of_bytes_overflow(int8_bundle, monkeypatch):
    segment = fused_full(int8_bundle.manifest, "int8")
    graph = for_openvino(fuse(int8_bundle, segment, "int8"))
    plain = fuse(int8_bundle, fused_full(int8_bundle.manifest, "fp32"), "fp32")
    monkeypatch.setattr(openvino_module, "this_processor", lambda: "avx512f")
    backend = open_backend("openvino")
    backend.load(plain, segment, segment.name)
    with pytest.raises(BackendError, match="has no VNNI. Use --backend onnxruntime"):
        backend.load(graph, segment, segment.name)


@pytest.mark.parametrize(("int8_s", "expected"), [(0.5, True), (0.97, True), (0.99, False), (2.0, False)])
def test_int8_is_faster_where_its_calls_take_less(int8_bundle, monkeypatch, int8_s, expected):
    """By a clock that only the calls move; the first call of each is warm-up."""
    clock = [0.0]

    class Engines(type(open_backend("onnxruntime"))):
        def load(self, content, ports, name):
            spent = iter([100.0] + [{b"int8": int8_s, b"fp32": 1.0}[content]] * faster_module.ROUNDS)
            return SimpleNamespace(prepare=lambda *_: lambda: clock.__setitem__(0, clock[0] + next(spent)))

    monkeypatch.setattr(faster_module.time, "perf_counter", lambda: clock[0])
    job = fused_jobs(int8_bundle, "int8")[0]
    faster, int8_ms, fp32_ms = faster_module.is_faster(Engines(), job, b"int8", b"fp32")
    assert (faster, int8_ms, fp32_ms) == (expected, pytest.approx(int8_s * 1e3), pytest.approx(1e3))


def test_a_census_without_int8_is_refused(int8_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(build_module, "is_faster", lambda *_: (True, 1.0, 2.0))

    class Forgetful(type(build_module.open_maker("onnxruntime"))):
        def make(self, job, graph):
            plan, census, seconds = super().make(job, graph)
            return plan, census | {"convolution": {"int8": 1, "float32": 5}}, seconds

    monkeypatch.setattr(build_module, "open_maker", lambda *_: Forgetful("onnxruntime", "int8"))
    (row,) = build_engines(int8_bundle, tmp_path, "onnxruntime", "int8", only=["segment1"])
    assert isinstance(row.error, CensusError)
    assert "1 convolutions in INT8, expected the" in str(row.error)


def test_tensorrt_rtx_counts_the_convolutions_of_a_cell_that_is_partly_kept(tiny_bundle, twins, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    made = twins.bundle({"block1": twins.layers["block1"][::2]})
    bundle = write_bundle(tmp_path / "bundle", made.manifest, made.held)
    (row,) = build_engines(bundle, tmp_path / "engines", "tensorrt-rtx", "int8", ("sm89",), only=["block1"])
    kept = len(twins.layers["block1"][::2])
    assert row.error is None
    assert row.engine.dtype_census["convolution"] == {"float32": kept, "int8": len(twins.layers["block1"]) - kept}


@pytest.mark.parametrize("release", ["10.16", "11.1"])
def test_both_tensorrts_are_given_int8_and_count_it(release, int8_bundle, monkeypatch, tmp_path):
    """Against a stand-in: that a real builder takes such graphs is seen with TensorRT-RTX."""
    (tmp_path / "packages").mkdir()
    write_package(tmp_path / "packages", release, "sm86")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    device = SimpleNamespace(compute_capability="sm86", close=lambda: None)
    monkeypatch.setattr("dynvid.runtime.cuda.binding.open_device", lambda *_, **__: device)
    Stub(release, "sm86").install(monkeypatch)
    rows = build_engines(int8_bundle, tmp_path / "engines", "tensorrt", "int8", only=["block1", "segment2"])
    assert [(row.status, row.error) for row in rows] == [("built", None)] * 2
    assert all(row.engine.dtype_census["convolution"].keys() == {"int8"} for row in rows)


def test_tensorrt_rtx_builds_a_segment_and_the_census_shows_int8(int8_bundle, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    (row,) = build_engines(int8_bundle, tmp_path, "tensorrt-rtx", "int8", ("sm80", "sm89", "sm120"), only=["segment2"])
    assert (row.status, row.error) == ("built", None)
    assert row.engine.dtype_census["convolution"].keys() == {"int8"}


@pytest.mark.full
@pytest.mark.parametrize("target", ["sm80", "sm89", "sm120"])
def test_tensorrt_rtx_builds_every_twin(target, int8_bundle, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    rows = build_engines(int8_bundle, tmp_path, "tensorrt-rtx", "int8", (target,))
    assert len(rows) == len(int8_bundle.manifest.subgraphs) + len(int8_bundle.manifest.route_cells) + 1
    assert [(row.status, row.error) for row in rows] == [("built", None)] * len(rows)
    assert all(
        "int8" in row.engine.dtype_census["convolution"] for row in rows if row.engine.dtype_census["convolution"]
    )


# what stays in fp32


LAYERS = {"block0": ("a", "b", "c", "d"), "block1": ("e", "f", "g", "h"), "head1": ()}


class FakeTwins:
    """Two cells of four convolutions each; a bundle is the set of those in INT8."""

    layers = LAYERS

    def bundle(self, kept):
        return {layer for name, layers in LAYERS.items() for layer in layers if layer not in kept.get(name, ())}


LOSS = {"a": 0.1, "b": 0.1, "c": 5.0, "d": 0.1, "e": 0.1, "f": 0.1, "g": 0.1, "h": 0.1}


@pytest.fixture
def chosen(monkeypatch):
    reference = np.random.default_rng(0).standard_normal((4, 2, 5)).astype(np.float32)

    class Logits:
        def __init__(self, made, *_):
            self.made = made

        def first(self, count):
            return reference[:count] + np.float32(sum(LOSS[layer] for layer in self.made))

    monkeypatch.setattr(layers_module, "SplitLogits", Logits)
    probabilities = np.full((2, 100, 2), 0.5, np.float32) + np.array([0.1, -0.1], np.float32)
    names = tuple(f"{n:03}" for n in range(100))
    plain = Scores(probabilities, np.zeros(100, np.int64), None, names)

    def score(made):
        """Each convolution in INT8 with a loss above 1 makes ten answers wrong, and each other one none."""
        found, wrong = probabilities.copy(), 10 * sum(LOSS[layer] > 1 for layer in made)
        found[1, :wrong] = found[1, :wrong, ::-1]
        return Scores(found, plain.labels, None, names)

    def run(max_drop, score=score, min_agreement=0.0):
        return choose(FakeTwins(), np.zeros(4), reference, None, plain, score, max_drop, min_agreement)

    return run


def test_nothing_stays_in_fp32_within_the_bound(chosen):
    found = chosen(0.1)
    assert not any(found.kept.values())
    assert found.drop == pytest.approx((0.0, 0.1))
    assert set(found.cell_loss) == {"block0", "block1"}


def test_the_convolution_that_loses_most_returns_to_fp32_first(chosen):
    found = chosen(0.05)
    assert found.kept == {"block0": ("c",), "block1": (), "head1": ()}
    assert found.drop == (0.0, 0.0)
    assert max(found.layer_loss["block0"], key=found.layer_loss["block0"].get) == "c"


def test_it_returns_to_fp32_as_well_where_videos_leave_elsewhere(chosen, monkeypatch):
    monkeypatch.setattr(layers_module, "exits_agree", lambda _, found: 1.0 - (found.probabilities[1, 0, 0] < 0.5) / 10)
    assert not any(chosen(0.5, min_agreement=0.8).kept.values())
    found = chosen(0.5, min_agreement=0.95)
    assert found.kept["block0"] == ("c",)
    assert found.agreement == 1.0


def test_exits_agree_where_both_sets_rank_the_videos_alike():
    rng, names = np.random.default_rng(0), tuple(map(str, range(50)))
    top = rng.uniform(0.5, 1, (3, 50))
    one = Scores(np.stack([top, 1 - top], axis=2), None, None, names)
    assert exits_agree(one, Scores(one.probabilities**1.01, None, None, names)) == 1.0  # thresholds move along
    shuffled = rng.permutation(50)
    assert exits_agree(one, Scores(one.probabilities[:, shuffled], None, None, names)) < 0.7


def test_what_loses_even_in_fp32_is_no_int8(chosen):
    def always_wrong(_):
        return Scores(
            np.full((2, 100, 2), 0.5, np.float32) - np.array([0.1, -0.1], np.float32),
            np.zeros(100, np.int64), None, tuple(f"{n:03}" for n in range(100)),
        )  # fmt: skip

    with pytest.raises(ProofError, match=r"drops 1\.0000, .* with everything in fp32"):
        chosen(0.05, always_wrong)


def test_without_labels_the_drop_is_the_share_of_other_classes():
    names = ("0", "1", "2", "3")
    one = np.array([[[0.9, 0.1]] * 4], np.float32)
    other = one.copy()
    other[0, 2] = [0.2, 0.8]
    assert drops(Scores(one, None, None, names), Scores(other, None, None, names)) == (0.25,)
    # a video without an answer on one side is left out
    assert drops(Scores(one, None, None, names), Scores(other[:, 2:], None, None, names[2:])) == (0.5,)


# the command


def run(*arguments):
    return CliRunner().invoke(cli, [*map(str, arguments)])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("data"), 36)


@pytest.fixture(scope="module")
def calibrated(exports, data, tmp_path_factory):
    folder, checkpoint, bundle = (
        tmp_path_factory.mktemp("calibrated"),
        exports.training_checkpoint(TINY),
        exports.bundle(TINY),
    )
    # a copy: scores of the twins are kept beside it, and another worker may do the same
    root = shutil.copytree(bundle.root, folder / "bundle")
    before = (root / "manifest.json").read_bytes()
    done = run(
        "quantize", root, checkpoint, "--data", data, "-o", folder / "int8", "--ranges", folder / "ranges.json",
        "--max-drop", 0.5, "--min-agreement", 0, "--scores", folder / "s.npz", "--save-thresholds", folder / "T.json", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, (done.output, done.exception)
    assert (root / "manifest.json").read_bytes() == before
    return folder, checkpoint


def test_quantize_writes_a_bundle_that_is_proved_and_thresholds_of_it(calibrated):
    folder, checkpoint = calibrated
    bundle = Bundle.open(folder / "int8")
    proof = bundle.manifest.proof["int8"]
    assert {"accuracy", "agreement", "agreement_at_q", "cell_loss", "drift", "drop", "fp32_layers", "ranges"} <= set(
        proof
    )
    assert max(proof["drop"]) <= 0.5
    assert len(proof["drift"]) == 4
    written = json.loads((folder / "T.json").read_bytes())
    assert (written["bundle_sha256"], written["precision"]) == (bundle.sha256, "int8")
    assert run("verify", folder / "int8", checkpoint).exit_code == 0
    built = run("build-engines", folder / "int8", "--int8", "--backend", "onnxruntime")
    assert built.exit_code == 0, built.output
    found = run(
        "classify", folder / "int8", next(iter(folder.parent.glob("data*/0.npy"))), "--precision", "int8", "--thresholds",
        folder / "T.json", "--json",
    )  # fmt: skip
    assert json.loads(found.stdout)["status"] == "ok"


def test_thresholds_of_int8_can_be_chosen_again_and_are_for_int8_only(calibrated, data, tmp_path):
    folder, _ = calibrated
    common, clip = (folder / "int8", "--data", data, "--q", 1), next(iter(folder.parent.glob("data*/0.npy")))
    assert run("calibrate", *common, "--precision", "int8", "-o", tmp_path / "T8.json").exit_code == 0
    assert run("calibrate", *common, "-o", tmp_path / "T.json").exit_code == 0
    named = {name: json.loads((tmp_path / name).read_bytes()) for name in ("T8.json", "T.json")}
    assert {name: t["precision"] for name, t in named.items()} == {"T8.json": "int8", "T.json": "fp32"}
    for name, precision, other in (("T8.json", "int8", "fp32"), ("T.json", "fp32", "int8")):
        chosen = ("classify", folder / "int8", clip, "--thresholds", tmp_path / name, "--precision")
        assert run(*chosen, precision).exit_code == 0
        refused = run(*chosen, other).exception
        assert isinstance(refused, StaleThresholdsError)
        assert f"were chosen on answers in {precision}, but these are in {other}" in str(refused)
    kept = next(
        path
        for path in (folder / "int8.scores").iterdir()
        if json.loads(str(np.load(path)["belongs_to"]))["precision"] == "int8"
    )
    timed = run("calibrate", folder / "int8", "--scores", kept, "--cost", "ms", "--q", 1, "--json")
    assert json.loads(timed.stdout)["mean_ms"] > 0  # of the INT8 set, as the scores


def test_ranges_of_another_bundle_are_refused_by_the_command(calibrated, exports, data, tmp_path):
    folder, checkpoint = calibrated
    bundle = exports.bundle(TINY)
    (tmp_path / "ranges.json").write_bytes(
        seal(
            {**unseal((folder / "ranges.json").read_bytes(), FORMAT, VERSION)[0], "bundle_sha256": "0" * 64},
            FORMAT,
            VERSION,
        )
    )
    done = run(
        "quantize", bundle.root, checkpoint, "--data", data, "-o", tmp_path / "int8", "--ranges", tmp_path / "ranges.json",
        "--scores", folder / "s.npz",
    )  # fmt: skip
    assert isinstance(done.exception, StaleRangesError)
    assert not (tmp_path / "int8").exists()


def test_the_bundle_itself_is_not_written_over(exports, data):
    bundle = exports.bundle(TINY)
    done = run("quantize", bundle.root, exports.training_checkpoint(TINY), "--data", data, "-o", bundle.root)
    assert isinstance(done.exception, UsageError)
    assert "is BUNDLE itself" in str(done.exception)


def test_thresholds_with_temperatures_find_no_ranges(exports, data, tmp_path):
    bundle = exports.bundle(TINY)
    Thresholds(bundle.sha256, (0.5, 0.5, 0.5, None), temperatures=(1.0, 1.0, 1.0, 1.1)).write(tmp_path / "T.json")
    done = run(
        "quantize", bundle.root, exports.training_checkpoint(TINY), "--data", data, "-o", tmp_path / "int8",
        "--thresholds", tmp_path / "T.json",
    )  # fmt: skip
    assert isinstance(done.exception, UsageError)
    assert "has temperatures" in str(done.exception)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["quantize", "BUNDLE", "LIST", "--data", "LIST"], "is not what bundle"),
        (["quantize", "BUNDLE", "missing.pth", "--data", "LIST"], "'missing.pth' cannot be read"),
        (["bench", "BUNDLE", "--precision", "int8", "--peer", "torch", "-o", "report"], "peers run the fp32 network"),
        (["build-engines", "BUNDLE", "--int8", "--backend", "onnxruntime"], "Run 'dynvid quantize'"),
        (
            ["build-engines", "BUNDLE", "--precision", "bf16"],
            "precision bf16 on backend 'tensorrt-rtx': expected openvino",
        ),
        (["classify", "BUNDLE", "LIST", "--precision", "bf16", "--backend", "onnxruntime"], "Give --backend openvino"),
        (["bench", "BUNDLE", "--precision", "bf16", "--peer", "torch", "-o", "report"], "peers run the fp32 network"),
        (
            ["build-engines", "BUNDLE", "--int8", "--precision", "bf16"],
            "--precision, --fp16 and --int8 exclude one another: give one",
        ),
        (
            ["build-engines", "BUNDLE", "--int8", "--fp16"],
            "--precision, --fp16 and --int8 exclude one another: give one",
        ),
        (["calibrate", "BUNDLE", "--scores", "LIST", "--precision", "int8"], "scores have their own precision"),
        (["calibrate", "BUNDLE", "--data", "LIST", "--precision", "int8"], "Run 'dynvid quantize'"),
    ],
)
def test_what_does_not_fit_together_is_refused(arguments, told, tiny_bundle, data):
    words = {"BUNDLE": tiny_bundle.root, "LIST": data}
    done = run(*(words.get(word, word) for word in arguments))
    assert isinstance(done.exception, (UsageError, InputRefusedError))
    assert told in str(done.exception)
