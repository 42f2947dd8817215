"""The package as it is laid out: what is shipped, who may import whom, and what an import loads."""

import ast
import subprocess
import sys
import tomllib

import pytest
from samples import ROOT

CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = sorted(p.name for p in ROOT.iterdir() if (p / "__init__.py").exists())

ALLOWED = {
    "grid": set(),
    "models": {"grid"},
    "runtime": {"grid"},
    "calibration": {"grid", "runtime"},
    "training": {"grid", "models", "runtime"},
    "exporter": {"grid", "models", "runtime", "calibration"},
    "benchmarks": {"grid", "models", "runtime", "calibration"},
    "terminal": {"grid", "calibration", "exporter"},
    "commands": {"grid", "models", "runtime", "calibration", "training", "exporter", "benchmarks", "terminal", "api"},
    "api": {"grid", "models", "runtime", "calibration", "training", "exporter", "benchmarks"},
    "__init__": {"api"},
    "cli": {"grid", "commands"},
}
HEAVY = {"torch", "onnx", "onnxscript", "onnxruntime", "safetensors", "av", "numpy", "rich"}


def modules():
    return [p for name in FOLDERS for p in (ROOT / name).rglob("*.py")] + sorted(ROOT.glob("*.py"))


def imports(path, root=ROOT):
    """Yield (absolute module, top-level statement?) of every import of a file; relative ones as dynvid.*."""
    package = ["dynvid", *path.relative_to(root).parts[:-1]]
    tree = ast.parse(path.read_text())
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            for module in [node.module] if node.module else [alias.name for alias in node.names]:
                yield ".".join([*base, module]), id(node) in top


def violations(path, root=ROOT):
    """Return what a file may not import."""
    own = path.relative_to(root).parts[0].removesuffix(".py")
    found = []
    for name, _ in imports(path, root):
        parts = name.split(".")
        upward = parts[0] == "dynvid" and len(parts) > 1 and parts[1] != own and parts[1] not in ALLOWED[own]
        outside = own == "grid" and parts[0] != "dynvid" and parts[0] not in sys.stdlib_module_names
        heavy = own in ("runtime", "calibration") and parts[0] in ("torch", "onnx", "onnxscript", "safetensors")
        if upward or outside or heavy or parts[0] in FOLDERS:
            found.append(name)
    return found


def test_every_folder_with_code_is_shipped():
    listed = CONFIG["tool"]["setuptools"]["packages"]
    found = {"dynvid"} | {
        "dynvid." + ".".join(p.parent.relative_to(ROOT).parts)
        for name in FOLDERS
        for p in (ROOT / name).rglob("__init__.py")
    }
    assert sorted(listed) == sorted(found)


def test_the_root_holds_only_the_front_door_and_the_command_line_with_its_printing():
    assert sorted(p.name for p in ROOT.glob("*.py")) == ["__init__.py", "api.py", "cli.py", "terminal.py"]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down_only(path):
    assert violations(path) == []


@pytest.mark.parametrize(
    ("folder", "line", "name"),
    [
        ("grid", "from ..models import registry", "dynvid.models"),
        ("grid", "from .. import exporter", "dynvid.exporter"),
        ("grid", "import numpy", "numpy"),
        ("runtime", "def f():\n    import torch", "torch"),
        ("runtime", "from ..models.shift import Shift", "dynvid.models.shift"),
        ("models", "from ..runtime.session import Session", "dynvid.runtime.session"),
        ("exporter", "import grid", "grid"),
    ],
)
def test_the_import_check_sees(tmp_path, folder, line, name):
    (tmp_path / folder).mkdir()
    path = tmp_path / folder / "bad.py"
    path.write_text(line + "\n")
    assert violations(path, tmp_path) == [name]


def test_the_command_line_loads_nothing_heavy_at_import():
    assert not [name for name, top in imports(ROOT / "cli.py") if top and name.split(".")[0] in HEAVY]
    code = "import sys, dynvid.cli; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)


def test_version_is_that_of_the_project():
    done = subprocess.run([sys.executable, "-m", "dynvid.cli", "--version"], capture_output=True, text=True, check=True)
    assert CONFIG["project"]["version"] in done.stdout
