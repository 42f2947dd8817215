"""An optimised graph computes what its graph computes, its weights are held once in a process, and it is for one kind of processor."""

import dataclasses
import gc
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from samples import RESNET, TINY

from dynvid.exporter.engines.build import build_engines
from dynvid.exporter.engines.jobs import fused_jobs
from dynvid.exporter.engines.makers import for_onnxruntime, open_maker, preparation
from dynvid.exporter.engines.segment_graphs import EngineGraphs
from dynvid.exporter.graphs.fuse import fuse
from dynvid.exporter.graphs.optimise import optimise
from dynvid.exporter.graphs.rewrites import REWRITES, rewrite
from dynvid.grid.engines.cache import EngineCache
from dynvid.grid.engines.key import this_processor
from dynvid.grid.errors import BackendError, StaleEngineError, UsageError
from dynvid.grid.segments import FUSION, fused_full, fused_segments
from dynvid.runtime.backends import onnxruntime as ort
from dynvid.runtime.backends.optimised_graph import OptimisedGraph, pack, unpack, weight_name
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.execution.engine_lookup import open_engines


def run(segment, content, batch=2):
    """Return the outputs of a segment on noise."""
    rng = np.random.default_rng(0)
    program = open_backend("onnxruntime").load(content, segment, segment.name)
    inputs = {s.name: rng.standard_normal(s.concrete(batch, 1)).astype(s.dtype) for s in segment.inputs}
    outputs = {s.name: np.zeros(s.concrete(batch, 1), s.dtype) for s in segment.outputs}
    program.prepare(inputs, outputs)()
    return outputs


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_optimised_before_or_when_it_is_loaded_a_graph_gives_the_same_bits(tiny_bundle, precision):
    for segment in (*fused_segments(tiny_bundle.manifest, precision), fused_full(tiny_bundle.manifest, precision)):
        graph = rewrite(fuse(tiny_bundle, segment, precision), REWRITES["onnxruntime"])
        for name, values in run(segment, graph).items():
            assert np.array_equal(run(segment, optimise(graph, blocked=False))[name], values)


def test_the_same_graph_gives_the_same_bytes_and_no_path_of_this_machine(tiny_bundle):
    graph = rewrite(fuse(tiny_bundle, fused_full(tiny_bundle.manifest, "fp32"), "fp32"), REWRITES["onnxruntime"])
    found = optimise(graph)
    assert optimise(graph) == found
    assert b"/tmp" not in found and b"dynvid-optimise" not in found


def last_reads(graph):
    """Return where in a graph each tensor is read for the last time."""
    return {tensor: place for place, node in enumerate(graph.node) for tensor in node.input}


@pytest.mark.parametrize("config", [RESNET, TINY])
def test_what_a_convolution_adds_is_read_by_nobody_afterwards(exports, config):
    """So onnxruntime writes the sum where it lies, and does not copy it first."""
    bundle, sums = exports.bundle(config), 0
    for segment in (*fused_segments(bundle.manifest, "fp32"), fused_full(bundle.manifest, "fp32")):
        graph = onnx.load_model_from_string(unpack(for_onnxruntime(fuse(bundle, segment, "fp32"))).model).graph
        last = last_reads(graph)
        for place, node in enumerate(graph.node):
            if node.op_type == "Conv" and len(node.input) == 4:
                sums += 1
                assert last[node.input[3]] == place
    assert sums


def test_nodes_run_in_the_order_of_the_file(tiny_bundle, tmp_path, monkeypatch):
    plain = ort.session_options

    def profiled(module, threads):
        options = plain(module, threads)
        options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
        return options

    monkeypatch.setattr(ort, "session_options", profiled)
    segment = fused_segments(tiny_bundle.manifest, "fp32")[0]
    plan = for_onnxruntime(fuse(tiny_bundle, segment, "fp32"))
    program = open_backend("onnxruntime").load(plan, segment, segment.name)
    inputs, outputs = (
        {s.name: np.zeros(s.concrete(1, 1), s.dtype) for s in ports} for ports in (segment.inputs, segment.outputs)
    )
    program.prepare(inputs, outputs)()
    events = json.loads(Path(program._session.end_profiling()).read_text())
    ran = [e["name"].removesuffix("_kernel_time") for e in events if e["name"].endswith("_kernel_time")]
    assert ran == [node.name for node in onnx.load_model_from_string(unpack(plan).model).graph.node]


def test_weights_are_named_after_what_they_hold():
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    names = [weight_name(v) for v in (value, value.copy(), value.reshape(3, 2), value.astype(np.float64), value + 1)]
    assert names[0] == names[1] and len(set(names)) == 4


def test_programs_share_weights_and_give_them_back(tiny_bundle):
    gc.collect()
    before = set(ort._weights)
    segments = fused_segments(tiny_bundle.manifest, "fp32")
    plans = [for_onnxruntime(fuse(tiny_bundle, segment, "fp32")) for segment in segments]
    named = [set(unpack(plan).weights) for plan in plans]
    wanted = set().union(*named)
    assert sum(map(len, named)) > len(wanted)  # blocks run in several segments
    programs = [open_backend("onnxruntime").load(plan, s, s.name) for plan, s in zip(plans, segments, strict=True)]
    assert set(ort._weights) - before == wanted - before
    held = [id(weight) for program in programs for weight in program._weights]
    assert len(held) == sum(map(len, named)) and len(set(held)) == len(wanted)
    del programs
    gc.collect()
    assert set(ort._weights) <= before


def test_most_of_a_plan_is_weights_apart_from_the_model(tiny_bundle):
    plan = for_onnxruntime(fuse(tiny_bundle, fused_full(tiny_bundle.manifest, "fp32"), "fp32"))
    found = unpack(plan)
    weights = sum(value.nbytes for value in found.weights.values())
    assert all(weight_name(value) == name for name, value in found.weights.items())
    assert weights > 4096 and all(name.encode() in found.model for name in found.weights)


def test_packing_keeps_every_bit_and_an_onnx_model_is_not_packed():
    weights = {"a": np.array([np.nan, -0.0, 1e-42], np.float32), "b": np.ones((2, 0, 3), np.float16)}
    graph = OptimisedGraph(b"\x08\x0amodel\x00", weights, ("out.block0.feature1",), 16)
    packed = pack(graph)
    assert pack(graph) == packed
    found = unpack(packed)
    assert (found.model, found.blocked, found.block) == (graph.model, graph.blocked, graph.block)
    assert unpack(pack(graph._replace(blocked=(), block=1))).blocked == ()
    assert {n: (v.dtype, v.shape, v.tobytes()) for n, v in found.weights.items()} == {
        n: (v.dtype, v.shape, v.tobytes()) for n, v in weights.items()
    }
    assert unpack(b"\x08\x0aan ONNX model") is None and unpack(b"") is None


def flipped(plan):
    """Return a plan with another byte in its largest weight."""
    value = max(unpack(plan).weights.values(), key=lambda weight: weight.nbytes)
    place = plan.index(value.tobytes()) + value.nbytes // 2
    return plan[:place] + bytes([plan[place] ^ 1]) + plan[place + 1 :]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda plan: plan[:200],
        lambda plan: plan[:-30],
        flipped,
        lambda plan: pack(OptimisedGraph(b"no model", {}, (), 1)),
        lambda _: b"PK\x03\x04",
    ],
    ids=["head", "without its end", "a byte of a weight", "no ONNX", "four bytes"],
)
def test_what_is_no_optimised_graph_is_refused_in_one_line(tiny_bundle, spoil):
    segment = fused_full(tiny_bundle.manifest, "fp32")
    content = spoil(for_onnxruntime(fuse(tiny_bundle, segment, "fp32")))
    with pytest.raises(
        BackendError, match=r"^onnxruntime [\d.]+ cannot load full: .* Run 'dynvid doctor'\.$"
    ) as caught:
        open_backend("onnxruntime").load(content, segment, segment.name)
    assert "\n" not in str(caught.value)


def test_a_graph_that_onnxruntime_refuses_is_refused_in_one_line():
    with pytest.raises(BackendError, match=r"^onnxruntime [\d.]+ cannot optimise a graph: .* Run 'dynvid doctor'\.$"):
        optimise(b"no model")


# the processor


def test_an_engine_for_another_kind_of_processor_is_stale(tiny_bundle, tmp_path, monkeypatch):
    build_engines(tiny_bundle, tmp_path, "onnxruntime", only=["full"])
    full = fused_full(tiny_bundle.manifest, "fp32")
    assert open_engines(tiny_bundle, open_backend("onnxruntime"), tmp_path).plan(full)
    monkeypatch.setattr(ort, "this_processor", lambda: "sse9")
    with pytest.raises(StaleEngineError, match=rf"targets {this_processor()}, needed sse9. Run 'dynvid build-engines"):
        open_engines(tiny_bundle, open_backend("onnxruntime"), tmp_path).plan(full)


def test_an_engine_that_names_no_processor_is_stale_and_says_so(tiny_bundle, tmp_path):
    (row,) = build_engines(tiny_bundle, tmp_path / "new", "onnxruntime", only=["full"])
    old = dataclasses.replace(row.engine.key, targets=(), fusion=2)
    EngineCache(tmp_path / "old").write(old, b"an ONNX model", 0.1, {})
    with pytest.raises(
        StaleEngineError, match=rf"fusion 2, needed {FUSION}; targets any processor, needed {this_processor()}"
    ):
        open_engines(tiny_bundle, open_backend("onnxruntime"), tmp_path / "old").plan(
            fused_full(tiny_bundle.manifest, "fp32")
        )


def test_an_engine_of_onnxruntime_is_for_one_kind_of_processor(tiny_bundle, tmp_path):
    (row,) = build_engines(tiny_bundle, tmp_path, "onnxruntime", only=["full"])
    assert open_maker("onnxruntime").targets == row.engine.key.targets == (this_processor(),)
    for targets in (("avx2", "avx512f"), ("AVX 2",)):
        with pytest.raises(UsageError, match="expected one processor like 'avx512f'"):
            dataclasses.replace(row.engine.key, targets=targets)
    assert EngineCache(tmp_path).engines().engines == (row.engine,)


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ("fpu avx avx2 avx512f avx512_vnni", "avx512_vnni"),
        ("avx2 avx_vnni", "avx_vnni"),
        ("fpu avx avx2 avx512f avx512_bf16", "avx512f"),
        ("fpu avx avx2", "avx2"),
        ("fpu avx", "avx"),
        ("fpu sse2", None),
    ],
)
def test_a_processor_is_named_after_its_widest_vectors(monkeypatch, flags, name):
    monkeypatch.setattr("pathlib.Path.read_text", lambda *_, **__: f"model name\t: Some Avx 2\nflags\t\t: {flags}\n")
    monkeypatch.setattr("platform.machine", lambda: "X86_64")
    assert this_processor() == (name or "x86_64")


def test_a_processor_without_a_list_of_flags_has_its_name(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr("pathlib.Path.read_text", missing)
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert this_processor() == "arm64"


def test_every_job_of_a_bundle_is_optimised(tiny_bundle):
    maker = open_maker("onnxruntime")
    graphs = EngineGraphs(tiny_bundle, "fp32", preparation("onnxruntime"))
    for job in fused_jobs(tiny_bundle, "fp32"):
        plan, census, _ = maker.make(job, graphs.take(job.source))
        assert b"nchwc" in unpack(plan).model or not this_processor().startswith("avx")
        assert census["convolution"].keys() == {"float32"}
