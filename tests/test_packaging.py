"""The package as it is laid out: what is shipped, who may import whom, and what an import loads."""

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from samples import ROOT

CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = sorted(p.name for p in ROOT.iterdir() if (p / "__init__.py").exists())

HEAVY = {"torch", "onnx", "onnxscript", "onnxruntime", "safetensors", "av", "numpy", "rich"}


def lint_imports(parent, planted=()):
    """Lint a copy of the package under ``parent``, with lines appended to files of it; return exit code and output."""
    package = parent / "dynvid"
    package.mkdir()
    for source in [*(ROOT / name for name in FOLDERS), *ROOT.glob("*.py"), ROOT / "pyproject.toml"]:
        (shutil.copytree if source.is_dir() else shutil.copy)(source, package / source.name)
    for file, line in planted:
        (package / file).write_text((package / file).read_text() + f"\n{line}\n")
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=package, env=os.environ | {"PYTHONPATH": str(parent)}, capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_every_folder_with_code_is_shipped():
    listed = CONFIG["tool"]["setuptools"]["packages"]
    found = {"dynvid"} | {
        "dynvid." + ".".join(p.parent.relative_to(ROOT).parts)
        for name in FOLDERS
        for p in (ROOT / name).rglob("__init__.py")
    }
    assert sorted(listed) == sorted(found)


def test_the_root_holds_only_the_front_door_and_the_command_line():
    assert sorted(p.name for p in ROOT.glob("*.py")) == ["__init__.py", "cli.py"]


PLANTED = {
    "upwards": ("grid/route.py", "from ..models import registry", "dynvid.grid is not allowed to import dynvid.models"),
    "across": ("models/shift.py", "from ..runtime.session import Session", "dynvid.models is not allowed to import dynvid.runtime"),
    "a circle of files": ("runtime/execution/state_store.py", "from . import executor", "No cycles are allowed in dynvid.runtime.execution"),
    "a circle of folders": ("runtime/execution/state_store.py", "from ..stream import stream", "No cycles are allowed in dynvid.runtime."),
    "torch in a function": ("runtime/session.py", "def f():\n    import torch", "is not allowed to import torch"),
    "numpy in the vocabulary": ("grid/route.py", "import numpy", "is not allowed to import numpy"),
}  # fmt: skip


def test_imports_point_down_and_never_in_a_circle(tmp_path):
    code, said = lint_imports(tmp_path)
    assert code == 0, said


@pytest.mark.parametrize("fault", PLANTED)
def test_the_import_linter_sees(tmp_path, fault):
    file, line, message = PLANTED[fault]
    code, said = lint_imports(tmp_path, [(file, line)])
    assert code == 1
    assert message in " ".join(said.split())


def test_the_command_line_loads_nothing_heavy_at_import():
    code = "import sys, dynvid.cli; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)


def test_version_is_that_of_the_project():
    done = subprocess.run([sys.executable, "-m", "dynvid.cli", "--version"], capture_output=True, text=True, check=True)
    assert CONFIG["project"]["version"] in done.stdout


def modules_of(texts):
    """Return what is imported from dynvid in texts of Python, also within strings: (module, name)."""
    found = set()
    for text in texts:
        for module, names in re.findall(r"from (dynvid[\w.]*) import (\([^)]*\)|[\w, ]+)", text):
            found |= {(module, name.split(" as ")[0].strip()) for name in names.strip("()").split(",") if name.strip()}
    return found


def missing(imports):
    """Return those that nothing here answers to."""

    def resolves(module, name):
        try:
            return hasattr(importlib.import_module(module), name) or bool(importlib.util.find_spec(f"{module}.{name}"))
        except ModuleNotFoundError:
            return False

    return sorted((module, name) for module, name in imports if not resolves(module, name))


def test_what_examples_and_scripts_within_tests_import_is_there():
    """No lint reads scripts that tests write, and none runs the examples that take minutes."""
    elsewhere = {ROOT / "examples" / "speed" / "two_installations.py", Path(__file__)}  # of an older installation, too
    files = {path for folder in ("tests", "examples") for path in (ROOT / folder).rglob("*.py")} - elsewhere
    imports = modules_of(path.read_text() for path in files)
    assert len(imports) > 300 and not missing(imports)


def test_a_name_that_moved_away_is_found():
    script = 'run("from dynvid.calibration import range_pass, drift\\nfrom dynvid.gone import x")'
    assert missing(modules_of([script])) == [("dynvid.calibration", "range_pass"), ("dynvid.gone", "x")]
