"""The newest packages on newer Pythons, and the oldest that pyproject.toml allows, classify the demonstration's clips."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from samples import ROOT

from dynvid.training.clips import write_clips

pytestmark = pytest.mark.full


def interpreter(version):
    """Return a Python of this version, from PATH or from pyenv's folder; None where there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for python in (shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}*/bin/python{version}"))):
        # what pyenv puts on PATH exists, and may still run nothing
        if python and subprocess.run([python, "--version"], capture_output=True).returncode == 0:
            return python
    return None


def oldest():
    """Return the requirements of a CPU, each at the oldest version that it may have."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["cpu"]]
    return [re.sub(r"([\w-]+)>=([\d.]+).*", r"\1==\2", requirement) for requirement in wanted]


@pytest.mark.parametrize(("version", "pinned"), [("3.11", oldest()), ("3.12", []), ("3.13", [])])
def test_an_installation_without_constraints_classifies(exports, tmp_path, version, pinned):
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    source = tmp_path / "source"  # a build leaves files beside the source
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "demo_output", "*.egg-info"))
    box = tmp_path / "venv"
    subprocess.run([python, "-m", "venv", box], check=True)
    free = os.environ | {"PIP_CONSTRAINT": ""}
    subprocess.run([box / "bin/pip", "install", "--quiet", *pinned, f"{source}[cpu]"], check=True, env=free)
    listed = subprocess.run([box / "bin/pip", "list"], check=True, capture_output=True, text=True).stdout
    write_clips(tmp_path / "clips", 2, seed=5)
    clips = sorted((tmp_path / "clips").rglob("*.mp4"))
    command = [box / "bin/dynvid", "classify", exports.demonstration().root, *clips, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, f"{done.stderr}{done.stdout}{listed}"
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(r["status"], r["damaged"]) for r in records] == [("ok", False)] * 2
    doctor = subprocess.run([box / "bin/dynvid", "doctor", "--json"], capture_output=True, text=True, cwd=tmp_path)
    decoder = json.loads(doctor.stdout)["decoder"]
    print(python, decoder, [(r["label"], r["frames_decoded"]) for r in records])
    assert doctor.returncode == 0 and decoder["works"]
