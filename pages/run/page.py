"""The page of a run: its figures, and the videos to look at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...grid.errors import InputRefusedError, UsageError
from ...grid.preprocessing import Preprocessing
from ...grid.storage.files import whole_file
from ...runtime.video.decoder import Decoder
from ..render import read, render
from ..thumbnail import SIDE, thumbnail
from . import words
from .figures import RunFigures
from .lines import VideoLine

MOST_LISTED = 2000
"""Rows of the table of all videos."""

_EARLY_OR_LATE, _WRONG = 8, 16
_SHOWN = 3  # frames of a video


@dataclass(frozen=True)
class Pictures:
    """Frames of a video as ``data:`` addresses, or why there are none."""

    images: tuple[str, ...]
    error: str | None = None


def require_page(output: Path, option: str = "-o") -> None:
    """Make sure before the work that a page of this name can be written.

    Raises:
        UsageError: If its name does not end in .html.
    """
    if output.suffix.lower() != ".html":
        raise UsageError(f"{option} {str(output)!r}: expected the name of a page, which ends in .html")


def write(figures: RunFigures, setting: str, no_drift: str, output: Path) -> None:
    """Write the page of a run.

    Args:
        figures: of the run.
        setting: which run it was, in words.
        no_drift: why it was not compared with calibration.
        output: the page.

    Raises:
        ResourceError: If it cannot be written.
    """
    shown = {
        "earliest": figures.earliest(_EARLY_OR_LATE),
        "latest": figures.latest(_EARLY_OR_LATE),
        "wrong": figures.wrong(_WRONG),
    }
    pictures = pictures_of({line.video for lines in shown.values() for line in lines})
    content = page(figures, setting, no_drift, shown, pictures)
    with whole_file(output, "page", "give another place") as file:
        file.write(content.encode())


def page(
    figures: RunFigures, setting: str, no_drift: str, shown: dict[str, list[VideoLine]], pictures: dict[str, Pictures]
) -> str:
    """Return the page; its JSON ``data`` holds the figures that are shown."""
    return render(
        "report.html.jinja", script=read("sort.js"), figures=figures, setting=setting, no_drift=no_drift, shown=shown,
        pictures=pictures, listed=figures.lines[:MOST_LISTED], words=words, shade=_shade, data=figures.to_json(),
    )  # fmt: skip


def pictures_of(videos: Iterable[str]) -> dict[str, Pictures]:
    """Return three frames of each video, read by the decoder that the network's frames come from."""
    small = Preprocessing(short_side=SIDE, crop=SIDE)
    found = {}
    with Decoder() as decoder:
        for video in videos:
            try:
                with decoder.open(video, small, _SHOWN) as source:
                    images = source.pixels(range(_SHOWN))
                found[video] = Pictures(tuple(map(thumbnail, images)))
            except InputRefusedError:
                found[video] = Pictures((), "no picture: it cannot be read from here, or holds no pixels")
    return found


def _shade(index: int, count: int) -> str:
    """Return the opacity of the bar of an exit, from dark to light."""
    return f"{1 - 0.8 * index / max(count - 1, 1):.2f}"
