"""What each command does with a static bundle: it works on it, or says in one line why not."""

import json
import shutil

import pytest
import torch
from command_line import dynvid, ok, refused
from page_reader import read
from public_layouts import EVEN, as_mit, resnet, weigh
from samples import write_noise
from static_samples import STATIC

NAME = "TSM on msdnet"


@pytest.fixture(scope="module")
def bundle(exports, tmp_path_factory):
    made = exports.bundle(STATIC[NAME], ("fp32", "fp16"))
    return shutil.copytree(made.root, tmp_path_factory.mktemp("static") / "bundle")


@pytest.fixture(scope="module")
def checkpoint(exports):
    return exports.training_checkpoint(STATIC[NAME])


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("videos"), 3)


def test_verify_names_it_and_says_what_does_not_apply(bundle, checkpoint):
    assert "5 classes, static, " in ok("verify", bundle)
    said = ok("verify", bundle, checkpoint)
    assert "sensitivity: reversing time changes logits by" in said and "states changes logits" not in said
    assert "static, so these proofs do not apply: one-frame calls (its subgraphs take all frames" in said


def test_plan_has_one_checkpoint_and_no_other_route(bundle, checkpoint):
    for source in (bundle, checkpoint):
        plan = json.loads(ok("plan", source, "--json"))
        assert [c["fraction"] for c in plan["checkpoints"]] == [1.0]
        assert json.loads(ok("plan", source, "--route", "full", "--json")) == plan
        for route in ("depth", "1,2 3,2", "joint"):
            assert "this network is static and answers once" in refused(2, "plan", source, "--route", route)


def test_classify_runs_and_misses_no_thresholds(bundle, listed):
    done = dynvid("classify", bundle, "--data", listed, "--json")
    assert done.returncode == 0 and "thresholds" not in done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(record["checkpoint"], record["fraction"]) for record in records] == [(1, 1.0)] * 3


def test_time_measures_it(bundle, tmp_path):
    found = json.loads(ok("time", bundle, "--rounds", 5, "--threads", 1, "-o", tmp_path / "times.json", "--json"))
    assert [segment["index"] for segment in found["segments"]] == [1]


def test_what_needs_exits_refuses_it_in_one_line(bundle, checkpoint, listed, tmp_path):
    t = tmp_path / "T.json"
    t.write_text(json.dumps({"bundle_sha256": "0" * 64, "thresholds": [None]}))
    for command, arguments in {
        "calibrate": (bundle, "--data", listed),
        "quantize": (bundle, checkpoint, "--data", listed),
        "drift": (bundle, "--thresholds", t, "--results", listed),
        "bench": (bundle, "-o", tmp_path / "report"),
    }.items():
        line = refused(2, command, *arguments)
        assert line.startswith(f"Error: {command}: bundle {str(bundle)!r} is static: it answers once"), line
    assert "leave --thresholds out" in refused(2, "classify", bundle, "--data", listed, "--thresholds", t)
    assert not (tmp_path / "report").exists()


def test_a_public_tsm_is_exported_as_trained(tmp_path):
    torch.save({"state_dict": as_mit(weigh(resnet(EVEN), "fan_out").state_dict(), EVEN)}, tmp_path / "tsm.pth")
    arguments = ("export", tmp_path / "tsm.pth", "--frames", 3, "--precision", "fp32")
    done = dynvid(*arguments, "--static", "--route", "full", "-o", tmp_path / "b")
    assert done.returncode == 0, done.stderr
    assert "static, 6 files" in done.stdout and "both directions" not in done.stderr
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["static"] and manifest["version"] == [1, 3] and manifest["network"]["shift"]["start_fold"] == 0
    ok("verify", tmp_path / "b", tmp_path / "tsm.pth")
    assert "route 'input': this network is static" in refused(
        2, *arguments, "--static", "--route", "input", "-o", tmp_path / "c"
    )


def test_static_is_not_for_a_network_that_was_trained_along_a_route(exports, tmp_path):
    from samples import TINY

    line = refused(2, "export", exports.training_checkpoint(TINY), "--static", "-o", tmp_path / "b")
    assert "--static: the training checkpoint was trained along a route" in line


def test_explain_shows_its_one_checkpoint(bundle, listed, tmp_path):
    (line,) = ok("explain", bundle, listed.parent / "0.npy", "-o", tmp_path / "page.html", "--json").splitlines()
    record = json.loads(line)
    assert len(record["checkpoints"]) == 1 and {frame["state"] for frame in record["frames"]} == {"used"}
    assert all(cell["computed"] for cell in record["grid"]["cells"]) and record["fraction"] == 1.0
    shown = read((tmp_path / "page.html").read_text())
    text = shown.all("header")[0].text + shown.all("main")[0].text
    printed = ok("explain", bundle, listed.parent / "0.npy")
    assert "The network is static, so it answers once: " in printed
    for said in ("hreshold", "stop", "Nothing was saved", "first one", "of the static network's"):
        assert said not in text and said not in printed, said
