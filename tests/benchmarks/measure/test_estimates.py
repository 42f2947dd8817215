"""Medians of strata, and the intervals around them."""

import numpy as np
import pytest

from dynvid.benchmarks.measure.estimates import Times, of_mean, of_median


def test_the_figure_is_the_sum_of_the_strata_s_medians_times_their_shares():
    times = Times([(0.25, [1.0, 2.0, 100.0]), (0.75, [10.0, 10.0, 10.0])])
    assert times.value == 0.25 * 2 + 0.75 * 10
    estimate = times.estimate()
    assert estimate.low <= estimate.value <= estimate.high
    assert estimate.high == pytest.approx(0.25 * 100 + 7.5)  # two of three draws may be the slow one


def test_a_share_without_samples_is_refused_and_no_share_needs_none():
    with pytest.raises(ValueError, match="without samples"):
        Times([(0.5, [1.0]), (0.5, [])])
    assert Times([(1.0, [3.0]), (0.0, [])]).value == 3.0


def test_intervals_hold_the_median_as_often_as_they_say():
    rng, held = np.random.default_rng(0), 0
    for _ in range(200):
        found = of_median(rng.exponential(1.0, 60))
        held += found.low <= np.log(2) <= found.high
    assert 180 <= held <= 199


def test_a_reciprocal_and_its_interval():
    times = Times([(0.5, np.random.default_rng(1).normal(30, 1, 100)), (0.5, [10.0])])
    plain, found = times.estimate(), times.under(40.0)
    assert found.value == pytest.approx(40 / times.value)
    assert (found.low, found.high) == pytest.approx((40 / plain.high, 40 / plain.low))


def test_the_mean_and_its_interval():
    found = of_mean([1.0, 2.0, 3.0])
    assert (found.value, found.low < 2, found.high > 2) == (2.0, True, True)
