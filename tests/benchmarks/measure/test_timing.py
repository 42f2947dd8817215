import dataclasses
import json

import pytest
from click.testing import CliRunner

from dynvid.benchmarks.measure.timing import measure
from dynvid.benchmarks.segment_times import read_timing
from dynvid.cli import cli
from dynvid.exporter.engines.build import build_engines
from dynvid.grid.errors import (
    CostTableError,
    ManifestError,
    MissingEngineError,
    ResourceError,
    StaleCostTableError,
    UsageError,
)
from dynvid.runtime.backends.registry import open_backend


@pytest.fixture(scope="module")
def timing(tiny_bundle):
    return measure(tiny_bundle, open_backend("onnxruntime"), 1, rounds=10, warmup=2)


def test_every_segment_has_a_time_and_the_table_says_where_it_comes_from(timing, tiny_bundle):
    assert [(s.index, s.batch) for s in timing.segments] == [(k, 1) for k in (1, 2, 3, 4)]
    assert all(0 < s.p25_ms <= s.median_ms <= s.p75_ms for s in (*timing.segments, timing.static))
    assert timing.static.index == 0 and timing.bundle_sha256 == tiny_bundle.sha256
    assert timing.machine["processor"] and timing.versions["onnxruntime"] and len(timing.date) == 10
    times = timing.checkpoint_ms()
    assert len(times) == 4 and times == sorted(times)
    assert times[-1] == pytest.approx(sum(s.median_ms for s in timing.segments))


def test_a_table_reads_back_as_it_was_written(timing, tiny_bundle, tmp_path):
    timing.write(tmp_path / "t.json")
    assert read_timing(tmp_path / "t.json", tiny_bundle) == timing
    with pytest.raises(ResourceError, match="cannot be written"):
        timing.write(tmp_path / "t.json" / "t.json")


def test_tables_that_do_not_fit_are_refused(timing, tiny_bundle, tmp_path):
    path = tmp_path / "t.json"

    def refused(error, message, **values):
        dataclasses.replace(timing, **values).write(path)
        with pytest.raises(error, match=message):
            read_timing(path, tiny_bundle)

    refused(StaleCostTableError, "belongs to bundle 00000000…", bundle_sha256="0" * 64)
    refused(CostTableError, r"segments \[1, 2, 3\] at batch 1", segments=timing.segments[:3])
    refused(CostTableError, r"segments \[4, 3, 2, 1\]", segments=timing.segments[::-1])
    refused(CostTableError, "format 'x'", format="x")
    zero = dataclasses.replace(timing.segments[0], median_ms=0.0)
    refused(CostTableError, "a time above 0", segments=(zero, *timing.segments[1:]))
    path.write_text("{}")
    with pytest.raises(CostTableError, match="is malformed"):
        read_timing(path, tiny_bundle)
    with pytest.raises(CostTableError, match="cannot be read"):
        read_timing(tmp_path / "missing.json", tiny_bundle)


def test_too_few_rounds_are_refused(tiny_bundle):
    with pytest.raises(UsageError, match="2 rounds after 20 of warm-up"):
        measure(tiny_bundle, open_backend("null"), 1, rounds=2)


def test_the_command_writes_and_prints_the_table(tiny_bundle, tmp_path):
    arguments = ["time", str(tiny_bundle.root), "-o", str(tmp_path / "t.json"), "--rounds", "5", "--backend", "null"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert "segment 4 " in done.output and "static run " in done.output and "cells on null, fp32" in done.output
    assert json.loads((tmp_path / "t.json").read_text())["backend"] == "null"
    assert isinstance(CliRunner().invoke(cli, ["time", str(tmp_path)]).exception, ManifestError)


def test_what_was_built_is_timed(tiny_bundle, tmp_path):
    backend = open_backend("onnxruntime")
    assert not measure(tiny_bundle, backend, rounds=5, warmup=1).is_fused
    with pytest.raises(MissingEngineError, match="no engine"):
        measure(tiny_bundle, backend, rounds=5, warmup=1, engines=tmp_path)
    build_engines(tiny_bundle, tmp_path, "onnxruntime")
    assert measure(tiny_bundle, backend, rounds=5, warmup=1, engines=tmp_path).is_fused
