"""The two rules by which thresholds are chosen: exit shares in proportion to q^k, or each threshold optimised."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...grid.errors import GuaranteeError, TooFewVideosError
from ...grid.thresholds import Rule
from ..scores.answers import Answers
from .frontier import PRICES, cross_fitted, frontier, last_within
from .request import Request
from .risk import Promise, promise
from .sweep import Costs, critical_point, outcome, sweep
from .thresholds import ChosenExits, chosen_exits, exits, midway

_FINER = 8  # prices tried between two of the frontier
_LATER_SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class Asked(NamedTuple):
    """What thresholds have to keep: a budget, or else a loss.

    Attributes:
        budget: mean cost a video, in ``unit``; None: ``loss`` counts.
        loss: of accuracy, or of agreement without labels.
        unit: of the cost that is saved.
    """

    budget: float | None
    loss: float
    unit: str


def optimised(answers: Answers, cost: NDArray[np.floating]) -> list[ChosenExits]:
    """Return the frontier of optimised thresholds on these videos, from late exits to early ones.

    Args:
        answers: of the videos to choose on.
        cost: spent when each exit answers, [exits].
    """
    return [chosen_exits(answers.confidences, thresholds) for thresholds in frontier(answers, cost)]


def optimal(
    answers: Answers, costs: Costs, asked: Asked, other: ChosenExits | None, along: list[ChosenExits]
) -> ChosenExits | None:
    """Return thresholds optimised one by one; None where these videos cannot carry them.

    The price is chosen by cross-fitting: how much is lost and spent is judged on videos that did not choose the
    thresholds. Going from late exits to early ones, it is the last price before the loss first exceeds the bound. The
    videos cannot carry the rule where no price keeps the bound, or where ``other`` does as well.

    Args:
        answers: of the videos to choose on.
        costs: spent when each exit answers, by unit.
        asked: what to keep.
        other: what the geometric rule chose.
        along: the frontier on these videos.
    """
    if answers.videos < 2:
        return None
    cost, judged = costs[asked.unit], None if other is None else outcome(answers, other.thresholds, costs)
    if asked.budget is None:
        return _for_loss(answers, cost, asked.loss, along, None if judged is None else judged.means[asked.unit])
    return _for_budget(answers, cost, asked.budget, along, None if judged is None else judged.loss)


def _for_loss(
    answers: Answers, cost: NDArray[np.floating], bound: float, along: list[ChosenExits], other_cost: float | None
) -> ChosenExits | None:
    """Return the cheapest thresholds within the loss; None if there are none, or they cost as much as the other's."""
    losses, spent = cross_fitted(answers, cost)
    place = last_within(losses, bound)
    if place is None:
        return None
    chosen, mean = along[place], spent[place]
    if place + 1 < len(PRICES):  # try prices between the last one that keeps the bound and the next
        prices = np.geomspace(PRICES[place], PRICES[place + 1], _FINER).tolist()
        losses, spent = cross_fitted(answers, cost, prices)
        place = last_within(losses, bound)
        if place is not None:
            (thresholds,) = frontier(answers, cost, prices[place : place + 1])
            chosen, mean = chosen_exits(answers.confidences, thresholds), spent[place]
    return chosen if other_cost is None or mean < other_cost else None


def _for_budget(
    answers: Answers, cost: NDArray[np.floating], budget: float, along: list[ChosenExits], other_loss: float | None
) -> ChosenExits | None:
    """Return the latest exits within the budget; None if there are none, or they lose as much as the other's."""
    within = _first_within(answers, cost, budget, along)
    if within is None:
        return None
    prices = np.geomspace(PRICES[max(0, within - 1)], PRICES[within], 2 * _FINER).tolist()
    finer = [chosen_exits(answers.confidences, thresholds) for thresholds in frontier(answers, cost, prices)]
    place = _first_within(answers, cost, budget, finer)
    chosen, price = (along[within], PRICES[within]) if place is None else (finer[place], prices[place])
    (loss,), _ = cross_fitted(answers, cost, (price,))
    return chosen if other_loss is None or loss < other_loss else None


def promises(
    request: Request, family: Answers, test: Answers, costs: Costs, asked: Asked, videos: int
) -> tuple[Promise, dict[Rule, ChosenExits | None]]:
    """Return the promise, and what each rule would have chosen for it.

    Args:
        request: with ``max_drop`` and ``confidence``.
        family: answers of the videos that fix each rule's family of thresholds, and which rule is tested.
        test: answers of the videos that test it.
        costs: spent when each exit answers, by unit.
        asked: what is promised.
        videos: number of all, for the message.

    Raises:
        TooFewVideosError, GuaranteeError: If the promise cannot be given.
    """
    assert request.max_drop is not None
    assert request.confidence is not None
    promised = partial(promise, family, test, request.max_drop, request.confidence, of_all=test.videos / videos)
    along = optimised(family, costs[asked.unit])
    critical = critical_point(sweep(family, None, costs), asked.loss, asked.unit)
    carried = optimal(family, costs, asked, None if critical is None else critical.exits, along) is not None
    families: dict[Rule, list[ChosenExits] | None] = {"geometric": None}
    if carried:
        families["optimal"] = [*later_exits(family.confidences, along[0]), *along]
    rule: Rule = request.wanted if request.wanted in families else "geometric"
    kept = promised(candidates=families.pop(rule))
    by_rule: dict[Rule, ChosenExits | None] = {rule: kept.exits}
    for other, candidates in families.items():
        with suppress(TooFewVideosError, GuaranteeError):  # told beside it; it decides nothing
            by_rule[other] = promised(candidates=candidates).exits
    return kept, {"geometric": by_rule.get("geometric"), "optimal": by_rule.get("optimal")}


def later_exits(confidences: NDArray[np.floating], first: ChosenExits) -> list[ChosenExits]:
    """Return thresholds from no early exit at all to nearly ``first``: at each checkpoint its most confident part leaves.

    Args:
        confidences: of the videos to choose on, [exits, videos].
        first: the latest exits of the frontier.
    """
    exit_of = exits(confidences, first.thresholds)
    leaving = [np.sort(row[exit_of == k].astype(np.float64))[::-1] for k, row in enumerate(confidences[:-1])]
    return [
        chosen_exits(confidences, (*[midway(ranked, int(share * len(ranked))) for ranked in leaving], None))
        for share in _LATER_SHARES
    ]


def _first_within(answers: Answers, cost: NDArray[np.floating], budget: float, along: list[ChosenExits]) -> int | None:
    """Return the place of the first thresholds whose mean cost keeps the budget; None if there are none."""
    means = [float(np.dot(chosen.counts, cost)) / answers.videos for chosen in along]
    return next((place for place, mean in enumerate(means) if mean <= budget), None)
