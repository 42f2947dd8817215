"""Sweep the ratio q: accuracy against mean cost, the critical point, and the q that spends a budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...grid.errors import UsageError
from ..scores.answers import Answers
from .interval import Interval, of_mean, of_paired_difference, of_share
from .thresholds import ChosenExits, RankedConfidences, ThresholdVector, exits

RATIOS = tuple(i / 20 for i in range(1, 40))
"""The q of the sweep: MSDNet's 39, 0.05 to 1.95 (adaptive_inference.py of kalviny/MSDNet-PyTorch)."""

Costs = dict[str, NDArray[np.float64]]
"""The cost when each exit answers, [exits], by unit: ``gmacs``, ``ms``, or ``exits`` if nothing else is known."""


def costs_of(macs: NDArray[np.float64] | None, ms: Sequence[float] | None, exits: int) -> Costs:
    """Return the costs by unit: ``gmacs`` if MACs are known, ``ms`` if times are; otherwise the exit's number."""
    costs: Costs = {}
    if macs is not None:
        costs["gmacs"] = macs / 1e9
    if ms is not None:
        costs["ms"] = np.array(ms, np.float64)
    return costs or {"exits": np.arange(1.0, exits + 1)}


@dataclass(frozen=True)
class Outcome:
    """The effect of thresholds on some videos, with 95 % intervals.

    Attributes:
        videos: number of videos.
        shares: of the videos at each exit.
        means: mean cost by unit, and ``mean_intervals``.
        accuracy: of the exits' answers, with ``accuracy_full`` of the last exit and ``drop``, their paired
            difference; None without labels.
        agreement: share of answers with the same class as the last exit's.
    """

    videos: int
    shares: tuple[float, ...]
    means: dict[str, float]
    mean_intervals: dict[str, Interval]
    agreement: float
    agreement_interval: Interval
    accuracy: float | None = None
    accuracy_interval: Interval | None = None
    accuracy_full: float | None = None
    drop: float | None = None
    drop_interval: Interval | None = None

    @property
    def quality(self) -> float:
        """Accuracy, or agreement with the last exit without labels."""
        return self.agreement if self.accuracy is None else self.accuracy

    @property
    def loss(self) -> float:
        """Loss of accuracy, or of agreement without labels."""
        return 1 - self.agreement if self.drop is None else self.drop

    def to_json(self) -> dict[str, Any]:
        """Return the figures under the names of ``calibrate --json``."""
        fields = asdict(self)
        means, intervals = fields.pop("means"), fields.pop("mean_intervals")
        return {
            **fields,
            **{f"mean_{unit}": value for unit, value in means.items()},
            **{f"mean_{unit}_interval": value for unit, value in intervals.items()},
        }


def outcome(answers: Answers, thresholds: ThresholdVector, costs: Costs) -> Outcome:
    """Return the effect of ``thresholds`` on the videos of ``answers``."""
    exit_of, n = exits(answers.confidences, thresholds), answers.videos
    each = np.arange(n)
    spent = {unit: cost[exit_of] for unit, cost in costs.items()}
    agreeing = int(answers.agrees[exit_of, each].sum())
    result: dict[str, Any] = {
        "videos": n,
        "shares": tuple((np.bincount(exit_of, minlength=len(thresholds)) / n).tolist()),
        "means": {unit: float(values.mean()) for unit, values in spent.items()},
        "mean_intervals": {unit: of_mean(values) for unit, values in spent.items()},
        "agreement": agreeing / n,
        "agreement_interval": of_share(agreeing, n),
    }
    if answers.correct is not None:
        right, losses = answers.correct[exit_of, each], answers.losses[exit_of, each]
        result |= {
            "accuracy": float(right.mean()),
            "accuracy_interval": of_share(int(right.sum()), n),
            "accuracy_full": float(answers.correct[-1].mean()),
            "drop": float(losses.mean(dtype=np.float64)),
            "drop_interval": of_paired_difference(int((losses < 0).sum()), int((losses > 0).sum()), n),
        }
    return Outcome(**result)


@dataclass(frozen=True)
class Point:
    """Thresholds, and their effect on the videos they were chosen on and on held-out ones."""

    exits: ChosenExits
    in_sample: Outcome
    held_out: Outcome | None


def sweep(
    chosen_on: Answers, held_out: Answers | None, costs: Costs, ratios: tuple[float, ...] = RATIOS
) -> list[Point]:
    """Return the curve of the geometric rule: one point per q."""
    ranked = RankedConfidences(chosen_on.confidences)
    return points(map(ranked.choose, ratios), chosen_on, held_out, costs)


def points(chosen: Iterable[ChosenExits], chosen_on: Answers, held_out: Answers | None, costs: Costs) -> list[Point]:
    """Return what each of these thresholds does on both parts of the videos."""
    return [
        Point(
            one,
            outcome(chosen_on, one.thresholds, costs),
            None if held_out is None else outcome(held_out, one.thresholds, costs),
        )
        for one in chosen
    ]


def critical_point(points: list[Point], max_drop: float, unit: str) -> Point | None:
    """Return the point of least mean cost that loses at most ``max_drop``; None if there is none.

    It is in sample and without a guarantee: the paper's Q* (section 4), which was chosen by hand.
    """
    good = [point for point in points if point.in_sample.loss <= max_drop]
    return min(good, key=lambda point: (point.in_sample.means[unit], -(point.exits.q or 0)), default=None)


def spend(chosen_on: Answers, budget: float, cost: NDArray[np.float64], unit: str) -> ChosenExits:
    """Return the thresholds that spend the budget: the largest q, and so the latest exits, whose mean cost is within it.

    It is found by bisection on log q, since the mean cost grows with q.

    Args:
        chosen_on: answers of the calibration videos.
        budget: mean cost per video, in ``unit``.
        cost: cost when each exit answers, [exits].
        unit: of the budget, for the message.

    Raises:
        UsageError: If the first exit alone costs more.
    """
    if not cost[0] <= budget < math.inf:
        raise UsageError(
            f"--budget {budget:g} {unit}: expected at least {cost[0]:.4g}, the cost of the first checkpoint "
            f"(the last one costs {cost[-1]:.4g})"
        )
    ranked = RankedConfidences(chosen_on.confidences)

    def mean(found: ChosenExits) -> float:
        return float(np.dot(found.counts, cost) / chosen_on.videos)

    low, high = math.log(1e-6), math.log(1e6)
    best, top = ranked.choose(math.exp(low)), ranked.choose(math.exp(high))
    if mean(top) <= budget:
        return top
    for _ in range(60):
        middle = (low + high) / 2
        found = ranked.choose(math.exp(middle))
        if mean(found) <= budget:
            low, best = middle, found
        else:
            high = middle
        if high - low < 1e-9:
            break
    if mean(best) > budget:
        raise UsageError(
            f"--budget {budget:g} {unit}: confidences tie, so the least mean cost is {mean(best):.4g}; give at "
            "least that"
        )
    return best
