"""Temperature scaling, one temperature per checkpoint, and the reliability table that shows its effect."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .answers import Answers

BINS = 15  # of the reliability table (Guo et al. 2017)
_LOW, _HIGH = 0.05, 20.0


def fit_temperatures(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> tuple[float, ...]:
    """Return every exit's temperature of maximum likelihood for the labels (temperature scaling, Guo et al. 2017).

    It is found by golden-section search on its logarithm; the loss has one minimum in 1/temperature. An exit gets 1
    if no temperature within [0.05, 20] is best, for example because every answer is right.

    Args:
        probabilities: [exits, videos, classes].
        labels: [videos].
    """
    return tuple(_fit(np.log(np.maximum(p.astype(np.float64), 1e-45)), labels) for p in probabilities)


def _fit(log_p: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    log_p = log_p - log_p.max(axis=1, keepdims=True)
    of_label = log_p[np.arange(len(labels)), labels].mean()

    def loss(log_temperature: float) -> float:
        beta = np.exp(-log_temperature)
        return float(np.log(np.exp(beta * log_p).sum(axis=1)).mean() - beta * of_label)

    low, high, golden = float(np.log(_LOW)), float(np.log(_HIGH)), (5**0.5 - 1) / 2
    for _ in range(40):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if loss(left) <= loss(right):
            high = right
        else:
            low = left
    temperature = float(np.exp((low + high) / 2))
    return temperature if _LOW * 1.01 < temperature < _HIGH / 1.01 else 1.0


def reliability(answers: Answers) -> list[dict[str, Any]]:
    """Return, for every exit, the expected calibration error and its bins.

    A bin holds ``videos``, their mean ``confidence`` and ``accuracy``; ``ece`` is the mean absolute difference of the
    two over the videos. Empty bins are left out.
    """
    assert answers.correct is not None
    table = []
    for k, (c, right) in enumerate(zip(answers.confidences.astype(np.float64), answers.correct, strict=True), 1):
        place = np.minimum((c * BINS).astype(np.int64), BINS - 1)
        bins: list[dict[str, Any]] = [
            {
                "bin": [b / BINS, (b + 1) / BINS],
                "videos": int(inside.sum()),
                "confidence": float(c[inside].mean()),
                "accuracy": float(right[inside].mean()),
            }
            for b in range(BINS)
            if (inside := place == b).any()
        ]
        ece = sum(b["videos"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / len(c)
        table.append({"checkpoint": k, "ece": float(ece), "bins": bins})
    return table
