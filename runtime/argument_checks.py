"""Checks of arguments that people give from Python, where nothing else has read them before."""

from __future__ import annotations

import math
import os
from typing import TypeGuard

import numpy as np

from ..grid.errors import UsageError

_LONGEST_S = 1e6


def require_seconds(name: str, value: object) -> float:
    """Return a number of seconds, which may be negative.

    Raises:
        UsageError: If it is none, or is NaN, infinite or above a million.
    """
    if not _is_number(value) or not abs(value) <= _LONGEST_S:
        raise UsageError(f"{name} {_shown(value)}: expected seconds, at most {_LONGEST_S:g}")
    return float(value)


def require_share(name: str, value: object) -> float:
    """Return a number from 0 to 1.

    Raises:
        UsageError: If it is none.
    """
    if not _is_number(value) or not 0 <= value <= 1:
        raise UsageError(f"{name} {_shown(value)}: expected a number from 0 to 1")
    return float(value)


def require_count(name: str, value: object) -> int:
    """Return a whole number of at least 1.

    Raises:
        UsageError: If it is none.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{name} {_shown(value)}: expected a whole number of at least 1")
    return int(value)


def require_path(name: str, value: object) -> str | os.PathLike[str]:
    """Return a path.

    Raises:
        UsageError: If it is none.
    """
    if not isinstance(value, str | os.PathLike):
        raise UsageError(f"{name} {_shown(value)}: expected a path")
    return value


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _shown(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
