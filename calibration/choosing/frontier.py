"""The frontier of quality against mean cost, with each checkpoint's threshold optimised on its own.

A price says how much quality is given up for the whole way from the first exit's cost to the last one's. For one price
the thresholds maximise quality less price times cost, by coordinate ascent: with all other thresholds fixed, the best
one of a checkpoint is found exactly, by one pass over the videos in the order of their confidence. The ascent starts
from the thresholds of the price before, from all checkpoints closed, and from two quantiles of the confidences. Of
small cases that brute force can solve it misses the maximum in less than 5 %, by less than a video
(``tests/calibration/test_frontier.py``).

A single video's loss is mostly luck. So what a video loses at a checkpoint is the mean loss of the videos that are about
as confident there (a running mean over the ranks). Without it the thresholds settle between lucky and unlucky videos,
and lose more on others; what it gains is in docs/lab/calibration.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..scores.answers import Answers
from .thresholds import RankedConfidences, ThresholdVector, exits, midway

PRICES = tuple(float(price) for price in np.geomspace(0.0005, 3, 32))
"""From late exits to early ones."""

FOLDS = 5
_NEIGHBOURS = 0.05  # on either side in a running mean of losses, as a share of the videos
_MOST_NEIGHBOURS = 200

Floats = NDArray[np.floating]


def frontier(
    answers: Answers, cost: Floats, prices: Sequence[float] = PRICES, quantiles: Sequence[float] = (0.25, 0.75)
) -> list[ThresholdVector]:
    """Return the thresholds that are best on these videos at each price.

    Args:
        answers: of every exit and video.
        cost: spent when each exit answers, [exits], ascending.
        prices: ascending.
        quantiles: of the confidences, to start from as well.
    """
    ranked = RankedConfidences(answers.confidences)
    losses = neighbouring_losses(answers.losses, ranked)
    starts = [np.ones(len(cost) - 1), *np.quantile(ranked.confidences[:-1], quantiles, axis=1)]
    found, last = list[ThresholdVector](), starts[0]
    for price in prices:
        value = -losses - price * _span(cost)[:, None]
        _, last = max((climb(ranked, value, start) for start in (last, *starts)), key=lambda one: one[0])
        found.append((*last.tolist(), None))
    return found


def neighbouring_losses(losses: NDArray[np.integer], ranked: RankedConfidences) -> Floats:
    """Return the mean loss of each video's neighbours in confidence, [exits, videos]; at the last exit its own.

    Args:
        losses: of every exit and video.
        ranked: their confidences.
    """
    videos = losses.shape[1]
    reach = min(int(_NEIGHBOURS * videos), _MOST_NEIGHBOURS)
    places = np.arange(videos)
    first, end = np.maximum(0, places - reach), np.minimum(videos, places + reach + 1)
    found = losses.astype(np.float64)
    for row, order in zip(found[:-1], ranked.order, strict=False):
        sums = np.concatenate([[0.0], np.cumsum(row[order])])
        row[order] = (sums[end] - sums[first]) / (end - first)
    return found


def climb(ranked: RankedConfidences, value: Floats, start: Floats) -> tuple[float, Floats]:
    """Return the mean value and the thresholds, [exits - 1], of a maximum near ``start``.

    Args:
        ranked: confidences of every exit and video.
        value: of leaving, [exits, videos].
        start: thresholds, [exits - 1].
    """
    thresholds, kept, best = start.copy(), start, -np.inf
    while True:
        passed = ranked.confidences[:-1] > thresholds[:, None]
        reached = np.vstack([np.ones_like(passed[:1]), ~np.logical_or.accumulate(passed, axis=0)[:-1]])
        later = value[-1]  # what a video is worth that stays
        for k in reversed(range(len(thresholds))):
            gain = np.cumsum(((value[k] - later) * reached[k])[ranked.order[k]])
            gain[ranked.ties[k]] = -np.inf
            count = int(gain.argmax()) + 1
            thresholds[k] = midway(ranked.ranked[k], count if gain[count - 1] > 0 else 0)
            later = np.where(ranked.confidences[k] > thresholds[k], value[k], later)
        mean = float(later.mean())
        if mean <= best:
            return best, kept
        best, kept = mean, thresholds.copy()


def cross_fitted(answers: Answers, cost: Floats, prices: Sequence[float] = PRICES) -> tuple[Floats, Floats]:
    """Return the mean loss and the mean cost at each price, of videos that did not choose its thresholds.

    Each of ``FOLDS`` parts of the videos, of which there are at least two, is judged by the thresholds of the others.
    """
    folds = min(FOLDS, answers.videos)
    fold, each = np.arange(answers.videos) % folds, np.arange(answers.videos)
    loss, spent = np.zeros(len(prices)), np.zeros(len(prices))
    for part in range(folds):
        judged = answers.take(each[fold == part])
        for index, thresholds in enumerate(frontier(answers.take(each[fold != part]), cost, prices, ())):
            exit_of = exits(judged.confidences, thresholds)
            loss[index] += judged.losses[exit_of, np.arange(judged.videos)].sum()
            spent[index] += cost[exit_of].sum()
    return loss / answers.videos, spent / answers.videos


def last_within(losses: Floats, bound: float) -> int | None:
    """Return the last place before the first loss beyond ``bound``; None if that is the first."""
    beyond = np.flatnonzero(losses > bound)
    place = int(beyond[0]) - 1 if len(beyond) else len(losses) - 1
    return place if place >= 0 else None


def _span(cost: Floats) -> Floats:
    """Return each exit's cost, 0 for the first and 1 for the last."""
    span: Floats = (cost - cost[0]) / ((cost[-1] - cost[0]) or 1.0)
    return span
