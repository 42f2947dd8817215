"""The figures of the README are those that their command makes of today's sources; only times may differ."""

import math
import re

import pytest
from samples import DEMONSTRATION, ROOT

pytestmark = pytest.mark.full

FIGURES = ROOT / "docs" / "figures"
NAMES = ["curve.svg", "explain.svg"]
_NUMBER = re.compile(r"-?\d+\.\d+")


@pytest.fixture(scope="module")
def made(exports, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DEMONSTRATION))
        from figures import make
    folder = tmp_path_factory.mktemp("figures")
    make(exports.demonstration().root, folder)
    return folder


def stale(committed, made):
    """Return whether two figures differ in more than times, and numbers by less than half a point."""
    texts = [re.sub(r"[\d.]+ ms", "… ms", " ".join(text.split())) for text in (committed, made)]
    one, other = (_NUMBER.split(text) for text in texts)
    numbers = zip(*(map(float, _NUMBER.findall(text)) for text in texts), strict=False)
    return one != other or not all(math.isclose(a, b, abs_tol=0.5 if abs(a) > 2 else 2e-3) for a, b in numbers)


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_up_to_date(made, name):
    assert not stale((FIGURES / name).read_text(), (made / name).read_text()), "run 'make figures'"


@pytest.mark.parametrize("name", NAMES)
def test_a_stale_figure_is_found(name):
    text = (FIGURES / name).read_text()
    planted = {
        "curve.svg": ("optimal: each", "optimum: each"),
        "explain.svg": ('data-computed="true"', 'data-computed="false"'),
    }
    assert not stale(text, text)
    assert stale(text.replace(*planted[name], 1), text)
    moved = re.sub(r'(<circle|<use)([^>]*?x=")(\d+)', lambda m: f"{m[1]}{m[2]}{int(m[3]) + 9}", text, count=1)
    assert moved != text and stale(moved, text)


def test_they_are_small_and_shown():
    assert all((FIGURES / name).stat().st_size < 100_000 for name in NAMES)
    readme = (ROOT / "README.md").read_text()
    assert all(f"docs/figures/{name}" in readme for name in NAMES)
