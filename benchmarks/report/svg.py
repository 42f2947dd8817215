"""Plots as elements of a page, whose style sheet colours them, light or dark; and where their labels stand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from matplotlib import colormaps
from matplotlib.colors import to_hex

from ...pages.palette import LIGHT, SOFT


def page_svg(text: str, label: str) -> str:
    """Return an SVG file of matplotlib's as an element: no links, no style of its own, colours and font of the page.

    Args:
        text: of the file.
        label: what the plot shows, for who cannot see it.
    """
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"| version="1.1"|(?<=<g) id="[^"]*"', "", text)
    text = text.replace("xlink:href=", "href=")
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), text)  # hundredths of a point do
    for name, colour in LIGHT.items():
        text = text.replace(colour, f"var(--{name})")
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def sequence(count: int) -> list[str]:
    """Return so many colours in an order that is seen without colour too: from dark to light."""
    return [to_hex(colormaps["viridis"](0.28 + 0.55 * k / max(count - 1, 1))) for k in range(count)]


def text_colour(colour: str) -> str:
    """Return white or black for text on a colour; not the white of the page, which turns dark."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#fefefe" if 0.3 * red + 0.59 * green + 0.11 * blue < 140 else "#000000"


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Return the heights moved apart until labels there do not touch, each as near to its own as that allows.

    Args:
        heights: in any order.
        gap: the least distance of two.
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    groups: list[tuple[float, int]] = []  # mean of the lowest places that its labels ask for, and how many they are
    for place, i in enumerate(order):
        mean, size = heights[i] - place * gap, 1
        while groups and groups[-1][0] > mean:
            below, count = groups.pop()
            mean, size = (mean * size + below * count) / (size + count), size + count
        groups.append((mean, size))
    lowest = [mean for mean, size in groups for _ in range(size)]
    moved = dict(zip(order, (low + place * gap for place, low in enumerate(lowest)), strict=True))
    return [moved[i] for i in range(len(heights))]


def stack(places: Sequence[tuple[float, float]], reach: float, gap: float) -> list[tuple[float, float]]:
    """Return the places of labels, from the left each lifted over those before that are nearer than ``reach``.

    Args:
        places: x, y of each, in any order.
        reach: how long a label is.
        gap: how high.
    """
    moved = list(places)
    done: list[tuple[float, float]] = []
    for i in sorted(range(len(places)), key=lambda i: places[i]):
        x, y = places[i]
        moved[i] = (x, max([y, *(height + gap for left, height in done if x - left < reach)]))
        done.append(moved[i])
    return moved


def name_points(
    axes: Any, points: Sequence[tuple[str, float, float, str]], side: Literal["left", "right"], width: float, gap: float
) -> None:
    """Write the names of points to their left and above, or to their right and below, so that no two touch.

    Args:
        axes: to write on.
        points: name, x, y, colour.
        side: where there is room.
        width: of the axes, in data.
        gap: height of a line of text, in data.
    """
    sign = 1 if side == "left" else -1
    wanted = [(sign * x, sign * y + 0.7 * gap) for _, x, y, _ in points]
    places = [(sign * x, sign * y) for x, y in stack(wanted, 0.085 * width, gap)]
    for (name, x, y, colour), (_, height) in zip(points, places, strict=True):
        to = (x - sign * 0.012 * width, height)
        line = abs(height - y) > 1.2 * gap
        say(axes, name, (x, y), to, line, ha="right" if side == "left" else "left", va="center", color=colour)


def say(
    axes: Any, text: str, at: tuple[float, float], to: tuple[float, float], line: bool = True, **options: Any
) -> None:
    """Write a label at ``to`` of what is at ``at``, in data; ``line``: with a thin one between them."""
    end = (1, 0.5) if options.get("ha") == "right" else (0, 0.5)
    arrow = {"arrowstyle": "-", "color": SOFT, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3, "relpos": end}
    axes.annotate(text, at, xytext=to, arrowprops=arrow if line else None, annotation_clip=False, **options)
