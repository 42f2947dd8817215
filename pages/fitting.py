"""Text that fits a figure. SVG neither wraps nor shortens, so widths are estimated, rather too wide than too narrow."""

from __future__ import annotations

import unicodedata

from .legible import legible

_BOLD = 1.13
_WIDTHS = {
    **dict.fromkeys(" .,:;'|!ijl", 4.2), **dict.fromkeys('ftr-()[]/"', 5.5), **dict.fromkeys("+<=>#~^&", 10.1),
    **dict.fromkeys("mwMW@%", 12.0), **dict.fromkeys("ABCDEFGHJKLNOPQRSTUVXYZ", 9.5),
}  # fmt: skip


def fitted(text: str, pixels: float, bold: bool = False) -> str:
    """Return legible text of at most so many ``pixels`` at 12 pixels' size; what is too long ends in an ellipsis."""
    text, room = legible(text), pixels / (_BOLD if bold else 1)
    if _width(text) <= room:
        return text
    room -= _width("…")
    for count, one in enumerate(text):
        room -= _width(one)
        if room < 0:
            return text[:count].rstrip() + "…"
    return text


def wrapped(text: str, pixels: float) -> list[str]:
    """Return text as lines of at most so many ``pixels`` at 12 pixels' size, broken at spaces."""
    lines = [""]
    for word in (fitted(word, pixels) for word in text.split()):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _width(longer) > pixels:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _width(text: str) -> float:
    """Return about how wide DejaVu Sans draws it at 12 pixels."""
    return sum(
        _WIDTHS.get(one, 7.7) if one.isascii() else 14.0 if unicodedata.east_asian_width(one) in "WF" else 12.0
        for one in text
    )
