"""Names of files and classes as a person can read them, on pages and terminals."""

from __future__ import annotations

_JOINERS = "\u200c\u200d"  # between the letters of some scripts, and of emoji


def legible(text: str) -> str:
    r"""Return text with what cannot be seen, or written in UTF-8 or XML, as escapes such as ``\x1b``."""
    return "".join(
        one if one.isprintable() or one in _JOINERS else one.encode("unicode_escape", "surrogatepass").decode()
        for one in text
    )
