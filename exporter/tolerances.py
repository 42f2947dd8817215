"""The bounds of a proof, and the error when one is exceeded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..grid.errors import ProofError
from ..grid.manifest import Precision

BOUND: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "int8": 0.5}
SHARE = {"error": 0.75, "route": 0.5}
"""Of the fp16 bound, for a subgraph's own error and the route's: above, something stays fp32 (docs/measurements.md)."""
SEES = 10.0  # a lost state must exceed this many bounds


def require(holds: bool, what: str, value: Any, bound: float, at_least: bool = False) -> None:
    """Raise ``ProofError`` naming ``what``, its value and its bound, unless it ``holds``."""
    if not holds:
        raise ProofError(
            f"proof failed: {what}: {value}, expected {'above' if at_least else 'at most'} {bound} (standard deviations, or "
            "shares that agree). Where fp16 alone fails, export with --precision fp32; else a block breaks the protocol: run "
            "'python -m dynvid.models.conformance'."
        )


def require_bits(left: Mapping[str, NDArray[Any]], right: Mapping[str, NDArray[Any]], what: str) -> None:
    """Raise ``ProofError`` naming the first array of ``left`` that is not the same to the last bit in ``right``."""
    for name in left:
        if not np.array_equal(left[name], right[name], equal_nan=True):
            different = int((left[name] != right[name]).sum())
            raise ProofError(
                f"proof failed: {what} differ in {different} of {left[name].size} values of {name}, expected none. An operator "
                "of this block depends on how many rows it gets."
            )


def rounded(values: Any) -> list[float]:
    """Return ``values`` with three digits."""
    return [float(f"{float(v):.3g}") for v in values]
