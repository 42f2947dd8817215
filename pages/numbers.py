"""How figures are written on pages and terminals."""

from __future__ import annotations

import math

NONE = "–"
"""Where there is no figure."""


def number(value: float | None) -> str:
    """Return three significant digits or more, never an exponent for what is measured here; a dash for no number."""
    if value is None or not math.isfinite(value):
        return NONE
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{decimals}f}"


def significant(value: float) -> str:
    """Return three significant digits, also of what is far below one; no exponent from 0.0001 on."""
    return f"{value:.3g}" if abs(value) < 1 else number(value)


def share(value: float | None) -> str:
    """Return a share as percents."""
    return NONE if value is None or not math.isfinite(value) else f"{value:.1%}"


def counted(count: int, what: str) -> str:
    """Return a count with its noun, such as ``1 frame`` and ``2 frames``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def saving(used: float, whole: float) -> str:
    """Return multiply-adds beside those of the static network, and as one number how many were saved."""
    saved = 1 - used / whole
    said = f"{saved:.1%} saved" if saved >= 0 else f"{-saved:.1%} more"
    return f"{significant(used)} of {significant(whole)} GMACs: {said}"
