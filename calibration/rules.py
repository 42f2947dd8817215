"""The two rules by which thresholds are chosen: exit shares in proportion to q^k, or each threshold optimised."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..grid.thresholds import Rule
from .answers import Answers
from .frontier import PRICES, cross_fitted, frontier, last_within
from .sweep import Costs, Point, critical_point, outcome, spend, sweep
from .thresholds import ChosenExits, ThresholdVector, chosen_exits


@dataclass(frozen=True)
class Asked:
    """What thresholds have to keep: a budget, or else a loss.

    Attributes:
        budget: mean cost a video, in ``unit``; None: ``loss`` counts.
        loss: of accuracy, or of agreement without labels.
        unit: of the cost that is saved.
    """

    budget: float | None
    loss: float
    unit: str


def geometric(answers: Answers, costs: Costs, asked: Asked, curve: list[Point]) -> ChosenExits | None:
    """Return the thresholds of the paper's rule; None if no q of the curve keeps the loss.

    Raises:
        UsageError: If the budget cannot be kept.
    """
    if asked.budget is not None:
        return spend(answers, asked.budget, costs[asked.unit], asked.unit)
    found = critical_point(curve, asked.loss, asked.unit)
    return None if found is None else found.exits


def optimal(answers: Answers, costs: Costs, asked: Asked, other: ChosenExits | None) -> ChosenExits | None:
    """Return thresholds optimised one by one; None where these videos cannot carry them.

    The price is chosen by cross-fitting: how much is lost and spent is judged on videos that did not choose the thresholds. Going
    from late exits to early ones, it is the last price before the loss first exceeds the bound. The videos cannot carry the rule
    where no price keeps the bound, or where ``other`` does as well.

    Args:
        answers: of the videos to choose on.
        costs: spent when each exit answers, by unit.
        asked: what to keep.
        other: what the geometric rule chose.
    """
    cost = costs[asked.unit]
    losses, spent = cross_fitted(answers, cost)
    if asked.budget is None:
        place = last_within(losses, asked.loss)
        if place is None or (
            other is not None and spent[place] >= outcome(answers, other.thresholds, costs).means[asked.unit]
        ):
            return None
        return chosen_exits(answers.confidences, frontier(answers, cost)[place])
    coarse = _within(answers, costs, asked, PRICES)
    if coarse is None or (other is not None and losses[coarse[0]] >= loss_of(answers, other, costs)):
        return None
    finer = np.geomspace(PRICES[max(0, coarse[0] - 1)], PRICES[coarse[0]], 16).tolist()
    _, thresholds = _within(answers, costs, asked, finer) or coarse
    return chosen_exits(answers.confidences, thresholds)


def candidates(answers: Answers, costs: Costs, asked: Asked) -> tuple[Rule, Iterable[ChosenExits] | None]:
    """Return the family of thresholds that a promise tests, from late exits to early ones, and its rule.

    Args:
        answers: of the videos that fix the family; they also decide which rule.
        costs: spent when each exit answers, by unit.
        asked: what is promised.
    """
    if optimal(answers, costs, asked, geometric(answers, costs, asked, sweep(answers, None, costs))) is None:
        return "geometric", None
    closed = (*[1.0] * (len(answers.confidences) - 1), None)
    family = [closed, *frontier(answers, costs[asked.unit])]
    return "optimal", [chosen_exits(answers.confidences, thresholds) for thresholds in family]


def loss_of(answers: Answers, chosen: ChosenExits, costs: Costs) -> float:
    """Return the loss of accuracy, or of agreement without labels, on these videos."""
    found = outcome(answers, chosen.thresholds, costs)
    return 1 - found.agreement if found.drop is None else found.drop


def closed_exits(chosen: ChosenExits) -> list[int]:
    """Return the checkpoints that no video can leave at, 1-based."""
    return [k for k, threshold in enumerate(chosen.thresholds, 1) if threshold == 1.0]


def _within(
    answers: Answers, costs: Costs, asked: Asked, prices: Sequence[float]
) -> tuple[int, ThresholdVector] | None:
    """Return the place of the first price whose mean cost keeps the budget, and its thresholds; None if there is none."""
    assert asked.budget is not None
    for place, thresholds in enumerate(frontier(answers, costs[asked.unit], prices)):
        if outcome(answers, thresholds, costs).means[asked.unit] <= asked.budget:
            return place, thresholds
    return None
