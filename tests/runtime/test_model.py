"""Fused segments and cells classify files alike, but for rounding; what was built and does not fit is never skipped."""

import json
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from click.testing import CliRunner
from contract import BATCH, build_here
from host_device import HostDevice
from samples import TINY
from tensorrt_stub.stub import Stub

from dynvid.cli import cli
from dynvid.exporter.engines.build import build_engines
from dynvid.grid.bundle import Bundle
from dynvid.grid.engines.cache import EngineCache, engines_folder
from dynvid.grid.errors import DynvidError
from dynvid.grid.segments import fused_segments
from dynvid.runtime.backends.tensorrt import TensorRTBackend
from dynvid.runtime.backends.tensorrt_api import open_api
from dynvid.runtime.execution.capacity import batch_sizes
from dynvid.runtime.execution.state_store import bytes_per_video
from dynvid.runtime.open_model import open_model

TIMES = ("latency_ms", "decode_ms", "waited_ms", "elapsed_ms")
COUNT = 24


@pytest.fixture(scope="module")
def bundle(tiny_bundle, tmp_path_factory):
    """Return a copy of the bundle with the fused segments of both precisions beside it."""
    root = shutil.copytree(tiny_bundle.root, tmp_path_factory.mktemp("fused") / "bundle")
    for precision in ("fp32", "fp16"):
        rows = build_engines(Bundle.open(root), engines_folder(root), "onnxruntime", precision)
        assert {row.status for row in rows} == {"built"}
    return Bundle.open(root)


@pytest.fixture(scope="module")
def cells(tiny_bundle, tmp_path_factory):
    """Return a copy of the bundle without engines."""
    return Bundle.open(shutil.copytree(tiny_bundle.root, tmp_path_factory.mktemp("cells") / "bundle"))


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """Return a LIST with two videos that cannot be read and one whose numbers overflow."""
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for i in range(COUNT - 3):
        np.save(folder / f"{i}.npy", rng.integers(0, 256, (4 + i, 40, 44, 3), np.uint8))
    (folder / "text.mp4").write_text("this is not a video")
    np.save(folder / "numeric.npy", np.full((8, 3, 32, 32), 3e38, np.float32))
    names = [*(f"{i}.npy" for i in range(COUNT - 3)), "text.mp4", "missing.npy", "numeric.npy"]
    path = folder / "list.csv"
    path.write_text("video\n" + "".join(f"{name}\n" for name in names))
    return path


@pytest.fixture
def thresholds(bundle, tmp_path):
    path = tmp_path / "T.json"
    path.write_text(json.dumps({"bundle_sha256": bundle.sha256, "thresholds": [0.6, 0.45, 0.45, None]}))
    return path


def classify(bundle, *arguments):
    """Return the exit code and what was said."""
    done = CliRunner().invoke(cli, ["classify", str(bundle.root), "--max-failures", "1", *map(str, arguments)])
    if isinstance(done.exception, DynvidError):
        return done.exception.exit_code, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stderr


def read(path):
    """Return each video's record without its times, and how many lines there are."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    for record in found:
        if record["status"] != "damaged":
            assert record.get("elapsed_ms", 1) > 0 and record["latency_ms"] > 0 and not record.pop("cut", False)
        for field in TIMES:
            record.pop(field, None)
    return {record["video"]: record for record in found}, len(found)


def same_but_for_rounding(found, expected):
    """Assert that two runs of ``read`` differ in the last bits of numbers at most."""
    assert found[1] == expected[1] and found[0].keys() == expected[0].keys()
    for video, record in found[0].items():
        wanted, rounded = dict(expected[0][video]), {"confidence", "logits"} & record.keys()
        for field in rounded:
            numbers = [np.array(r.pop(field), float) for r in (record, wanted)]  # None becomes NaN
            np.testing.assert_allclose(*numbers, rtol=1e-5, atol=1e-5)
        assert record == wanted


# the same answers


@pytest.mark.parametrize("options", [[], ["--batch", "1"], ["--batch", "7", "--decoders", "2"], ["--streams", "2"]])
def test_fused_segments_answer_what_the_cells_answer(bundle, cells, listed, thresholds, tmp_path, options):
    common = ["--data", listed, "--thresholds", thresholds]
    code, said = classify(cells, *common, "-o", tmp_path / "cells.jsonl")
    assert (
        code == 7
        and f"the cells of '{cells.root}' on onnxruntime, fp32, up to 1 a call, " in said
        and "'dynvid build-engines" in said
    )
    code, said = classify(bundle, *common, "-o", tmp_path / "fused.jsonl", *options)
    assert (
        code == 7
        and f"fused segments of '{bundle.root}.engines' on onnxruntime, fp32, up to " in said
        and "build-engines" not in said
    )
    assert "3 of 24 videos could not be classified" in said
    expected, found = read(tmp_path / "cells.jsonl"), read(tmp_path / "fused.jsonl")
    same_but_for_rounding(found, expected)
    assert found[1] == COUNT
    answers = expected[0].values()
    assert {r["checkpoint"] for r in answers} >= {1, 2, 4, None}
    assert [r["status"] for r in answers].count("damaged") == 2 and "numeric_error" in {r["status"] for r in answers}


def test_a_stream_tells_its_times(bundle, listed, thresholds):
    done = CliRunner().invoke(
        cli, ["classify", str(bundle.root), str(listed.parent / "0.npy"), "--thresholds", str(thresholds), "--json"]
    )
    record = json.loads(done.stdout)
    assert record["cut"] is False and record["elapsed_ms"] >= record["latency_ms"] > 0 and record["waited_ms"] >= 0
    assert "logits" not in record and "segment_ms" not in record


def test_a_trace_runs_every_video_to_the_end_and_says_what_it_would_say_without(
    bundle, cells, listed, thresholds, tmp_path
):
    for number, (some, what) in enumerate([(cells, "the cells of "), (bundle, "fused segments of ")]):
        out = tmp_path / f"{number}.jsonl"
        code, said = classify(some, "--data", listed, "--thresholds", thresholds, "--trace", "-o", out)
        assert code == 7 and f"{what}'{some.root}" in said
        plain = tmp_path / f"{number}.plain.jsonl"
        classify(some, "--data", listed, "--thresholds", thresholds, "-o", plain)
        for video, record in read(plain)[0].items():
            traced = read(out)[0][video]
            traced.pop("logits", None)
            assert traced == record
    same_but_for_rounding(read(tmp_path / "0.jsonl"), read(tmp_path / "1.jsonl"))
    assert all(len(r["logits"]) == 4 for r in read(out)[0].values() if r["status"] != "damaged")


def test_results_of_fused_segments_go_on_to_the_same_bits(bundle, listed, thresholds, tmp_path):
    common = ["--data", listed, "--thresholds", thresholds, "-o", tmp_path / "out.jsonl"]
    classify(bundle, *common)
    expected, lines = read(tmp_path / "out.jsonl"), (tmp_path / "out.jsonl").read_bytes().splitlines(keepends=True)
    for options in ([], ["--batch", "1"], ["--batch", "3"]):
        rest = lines[: 4 + len(lines) // 3]
        (tmp_path / "out.jsonl").write_bytes(b"".join(rest))
        code, said = classify(bundle, *common, *options)
        assert code == 7 and f"{len(rest)} of 24 videos are done already" in said
        assert read(tmp_path / "out.jsonl") == expected
        lines = (tmp_path / "out.jsonl").read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_results_belong_to_cells_or_to_fused_segments(bundle, cells, listed, tmp_path, precision):
    common = ["--data", listed, "--precision", precision, "-o", tmp_path / "out.jsonl"]
    assert classify(cells, *common)[0] == 7
    content = (tmp_path / "out.jsonl").read_bytes()
    code, said = classify(bundle, *common)
    assert code == 4 and "results of another run: fused False, here True" in said
    assert (tmp_path / "out.jsonl").read_bytes() == content
    assert classify(cells, *common)[0] == 7


def test_a_run_that_cannot_succeed_stops_a_stream_too(bundle, tmp_path):
    missing = [tmp_path / f"{i}.npy" for i in range(100)]
    (tmp_path / "list.csv").write_text("video\n" + "".join(f"{path}\n" for path in missing))
    common = ["--data", tmp_path / "list.csv", "-o", tmp_path / "out.jsonl", "--max-failures", "0.05"]
    code, said = classify(bundle, *common)
    assert code == 3 and "no video could be classified (21 of 21 failed" in said
    assert read(tmp_path / "out.jsonl")[1] == 21
    for path in missing:
        np.save(path, np.zeros((8, 3, 32, 32), np.float32))
    assert classify(bundle, *common, "--retry-failed")[0] == 0
    assert read(tmp_path / "out.jsonl")[1] == 100


# which runs


def test_a_run_of_the_cells_goes_on_without_the_engines_built_since(bundle, cells, listed, tmp_path):
    out = ("-o", tmp_path / "out.jsonl", "--data", listed, "--max-failures", 1)
    assert classify(cells, *out)[0] == 7
    code, said = classify(bundle, *out)
    assert code == 4 and "fused False, here True. Engines were built since: go on with --engines none. Else" in said
    code, said = classify(bundle, *out, "--engines", "none")
    assert code == 7 and "the cells of" in said and "24 of 24 videos are done already" in said


def test_engines_given_by_name_must_be_there(cells, bundle, listed, tmp_path):
    video = listed.parent / "0.npy"
    code, said = classify(cells, video, "--engines", tmp_path / "none")
    assert code == 4 and f"no engine in '{tmp_path}/none'" in said
    assert f"Run 'dynvid build-engines {cells.root} --backend onnxruntime --engines {tmp_path}/none'" in said
    code, said = classify(cells, video, "--engines", engines_folder(bundle.root))
    assert code == 0 and f"fused segments of '{bundle.root}.engines'" in said
    code, said = classify(cells, video, "--engines", tmp_path, "--trace")
    assert code == 4 and "no engine in" in said


@pytest.fixture
def spoilt(bundle, tmp_path):
    """Return a bundle whose folder of engines a test may change."""
    shutil.copytree(engines_folder(bundle.root), tmp_path / "bundle.engines")
    return Bundle.open(shutil.copytree(bundle.root, tmp_path / "bundle"))


@pytest.mark.parametrize("options", [[], ["--trace"]])
def test_what_is_stale_is_refused_with_the_command(spoilt, listed, options, monkeypatch):
    monkeypatch.setattr("onnxruntime.__version__", "9.9.9")
    code, said = classify(spoilt, listed.parent / "0.npy", *options)
    assert code == 4 and "needed 9.9.9" in said
    assert f"Run 'dynvid build-engines {spoilt.root} --backend onnxruntime'." in said


def test_the_engines_of_another_bundle_are_refused(spoilt, exports, listed):
    shutil.rmtree(spoilt.root)
    other = Bundle.open(shutil.copytree(exports.bundle(TINY, ("fp32", "fp16"), seed=1).root, spoilt.root))
    code, said = classify(other, listed.parent / "0.npy")
    assert code == 4 and f"bundle_sha256 {spoilt.sha256[:8]}…, needed {other.sha256[:8]}…" in said


def test_half_a_build_is_refused(spoilt, listed):
    for file in engines_folder(spoilt.root).glob("segment4.*"):
        file.unlink()
    code, said = classify(spoilt, listed.parent / "0.npy")
    assert code == 4 and ", needed segment4. Run 'dynvid build-engines" in said
    for file in engines_folder(spoilt.root).glob("segment*.fp32.*"):
        file.unlink()
    code, said = classify(spoilt, listed.parent / "0.npy")
    assert code == 0 and "the cells of" in said  # fp16's, and full, are for something else


def test_a_damaged_engine_is_refused(spoilt, listed):
    cache = EngineCache(engines_folder(spoilt.root))
    engine = next(e for e in cache.engines().engines if e.plan.startswith("segment2.fp32."))
    (cache.folder / engine.plan).write_bytes(b"\0" * engine.plan_bytes)
    code, said = classify(spoilt, listed.parent / "0.npy")
    assert code == 4 and "has changed since it was built" in said
    for sidecar in cache.folder.glob("*.json"):
        sidecar.write_text("{}")
    code, said = classify(spoilt, listed.parent / "0.npy")
    assert code == 4 and "is malformed" in said


@pytest.fixture
def gpu(tiny_bundle, tmp_path, monkeypatch):
    """A fake TensorRT on a GPU that belongs to the thread that opens it; its engines take three videos."""
    stub = Stub("11.1", "sm86").install(monkeypatch)
    build_here(tiny_bundle, tmp_path / "engines", "fp32", open_api("tensorrt"), ("sm86",))
    opened = []

    def open_backend(name, threads, gpu, precision):
        opened.append(threading.current_thread().name)
        device = HostDevice("sm86")
        stub.recordings[device.stream] = device
        return TensorRTBackend(open_api(name), device)

    monkeypatch.setattr("dynvid.runtime.execution.capacity.open_backend", open_backend)
    return opened


def test_tensorrt_streams_in_its_own_thread_at_its_best_batch(gpu, cells, tiny_bundle, listed, thresholds, tmp_path):
    common = ["--data", listed, "--thresholds", thresholds]
    engines = ["--backend", "tensorrt", "--engines", tmp_path / "engines"]
    code, said = classify(cells, *common, *engines, "-o", tmp_path / "gpu.jsonl")
    assert code == 7 and f"up to {BATCH} a call, {4 * (BATCH - 1) + 2} in flight" in said
    assert gpu == ["stream"]
    code, said = classify(cells, *common, *engines, "--batch", 4)
    assert code == 4 and "needed batch 4. Run 'dynvid build-engines" in said and "--max-batch 4" in said
    code, said = classify(cells, *common, *engines, "--trace")
    assert code == 7 and gpu[-1] == "stream"
    code, said = classify(cells, *common, *engines, "--trace", "--batch", 2)
    assert code == 7 and "up to 2 a call" in said


# limits


def test_a_budget_bounds_videos_in_flight_and_calls(bundle, listed):
    each = bytes_per_video(fused_segments(bundle.manifest, "fp32"))
    video = listed.parent / "0.npy"
    code, said = classify(bundle, video, "--max-in-flight", each / 1e6 * 0.99)
    assert code == 2 and f"expected a finite number from {-(-each // 1000) / 1000:g}, the need of one" in said
    for budget_mb, slots, most in ((each / 1e6, 1, 1), (each / 1e6 * 3.5, 3, 3), (1e6, 14, 4)):
        code, said = classify(bundle, video, "--max-in-flight", budget_mb, "--batch", 4)
        assert code == 0 and f"up to {most} a call, {slots} in flight" in said
    assert "up to 1 a call, 2 in flight" in classify(bundle, video)[1]  # one is decoded while one runs
    assert (
        "2 in flight" in classify(bundle, video, "--streams", 2, "--max-in-flight", each / 1e6 * 2.5)[1]
    )  # one in each
    assert classify(bundle, video, "--streams", 3, "--max-in-flight", each / 1e6 * 2.5)[0] == 2
    for budget in ("nan", "inf", "0", "-1"):
        assert classify(bundle, video, "--max-in-flight", budget)[0] == 2


@pytest.mark.parametrize(
    "option", [["--batch", "4"], ["--decoders", "2"], ["--streams", "2"], ["--max-in-flight", "1"]]
)
def test_cells_take_the_limits_of_streams_and_answer_the_same_bits(cells, listed, thresholds, tmp_path, option):
    common = ["--data", listed, "--thresholds", thresholds, "--trace"]
    assert classify(cells, *common, "-o", tmp_path / "plain.jsonl")[0] == 7
    code, said = classify(cells, *common, *option, "-o", tmp_path / "limited.jsonl")
    assert code == 7 and f"up to {4 if option[0] == '--batch' else 1} a call" in said
    assert read(tmp_path / "limited.jsonl") == read(tmp_path / "plain.jsonl")


def test_a_gpu_prepares_few_sizes():
    assert list(batch_sizes(5, padded=False)) == [1, 2, 3, 4, 5]
    assert [batch_sizes(n, padded=True) for n in (1, 2, 3, 8, 9)] == [
        [1], [1, 2], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 9],
    ]  # fmt: skip


def test_calls_never_hold_more_than_the_batch(bundle, listed, monkeypatch):
    from dynvid.runtime.execution.executor import Executor

    sizes, run = [], Executor.run
    monkeypatch.setattr(Executor, "run", lambda s, k, slots, f: (sizes.append(len(slots)), run(s, k, slots, f))[1])
    for batch in (1, 3):
        sizes.clear()
        videos = [listed.parent / f"{i}.npy" for i in range(12)]
        with open_model(bundle, batch=batch) as model:
            assert len(list(model.classify_many(videos))) == 12
        assert max(sizes) == batch
        assert sum(sizes) == 4 * 12


def test_the_runtime_needs_no_onnx_for_fused_segments(bundle, listed):
    code = (
        "import sys\n"
        "sys.modules['onnx'] = sys.modules['torch'] = None\n"
        "from dynvid.cli import main\n"
        "sys.argv = ['dynvid', 'classify', *sys.argv[1:]]\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, str(bundle.root), str(listed.parent / "0.npy"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "fused segments of" in done.stderr, done.stderr
    assert json.loads(done.stdout)["status"] == "ok"
