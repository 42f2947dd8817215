"""Promises about the loss: thresholds whose true loss stays below a bound with a stated probability.

The family of thresholds is one-dimensional, from late exits to early ones, and fixed by videos of its own: T(q) of the
geometric rule, or the frontier of optimised thresholds in the order of their price (Pareto testing, Laufer-Goldshtein et al.
2023). On other videos each of them is tested in that order, the hypothesis being that its loss exceeds the bound, and the
last one before the first that is not rejected is taken. Testing in a fixed order keeps the error of the whole at that
of one test, whether or not the loss grows along the family (Learn then Test, Angelopoulos et al. 2021, fixed sequence
testing; for early exits with one shared threshold: Jazbec et al., Fast yet Safe, 2024).

Each test bets (Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, 2024): the capital
``prod(1 + bet * (bound - loss))`` over the videos has a mean of at most 1 if the mean loss is at least the bound, so
it exceeds 1/delta with a probability of at most delta (Markov). The bet is set on the family's own videos, hence
beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ...grid.errors import GuaranteeError, TooFewVideosError, UsageError
from ..scores.answers import Answers
from .thresholds import ChosenExits, RankedConfidences, exits

FAMILY_SHARE = 0.25  # share of the calibration videos that set the family; the others test it
RATIOS = tuple(float(q) for q in np.geomspace(20, 0.05, 120))  # from late exits to early ones
_MOST = 0.9  # share of the bet at which one lost video would take all capital


@dataclass(frozen=True)
class Promise:
    """A ``loss`` of at most ``bound`` with probability ``confidence``, and its evidence.

    Attributes:
        exits: the thresholds; their ``counts`` are those of the family's videos.
        family_videos: number of videos that set the family; ``test_videos``: number that tested it.
        test_loss: mean loss on the test videos; ``p_value``: of the hypothesis that it exceeds the bound.
    """

    exits: ChosenExits
    bound: float
    confidence: float
    family_videos: int
    test_videos: int
    test_loss: float
    p_value: float


def promise(
    family: Answers,
    test: Answers,
    bound: float,
    confidence: float,
    *,
    of_all: float = 1.0,
    candidates: Iterable[ChosenExits] | None = None,
) -> Promise:
    """Return the earliest exits for which the promise holds.

    Args:
        family: answers that set T(q).
        test: answers of other videos, from the same distribution as future ones.
        bound: of the mean loss: drop of accuracy, or disagreement with the last exit without labels.
        confidence: probability, over calibrations, that the promise holds.
        of_all: the share that ``test`` is of all videos given, for the message.
        candidates: thresholds fixed by ``family``, from late exits to early ones; None: those of the geometric rule.

    Raises:
        UsageError: If bound or confidence are outside (0, 1).
        TooFewVideosError: If there are too few videos to test even late exits.
        GuaranteeError: If even late exits lose more than the bound, so that more videos would not help.
    """
    for name, value in (("--max-drop", bound), ("--confidence", confidence)):
        if not 0 < value < 1:
            raise UsageError(f"{name} {value}: expected a number between 0 and 1")
    if not test.videos:
        raise TooFewVideosError(
            f"--max-drop {bound:g} --confidence {confidence:g}: no video is left to test the promise; it needs about "
            f"{videos_needed(bound, confidence)}. Give more videos."
        )
    delta = 1 - confidence
    ranked, found = RankedConfidences(family.confidences), None
    for chosen in map(ranked.choose, RATIOS) if candidates is None else candidates:
        bet = _bet(_counts(family, chosen), test.videos, bound, delta)
        counts = _counts(test, chosen)
        growth = log_capital(counts, bet, bound)
        if growth < math.log(1 / delta):
            if found is None:
                raise _refusal(counts, bound, confidence, of_all)
            break
        loss = (counts[2] - counts[0]) / test.videos
        found = Promise(chosen, bound, confidence, family.videos, test.videos, loss, math.exp(-growth))
    assert found is not None
    return found


def log_capital(counts: tuple[int, int, int], bet: float, bound: float) -> float:
    """Return the logarithm of the capital, given the numbers of videos with loss -1, 0 and 1."""
    return sum(n * math.log1p(bet * (bound - loss)) for n, loss in zip(counts, (-1, 0, 1), strict=True) if n)


def videos_needed(bound: float, confidence: float) -> int:
    """Return the least number of test videos that can support the promise, if none of them is lost."""
    return math.ceil(math.log(1 / (1 - confidence)) / math.log1p(_MOST * bound / (1 - bound)))


def _bet(counts: tuple[int, int, int], videos: int, bound: float, delta: float) -> float:
    """Return the bet that makes the bound tightest for ``videos`` videos, given their likely variance."""
    total = sum(counts)
    lost = (counts[0] + counts[2] + 0.5) / (total + 1)
    variance = lost - ((counts[2] - counts[0]) / (total + 1)) ** 2
    return min(_MOST / (1 - bound), math.sqrt(2 * math.log(1 / delta) / (videos * variance)))


def _counts(answers: Answers, chosen: ChosenExits) -> tuple[int, int, int]:
    """Return how many videos lose -1, 0 and 1."""
    losses = answers.losses[exits(answers.confidences, chosen.thresholds), np.arange(answers.videos)]
    gained, lost = int((losses < 0).sum()), int((losses > 0).sum())
    return gained, len(losses) - gained - lost, lost


def _refusal(
    counts: tuple[int, int, int], bound: float, confidence: float, of_all: float
) -> TooFewVideosError | GuaranteeError:
    videos, least = sum(counts), videos_needed(bound, confidence)
    asked = f"--max-drop {bound:g} --confidence {confidence:g}"
    if videos >= least:  # how many would be needed if the same share of them is lost
        delta = 1 - confidence
        for factor in range(2, 200):
            grown = (counts[0] * factor, counts[1] * factor, counts[2] * factor)
            if log_capital(grown, _bet(counts, videos * factor, bound, delta), bound) >= math.log(1 / delta):
                least = videos * factor
                break
        else:
            loss = (counts[2] - counts[0]) / videos
            return GuaranteeError(
                f"{asked}: even the latest exits of the family lose {loss:.4g} on {videos} videos, and more videos "
                "would not change that: allow a larger drop"
            )
    return TooFewVideosError(
        f"{asked}: {videos} videos are too few to test the promise; it needs about {least}, so about "
        f"{math.ceil(least / of_all)} videos in all. Give more videos, a larger drop or a lower confidence."
    )
