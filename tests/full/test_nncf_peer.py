"""The peer that NNCF quantises, which is installed apart: it wants many packages that nothing else here needs."""

import json
import os
import shutil
import subprocess

import pytest
from environments import environment
from samples import DEMONSTRATION, ROOT

pytestmark = pytest.mark.full


def test_a_bench_beside_nncf(exports, tmp_path):
    python = environment(exports, "nncf", ["export", "cpu", "nncf", "bench"])
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "dynvid").symlink_to(ROOT)
    bundle = shutil.copytree(exports.demonstration().root, tmp_path / "demonstration.bundle")
    done = subprocess.run(
        [
            python, "-m", "dynvid.cli", "bench", bundle, DEMONSTRATION / "network.pth", "--peer", "openvino", "--peer", "nncf", "--clips",
            "12", "--seconds", "1", "--stream-seconds", "1", "-o", "report", "--json",
        ],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "path")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    fp32, int8 = json.loads(done.stdout)["peers"]
    print([(peer["name"], peer["latency"]["mean_ms"]["value"]) for peer in (fp32, int8)])
    assert (fp32["precision"], int8["precision"]) == ("fp32", "int8")
    assert "with NNCF" in int8["name"] and int8["name"].endswith("int8, without shift")
    assert all(0 < peer["point_over"]["low"] <= peer["point_over"]["high"] for peer in (fp32, int8))


def test_what_nncf_cannot_quantise_is_one_line(exports, tmp_path):
    python = environment(exports, "nncf", ["export", "cpu", "nncf", "bench"])
    (tmp_path / "dynvid").symlink_to(ROOT)
    script = (
        "import numpy as np, onnx; from onnx import helper as h\n"
        "from dynvid.benchmarks.measure.nncf_peer import quantised\n"
        "port = lambda n, s: h.make_tensor_value_info(n, 1, s)\n"
        "weights = h.make_tensor('w', 1, [2, 3, 1, 1], np.ones(6, np.float32))\n"
        "graph = h.make_graph([h.make_node('Conv', ['frames', 'w'], ['logits'])], 'g', [port('frames', [1, 3, 4, 4])], "
        "[port('logits', [1, 2, 4, 4])], [weights])\n"
        "model = h.make_model(graph, opset_imports=[h.make_opsetid('', 18)], ir_version=9)\n"
        "quantised(model.SerializeToString(), np.zeros((1, 3, 4), np.float32))\n"  # clips of other shapes
    )
    done = subprocess.run(
        [python, "-c", script], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert "BackendError: peer 'nncf': NNCF" in done.stderr, done.stderr
    assert done.stderr.endswith("Leave the peer out.\n") and "Exception from" not in done.stderr.splitlines()[-1]
