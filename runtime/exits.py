"""The exit rule: what one checkpoint's answer means for its video."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..grid.route import Route
from ..grid.thresholds import check_temperatures, check_thresholds
from .confidence import confidence


class Verdict(NamedTuple):
    """What a checkpoint says about a video.

    Attributes:
        class_index: the most probable class; None if an output is NaN or infinite, since no class is named then.
        confidence: after temperature scaling; None when ``class_index`` is.
        leaves: whether the video exits here.
    """

    class_index: int | None
    confidence: float | None
    leaves: bool


class ExitRule:
    """A video leaves at the first checkpoint whose confidence exceeds its threshold; the last one always answers.

    Args:
        route: the route with the checkpoints.
        thresholds: one per checkpoint, the last None; None: every video runs to the end of the route.
        temperatures: one per checkpoint, those that the thresholds were chosen with; None: confidences stay unscaled.

    Raises:
        ThresholdsError: If the thresholds or temperatures do not fit the route.
    """

    def __init__(
        self, route: Route, thresholds: Sequence[float | None] | None, temperatures: Sequence[float] | None
    ) -> None:
        count = len(route.cells)
        self._thresholds: tuple[float | None, ...] = (*[math.inf] * (count - 1), None)
        if thresholds is not None:
            self._thresholds = check_thresholds(tuple(thresholds), count, "given")
        self._temperatures = check_temperatures(None if temperatures is None else tuple(temperatures), count, "given")

    def judge(self, index: int, logits: NDArray[np.float32], probabilities: NDArray[np.float32]) -> Verdict:
        """Return the verdict on one video at checkpoint ``index`` (1-based); both arrays are [classes].

        NaN or infinity ends the video without a class.
        """
        if not (np.isfinite(logits).all() and np.isfinite(probabilities).all()):
            return Verdict(None, None, True)
        sure = confidence(probabilities, self._temperatures[index - 1])
        threshold = self._thresholds[index - 1]
        return Verdict(int(probabilities.argmax()), sure, threshold is None or sure > threshold)
