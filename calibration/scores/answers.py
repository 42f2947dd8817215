"""What choosing thresholds needs from scores: confidences, and whether exits are right and agree with the last one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...runtime.confidence import confidence
from .scores import Scores


@dataclass(frozen=True)
class Answers:
    """The answers of all exits for all videos.

    Attributes:
        confidences: [exits, videos], after temperature scaling; bit for bit what the runtime compares.
        agrees: whether the exit names the same class as the last one, [exits, videos].
        correct: whether it names the label, [exits, videos]; None without labels.
    """

    confidences: NDArray[np.floating]
    agrees: NDArray[np.bool_]
    correct: NDArray[np.bool_] | None

    @property
    def videos(self) -> int:
        """The number of videos."""
        return int(self.confidences.shape[1])

    @property
    def losses(self) -> NDArray[np.int8]:
        """The loss of leaving at an exit, -1, 0 or 1, [exits, videos]: 1 if this exit is wrong and the last one right.

        Its mean is the drop of accuracy; without labels it is the disagreement with the last exit.
        """
        right = self.agrees if self.correct is None else self.correct
        losses: NDArray[np.int8] = right[-1].astype(np.int8) - right.astype(np.int8)
        return losses

    def take(self, videos: NDArray[np.int64]) -> Answers:
        """Return the answers for ``videos``."""
        correct = None if self.correct is None else self.correct[:, videos]
        return Answers(self.confidences[:, videos], self.agrees[:, videos], correct)


def answers_of(scores: Scores, temperatures: Sequence[float] | None = None) -> Answers:
    """Return the answers of ``scores``, with confidences scaled by one temperature per exit."""
    p = scores.probabilities
    classes = p.argmax(axis=2)
    confidences = p.max(axis=2)
    if temperatures is not None:
        tempered = confidences.astype(np.float64)
        for k, temperature in enumerate(temperatures):
            if temperature != 1.0:  # one answer at a time, since a sum over an axis may add in another order
                tempered[k] = [confidence(row, temperature) for row in p[k]]
        confidences = tempered
    correct = None if scores.labels is None else classes == scores.labels
    return Answers(confidences, classes == classes[-1], correct)
