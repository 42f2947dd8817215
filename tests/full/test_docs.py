"""The site builds by the command of `make docs`, and a broken link or anchor fails it."""

import re
import shutil
import subprocess
import sys

import pytest
from samples import ROOT

pytestmark = pytest.mark.full

_PAGES = ["docs", "mkdocs.yml", "__init__.py", "api", "calibration", "grid", "pages", "runtime"]


def command():
    """Return what the Makefile's target runs, by this Python."""
    (recipe,) = re.findall(r"^docs:.*\n\t(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    program, *options = recipe.split()
    assert program == "$(BIN)/mkdocs"
    return [sys.executable, "-m", "mkdocs", *options]


@pytest.fixture
def copied(tmp_path):
    for name in _PAGES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    return tmp_path


def build(folder):
    return subprocess.run(command(), cwd=folder, capture_output=True, text=True, check=False)


def test_the_site_builds(copied):
    done = build(copied)
    assert done.returncode == 0, done.stderr
    page = (copied / "build" / "site" / "reference" / "python.html").read_text()
    assert "max_in_flight_mb" in page and "classify_many" in page


@pytest.mark.parametrize("target", ["guides/nowhere.md", "index.md#nowhere"])
def test_a_broken_link_fails_it(copied, target):
    with (copied / "docs" / "index.md").open("a") as page:
        page.write(f"\n[away]({target})\n")
    done = build(copied)
    assert done.returncode != 0 and "nowhere" in done.stderr
