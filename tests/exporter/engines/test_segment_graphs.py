"""The bytes that were proved are those that are kept; each segment is fused and prepared once, and nothing is where nothing is built."""

import dataclasses
import hashlib
import itertools
from collections import Counter

import pytest

import dynvid
from dynvid.exporter.engines import jobs as engine_jobs
from dynvid.exporter.engines import segment_graphs as engine_graphs
from dynvid.exporter.engines.build import build_engines
from dynvid.exporter.engines.segment_graphs import EngineGraphs
from dynvid.exporter.graphs import fuse as fuse_module
from dynvid.exporter.graphs import optimise
from dynvid.exporter.proof.segment_equivalence import prove_segments
from dynvid.grid.engines.cache import EngineCache
from dynvid.grid.errors import HashError, ProofError
from dynvid.grid.segments import FUSION, fused_full, fused_segments
from dynvid.runtime.backends.onnxruntime import OnnxRuntimeBackend

SEGMENTS = ["segment1", "segment2", "segment3", "segment4", "full"]


def proved_by_name(monkeypatch):
    """Return the sha256 of all that onnxruntime loads from now on, by segment."""
    proved, load = {}, OnnxRuntimeBackend.load

    def recorded(backend, content, ports, name, frames=None):
        proved.setdefault(name, set()).add(hashlib.sha256(content).hexdigest())
        return load(backend, content, ports, name, frames)

    monkeypatch.setattr(OnnxRuntimeBackend, "load", recorded)
    return proved


def never_the_same_twice(monkeypatch):
    """Let graphs differ in a number whenever they are fused or optimised."""
    number, clean, pack = itertools.count(), fuse_module.clean, optimise.pack

    def numbered(model, outputs):
        model = clean(model, outputs)
        model.producer_version = str(next(number))
        return model

    monkeypatch.setattr(fuse_module, "clean", numbered)
    monkeypatch.setattr(
        optimise, "pack", lambda graph: pack(graph._replace(blocked=(*graph.blocked, f"port{next(number)}")))
    )


def counted(monkeypatch):
    """Return how often each segment is fused, in each precision, from now on, and how many graphs are optimised."""
    made, begin, apart = Counter(), fuse_module._SegmentGraph.__init__, optimise._apart

    def fused(graph, bundle, segment, precision):
        made[segment.name, precision] += 1
        begin(graph, bundle, segment, precision)

    def optimised(model):
        made["optimised"] += 1
        return apart(model)

    monkeypatch.setattr(fuse_module._SegmentGraph, "__init__", fused)
    monkeypatch.setattr(optimise, "_apart", optimised)
    return made


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_bytes_that_were_proved_are_in_the_cache(backend, precision, tiny_bundle, tmp_path, monkeypatch):
    proved = proved_by_name(monkeypatch)
    never_the_same_twice(monkeypatch)
    rows = dynvid.build_engines(tiny_bundle.root, backend=backend, precision=precision, engines=tmp_path)
    assert [(row.subgraph, row.status) for row in rows] == [(name, "built") for name in SEGMENTS]
    for row in rows:
        kept = (tmp_path / row.engine.plan).read_bytes()
        assert proved[row.subgraph] == {hashlib.sha256(kept).hexdigest()}, row.subgraph


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_each_segment_is_fused_and_optimised_once_and_not_at_all_for_what_is_kept(
    backend, tiny_bundle, tmp_path, monkeypatch
):
    made = counted(monkeypatch)
    dynvid.build_engines(tiny_bundle.root, backend=backend, engines=tmp_path)
    once = Counter({(name, "fp32"): 1 for name in SEGMENTS})
    assert made == once + Counter({"optimised": 5 * (backend == "onnxruntime")})
    made.clear()
    rows = dynvid.build_engines(tiny_bundle.root, backend=backend, engines=tmp_path)
    assert {row.status for row in rows} == {"kept"} and not made


def test_an_engine_of_another_bundle_or_of_older_fused_graphs_is_not_kept(tiny_bundle, tmp_path, monkeypatch):
    """Their graphs are not compared, so what they were made from must be."""
    build_engines(tiny_bundle, tmp_path, "onnxruntime", only=["segment1"])
    other = dataclasses.replace(tiny_bundle, sha256="0" * 64)
    assert [row.status for row in build_engines(other, tmp_path, "onnxruntime", only=["segment1"])] == ["built"]
    monkeypatch.setattr(engine_jobs, "FUSION", FUSION + 1)
    assert [row.status for row in build_engines(tiny_bundle, tmp_path, "onnxruntime", only=["segment1"])] == ["built"]
    assert len(EngineCache(tmp_path).engines().engines) == 3


@pytest.mark.parametrize("fault", [ProofError("proof failed: segment2"), LookupError("odd")])
def test_a_proof_that_fails_or_breaks_leaves_nothing_in_the_cache(tiny_bundle, tmp_path, fault):
    asked = []

    def prove(graphs):
        asked.append(graphs.lend(fused_full(tiny_bundle.manifest, "fp32")))
        raise fault

    arguments = {"flavour": "onnxruntime", "prove": prove, "workers": 4}
    if isinstance(fault, ProofError):
        rows = build_engines(tiny_bundle, tmp_path, **arguments)
        assert [row.error for row in rows] == [fault] * 5 and len(asked) == 1
    else:
        with pytest.raises(LookupError):
            build_engines(tiny_bundle, tmp_path, **arguments)
    assert not EngineCache(tmp_path).engines().engines


def test_a_graph_is_held_once_until_it_is_taken(tiny_bundle):
    first, second, *_ = fused_segments(tiny_bundle.manifest, "fp32")
    graphs = EngineGraphs(tiny_bundle, "fp32", lambda graph: graph + b"\n")
    lent = graphs.lend(first)
    assert graphs.lend(first) is lent
    taken = graphs.take(first)
    assert taken.content is lent and taken.sha256 == hashlib.sha256(lent[:-1]).hexdigest()
    assert set(taken.census["parts"]) == {"block0", "head0"} and taken.seconds > 0
    assert not graphs._held
    graphs.take(second)
    assert not graphs._held


def test_a_subgraph_is_read_as_it_is_and_needs_no_proof(tiny_bundle):
    variant = tiny_bundle.manifest.subgraph("block0").variant("fp32")
    graphs = EngineGraphs(tiny_bundle, "fp32", lambda graph: b"", lambda graphs: pytest.fail("asked for a proof"))
    graph = graphs.take(variant)
    assert (graph.content, graph.sha256) == (tiny_bundle.read(variant), variant.sha256)


def test_a_changed_file_fails_every_segment_that_is_built(tiny_bundle, tmp_path, monkeypatch):
    def changed(bundle, segment, precision):
        raise HashError("block0.onnx has changed since export")

    monkeypatch.setattr(engine_graphs, "fuse", changed)
    rows = build_engines(tiny_bundle, tmp_path, "onnxruntime", prove=prove_segments)
    assert {str(row.error) for row in rows} == {"block0.onnx has changed since export"} and len(rows) == 5
