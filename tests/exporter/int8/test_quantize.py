"""The command: a proved INT8 bundle and its thresholds, and what does not fit together is refused."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from int8_samples import NEEDS_VNNI
from samples import TINY, write_noise

from dynvid.cli import cli
from dynvid.exporter.int8.ranges import FORMAT, VERSION
from dynvid.grid.bundle import Bundle
from dynvid.grid.errors import InputRefusedError, StaleRangesError, StaleThresholdsError, UsageError
from dynvid.grid.storage.sealed import seal, unseal
from dynvid.grid.thresholds import Thresholds


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
        (["bench", "BUNDLE", "--peer", "nncf", "-o", "report"], "'nncf' needs the training checkpoint"),
        (["build-engines", "BUNDLE", "--int8", "--backend", "onnxruntime"], "Run 'dynvid quantize'"),
        (
            ["build-engines", "BUNDLE", "--precision", "bf16"],
            "precision bf16 on backend 'tensorrt-rtx': expected openvino",
        ),
        (["classify", "BUNDLE", "LIST", "--precision", "bf16", "--backend", "onnxruntime"], "Give --backend openvino"),
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


@pytest.mark.full
@pytest.mark.parametrize("backend", ["onnxruntime", pytest.param("openvino", marks=NEEDS_VNNI)])
def test_bench_measures_an_int8_set(backend, int8_bundle, tmp_path):
    done = run(
        "bench", int8_bundle.root, "--precision", "int8", "--backend", backend, "--engines", tmp_path / "engines", "-o",
        tmp_path / "report", "--batch", 1, "--rounds", 1, "--clips", 12, "--seconds", 0.2, "--stream-seconds", 0.2,
        "--q", 1.2,
    )  # fmt: skip
    assert done.exit_code == 0, (done.output, done.exception)
    assert "split_overhead_cells" in done.stdout
