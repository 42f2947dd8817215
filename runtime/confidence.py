"""The confidence that is compared with a threshold: the highest probability, temperature-scaled if calibrated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def confidence(probabilities: NDArray[np.floating], temperature: float = 1.0) -> float:
    """Return the confidence of one answer.

    ``softmax(logits / temperature)`` can be computed from ``softmax(logits)`` alone: raise every probability to the
    power ``1 / temperature`` and normalise (temperature scaling, Guo et al. 2017). The order of the classes does not
    change. Runtime and calibration both call this function, for one answer at a time, so that they agree to the last
    bit.

    Args:
        probabilities: softmax of one answer, [classes], finite.
        temperature: above 0; a temperature above 1 lowers the confidence.
    """
    highest = probabilities.max()
    if temperature == 1.0:
        return float(highest)
    relative = probabilities.astype(np.float64) / np.float64(highest)
    return float(1.0 / np.power(relative, 1.0 / temperature).sum())
