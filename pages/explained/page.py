"""Videos explained: a page, or a figure as SVG or PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ...grid.errors import UsageError
from ...grid.packages import packages
from ...grid.storage.files import whole_file
from ..fitting import wrapped
from ..legible import legible
from ..palette import DARK, LIGHT, in_colours
from ..render import read, render
from . import words
from .explanation import Explanation, Unexplained

FORMS = (".html", ".svg", ".png")
_WIDTH, _BARS, _GAP, _LEGEND = 960, 410, 28, 48


@dataclass(frozen=True)
class Setting:
    """What ran: the network, its bundle, what computed, and the thresholds' file, None without thresholds.

    A ``static`` network answers once, so it has none.
    """

    network: str
    bundle: str
    runs: str
    thresholds: str | None
    static: bool = False


def require_form(output: Path) -> None:
    """Make sure before the work that a file of this name can be written.

    Raises:
        UsageError: If its name does not end in .html, .svg or .png.
        MissingPackageError: If a PNG is asked for, and what draws it is not installed.
    """
    if output.suffix.lower() not in FORMS:
        raise UsageError(f"-o {str(output)!r}: expected a name that ends in {', '.join(FORMS[:-1])} or {FORMS[-1]}")
    if output.suffix.lower() == ".png":
        with packages("pages"):
            import resvg_py  # noqa: F401


def write(found: Sequence[Explanation | Unexplained], setting: Setting, output: Path) -> None:
    """Write videos explained, in the form that the file's name says.

    Raises:
        UsageError, MissingPackageError: As ``require_form``.
        ResourceError: If it cannot be written.
    """
    require_form(output)
    form = output.suffix.lower()
    content = page(found, setting) if form == ".html" else figure(found, dark=form == ".svg")
    with whole_file(output, "page", "give another -o") as file:
        file.write(_png(content) if form == ".png" else content.encode())


def page(found: Sequence[Explanation | Unexplained], setting: Setting) -> str:
    """Return the page; its JSON ``data`` holds every figure that is drawn."""
    return render("explain.html.jinja", found=found, setting=setting, words=words, data=to_json(found, setting))


def to_json(found: Sequence[Explanation | Unexplained], setting: Setting) -> dict[str, Any]:
    """Return everything but the pictures, as ``dynvid explain --json`` prints it."""
    return {**asdict(setting), "videos": [one.to_json() for one in found]}


class _Place(NamedTuple):
    """Where a video stands in a figure: its top, its words in lines, its frames, and its grid; the end of all that."""

    top: int
    lines: list[str]
    frames: int
    grid: int
    end: int


def figure(found: Sequence[Explanation | Unexplained], dark: bool = True) -> str:
    """Return the videos as one SVG, one below the other; ``dark``: it turns dark where its reader prefers that."""
    explained = [one for one in found if isinstance(one, Explanation)]
    grid_width = max((66 + 44 * one.grid.input_sets + 50 for one in explained), default=0)
    width = max(_WIDTH, grid_width + _BARS)
    places, y = list[_Place](), 0
    for one in found:
        places.append(_place(one, y, width))
        y = places[-1].end + _GAP
    style = read("figure.css")
    both = in_colours(style, LIGHT)
    if dark:
        both += "@media (prefers-color-scheme: dark) {\n" + in_colours(style, DARK) + "}\n"
    return render(
        "explain.svg.jinja", found=found, words=words, style=both, places=places, height=y + _LEGEND, width=width,
        grid_width=grid_width,
    )  # fmt: skip


def _place(one: Explanation | Unexplained, top: int, width: int) -> _Place:
    said = legible(one.error) if isinstance(one, Unexplained) else words.verdict(one)
    lines = wrapped(said, width - 40)
    frames = top + 48 + 18 * len(lines) + 4
    if isinstance(one, Unexplained):
        return _Place(top, lines, frames, frames, frames)
    grid = frames + 92 * ((len(one.frames) + 7) // 8) + 16
    below = max(map(len, words.below(one.grid)))
    lower = max(44 * one.grid.blocks + 42 + 15 * below, 34 * len(one.checkpoints) + 50)
    return _Place(top, lines, frames, grid, grid + lower)


def _png(svg: str) -> bytes:
    import resvg_py

    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=2, font_family="DejaVu Sans"))
