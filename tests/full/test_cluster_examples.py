"""The examples for Slurm and Kubernetes, run as their schedulers would run them, classify every video once."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from samples import ROOT, write_noise

pytestmark = pytest.mark.full

VIDEOS, TASKS = 7, 2


@pytest.fixture
def folder(tiny_bundle, tmp_path):
    """Return a folder with a list, thresholds, and ``dynvid`` on the path of its ``bin``."""
    write_noise(tmp_path, VIDEOS)
    (tmp_path / "list.csv").write_text("video\n" + "".join(f"{i}.npy\n" for i in range(VIDEOS)))
    thresholds = {"bundle_sha256": tiny_bundle.sha256, "thresholds": [0.4, 0.4, 0.4, None]}
    (tmp_path / "T.json").write_text(json.dumps(thresholds))
    (tmp_path / "model.bundle").symlink_to(tiny_bundle.root)
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "dynvid"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dynvid.cli "$@"\n')
    command.chmod(0o755)
    return tmp_path


def run(folder, command, **variables):
    paths = {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
    }
    done = subprocess.run(command, cwd=folder, env=os.environ | paths | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def merged(folder, results):
    assert "7 videos of 7 lines in 2 files, 0 failed, 0 missing" in run(
        folder, ["dynvid", "merge", results, "-o", f"{results.replace('/', '-')}.jsonl"]
    )
    return True


def test_slurm(folder):
    script = ROOT / "examples" / "cluster" / "slurm.sh"
    for task in range(1, TASKS + 1):
        run(
            folder, ["sh", script, "model.bundle", "T.json", "list.csv", "results/first"], SLURM_ARRAY_TASK_ID=str(task),
            SLURM_ARRAY_TASK_COUNT=str(TASKS), SLURM_CPUS_PER_TASK="1",
        )  # fmt: skip
    assert merged(folder, "results/first")


def test_kubernetes(folder):
    job = yaml.safe_load((ROOT / "examples" / "cluster" / "kubernetes.yaml").read_text())["spec"]
    (container,) = job["template"]["spec"]["containers"]
    (script,) = container["args"]
    assert job["completionMode"] == "Indexed" and f'/{job["completions"]}"' in script
    script = script.replace("/data/", f"{folder}/").replace(f'/{job["completions"]}"', f'/{TASKS}"')
    (name,) = container["env"]
    for job in ("one", "other"):  # two jobs at once have a folder each
        for index in range(TASKS):
            run(
                folder, [*container["command"], script], JOB_COMPLETION_INDEX=str(index), **{name["name"]: job}
            )  # fmt: skip
    assert merged(folder, "results/one") and merged(folder, "results/other")
