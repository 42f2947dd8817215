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
    "cli": {"grid", "models", "runtime", "calibration", "training", "exporter", "benchmarks"},
}
HEAVY = {"torch", "onnx", "onnxscript", "onnxruntime", "safetensors", "av", "numpy", "rich"}


def modules():
    return [p for name in FOLDERS for p in (ROOT / name).rglob("*.py")] + [ROOT / "cli.py"]


def imports(path):
    """Yield (absolute module, top-level statement?) of every import of a file; relative ones as dynvid.*."""
    package = ["dynvid", *path.relative_to(ROOT).parts[:-1]]
    tree = ast.parse(path.read_text())
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*base, *(node.module or "").split(".")]).strip("."), id(node) in top


def test_every_folder_with_code_is_shipped():
    listed = CONFIG["tool"]["setuptools"]["packages"]
    found = {"dynvid"} | {
        "dynvid." + ".".join(p.parent.relative_to(ROOT).parts)
        for name in FOLDERS
        for p in (ROOT / name).rglob("__init__.py")
    }
    assert sorted(listed) == sorted(found)


def test_the_root_holds_only_the_package_docstring_and_the_command_line():
    assert sorted(p.name for p in ROOT.glob("*.py")) == ["__init__.py", "cli.py"]
    assert len(ast.parse((ROOT / "__init__.py").read_text()).body) == 1


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down_only(path):
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for name, _ in imports(path):
        parts = name.split(".")
        if parts[0] == "dynvid" and len(parts) > 1 and parts[1] != own:
            assert parts[1] in ALLOWED[own], f"{path} imports {name}"
        assert parts[0] not in FOLDERS, f"{path} imports {name} absolutely"
        if own == "grid" and parts[0] != "dynvid":
            assert parts[0] in sys.stdlib_module_names, f"{path} imports {name}"
        if own in ("runtime", "calibration"):
            assert parts[0] not in ("torch", "onnx", "onnxscript", "safetensors"), f"{path} imports {name}"


def test_the_import_check_sees(tmp_path):
    bad = ROOT / "grid" / "topology.py"
    names = [name for name, _ in imports(bad)]
    assert "dynvid.grid.errors" in names
    assert "dynvid.models" not in names


def test_the_command_line_loads_nothing_heavy_at_import():
    assert not [name for name, top in imports(ROOT / "cli.py") if top and name.split(".")[0] in HEAVY]
    code = "import sys, dynvid.cli; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)


def test_version_is_that_of_the_project():
    done = subprocess.run([sys.executable, "-m", "dynvid.cli", "--version"], capture_output=True, text=True, check=True)
    assert CONFIG["project"]["version"] in done.stdout
