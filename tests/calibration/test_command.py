"""``dynvid calibrate`` as a user meets it."""

import contextlib
import hashlib
import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from samples import synthetic_scores, write_noise

import dynvid
from dynvid.cli import cli
from dynvid.grid.errors import (
    CostTableError,
    DynvidError,
    InputRefusedError,
    StaleCostTableError,
    StaleScoresError,
    StaleThresholdsError,
    TooFewVideosError,
    UsageError,
)
from dynvid.grid.thresholds import read_thresholds


def run(*arguments, command="calibrate"):
    done = CliRunner().invoke(cli, [command, *map(str, arguments)])
    if isinstance(done.exception, DynvidError):
        raise done.exception
    assert done.exit_code == 0, (done.output, done.exception)
    return done


def report(*arguments):
    return json.loads(run(*arguments, "--json").stdout)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("data"), 24)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("kept") / "scores.npz"


@pytest.fixture(scope="module")
def from_elsewhere(tmp_path_factory):
    path, scores = tmp_path_factory.mktemp("elsewhere") / "s.npz", synthetic_scores(2000)
    np.savez(path, probabilities=scores.probabilities, labels=scores.labels, macs=scores.macs)
    return path


def test_from_a_bundle_and_a_list_to_thresholds_that_classify_runs(tiny_bundle, data, kept, tmp_path):
    root, t = tiny_bundle.root, tmp_path / "T.json"
    found = report(root, "--data", data, "--scores", kept, "--q", 1.0, "-o", t, "--plot", tmp_path / "c.svg")
    assert {"q", "thresholds", "shares", "mean_gmacs", "accuracy", "split"} <= set(found)
    assert found["split"]["calibration"] == found["split"]["evaluation"] == 12
    written = read_thresholds(t, tiny_bundle.sha256, 4)
    assert list(written.thresholds) == found["thresholds"] and written.q == 1.0
    assert sum(map(sum, written.expected)) == 12 and (tmp_path / "c.svg").exists()
    results = tmp_path / "r.jsonl"
    classified = CliRunner().invoke(
        cli, ["classify", str(root), "--data", str(data), "--thresholds", str(t), "-o", str(results)]
    )
    assert classified.exit_code == 0, classified.output
    arguments = (root, "--results", results, "--thresholds", t)
    same = json.loads(run(*arguments, "--json", command="drift").stdout)
    assert same["drifted"] is False and same["videos"] == 24
    drifted = [{"status": "ok", "checkpoint": 4, "confidence": 0.21}] * 200
    results.write_text("".join(json.dumps(r) + "\n" for r in drifted))
    done = run(*arguments, command="drift")
    assert "Warning: videos leave differently than at calibration: distance 0." in done.stderr
    assert "200 videos, compared with 12 at calibration" in done.stdout


def test_tempered_thresholds_give_classify_the_very_exits_of_calibration(tiny_bundle, data, kept, tmp_path):
    root, t = tiny_bundle.root, tmp_path / "T.json"
    found = report(root, "--data", data, "--scores", kept, "--q", 1, "-o", t, "--temperature", "--split", 1)
    assert len(found["temperatures"]) == 4 and any(x != 1 for x in found["temperatures"])
    assert found["split"]["in_sample"] and found["reliability"]["before"][0]["ece"] >= 0
    arguments = ["classify", str(root), "--data", str(data), "--thresholds", str(t), "--json"]
    done = CliRunner().invoke(cli, arguments)
    exits = [json.loads(line)["checkpoint"] for line in done.stdout.splitlines()]
    assert [exits.count(k) for k in (1, 2, 3, 4)] == found["chosen_on"]["counts"]
    text = run(root, "--scores", kept, "--q", 1, "--temperature").stdout  # kept scores need no videos
    assert "after tempering" in text and "held-out" in text


def test_milliseconds_are_measured_or_read(tiny_bundle, data, kept, tmp_path):
    table = tmp_path / "t.json"
    run(tiny_bundle.root, "-o", table, "--rounds", 5, command="time")
    times = json.loads(table.read_text())["segments"]
    budget = 0.9 * sum(entry["median_ms"] for entry in times)
    common = (tiny_bundle.root, "--data", data, "--scores", kept, "--cost", "ms")
    found = report(*common, "--cost-table", table, "--budget", budget)
    assert found["chosen_on"]["mean_ms"] <= budget and found["mean_gmacs"] > 0
    assert found["budget"]["unit"] == "ms"
    assert report(*common, "--q", 1)["mean_ms"] > 0  # measured here
    content = json.loads(table.read_text())
    table.write_text(json.dumps({**content, "bundle_sha256": "0" * 64}))
    with pytest.raises(StaleCostTableError):
        run(*common, "--cost-table", table, "--q", 1)
    table.write_text(json.dumps({**content, "precision": "int8"}))
    with pytest.raises(
        CostTableError, match="times in int8, but the scores are in fp32: measure with 'dynvid time --pre"
    ):
        run(*common, "--cost-table", table, "--q", 1)
    older = {key: value for key, value in content.items() if key != "is_fused"}  # as written before cells and engines
    table.write_text(json.dumps(older))
    assert report(*common, "--cost-table", table, "--q", 1)["mean_ms"] > 0


def test_scores_from_elsewhere_need_no_bundle(from_elsewhere, tmp_path):
    found = report("--scores", from_elsewhere, "--max-drop", 0.03, "--confidence", 0.9)
    assert found["promise"]["test_videos"] == 750 and found["reference"] == "last exit of the scores"
    text = run("--scores", from_elsewhere, "--budget", 6, "--plot", tmp_path / "c.svg").stdout
    assert "budget 6 GMACs: kept" in text and "Q*" in text and "accuracy" in text
    np.savez(tmp_path / "p.npz", probabilities=synthetic_scores(300).probabilities)
    bare = report("--scores", tmp_path / "p.npz")
    assert bare["mean_gmacs"] is None and bare["mean_exits"] > 1 and bare["accuracy"] is None


def test_the_text_states_the_promise(from_elsewhere):
    text = run("--scores", from_elsewhere, "--max-drop", 0.03, "--confidence", 0.9).stdout
    assert "promise: the loss of accuracy stays at or below 0.03 with probability 0.9" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "calibrate needs BUNDLE and --data LIST, or --scores FILE.npz"),
        (("--data", "l.csv"), "need a BUNDLE"),
        (("--scores", "s.npz", "-o", "T.json"), "need a BUNDLE"),
        (("--scores", "s.npz", "--cost", "ms"), "need a BUNDLE"),
        (("--scores", "missing.npz"), "cannot be read"),
        (("--scores", "s.npz", "--precision", "fp16"), "scores have their own precision"),
        (("--scores", "s.npz", "--q", "1", "--budget", "2"), "give one of"),
    ],
)
def test_wrong_use_is_said(arguments, message):
    with pytest.raises(DynvidError, match=message):
        run(*arguments)


def test_things_of_another_bundle_are_refused(tiny_bundle, exports, data, kept, from_elsewhere, tmp_path):
    root = tiny_bundle.root
    (tmp_path / "T.json").write_text(json.dumps({"bundle_sha256": "0" * 64, "thresholds": [0, 0, 0, None]}))
    with pytest.raises(StaleThresholdsError, match="belong to bundle 00000000…"):
        run(root, "--results", data, "--thresholds", tmp_path / "T.json", command="drift")
    with pytest.raises(StaleScoresError, match="belong to bundle none"):
        run(root, "--scores", from_elsewhere)
    shutil.copy(from_elsewhere, tmp_path / "s.npz")
    with pytest.raises(StaleScoresError, match="belong to another backend, bundle, data"):
        run(root, "--data", data, "--scores", tmp_path / "s.npz")
    with pytest.raises(InputRefusedError, match="is not what bundle"):
        run(root, tmp_path / "T.json", "--data", data)
    with pytest.raises(InputRefusedError, match="cannot be read"):
        run(root, tmp_path / "missing.pth", "--data", data)


def test_no_file_of_another_kind_is_replaced(tiny_bundle, data, kept, tmp_path):
    before = data.read_bytes()
    other = shutil.copy(data, tmp_path / "list.svg")
    for arguments in (("-o", data), ("--plot", other)):
        with pytest.raises(UsageError, match=r"exists and is not (a T.json|an SVG): give another, or remove it"):
            run(tiny_bundle.root, "--data", data, "--scores", kept, "--q", 1, *arguments)
    with pytest.raises(UsageError, match="exists and is not a file of times"):
        run(tiny_bundle.root, "-o", data, command="time")
    assert data.read_bytes() == before
    other = tmp_path / "run.json"  # of the same bundle, but no thresholds
    other.write_text(json.dumps({"bundle_sha256": tiny_bundle.sha256, "format": "dynvid.timing/1"}))
    with pytest.raises(UsageError, match="exists and is not a T.json"):
        run(tiny_bundle.root, "--data", data, "--scores", kept, "--q", 1, "-o", other)
    with pytest.raises(UsageError, match="-o and --plot are both"):
        run(tiny_bundle.root, "--data", data, "-o", tmp_path / "x", "--plot", tmp_path / "x")
    for _ in range(2):  # its own are
        run(tiny_bundle.root, "--data", data, "--scores", kept, "--q", 1, "-o", tmp_path / "T.json")


def test_scores_without_macs_are_described_in_exits(tmp_path):
    scores = synthetic_scores(400)
    np.savez(tmp_path / "s.npz", probabilities=scores.probabilities, labels=scores.labels)
    for arguments in ((), ("--q", 0.5), ("--budget", 3)):
        assert "mean exits" in run("--scores", tmp_path / "s.npz", *arguments).stdout


@pytest.mark.parametrize("videos", range(1, 12))
def test_a_handful_of_videos_ends_in_thresholds_or_a_reason(tmp_path, videos):
    scores = synthetic_scores(videos)
    np.savez(tmp_path / "s.npz", probabilities=scores.probabilities, labels=scores.labels, macs=scores.macs)
    for arguments in ((), ("--q", 1), ("--budget", 9), ("--split", 1), ("--split", 0.0001), ("--temperature",)):
        with contextlib.suppress(DynvidError):
            run("--scores", tmp_path / "s.npz", *arguments)
    with pytest.raises(TooFewVideosError):
        run("--scores", tmp_path / "s.npz", "--max-drop", 0.01, "--confidence", 0.9)


def test_what_would_be_ignored_is_refused(from_elsewhere, tiny_bundle, data, kept, tmp_path):
    run(tiny_bundle.root, "--data", data, "--scores", kept, "--q", 1)
    with pytest.raises(UsageError, match="--backend openvino without --data"):
        run("--scores", from_elsewhere, "--backend", "openvino")
    with pytest.raises(UsageError, match="--cost-table without --cost ms"):
        run(tiny_bundle.root, "--data", data, "--cost-table", tmp_path / "t.json", "--budget", 5)
    done = run(tiny_bundle.root, "--scores", kept, "--cost", "ms", "--backend", "onnxruntime", "--q", 1)
    assert "mean ms" in done.stdout  # times are measured on that backend
    for wrong in ({"cost": "MS"}, {"rule": "best"}):
        with pytest.raises(UsageError, match="expected '"):
            dynvid.calibrate(scores=from_elsewhere, **wrong)


def test_the_drop_stands_beside_the_one_asked_for(from_elsewhere):
    assert ", asked: at most 3.00%" in run("--scores", from_elsewhere, "--max-drop", 0.03).stdout
    assert "asked" not in run("--scores", from_elsewhere, "--q", 1).stdout


def test_a_drop_beyond_chance_is_warned_of(tmp_path):
    """The held-out half differs from the other: there the first exit is always wrong."""
    names = [str(number) for number in range(2000)]
    order = sorted(range(2000), key=lambda n: hashlib.sha256(f"0 {names[n]}".encode()).digest())
    p = np.full((2, 2000, 2), (0.95, 0.05), np.float32)
    p[0, order[1000:]] = (0.05, 0.95)
    np.savez(tmp_path / "s.npz", probabilities=p, labels=np.zeros(2000, int), macs=np.array([1e9, 2e9]))
    warned = report("--scores", tmp_path / "s.npz", "--max-drop", 0.02)["warnings"]
    assert any(line.startswith("the evaluation videos lose 100.00%, more than the 2.00% asked for") for line in warned)


def test_labels_that_are_shifted_are_warned_of(tmp_path):
    scores = synthetic_scores(400)
    classes = scores.probabilities.shape[2]
    shifted = {"probabilities": scores.probabilities, "labels": (scores.labels + 1) % classes, "macs": scores.macs}
    np.savez(tmp_path / "s.npz", **shifted)
    assert any("no more than chance" in line for line in report("--scores", tmp_path / "s.npz", "--q", 1)["warnings"])
    np.savez(tmp_path / "s.npz", **{**shifted, "labels": scores.labels})
    assert not any("chance" in line for line in report("--scores", tmp_path / "s.npz", "--q", 1)["warnings"])


def test_temperatures_that_do_harm_are_warned_of(tmp_path):
    """At .6 half of the videos are nearly always right; the other half, which judges, are right as often as they say."""
    order = sorted(range(800), key=lambda n: hashlib.sha256(f"0 {n}".encode()).digest())
    p = np.full((2, 800, 2), (0.6, 0.4), np.float32)
    labels = np.zeros(800, int)
    labels[order[:20]] = labels[order[400:560]] = 1
    np.savez(tmp_path / "s.npz", probabilities=p, labels=labels, macs=np.array([1e9, 2e9]))
    warned = report("--scores", tmp_path / "s.npz", "--q", 1, "--temperature")["warnings"]
    assert any(line.startswith("temperatures make confidences less like") for line in warned)
