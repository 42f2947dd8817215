"""OpenVINO on the CPU keeps the contract, in fp32 and in bf16."""

import sys
from types import SimpleNamespace

import contract
import numpy as np
import pytest
from contract import BATCH, Case, Graphs
from samples import RESNET

from dynvid.exporter.engines.build import build_engines, key_of
from dynvid.exporter.engines.makers import open_maker, preparation
from dynvid.exporter.engines.segment_graphs import EngineGraphs
from dynvid.exporter.graphs.fuse import fuse
from dynvid.grid.engines.cache import EngineCache
from dynvid.grid.errors import BackendError, IntegrityError, MissingPackageError, UsageError
from dynvid.grid.segments import fused_segments
from dynvid.runtime.backends.host_arrays import poisoned_rows
from dynvid.runtime.backends.openvino import Compiled, OpenVinoBackend
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.execution.engine_lookup import open_engines
from dynvid.runtime.open_model import open_model
from dynvid.runtime.session import ArraySource, Session

openvino = pytest.importorskip("openvino")

EPS = 1e-6
"""A video alone and among others, in standard deviations of its logits; 0 was measured, at 1 to 8 videos a call."""

BF16_BOUND = 0.2
"""Of bf16 from fp32, in the same unit: 0.016 was measured on the demonstration network, 0.069 on an untrained MSDNet-38."""

has_bf16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
needs_bf16 = pytest.mark.skipif(not has_bf16, reason="this CPU has no bf16 arithmetic")


def opener(precision):
    return lambda cuda_graphs=True: open_backend("openvino", 1, precision=precision)


@pytest.fixture(params=["fp32", pytest.param("bf16", marks=needs_bf16)])
def case(request):
    bound = BF16_BOUND if request.param == "bf16" else None
    return Case(opener(request.param), Graphs(), on_device=False, bound=bound, eps=EPS)


@pytest.fixture
def fp32():
    return OpenVinoBackend(threads=1)


def block_of(backend, bundle):
    """Return the program of block 0, and a function that returns new tensors for it, (inputs, outputs)."""
    variant = bundle.manifest.subgraph("block0").variant("fp32")
    rng = np.random.default_rng(0)

    def tensors(batch=1, frames=2):
        inputs = {s.name: backend.zeros(s.concrete(batch, frames), s.dtype) for s in variant.inputs}
        for array in inputs.values():
            array[:] = rng.normal(size=array.shape)
        return inputs, {s.name: backend.zeros(s.concrete(batch, frames), s.dtype) for s in variant.outputs}

    return backend.load(bundle.read(variant), variant, "block0"), tensors


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_split_is_whole(case, tiny_network, tiny_bundle, precision):
    contract.split_is_whole(case, tiny_network, tiny_bundle, precision)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_rows_are_isolated_and_nothing_stays_of_a_poisoned_one(case, tiny_bundle, precision):
    contract.rows_are_isolated(case, tiny_bundle, precision)
    contract.nothing_stays_of_a_poisoned_video(case, tiny_bundle, precision)


def test_the_contract_holds(case, tiny_network, tiny_bundle):
    contract.exits_and_classes_agree(case, tiny_network, tiny_bundle)
    contract.recorded_calls_change_nothing(case, tiny_bundle)
    contract.tensors_hold_what_was_written(case)


@pytest.mark.parametrize("batch", [2, 5, 8])
def test_a_video_alone_is_within_eps_of_itself_among_others(case, tiny_bundle, batch):
    clips, backend = contract.clips_of(tiny_bundle, batch), case.open()
    executor = contract.fused(case, backend, tiny_bundle)
    alone = np.concatenate([contract.run(executor, clip[None]) for clip in clips])
    together = contract.run(contract.fused(case, backend, tiny_bundle, batch=batch), clips)
    assert contract.error(alone, together) <= EPS


@needs_bf16
def test_bf16_is_other_arithmetic_and_only_where_asked_for(tiny_bundle):
    clips = contract.clips_of(tiny_bundle, 1)
    found = [
        contract.run(contract.fused(Case(open_backend, Graphs()), open_backend(name, precision=p), tiny_bundle), clips)
        for name, p in (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))
    ]
    assert contract.error(found[0], found[1]) < 1e-5 < 1e-4 < contract.error(found[0], found[2]) < BF16_BOUND


def test_it_computes_with_the_threads_given_in_one_stream_of_full_precision(fp32, tiny_bundle, monkeypatch):
    compiled, compile_model = [], openvino.Core.compile_model
    monkeypatch.setattr(
        openvino.Core, "compile_model", lambda *args: compiled.append(compile_model(*args)) or compiled[-1]
    )
    program, tensors = block_of(fp32, tiny_bundle)
    program.prepare(*tensors())
    (model,) = compiled
    assert model.get_property("INFERENCE_NUM_THREADS") == 1 and model.get_property("NUM_STREAMS") == 1
    assert model.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    assert not model.get_property("ENABLE_CPU_PINNING")
    assert all(port.partial_shape.is_static for port in (*model.inputs, *model.outputs))
    program.prepare(*tensors())
    assert len(compiled) == 1  # once for the same shapes
    program.prepare(*tensors(batch=2))
    program.prepare(*tensors(frames=4))
    assert len(compiled) == 3


def test_calls_on_the_same_shapes_keep_to_their_own_tensors(fp32, tiny_bundle):
    program, tensors = block_of(fp32, tiny_bundle)
    pairs = [tensors(), tensors()]
    calls = [program.prepare(*pair) for pair in pairs]
    calls[0]()
    first = {port: array.copy() for port, array in pairs[0][1].items()}
    assert not any(array.any() for array in pairs[1][1].values())
    calls[1]()
    for port, array in pairs[0][1].items():
        np.testing.assert_array_equal(array, first[port])
        assert not np.array_equal(array, pairs[1][1][port])
    for port, array in pairs[0][0].items():
        array[:] = pairs[1][0][port]  # tensors are read when the call is made
    calls[0]()
    for port, array in pairs[0][1].items():
        np.testing.assert_array_equal(array, pairs[1][1][port])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_reads_what_is_no_number_writes_none(fp32, tiny_bundle, value):
    program, tensors = block_of(fp32, tiny_bundle)
    inputs, outputs = tensors(batch=BATCH)
    next(iter(inputs.values()))[1].flat[7] = value
    program.prepare(inputs, outputs)()
    for array in outputs.values():
        assert np.isnan(array[1]).all() and np.isfinite(array[[0, 2]]).all()


def test_poisoned_rows():
    halves = np.full((3, 4, 100), 60000, np.float16)  # whose sum is beyond half precision
    assert poisoned_rows([halves, np.zeros((3, 1), np.float32)]) == []
    halves[2, 3, 4] = np.nan
    assert poisoned_rows([halves, np.array([[np.inf], [0], [-np.inf]], np.float32)]) == [0, 2]


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
def test_engines_are_the_fused_graphs_and_sessions_run_them(tiny_bundle, tmp_path, precision):
    maker, cache = open_maker("openvino", precision=precision), EngineCache(tmp_path, tiny_bundle.root)
    for job in maker.jobs(tiny_bundle, precision):
        graph = EngineGraphs(tiny_bundle, "fp32", preparation("openvino")).take(job.source)
        plan, census, seconds = maker.make(job, graph)
        assert plan == graph.content and census["convolution"].keys() == {"float32"} and seconds > 0
        cache.write(key_of(job, tiny_bundle, graph.sha256, maker, precision), plan, seconds, census)
    clip = contract.clips_of(tiny_bundle, 1)[0]
    backend = open_backend("openvino", 1, precision=precision)
    plan = open_engines(tiny_bundle, backend, tmp_path, precision).plan
    found = Session.open(tiny_bundle, backend, precision=precision, programs=plan)
    cells = Session.open(tiny_bundle, backend, precision=precision)
    answers = [np.stack(session.classify(ArraySource(clip), trace=True).logits) for session in (cells, found)]
    assert contract.error(*answers) < (1e-4 if precision == "fp32" else BF16_BOUND)


def test_an_engine_is_compiled_once_and_runs_videos_one_after_another(fp32, exports, monkeypatch):
    bundle = exports.bundle(RESNET)
    compiled, compile_model = [], openvino.Core.compile_model
    monkeypatch.setattr(
        openvino.Core, "compile_model", lambda *args: compiled.append(compile_model(*args)) or compiled[-1]
    )
    segment, rng = fused_segments(bundle.manifest, "fp32")[1], np.random.default_rng(0)
    program = fp32.load(preparation("openvino")(fuse(bundle, segment, "fp32")), segment, segment.name)
    inputs = {s.name: rng.standard_normal(s.concrete(BATCH, 1), dtype=np.float32) for s in segment.inputs}
    outputs, alone = ({s.name: np.zeros(s.concrete(BATCH, 1), s.dtype) for s in segment.outputs} for _ in range(2))
    program.prepare(inputs, outputs)()
    for row in range(BATCH):
        program.prepare(*({port: array[row : row + 1] for port, array in p.items()} for p in (inputs, alone)))()
    for port in outputs:
        assert np.array_equal(outputs[port], alone[port]) and outputs[port].any()
    assert len(compiled) == 1
    with pytest.raises(BackendError, match=r"has shape \[3, .*expected 2 times .*Run 'dynvid build-engines' again"):
        program.prepare(inputs, {port: array[:2] for port, array in outputs.items()})


@needs_bf16
def test_bf16_is_a_precision_of_its_own_on_engines_and_on_cells(tiny_bundle, tmp_path):
    clip = contract.clips_of(tiny_bundle, 1)[0]
    assert {row.status for row in build_engines(tiny_bundle, tmp_path, "openvino", "fp32")} == {"built"}
    with open_model(tiny_bundle, precision="bf16") as model:
        assert "cells of" in model.runs and "on openvino, bf16," in model.runs
        assert "--backend openvino --precision bf16' makes it faster" in model.runs
        cells = model.classify(clip, trace=True).logits
    with pytest.raises(IntegrityError, match=r"precision fp32, needed bf16.*--backend openvino --precision bf16"):
        open_model(tiny_bundle, precision="bf16", engines=tmp_path)
    rows = build_engines(tiny_bundle, tmp_path, "openvino", "bf16")
    assert {(row.status, row.precision, row.engine.key.precision) for row in rows} == {("built", "bf16", "bf16")}
    with open_model(tiny_bundle, precision="bf16", engines=tmp_path) as model:
        assert "fused segments" in model.runs and "on openvino, bf16," in model.runs
        fused = model.classify(clip, trace=True).logits
    with open_model(tiny_bundle, backend="openvino", engines=tmp_path) as model:
        assert "on openvino, fp32," in model.runs
        fp32 = model.classify(clip, trace=True).logits
    fp32, fused, cells = map(np.stack, (fp32, fused, cells))
    for found in (fused, cells):
        assert 1e-4 < contract.error(fp32, found) < BF16_BOUND


def test_bf16_elsewhere_is_one_error(tiny_bundle, tmp_path):
    said = "precision bf16 on backend '{}': expected openvino, .* Give --backend openvino, or --precision fp32"
    with pytest.raises(UsageError, match=said.format("onnxruntime")):
        open_model(tiny_bundle, backend="onnxruntime", precision="bf16")
    with pytest.raises(UsageError, match=said.format("tensorrt-rtx")):
        build_engines(tiny_bundle, tmp_path, "tensorrt-rtx", "bf16")
    with pytest.raises(UsageError, match="precision int8-bf16: bundle .* holds fp32.* Run 'dynvid quantize'"):
        open_model(tiny_bundle, precision="int8-bf16")
    with pytest.raises(UsageError, match="backend 'openvino-bf16': expected one of"):
        open_backend("openvino-bf16")


def test_without_openvino_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingPackageError, match=r"'openvino' cannot run: .*pip install 'dynvid\[openvino\]'"):
        open_backend("openvino", precision="bf16")


def test_bf16_on_a_cpu_without_it_is_refused(monkeypatch):
    known = {"OPTIMIZATION_CAPABILITIES": ["FP32"], "FULL_DEVICE_NAME": "Old CPU"}
    monkeypatch.setattr(openvino.Core, "get_property", lambda core, device, name: known[name])
    said = "precision bf16: Old CPU has no bf16 arithmetic, expected AVX-512 BF16 or AMX. Give --precision fp32"
    for use in (open_backend, lambda _, precision: open_maker("openvino", precision=precision)):
        with pytest.raises(BackendError, match=said):
            use("openvino", precision="bf16")
    assert open_backend("openvino").name == "openvino"


def test_what_openvino_refuses_is_one_line(fp32, tiny_bundle):
    variant = tiny_bundle.manifest.subgraph("block0").variant("fp32")
    with pytest.raises(BackendError, match="^openvino [0-9.]+ cannot load block0: [^\n]+. Run 'dynvid doctor'.$"):
        fp32.load(b"no model", variant, "block0")
    program, tensors = block_of(fp32, tiny_bundle)
    inputs, outputs = tensors()
    frames = next(iter(inputs))
    with pytest.raises(BackendError, match="ports .* are missing or unknown"):
        program.prepare({}, outputs)
    with pytest.raises(BackendError, match=f"tensor of port {frames} is not contiguous"):
        program.prepare({**inputs, frames: inputs[frames][..., ::2]}, outputs)
    with pytest.raises(BackendError, match="cannot compile block0 for .*Run 'dynvid verify'"):
        program.prepare({**inputs, frames: np.zeros((1, 2, 7, 32, 32), np.float32)}, outputs)


def test_a_fault_while_running_names_subgraph_and_shapes():
    def fail():
        raise RuntimeError("Exception from src/infer.cpp:1:\n\nno more memory\n")

    request = SimpleNamespace(set_tensors=lambda tensors: None, infer=fail)
    x = np.zeros((1, 2), np.float32)
    shapes = {"x": (1, 2), "y": (1, 2)}
    call = Compiled(openvino.Tensor, request, "block0 on {'x': (1, 2)}").on({"x": x}, {"y": x.copy()}, shapes)
    with pytest.raises(BackendError, match=r"^openvino failed in block0 on {'x': \(1, 2\)}: no more memory. Run"):
        call()
