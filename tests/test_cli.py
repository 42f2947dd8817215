"""The command line as a user meets it: output, messages and exit codes."""

import json
import os
import re
import shutil
import subprocess
import sys

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from command_line import dynvid, ok, process, refused
from samples import TINY

from dynvid.cli import main


@pytest.fixture(scope="module")
def checkpoint(exports):
    return exports.training_checkpoint(TINY)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.npy"
    np.save(path, np.random.default_rng(1).integers(0, 256, (24, 40, 56, 3), np.uint8))
    return path


@pytest.fixture
def thresholds(tiny_bundle, tmp_path):
    def write(*values):
        path = tmp_path / "T.json"
        path.write_text(json.dumps({"bundle_sha256": tiny_bundle.sha256, "q": None, "thresholds": values}))
        return path

    return write


# plan


def test_plan_prints_the_papers_figures():
    plan = json.loads(ok("plan", "msdnet38", "--classes", 1000, "--route", "joint", "--json"))
    assert plan["parameters"] == 62_314_472
    order = [0, 3, 5, 6, 1, 2, 4, 7]
    assert plan["grid"] == {"input_sets": 8, "blocks": 5, "frames_per_set": 2, "set_order": order}
    assert [round(c["paper_gmacs"], 2) for c in plan["checkpoints"]] == [2.46, 8.62, 18.27, 23.74, 26.03, 52.06]
    assert round(plan["full"]["paper_gmacs"], 2) == 52.06
    assert plan["segments"][3]["spans"] == [{"block": 3, "start": 0, "stop": 4}]
    assert sum(s["gmacs"] for s in plan["segments"]) == pytest.approx(plan["checkpoints"][-1]["gmacs"])
    resnet = json.loads(ok("plan", "resnet50", "--head", "linear", "--route", "full", "--json"))
    assert (resnet["parameters"], round(resnet["frame_gmacs"], 4)) == (24_327_632, 4.0880)


def test_plan_of_network_training_checkpoint_and_bundle_agree(checkpoint, tiny_bundle):
    of_file, of_bundle = (json.loads(ok("plan", source, "--json")) for source in (checkpoint, tiny_bundle.root))
    assert of_file == of_bundle
    assert set(of_file) == {
        "network", "classes", "parameters", "grid", "frame_gmacs", "checkpoints", "segments", "full",
    }  # fmt: skip
    assert "B0[0:2]" in ok("plan", tiny_bundle.root)


def test_plan_refuses_what_does_not_exist():
    assert "network 'resnet5': expected one of" in (message := refused(2, "plan", "resnet5"))
    assert "Did you mean 'resnet50'?" in message
    assert "may decrease" in refused(2, "plan", "resnet50", "--route", "3,4 2,4")
    assert "--frames 15: expected a multiple" in refused(2, "plan", "resnet50", "--frames", 15)
    assert "no head on that block" in refused(2, "plan", "resnet50", "--route", "3,0 7,4")


# export and verify


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    root = tmp_path_factory.mktemp("exported") / "bundle"
    return root, json.loads(ok("export", checkpoint, "-o", root, "--precision", "fp32", "--json"))


def test_export_reports_its_proof(exported):
    root, report = exported
    assert report["bundle"] == str(root)
    assert report["files"] == 6
    assert max(report["proof"]["fp32"]["checkpoints"]) <= 1e-4
    assert report["proof"]["sees"]["least_effect"] > report["proof"]["sees"]["required"]


def test_two_exports_in_two_processes_give_the_same_bytes(exported, checkpoint, tmp_path):
    root, report = exported
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # as tests compute, for sums are rounded by their order
    done = process("export", checkpoint, "-o", tmp_path / "b", "--precision", "fp32", "--json", env=one_thread)
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    assert again["bundle_sha256"] == report["bundle_sha256"]
    for path in root.iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_nothing_in_a_bundle_names_a_path_of_this_machine(exported):
    root, _ = exported
    for path in root.iterdir():
        content = path.read_bytes()
        for word in (b"/home", b"/root", b"site-packages", b".py", str(root).encode()):
            assert word not in content, (path.name, word)


def test_verify_checks_hashes_structure_and_proof(exported, checkpoint):
    root, report = exported
    assert "as exported" in ok("verify", root)
    again = json.loads(ok("verify", root, checkpoint, "--json"))
    assert again["proof"] == report["proof"]


def test_verify_refuses_another_training_checkpoint(exported, exports):
    root, _ = exported
    other = exports.training_checkpoint(TINY, seed=1)
    assert "was exported from a training checkpoint with sha256" in refused(4, "verify", root, other)


def test_verify_refuses_what_has_changed(exported, tmp_path):
    root, _ = exported
    for name in ("manifest.json", "block1.onnx"):
        copy = shutil.copytree(root, tmp_path / name)
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 4
        (copy / name).write_bytes(content)
        assert "Run 'dynvid export' again" in refused(4, "verify", copy)
    swapped = shutil.copytree(root, tmp_path / "swapped")
    (swapped / "block0.onnx").rename(swapped / "spare")
    (swapped / "block1.onnx").rename(swapped / "block0.onnx")
    (swapped / "spare").rename(swapped / "block1.onnx")
    assert "block0.onnx has changed since export" in refused(4, "verify", swapped)
    assert "is not a bundle" in refused(4, "verify", tmp_path)


def test_export_refuses_what_is_no_training_checkpoint(tmp_path):
    path = tmp_path / "x.pth"
    path.write_text("not a training checkpoint")
    assert "is not a training checkpoint" in refused(3, "export", path, "-o", tmp_path / "b")
    assert "is not a file" in refused(3, "export", tmp_path / "missing.pth", "-o", tmp_path / "b")
    assert not (tmp_path / "b").exists()


class _Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def test_export_never_runs_pickled_code(tmp_path):
    torch.save({"state_dict": _Payload(tmp_path / "marker")}, tmp_path / "x.pth")
    assert "would have to run code to load" in refused(3, "export", tmp_path / "x.pth", "-o", tmp_path / "b")
    assert not (tmp_path / "marker").exists()


def test_export_refuses_nan_weights_wrong_layout_and_a_route_that_steps_back(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    key = next(iter(content["state_dict"]))
    content["state_dict"][key] = content["state_dict"][key] * float("nan")
    torch.save(content, tmp_path / "nan.pth")
    assert f"NaN or infinite weights in {key}" in refused(3, "export", tmp_path / "nan.pth", "-o", tmp_path / "b")
    refused(3, "export", checkpoint, "-o", tmp_path / "b", "--layout", "torchvision")
    assert "may decrease" in refused(2, "export", checkpoint, "-o", tmp_path / "b", "--route", "2,2 1,2")
    assert not (tmp_path / "b").exists()


def test_range_data_decides_what_may_be_half_precision(checkpoint, tmp_path):
    """Frames a thousand times larger than any picture's push every block over the limit."""
    np.save(tmp_path / "v.npy", 1e5 * np.random.default_rng(0).normal(size=(8, 3, 32, 32)).astype(np.float32))
    (tmp_path / "list.csv").write_text("video\nv.npy\n")
    ok("export", checkpoint, "-o", tmp_path / "b", "--range-data", tmp_path / "list.csv")
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_bytes())
    assert "block0" in manifest["fp32_only"]
    assert next(s for s in manifest["subgraphs"] if s["name"] == "block0")["range"] > 1e4
    (tmp_path / "bad.csv").write_text("video\nmissing.npy\n")
    refused(3, "export", checkpoint, "-o", tmp_path / "c", "--range-data", tmp_path / "bad.csv")


def test_export_refuses_to_replace_what_is_no_bundle(checkpoint, tmp_path):
    (tmp_path / "precious").write_text("x")
    assert "exists and is not a bundle" in refused(3, "export", checkpoint, "-o", tmp_path, "--precision", "fp32")
    assert (tmp_path / "precious").read_text() == "x"


# classify

FIELDS = {
    "video", "file", "status", "label", "listed_label", "class_index", "confidence", "checkpoint", "gmacs", "fraction", "latency_ms",
    "decode_ms", "frames_decoded", "frames_total", "damaged", "warnings", "error", "cut", "waited_ms", "elapsed_ms",
}  # fmt: skip


def test_classify_prints_one_object_a_video(tiny_bundle, clip, thresholds):
    out = ok("classify", tiny_bundle.root, clip, clip, "--thresholds", thresholds(0.0, 1, 1, None), "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert [set(r) for r in records] == [FIELDS, FIELDS]
    assert records[0]["checkpoint"] == 1 and records[0]["label"] in "abcde" and records[0]["frames_total"] == 24
    assert not records[0]["damaged"]


def test_a_warning_says_that_it_is_one_without_steps_too(tiny_bundle, clip, tmp_path):
    (tmp_path / "list.csv").write_text(f"video\n{clip}\n{clip}\n")
    done = process("classify", tiny_bundle.root, "--data", tmp_path / "list.csv")
    assert f"\nWarning: list '{tmp_path}/list.csv' names 1 videos again" in "\n" + done.stderr


def test_closed_standard_output_is_an_error(tiny_bundle, clip):
    command = f"exec '{sys.executable}' -m dynvid.cli classify '{tiny_bundle.root}' '{clip}' --json >&-"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "Error: standard output is closed: send it to a file, or to /dev/null\n"


def test_classify_without_thresholds_says_so_and_runs_to_the_end(tiny_bundle, clip):
    done = dynvid("classify", tiny_bundle.root, clip, "--json")
    assert "every video runs to the end" in done.stderr
    assert json.loads(done.stdout)["checkpoint"] == 4


def test_classify_traces_every_checkpoint(tiny_bundle, clip, thresholds):
    out = ok("classify", tiny_bundle.root, clip, "--trace", "--thresholds", thresholds(0, 0, 0, None), "--json")
    record = json.loads(out)
    assert set(record) == FIELDS | {"logits"}
    assert [len(z) for z in record["logits"]] == [5] * 4 and record["checkpoint"] == 1


def test_classify_reads_a_list_and_writes_a_file(tiny_bundle, clip, tmp_path):
    shutil.copy(clip, tmp_path / "a.npy")
    shutil.copy(clip, tmp_path / "b.npy")
    (tmp_path / "list.csv").write_text("video,label\na.npy,a\nb.npy,b\n")
    assert ok("classify", tiny_bundle.root, "--data", tmp_path / "list.csv", "-o", tmp_path / "out.jsonl") == ""
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(r["video"] for r in records) == [str(tmp_path / "a.npy"), str(tmp_path / "b.npy")]
    again = dynvid("classify", tiny_bundle.root, "--data", tmp_path / "list.csv", "-o", tmp_path / "out.jsonl")
    assert again.returncode == 0
    assert "2 of 2 videos are done already" in again.stderr


def test_classify_says_what_is_wrong_with_a_video(tiny_bundle, clip, tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("this is not a video")
    nan = tmp_path / "nan.npy"
    np.save(nan, np.full((8, 3, 32, 32), np.nan, np.float32))
    empty = tmp_path / "empty.npy"
    np.save(empty, np.zeros((0, 4, 4, 3), np.uint8))
    for path in (text, nan, empty, tmp_path / "missing.mp4"):
        assert "no video could be classified" in refused(3, "classify", tiny_bundle.root, path)
        record = json.loads(dynvid("classify", tiny_bundle.root, path, "--json").stdout)
        assert record["status"] == "damaged" and record["label"] is None and str(path) in record["error"]


def test_a_numeric_error_is_valid_json(tiny_bundle, tmp_path):
    np.save(tmp_path / "v.npy", np.full((8, 3, 32, 32), 3e38, np.float32))
    for precision in ("fp32", "fp16"):
        done = dynvid("classify", tiny_bundle.root, tmp_path / "v.npy", "--json", "--trace", "--precision", precision)
        assert done.returncode == 3 and "RuntimeWarning" not in done.stderr
        record = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert record["status"] == "numeric_error" and record["label"] is None and None in record["logits"][0]
        table = dynvid("classify", tiny_bundle.root, tmp_path / "v.npy", "--trace", "--precision", precision)
        assert "numeric error: NaN or infinity" in table.stdout


def test_a_full_disk_is_one_line(tiny_bundle, clip):
    with open("/dev/full", "w") as full:
        done = process(
            "classify", tiny_bundle.root, clip, "--json", stdout=full, stderr=subprocess.PIPE, capture_output=False
        )
    assert done.returncode == 6 and "Traceback" not in done.stderr
    assert "Error: No space left on device" in done.stderr


def test_plan_drops_no_option(checkpoint, tiny_bundle):
    assert "leave them out" in refused(2, "plan", tiny_bundle.root, "--frames", 32)
    assert "leave them out" in refused(2, "plan", tiny_bundle.root, "--classes", 5)
    assert "leave it out" in refused(2, "plan", checkpoint, "--head", "linear")
    refused(3, "plan", checkpoint, "--classes", 400)
    assert "its export fixed --static, leave it out" in refused(2, "plan", tiny_bundle.root, "--static")
    assert "--shift says how a training checkpoint is read" in refused(2, "plan", "resnet50", "--no-shift")


def test_the_null_backend_does_not_classify(tiny_bundle, clip):
    assert "computes nothing" in refused(2, "classify", tiny_bundle.root, clip, "--backend", "null")


def test_some_bad_videos_are_a_partial_result(tiny_bundle, clip, tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("this is not a video")
    done = dynvid("classify", tiny_bundle.root, clip, text, clip, "--json")
    assert done.returncode == 7
    assert sorted(json.loads(line)["status"] for line in done.stdout.splitlines()) == ["damaged", "ok", "ok"]
    assert "1 of 3 videos could not be classified" in done.stderr


def test_classify_refuses_wrong_use(tiny_bundle, clip, thresholds, tmp_path):
    root = tiny_bundle.root
    assert "give VIDEO or --data LIST" in refused(2, "classify", root)
    assert "backend 'tpu': expected one of" in refused(2, "classify", root, clip, "--backend", "tpu")
    assert "threads 0: expected a whole number of at least 1" in refused(2, "classify", root, clip, "--threads", 0)
    assert "expected a number in [0, 1]" in refused(
        3, "classify", root, clip, "--thresholds", thresholds(2, 0, 0, None)
    )
    (tmp_path / "other.json").write_text(json.dumps({"bundle_sha256": "0" * 64, "thresholds": [0, 0, 0, None]}))
    assert "belong to bundle 00000000" in refused(4, "classify", root, clip, "--thresholds", tmp_path / "other.json")
    assert "list" in refused(3, "classify", root, "--data", tmp_path / "missing.csv")
    assert "is not a bundle" in refused(4, "classify", tmp_path, clip)


# the rest


def test_doctor_reports_what_works(tmp_path):
    report = json.loads(ok("doctor", "--json"))
    assert {b["name"] for b in report["backends"] if b["works"]} >= {"onnxruntime", "null"}
    assert report["packages"]["onnxruntime"]["version"] and not report["conflicts"]
    assert "works here" in ok("doctor")


def test_usage_errors_have_exit_code_2():
    assert process("export").returncode == 2
    assert dynvid("nonsense").returncode == 2
    assert dynvid("export", "x", "--what").returncode == 2


@pytest.mark.parametrize("command", ["plan", "train", "export", "verify", "calibrate", "classify", "doctor"])
def test_every_command_explains_itself(command):
    from dynvid.cli import cli

    shown = CliRunner().invoke(cli, [command, "--help"])
    assert shown.exit_code == 0 and len(shown.output.splitlines()) > 4


@pytest.mark.parametrize(
    ("command", "often", "rarely"),
    [
        ("export", "--route", "--layout"), ("build-engines", "--backend", "--workers"), ("calibrate", "--budget", "--seed"),
        ("quantize", "--max-drop", "--ranges"), ("classify", "--data", "--decoders"), ("bench", "--peer", "--rounds"),
        ("simulate", "--times", "--slots"),
    ],
)  # fmt: skip
def test_what_is_rarely_needed_comes_last(command, often, rarely):
    from dynvid.cli import cli

    options = CliRunner().invoke(cli, [command, "--help"]).output.split("\nOptions:\n")[1]
    first, last = options.split("\nRarely needed:\n")
    assert often in first and "--help" in first and rarely not in first
    assert rarely in last and often not in last
    shown = re.findall(r"^  (?:-\w, )?(--[a-z0-9-]+)", options, re.MULTILINE)
    assert len(shown) == len(set(shown)) == sum(isinstance(p, click.Option) for p in cli.commands[command].params) + 1
    assert not re.search("^  [A-Z[]", options, re.MULTILINE)  # arguments stand in the usage


def test_an_interrupted_command_is_one_line(monkeypatch, capsys):
    import dynvid.cli

    def interrupt(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(dynvid.cli.cli, "main", interrupt)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 130
    assert capsys.readouterr().err == "Error: interrupted\n"


def test_a_package_that_cannot_be_imported_is_one_line(tiny_bundle, clip, tmp_path):
    (tmp_path / "av.py").write_text("raise ImportError('libavcodec.so.62: cannot open shared object file')\n")
    command = [sys.executable, "-c", "from dynvid.cli import main; main()", "classify", tiny_bundle.root, clip]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tmp_path)}
    )
    assert done.returncode == 5 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        "Error: libavcodec.so.62: cannot open shared object file. A package is"
    )
