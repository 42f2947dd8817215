"""Engines of INT8 sets: they answer what the cells answer, their census shows INT8, and no wrong backend takes them."""

from types import SimpleNamespace

import numpy as np
import openvino
import pytest
from int8_samples import NEEDS_VNNI
from tensorrt_stub.stub import Stub, write_package

from dynvid.exporter.engines import build as build_module
from dynvid.exporter.engines.build import build_engines
from dynvid.exporter.engines.makers import for_openvino, preparation
from dynvid.exporter.engines.segment_graphs import EngineGraphs
from dynvid.exporter.graphs.fuse import fuse
from dynvid.exporter.proof.clips import proof_clips
from dynvid.exporter.proof.segment_equivalence import prove_fused
from dynvid.grid.bundle import write_bundle
from dynvid.grid.errors import BackendError, CensusError
from dynvid.grid.segments import fused_full
from dynvid.runtime.backends import openvino as openvino_module
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.execution.composed import CELLS
from dynvid.runtime.execution.engine_lookup import open_engines
from dynvid.runtime.session import ArraySource, Session

NEEDS_BF16 = pytest.mark.skipif(
    "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"), reason="no bf16 arithmetic"
)


@pytest.mark.parametrize("flavour", ["onnxruntime", "openvino"])
def test_fused_segments_compute_what_the_cells_compute(int8_bundle, flavour):
    manifest = int8_bundle.manifest
    clips = proof_clips(3, manifest.grid.num_frames, manifest.preprocessing)
    figures = prove_fused(EngineGraphs(int8_bundle, "int8", preparation(flavour)), clips)
    assert max(figures["checkpoints"]) < 0.2


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


def test_openvino_refuses_int8_where_products_of_bytes_overflow(int8_bundle, monkeypatch):
    segment = fused_full(int8_bundle.manifest, "int8")
    graph = for_openvino(fuse(int8_bundle, segment, "int8"))
    plain = fuse(int8_bundle, fused_full(int8_bundle.manifest, "fp32"), "fp32")
    monkeypatch.setattr(openvino_module, "this_processor", lambda: "avx512f")
    backend = open_backend("openvino")
    backend.load(plain, segment, segment.name)
    with pytest.raises(BackendError, match="has no VNNI. Use --backend onnxruntime"):
        backend.load(graph, segment, segment.name)


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
