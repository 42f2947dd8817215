"""The colours of every page and figure, light and dark."""

from __future__ import annotations

import re
from html import escape

LIGHT = {
    "paper": "#ffffff",
    "wash": "#f6f8fa",
    "ink": "#1f2328",
    "soft": "#5c656e",
    "rule": "#d9dfe5",
    "blue": "#0072b2",
    "red": "#b34700",
    "green": "#00795a",
}
"""By name: three that the colour-blind tell apart (after Okabe and Ito, 2008, dark enough for text), and greys."""

DARK = {
    "paper": "#16191d",
    "wash": "#20252b",
    "ink": "#e3e6ea",
    "soft": "#98a2ad",
    "rule": "#353c44",
    "blue": "#4fa8e3",
    "red": "#ff8c42",
    "green": "#3cc79d",
}

PAPER, WASH, INK, SOFT, RULE, BLUE, RED, GREEN = LIGHT.values()


def in_colours(style: str, colours: dict[str, str]) -> str:
    """Return a style sheet with each ``var(--name)`` written out, for figures outside a page."""
    return re.sub(r"var\(--([a-z]+)\)", lambda found: colours[found[1]], style)


def follows_the_reader(svg: str, label: str) -> str:
    """Return an SVG in the light palette that turns dark where its reader prefers that; other viewers see it light.

    Args:
        svg: text of a file.
        label: what it shows, for who cannot see it.
    """
    rules = [
        f'[style*="{what}: {LIGHT[name]}"], [{what}="{LIGHT[name]}"] {{ {what}: {DARK[name]} !important }}'
        for name in LIGHT
        for what in ("fill", "stroke")
        if LIGHT[name] in svg
    ]
    style = "<style>@media (prefers-color-scheme: dark) {\n" + "\n".join(rules) + "\n}</style>"
    start = f'<svg role="img" aria-label="{escape(label)}"'
    return re.sub(r"<svg([^>]*>)", lambda tag: f"{start}{tag[1]}\n{style}", svg, count=1)
