"""Environments for what is too large for the project's own, or does not go with it."""

import os
import shutil
import subprocess
import sys
import tomllib

from samples import ROOT


def environment(exports, name, extras, *more, constrained=True):
    """Return the Python of an environment with what some extras need, and more; it is kept in .cache.

    The dynvid there may be older: put a folder with a link to this one on PYTHONPATH. Without constraints the versions are
    those that ``more`` and pyproject.toml name, where the project's own packages disagree with them.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in extras for one in project["optional-dependencies"][extra])]
    constraints, box = ROOT / "constraints.txt", ROOT / ".cache" / name
    held = ["-c", constraints] if constrained else []
    installed = box / "installed"
    content = "\n".join([sys.version, *wanted, *more, constraints.read_text() if constrained else ""])
    free = os.environ | {"PIP_CONSTRAINT": ""}
    with exports.turn(name):
        if not installed.exists() or installed.read_text() != content:
            subprocess.run([sys.executable, "-m", "venv", "--clear", box], check=True)
            subprocess.run([box / "bin/pip", "install", "--quiet", *held, *wanted, *more], check=True, env=free)
            source = box / "source"  # a build leaves files beside it
            shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "demo_output", "*.egg-info"))
            subprocess.run([box / "bin/pip", "install", "--quiet", "--no-deps", source], check=True, env=free)
            installed.write_text(content)
    return box / "bin/python"
