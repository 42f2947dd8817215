"""INT8 is kept where it is faster; where it is not, fp32 runs beside the rest, and is proved too."""

from types import SimpleNamespace

import numpy as np
import pytest

from dynvid.exporter.engines import build as build_module
from dynvid.exporter.engines import int8_speed as faster_module
from dynvid.exporter.engines.build import build_engines
from dynvid.exporter.engines.jobs import fused_jobs
from dynvid.exporter.proof.clips import proof_clips
from dynvid.exporter.proof.segment_equivalence import prove_segments
from dynvid.grid.engines.cache import EngineCache
from dynvid.grid.errors import ProofError, UsageError
from dynvid.grid.segments import fused_full, fused_segments
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.execution.engine_lookup import open_engines
from dynvid.runtime.session import ArraySource, Session


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
