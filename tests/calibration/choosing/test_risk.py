import math

import numpy as np
import pytest
from samples import synthetic_scores

from dynvid.calibration.calibrate import calibrate
from dynvid.calibration.choosing.request import Request
from dynvid.calibration.choosing.risk import RATIOS, log_capital, promise, videos_needed
from dynvid.calibration.choosing.sweep import costs_of, outcome
from dynvid.calibration.choosing.thresholds import RankedConfidences, exits
from dynvid.calibration.scores.answers import answers_of
from dynvid.calibration.scores.scores import Scores
from dynvid.grid.errors import GuaranteeError, TooFewVideosError, UsageError

POPULATION = synthetic_scores(20_000, seed=3)
WHOLE = answers_of(POPULATION)
UNLABELLED = answers_of(Scores(POPULATION.probabilities))
MACS = POPULATION.macs / 1e9


def simulate(whole, trials, videos, bound, confidence):
    """Return the share of calibrations that break the promise, and mean GMACs: promised, and of the oracle."""
    rng, broken, spent = np.random.default_rng(4), 0, []
    for _ in range(trials):
        drawn = rng.integers(0, whole.videos, videos)
        border = videos // 4
        chosen = promise(whole.take(drawn[:border]), whole.take(drawn[border:]), bound, confidence).exits
        exit_of = exits(whole.confidences, chosen.thresholds)
        broken += whole.losses[exit_of, np.arange(whole.videos)].mean() > bound
        spent.append(MACS[exit_of].mean())
    ranked, oracle = RankedConfidences(whole.confidences), math.inf
    for q in RATIOS:  # knows the population
        exit_of = exits(whole.confidences, ranked.choose(q).thresholds)
        if whole.losses[exit_of, np.arange(whole.videos)].mean() <= bound:
            oracle = min(oracle, MACS[exit_of].mean())
    print(
        f"{broken} of {trials} broken ({1 - confidence:.0%} promised), {np.mean(spent):.3f} GMACs, oracle {oracle:.3f}"
    )
    return broken / trials, np.mean(spent), oracle


@pytest.mark.parametrize(
    ("videos", "bound", "confidence", "trials"),
    [
        (1500, 0.02, 0.9, 40),
        pytest.param(2000, 0.01, 0.9, 500, marks=pytest.mark.full),
        pytest.param(2000, 0.02, 0.8, 500, marks=pytest.mark.full),
        pytest.param(10_000, 0.01, 0.9, 500, marks=pytest.mark.full),
    ],
)
def test_the_promise_is_kept_as_often_as_it_says(videos, bound, confidence, trials):
    broken, spent, oracle = simulate(WHOLE, trials, videos, bound, confidence)
    assert broken <= 1 - confidence
    assert oracle <= spent <= 1.6 * oracle


@pytest.mark.full
def test_the_promise_about_agreement_needs_no_labels():
    broken, spent, oracle = simulate(UNLABELLED, 500, 2000, 0.03, 0.9)
    assert broken <= 0.1 and oracle <= spent <= 1.6 * oracle


@pytest.mark.parametrize("trials", [2000, pytest.param(20_000, marks=pytest.mark.full)])
def test_the_capital_seldom_grows_where_the_loss_is_the_bound(trials):
    """The heart of the promise: at a loss of exactly the bound a test passes with a probability of at most delta."""
    rng = np.random.default_rng(0)
    for bound, extra in ((0.01, 0.0), (0.02, 0.05)):  # losses alone, and with as many gains
        p = [extra, 1 - bound - 2 * extra, bound + extra]
        counts = rng.multinomial(800, p, trials)
        passed = [log_capital(tuple(map(int, c)), bet, bound) >= math.log(10) for c in counts for bet in (0.3,)]
        assert np.mean(passed) <= 0.1 + 3 * math.sqrt(0.09 / trials)


def test_few_videos_are_refused_with_how_many_are_needed():
    assert videos_needed(0.01, 0.9) == 255
    half = np.arange(100)
    with pytest.raises(
        TooFewVideosError, match="100 videos are too few to test the promise; it needs about 255"
    ) as caught:
        promise(WHOLE.take(half), WHOLE.take(half + 100), 0.01, 0.9)
    assert caught.value.exit_code == 3
    few = Scores(POPULATION.probabilities[:, :400], POPULATION.labels[:400], POPULATION.macs)
    costs = costs_of(few.macs, None, 6)
    with pytest.raises(TooFewVideosError, match="150 videos are too few .* about 680 videos in all"):
        calibrate(few, costs, Request(max_drop=0.01, confidence=0.9))
    enough = Scores(POPULATION.probabilities[:, :900], POPULATION.labels[:900], POPULATION.macs)
    found = calibrate(enough, costs, Request(max_drop=0.01, confidence=0.9)).report
    assert found["promise"]["test_videos"] == 338 or found["promise"]["test_videos"] == 337
    assert found["promise"]["p_value"] <= 0.1


def test_what_is_needed_is_enough():
    for bound, confidence in ((0.01, 0.9), (0.05, 0.99), (0.3, 0.5)):
        videos = videos_needed(bound, confidence)
        bet = 0.9 / (1 - bound)
        assert log_capital((0, videos, 0), bet, bound) >= math.log(1 / (1 - confidence))
        assert log_capital((0, videos - 1, 0), bet, bound) < math.log(1 / (1 - confidence))


def test_a_loss_that_no_videos_can_mend_is_said():
    rng = np.random.default_rng(0)
    p = np.empty((2, 4000, 2), np.float32)
    p[0, :, 0] = 1.0  # saturated and always wrong: this exit cannot be closed by any quota above none
    p[0, :, 1] = 0.0
    p[1, :, 1] = 0.6 + 0.3 * rng.random(4000)
    p[1, :, 0] = 1 - p[1, :, 1]
    answers = answers_of(Scores(p, np.ones(4000, np.int64), np.array([1.0, 2.0])))
    with pytest.raises(GuaranteeError, match="lose 1 on 2000 videos, and more videos would not change that"):
        promise(answers.take(np.arange(2000)), answers.take(np.arange(2000, 4000)), 0.01, 0.9)


@pytest.mark.parametrize(("bound", "confidence", "name"), [(0, 0.9, "--max-drop 0"), (0.01, 1.0, "--confidence 1.0")])
def test_a_promise_outside_0_and_1_is_refused(bound, confidence, name):
    with pytest.raises(UsageError, match=f"{name}: expected a number between 0 and 1"):
        promise(WHOLE.take(np.arange(500)), WHOLE.take(np.arange(500)), bound, confidence)


def test_the_promised_thresholds_come_from_other_videos_than_those_that_test_them():
    found = calibrate(POPULATION, costs_of(POPULATION.macs, None, 6), Request(max_drop=0.02, confidence=0.9))
    kept = found.report["promise"]
    assert (kept["family_videos"], kept["test_videos"]) == (2500, 7500)
    assert sum(found.exits.counts) == 2500
    assert outcome(WHOLE, found.exits.thresholds, {"gmacs": MACS}).drop <= 0.02
