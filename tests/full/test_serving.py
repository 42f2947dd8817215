"""The service and Triton as clients see them: the checks of examples/serving, in environments of their own, and short."""

import json
import os
import subprocess

import pytest
import triton_fake
from environments import environment
from samples import ROOT, TINY

from dynvid.grid.thresholds import Thresholds
from dynvid.training.clips import write_clips

pytestmark = pytest.mark.full

CHECKS = ROOT / "examples" / "serving"
SERVE = ("tritonclient[http,grpc]==2.73.0", "schemathesis==4.32.5")
TRITON = ("tritonclient[http,grpc]==2.73.0", "nvidia-pytriton==0.7.0")


@pytest.fixture(scope="module")
def serve(exports):
    """Return the Python of an environment with the service, and clients for it."""
    return environment(exports, "serve", ["cpu", "serve"], *SERVE, constrained=False)


@pytest.fixture(scope="module")
def triton(exports):
    """Return the Python of an environment with a Triton, and clients for it."""
    return environment(exports, "triton", ["cpu"], *TRITON, constrained=False)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, 32, seed=5)
    return folder


@pytest.fixture
def thresholds(exports, tmp_path):
    path = tmp_path / "T.json"
    Thresholds(exports.demonstration().sha256, (0.9, 0.9, 0.9, 0.9, 0.9, None)).write(path)
    return path


@pytest.fixture
def check(tmp_path):
    """Return a function that runs a script of ``examples/serving`` with a Python; it gives what the script printed."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "dynvid").symlink_to(ROOT)

    def run(python, script, *arguments):
        done = subprocess.run(
            [python, CHECKS / f"{script}.py", *map(str, arguments)],
            cwd=CHECKS, env=os.environ | {"PYTHONPATH": str(tmp_path / "path")}, capture_output=True, text=True,
            timeout=900,
        )  # fmt: skip
        print(done.stdout)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        return done.stdout

    return run


def same_answers(said, which):
    return f"{which}, HTTP: 24 answers equal" in said and f"{which}, gRPC: 24 answers equal" in said


def test_clients_of_the_service_get_the_answers_of_dynvid_to_the_last_bit(check, serve, exports, clips, thresholds):
    said = check(serve, "same_answers", "serve", exports.demonstration().root, clips, thresholds, 12)
    assert same_answers(said, "serve")


def test_clients_of_triton_get_the_answers_of_dynvid_to_the_last_bit(check, triton, exports, clips, thresholds):
    said = check(triton, "same_answers", "triton", exports.demonstration().root, clips, thresholds, 12)
    assert same_answers(said, "triton")


PROBE = """
import json, sys
sys.path.insert(0, {tests!r})
import triton_fake
import triton_python_backend_utils

class TritonPythonModel:
    def initialize(self, args):
        with open({output!r}, "w") as file:
            json.dump(triton_fake.facts(triton_python_backend_utils), file)

    def execute(self, requests):
        return []
"""
CONFIG = """
name: "probe" backend: "python" max_batch_size: 0
input [ { name: "a" data_type: TYPE_UINT8 dims: [ 1 ] } ] output [ { name: "b" data_type: TYPE_UINT8 dims: [ 1 ] } ]
"""
START = "import sys; from pathlib import Path; from running import triton\nwith triton(Path(sys.argv[1])): pass"


def test_the_stand_in_for_triton_is_as_triton(triton, tmp_path):
    model, output = tmp_path / "models" / "probe", tmp_path / "facts.json"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(CONFIG)
    (model / "1" / "model.py").write_text(PROBE.format(tests=str(ROOT / "tests"), output=str(output)))
    path = tmp_path / "path"
    path.mkdir()
    (path / "dynvid").symlink_to(ROOT)
    done = subprocess.run(
        [triton, "-c", START, model.parent],
        cwd=CHECKS, env=os.environ | {"PYTHONPATH": f"{path}:{CHECKS}"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    assert json.loads(output.read_text()) == triton_fake.facts(triton_fake)


def test_ten_times_too_many_requests_are_refused_at_once(check, serve, exports, clips, thresholds):
    assert "'429'" in check(serve, "overload", exports.demonstration().root, clips, thresholds, 10)


def test_faults_cost_no_wrong_answer_and_leave_nothing_behind(check, serve, exports, clips):
    check(serve, "faults", exports.demonstration().root, exports.bundle(TINY).root, clips, 1, 3)


def test_malformed_requests_are_the_clients_fault(check, serve, exports):
    assert "health was up all the time" in check(serve, "fuzz", exports.demonstration().root, 10)


def test_batches_form_when_sixteen_clients_ask(check, serve, exports, clips):
    said = check(serve, "overhead", exports.demonstration().root, clips, 20)
    (fill,) = [float(line.split(": ")[1].split()[0]) for line in said.splitlines() if "--mode throughput" in line]
    assert fill > 2
