"""The runtime installs and runs on a box with neither torch nor onnx: a virtual environment without them."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import venv

import numpy as np
import pytest
from samples import ROOT

ABSENT = ("torch", "onnx", "onnxscript", "safetensors")


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """Return the Python of a new environment that holds a wheel of dynvid and its [cpu] extra; one for all workers."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "box"
    folder.mkdir(exist_ok=True)
    python = folder / "venv" / "bin" / "python"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            make_box(folder, python)
            (folder / "made").touch()
    return python


def make_box(folder, python):
    source = folder / "source"  # a build leaves files beside the source
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "demo_output", "*.egg-info"))
    venv.create(folder / "venv", with_pip=True)
    requirement = f"dynvid[cpu] @ file://{source}"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", requirement], check=True)


@pytest.mark.parametrize("package", ABSENT)
def test_the_box_lacks_the_training_packages(box, package):
    assert subprocess.run([box, "-c", f"import {package}"], capture_output=True).returncode != 0


def test_the_box_classifies_as_the_full_installation_does(box, tiny_bundle, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "v.npy", rng.integers(0, 256, (20, 48, 40, 3), np.uint8))
    command = ["-m", "dynvid.cli", "classify", tiny_bundle.root, tmp_path / "v.npy", "--json", "--trace"]
    found = [
        json.loads(subprocess.run([python, *command], capture_output=True, text=True, check=True).stdout)
        for python in (box, sys.executable)
    ]
    for record in found:
        assert record.pop("latency_ms") > 0 and record.pop("decode_ms") > 0
        assert record.pop("elapsed_ms") > 0 and record.pop("waited_ms") >= 0
    assert found[0] == found[1]
    assert found[0]["status"] == "ok" and len(found[0]["logits"]) == 4


@pytest.mark.parametrize(
    "command", [["export", "x.pth", "-o", "b"], ["train", "x.toml", "-o", "r"], ["plan", "resnet50"]]
)
def test_commands_that_need_torch_say_what_to_install(box, command):
    done = subprocess.run([box, "-m", "dynvid.cli", *command], capture_output=True, text=True)
    assert done.returncode == 5
    assert re.match(r"Error: this command needs the package '(torch|onnx)'", done.stderr)
    assert "pip install 'dynvid[export,cpu]'" in done.stderr


def test_data_sets_are_read_and_scanned_on_the_box(box, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        np.save(tmp_path / "set" / name / "clip.npy", np.zeros((20, 48, 40, 3), np.uint8))
    command = [box, "-m", "dynvid.cli", "data", tmp_path / "set", "--scan", "--json", "-o", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["splits"]["train"]["usable"] == 2


@pytest.mark.parametrize("command", ["bench", "calibrate", "plan", "explain", "classify"])
def test_what_draws_says_before_any_work_what_to_install(box, tiny_bundle, tmp_path, command):
    rest = {
        "bench": ["-o", tmp_path / "report"],
        "calibrate": ["--data", "none.csv", "--plot", tmp_path / "c.svg"],
        "plan": ["--svg", tmp_path / "p.svg"],
        "explain": ["none.mp4", "-o", tmp_path / "page.html"],
        "classify": ["none.mp4", "--report", tmp_path / "page.html"],
    }
    done = subprocess.run(
        [box, "-m", "dynvid.cli", command, tiny_bundle.root, *rest[command]], capture_output=True, text=True
    )
    assert done.returncode == 5
    assert re.match(r"Error: this command needs the package '(jinja2|matplotlib)'", done.stderr)
    extra = "bench" if command == "bench" else "pages"
    assert f"pip install 'dynvid[{extra}]'" in done.stderr and list(tmp_path.iterdir()) == []


def test_the_pages_template_and_style_are_shipped(box):
    code = (
        "from importlib.resources import files; print(*(p.name for f in ('benchmarks.report', 'pages.templates') "
        "for p in files(f'dynvid.{f}').iterdir()))"
    )
    said = subprocess.run([box, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"page.html.jinja", "page.css", "figure.css", "base.html.jinja", "figures.jinja", "sort.js"} <= set(said)


def test_verify_checks_hashes_on_the_box_and_says_what_it_checks(box, tiny_bundle):
    command = [box, "-m", "dynvid.cli", "verify", tiny_bundle.root]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "ports as onnxruntime sees them" in done.stderr and "as exported" in done.stdout


def test_doctor_works_on_the_box(box):
    done = subprocess.run([box, "-m", "dynvid.cli", "doctor", "--json"], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["packages"]["torch"]["version"] is None
    assert report["packages"]["torch"]["remedy"]
    assert {b["name"] for b in report["backends"] if b["works"]} == {"onnxruntime", "null"}
