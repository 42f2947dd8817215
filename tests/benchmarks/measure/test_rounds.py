"""Contestants side by side."""

from collections import Counter

import numpy as np
import pytest

from dynvid.benchmarks.measure.rounds import Contestant, Samples, interleave
from dynvid.benchmarks.report.report import Sample
from dynvid.grid.errors import UsageError


def test_everyone_runs_every_clip_once_a_round_in_an_order_drawn_anew():
    runs = []

    def contestant(name):
        return Contestant(name, lambda clip: runs.append((name, clip)) or 1 + clip % 2)

    samples = interleave([contestant(n) for n in "abc"], 6, 0.0, 3)
    counted = Counter((s.contestant, s.round, s.clip) for s in samples)
    assert set(counted.values()) == {1}
    assert len(counted) == 3 * 3 * 6
    assert all(s.exit == 1 + s.clip % 2 and s.ms >= 0 for s in samples)
    first = [s.contestant for s in samples[::3]]
    assert len(set(first)) == 3  # no one always goes first
    assert len(runs) == len(samples) + 3 * 2  # warm-up is not kept


def test_one_round_is_made_whole_and_further_ones_only_if_they_fit():
    one = [Contestant("a", lambda clip: 1)]
    assert {s.round for s in interleave(one, 4, 0.0, None)} == {0}
    assert {s.round for s in interleave(one, 4, 60.0, None)} == set(range(50))
    with pytest.raises(UsageError, match="0 rounds"):
        interleave(one, 4, 1.0, 0)


def test_ratios_are_of_the_same_clip_and_round():
    """On a machine whose speed drifts without end, where the medians of all times say nothing."""
    samples, rng = [], np.random.default_rng(0)
    for number in range(40):
        slow, left = float(rng.lognormal(0, 2)), 1 + number % 4 // 3  # a quarter leaves at exit 2
        mine = {1: 0.3, 2: 0.9}[left]
        for name, ms, exit_ in (("a", 100 * mine, left), ("static", 90, 1), ("again", 110, 1)):
            samples.append(Sample(name, number // 8, number % 8, exit_, ms * slow))
    found = Samples(samples).relative("a", "static", "again")
    assert found.value == pytest.approx(0.75 * 0.3 + 0.25 * 0.9)
    assert found.estimate().high - found.estimate().low < 1e-9
    assert Samples(samples).relative("static", "again").value == pytest.approx(9 / 11)


def test_the_shares_of_the_exits_weigh_their_medians():
    samples = Samples(
        [Sample("a", 0, clip, left, ms) for clip, (left, ms) in enumerate([(1, 1), (1, 3), (1, 5), (2, 40)])]
    )
    assert samples.times("a").value == 0.75 * 3 + 0.25 * 40
    assert samples.ms("a", 2) == [40]
    assert samples.latency("a", 3) is None
    latency = samples.latency("a")
    assert (latency.videos, latency.p50_ms) == (4, 4.0)
    assert "b" not in samples
