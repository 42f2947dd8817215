"""Thresholds optimised one by one: as good as brute force, honest with few videos, and never worse unasked."""

import itertools
import json

import numpy as np
import pytest

from dynvid.calibration.calibrate import calibrate
from dynvid.calibration.choosing.frontier import PRICES, climb, cross_fitted, frontier, last_within, neighbouring_losses
from dynvid.calibration.choosing.request import Request
from dynvid.calibration.choosing.rules import later_exits
from dynvid.calibration.choosing.sweep import outcome
from dynvid.calibration.choosing.thresholds import RankedConfidences, chosen_exits, exits
from dynvid.calibration.describe import describe
from dynvid.calibration.scores.answers import Answers
from dynvid.calibration.scores.scores import Scores
from dynvid.grid.errors import GuaranteeError, UsageError

COST = np.array([1.0, 2.0, 3.5, 6.0])


def drawn(videos, seed, rounded=False):
    """Return answers of videos of unequal difficulty: a confidence is the probability of being right.

    The third exit sees no more than the second; what it adds is cost.
    """
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(4, videos)) * 0.7
    noise[2] = noise[1]
    easy = rng.normal(size=videos) * 1.5 + 1 + noise
    confidences = 1 / (1 + np.exp(-(easy + np.array([-0.5, 0.5, 0.5, 3.0])[:, None])))
    luck = rng.random((4, videos))
    luck[2] = luck[1]
    right = luck < confidences
    if rounded:
        confidences = np.maximum(np.round(confidences, 1), 0.1)
    return Answers(confidences.astype(np.float32), right, right)


def scores_of(videos, seed):
    """Return scores with labels whose answers are those of ``drawn``, of two classes."""
    answers = drawn(videos, seed)
    p = np.maximum(answers.confidences, 0.5001).astype(np.float32)
    labels = np.zeros(videos, np.int64)
    first = np.where(answers.correct, p, 1 - p)
    return Scores(
        np.stack([first, 1 - first], axis=2), labels=labels, macs=COST * 1e9, belongs_to={}, videos=(), failed={}
    )


def value_of(answers, price):
    return -answers.losses - price * ((COST - COST[0]) / (COST[-1] - COST[0]))[:, None]


def mean_of(answers, price, thresholds):
    return value_of(answers, price)[exits(answers.confidences, thresholds), np.arange(answers.videos)].mean()


@pytest.mark.parametrize("cases", [40, pytest.param(120, marks=pytest.mark.full)])
def test_small_cases_come_within_a_video_of_brute_force(cases):
    missed = []
    for seed in range(cases):
        price, answers = (0.02, 0.1, 0.3, 0.8)[seed % 4], drawn(14, seed, rounded=seed % 3 == 0)
        columns = np.sort(answers.confidences.astype(np.float64), axis=1)
        grids = [np.unique([0.0, *(row[1:] + row[:-1]) / 2, 1.0]) for row in columns[:-1]]
        best = max(mean_of(answers, price, (*grid, None)) for grid in itertools.product(*grids))
        missed.append(best - mean_of(answers, price, frontier(answers, COST, (price,))[0]))
    assert min(missed) > -1e-12
    assert max(missed) < 1 / 14
    assert np.mean(np.array(missed) > 1e-9) <= 0.05


def test_every_step_of_the_ascent_is_the_best_one_of_its_checkpoint():
    answers = drawn(400, 0)
    mean, found = climb(RankedConfidences(answers.confidences), value_of(answers, 0.1), np.ones(3))
    assert mean == pytest.approx(mean_of(answers, 0.1, (*found, None)))
    for k in range(3):
        for other in np.linspace(0, 1, 101):
            changed = found.copy()
            changed[k] = other
            assert mean_of(answers, 0.1, (*changed, None)) <= mean + 1e-12


def test_confidences_that_tie_leave_together_or_stay_together():
    answers = drawn(300, 1, rounded=True)
    for thresholds in frontier(answers, COST):
        for threshold, row in zip(thresholds[:-1], answers.confidences, strict=False):
            assert not np.isclose(row, threshold, atol=1e-4).any() or threshold == 1.0


def test_a_checkpoint_that_never_pays_is_closed_and_reported():
    answers = drawn(2000, 2)
    answers.correct[1] = answers.agrees[1] = False
    for thresholds in frontier(answers, COST)[:12]:
        exit_of = exits(answers.confidences, thresholds)
        assert not (exit_of == 1).any()
    assert frontier(answers, COST)[0][1] == 1.0


def test_the_frontier_goes_from_late_exits_to_early_ones():
    answers = drawn(3000, 3)
    means = [outcome(answers, t, {"gmacs": COST}).means["gmacs"] for t in frontier(answers, COST)]
    assert means == sorted(means, reverse=True)
    assert means[0] > 2 * means[-1]


def test_cross_fitting_sees_what_the_choosing_videos_do_not():
    many, places, optimism, bias = drawn(50_000, 5), range(12, 27), [], []
    for seed in range(12):
        few = drawn(150, seed)
        found, seen = frontier(few, COST), cross_fitted(few, COST)[0]
        for place in places:
            true = outcome(many, found[place], {"gmacs": COST}).drop
            optimism.append(true - outcome(few, found[place], {"gmacs": COST}).drop)
            bias.append(true - seen[place])
    assert np.mean(optimism) > 0.01  # in sample they look better than they are
    assert abs(np.mean(bias)) < np.mean(optimism) / 2


def test_a_loss_is_that_of_the_neighbours_in_confidence():
    rng = np.random.default_rng(0)
    confidences = rng.random((2, 400)).astype(np.float32)
    losses = (rng.random((2, 400)) > confidences).astype(np.int64)
    found = neighbouring_losses(losses, RankedConfidences(confidences))
    order = np.argsort(-confidences[0], kind="stable")
    for place in (0, 5, 200, 399):  # 5 % of 400 on either side
        near = order[max(0, place - 20) : place + 21]
        assert found[0, order[place]] == pytest.approx(losses[0, near].mean())
    np.testing.assert_array_equal(found[1], losses[1])  # all who are left answer there
    np.testing.assert_array_equal(
        neighbouring_losses(losses[:, :19], RankedConfidences(confidences[:, :19])), losses[:, :19]
    )


def test_few_videos_lose_less_on_others_than_thresholds_between_the_lucky(monkeypatch):
    many, lost = drawn(50_000, 11), {}
    for share in (0.05, 0.0):
        monkeypatch.setattr("dynvid.calibration.choosing.frontier._NEIGHBOURS", share)
        lost[share] = [outcome(many, frontier(drawn(300, seed), COST)[5], {"gmacs": COST}) for seed in range(20)]
    smooth, raw = (np.array([(one.drop, one.means["gmacs"]) for one in lost[share]]).mean(axis=0) for share in lost)
    assert smooth[0] < raw[0] / 2


@pytest.mark.parametrize(
    ("losses", "place"), [([0, 0.01, 0.02], 1), ([0.02, 0, 0], None), ([0, 0, 0], 2), ([0, 0.02, 0], 0)]
)
def test_the_last_place_before_the_first_loss_beyond_the_bound(losses, place):
    assert last_within(np.array(losses), 0.01) == place


def test_costs_that_do_not_differ_are_no_reason_to_leave():
    assert len(frontier(drawn(50, 6), np.ones(4))) == len(PRICES)


COSTS = {"gmacs": COST}


def test_it_saves_more_than_the_geometric_rule_at_the_same_drop():
    chosen, saved, drops = [], [], []
    for seed in range(6):
        scores = scores_of(6000, seed)
        report = calibrate(scores, COSTS, Request(max_drop=0.05, rule="optimal")).report
        chosen.append(report["rule"])
        geometric = report["rules"]["geometric"]["mean_gmacs"]
        if not seed:
            alone = calibrate(scores, COSTS, Request(max_drop=0.05, rule="geometric")).report
            assert geometric == alone["mean_gmacs"]
        saved.append(1 - report["mean_gmacs"] / geometric)
        drops.append(report["drop"])
    assert chosen.count("optimal") >= 4
    assert np.mean(saved) > 0.02
    assert np.mean(drops) < 0.05 + 2 * np.std(drops) / len(drops) ** 0.5


def test_few_videos_fall_back_and_say_so():
    report = calibrate(scores_of(40, 0), COSTS, Request(max_drop=0.05, rule="optimal")).report
    assert report["rule"] == "geometric" and report["rules"]["optimal"] is None
    assert any("optimised one by one do better" in line for line in report["warnings"])


@pytest.mark.parametrize("budget", [1.5, 2.5, 4.0])
def test_a_budget_is_kept_where_it_was_chosen(budget):
    report = calibrate(scores_of(4000, 7), COSTS, Request(budget=budget, rule="optimal")).report
    assert report["rule"] == "optimal"
    assert 0.9 * budget <= report["chosen_on"]["mean_gmacs"] <= budget
    other = report["rules"]["geometric"]
    assert report["accuracy"] > other["accuracy"] - 0.01


def test_a_budget_that_no_finer_price_keeps_takes_the_coarse_one(monkeypatch):
    """Ascents from other starts may end at another maximum, so that a finer price need not keep what the coarse one does."""
    import dynvid.calibration.choosing.rules as module

    def costly(answers, cost, prices=PRICES):
        found = frontier(answers, cost, prices)
        return found if tuple(prices) == PRICES else [(1.0, 1.0, 1.0, None)] * len(prices)

    monkeypatch.setattr(module, "frontier", costly)
    report = calibrate(scores_of(4000, 7), COSTS, Request(budget=1.5, rule="optimal")).report
    assert report["rule"] == "optimal" and report["chosen_on"]["mean_gmacs"] <= 1.5


def test_before_the_frontier_lie_later_exits():
    answers = drawn(2000, 12)
    first = chosen_exits(answers.confidences, frontier(answers, COST)[0])
    found = later_exits(answers.confidences, first)
    assert found[0].closed == [1, 2, 3] and found[0].counts[-1] == 2000
    means = [outcome(answers, one.thresholds, {"gmacs": COST}).means["gmacs"] for one in [*found, first]]
    assert means == sorted(means, reverse=True)
    assert max(np.diff(means[::-1])) < 0.15 * (means[0] - means[-1])  # no wide step for a test to stumble over


def test_a_promise_tests_the_frontier_of_the_family():
    found = calibrate(scores_of(20_000, 8), COSTS, Request(max_drop=0.02, confidence=0.9, rule="optimal"))
    assert found.exits.rule == "optimal" and found.report["promise"]["p_value"] <= 0.1
    assert set(found.report["rules"]) == {"optimal", "geometric"}


@pytest.mark.full
def test_the_promise_on_the_frontier_is_kept_as_often_as_it_says():
    whole, broken, runs = scores_of(60_000, 9), 0, 500
    rng, names = np.random.default_rng(0), np.arange(60_000)
    truth = drawn(60_000, 9)
    for _ in range(runs):
        taken = rng.choice(names, 1500, replace=False)
        part = Scores(
            whole.probabilities[:, taken],
            labels=whole.labels[taken],
            macs=whole.macs,
            belongs_to={},
            videos=(),
            failed={},
        )
        try:
            found = calibrate(part, COSTS, Request(max_drop=0.02, confidence=0.9, share=1.0, rule="optimal"))
        except GuaranteeError:
            continue
        broken += outcome(truth, found.exits.thresholds, COSTS).drop > 0.02
    assert broken / runs <= 0.1


def test_the_rule_is_written_and_described(tmp_path):
    import dataclasses

    found = dataclasses.replace(
        calibrate(scores_of(3000, 10), COSTS, Request(max_drop=0.03, rule="optimal")), bundle_sha256="0" * 64
    )
    found.save(tmp_path / "T.json")
    written = json.loads((tmp_path / "T.json").read_text())
    assert written["rule"] == "optimal" and written["q"] is None
    lines = [section.line for section in describe(found.report)]
    assert lines[0].startswith("thresholds optimised one by one")
    assert any(line.startswith("both rules, for the same request: optimal spends ") for line in lines)


def test_q_belongs_to_the_geometric_rule():
    with pytest.raises(UsageError, match=r"--q with --rule optimal: .* leave one of the two out"):
        Request(q=1.2, rule="optimal")
