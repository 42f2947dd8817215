"""Videos explained: a page, or a figure as SVG or PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...grid.errors import UsageError
from ...grid.packages import packages
from ...grid.storage.files import whole_file
from ..palette import DARK, LIGHT, in_colours
from ..render import read, render
from . import words
from .explanation import Explanation, Unexplained

FORMS = (".html", ".svg", ".png")
_WIDTH, _GAP, _WORDS, _LEGEND = 960, 24, 112, 24


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


def figure(found: Sequence[Explanation | Unexplained], dark: bool = True) -> str:
    """Return the videos as one SVG, one below the other; ``dark``: it turns dark where its reader prefers that."""
    style, tops, heights, y = read("figure.css"), list[int](), list[int](), 0
    columns = [66 + 44 * one.grid.input_sets + 40 for one in found if isinstance(one, Explanation)]
    checkpoints = [len(one.checkpoints) for one in found if isinstance(one, Explanation)]
    for one in found:
        tops.append(y)
        rows = (len(one.frames) + 7) // 8 if isinstance(one, Explanation) else 0
        heights.append(92 * rows + 16)
        lower = max(44 * one.grid.blocks + 60, 244) if isinstance(one, Explanation) else 0
        y += (_WORDS + heights[-1] + lower if lower else 50) + _GAP
    both = in_colours(style, LIGHT)
    if dark:
        both += "@media (prefers-color-scheme: dark) {\n" + in_colours(style, DARK) + "}\n"
    y += _LEGEND
    grid_width = max(columns, default=0)
    width = max(_WIDTH, grid_width + 60 + 56 * max(checkpoints, default=0))
    return render(
        "explain.svg.jinja", found=found, words=words, style=both, tops=tops, frames_heights=heights, height=y,
        width=width, grid_width=grid_width,
    )  # fmt: skip


def _png(svg: str) -> bytes:
    import resvg_py

    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=2, font_family="DejaVu Sans"))
