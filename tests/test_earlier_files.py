"""What commit 7a2e504 wrote still opens: its bundle, its thresholds, and its results, which are gone on with."""

import json
import shutil

import pytest
from click.testing import CliRunner
from samples import ROOT, write_noise

import dynvid
from dynvid.cli import cli
from dynvid.grid.bundle import Bundle
from dynvid.grid.thresholds import read_thresholds

EARLIER = ROOT / "tests" / "files_of_7a2e504"
VIDEOS = [f"{index}.npy" for index in range(5)]


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    """Copy the files beside the videos that they are of, and go there: results name videos as they were given."""
    folder = shutil.copytree(EARLIER, tmp_path / "earlier")
    write_noise(folder, len(VIDEOS))
    monkeypatch.chdir(folder)
    return folder


def run(*arguments):
    return CliRunner().invoke(cli, [*map(str, arguments)])


def test_the_bundle_opens_and_is_as_exported(earlier):
    bundle = Bundle.open(earlier / "bundle")
    assert bundle.manifest.precisions == ("fp32", "fp16")
    done = run("verify", "bundle")
    assert done.exit_code == 0 and "as exported" in done.stdout


@pytest.mark.parametrize("engines", [False, True])
def test_it_classifies_as_it_did(earlier, engines):
    if engines:
        assert run("build-engines", "bundle", "--backend", "onnxruntime").exit_code == 0
    with dynvid.load("bundle", thresholds="T.json") as model:
        assert ("fused segments" in model.runs) == engines
        for line in (earlier / "results.jsonl").read_text().splitlines():
            wanted, found = json.loads(line), model.classify(json.loads(line)["video"])
            assert (found.label, found.checkpoint, found.gmacs) == (
                wanted["label"], wanted["checkpoint"], wanted["gmacs"],
            )  # fmt: skip
            assert found.confidence == pytest.approx(wanted["confidence"], abs=1e-4)


def test_its_thresholds_are_read_with_and_without_temperatures(earlier):
    sha256 = Bundle.open(earlier / "bundle").sha256
    plain, tempered = (read_thresholds(earlier / name, sha256, 4, "fp32") for name in ("T.json", "T.tempered.json"))
    assert plain.temperatures is None and plain.thresholds[-1] is None
    assert tempered.temperatures is not None and tempered.temperatures[0] == 1.0


def test_its_results_are_gone_on_with(earlier):
    before = (earlier / "results.jsonl").read_text()
    done = run("classify", "bundle", *VIDEOS, "--thresholds", "T.json", "-o", "results.jsonl")
    assert done.exit_code == 0 and "3 of 5 videos are done already" in done.stderr
    after = (earlier / "results.jsonl").read_text()
    assert after.startswith(before)
    assert [json.loads(line)["video"] for line in after.splitlines()] == VIDEOS


def test_its_results_are_compared_with_its_calibration(earlier):
    done = run("drift", "bundle", "--thresholds", "T.json", "--results", "results.jsonl", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["videos"] == 3
