"""Plots in the one style of the project, as SVG whose bytes are the same each time."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.figure import Figure

from .palette import INK, PAPER, RULE, SOFT

_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": RULE,
    "axes.facecolor": PAPER,
    "axes.grid": True,
    "axes.labelcolor": SOFT,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.titlecolor": INK,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,  # a name may hold a dollar
    "xtick.color": RULE,
    "xtick.labelcolor": SOFT,
    "ytick.color": RULE,
    "ytick.labelcolor": SOFT,
}


def draw(name: str, inches: tuple[float, float], paint: Callable[[Figure], None]) -> str:
    """Return a plot as the text of an SVG file; text in it stays text.

    Args:
        name: unlike that of any other plot on the same page: ids are made of it.
        inches: width, height.
        paint: draws on an empty figure.
    """
    content = BytesIO()
    with rc_context():
        rcdefaults()  # not what the user's matplotlibrc says
        rcParams.update({**_STYLE, "svg.hashsalt": name})
        figure = Figure(figsize=inches, layout="constrained")
        paint(figure)
        figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue().decode()
