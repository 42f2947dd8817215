import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynvid.calibration.choosing.thresholds import RankedConfidences, exit_quotas, exits, geometric_thresholds
from dynvid.grid.errors import UsageError

PAPER_TABLE_2 = (1993, 2392, 2871, 3445, 4134, 4961)


def test_exit_counts_of_the_papers_table_2():
    assert tuple(exit_quotas(1.2, 6, 19796)) == PAPER_TABLE_2


def test_on_distinct_confidences_exactly_the_quota_leaves():
    confidences = np.random.default_rng(0).random((6, 19796), np.float64)
    chosen = RankedConfidences(confidences).choose(1.2)
    assert chosen.counts == chosen.quotas == PAPER_TABLE_2
    counts = np.bincount(exits(confidences, chosen.thresholds), minlength=6)
    assert tuple(counts) == PAPER_TABLE_2


def test_a_threshold_lies_midway_between_the_last_that_leaves_and_the_next():
    confidences = np.array([[0.9, 0.8, 0.6, 0.5], [0.1, 0.2, 0.9, 0.3]])
    assert geometric_thresholds(confidences, 1.0) == (pytest.approx(0.7), None)


@pytest.mark.parametrize(("q", "leave"), [(0.5, 300), (1.0, 300), (2.0, 300), (0.05, 951)])
def test_with_30_percent_saturated_the_nearest_nonzero_share_leaves(q, leave):
    """Two exits, 300 of 1000 confidences tied at 1.0: nothing exceeds 1.0, so all 300 leave or none."""
    first = np.concatenate([np.ones(300), np.linspace(0.2, 0.99, 700)])
    confidences = np.stack([first, np.full(1000, 0.5)]).astype(np.float32)
    chosen = RankedConfidences(confidences).choose(q)
    quota = chosen.quotas[0]
    assert quota == {0.5: 666, 1.0: 500, 2.0: 333, 0.05: 952}[q]
    # beyond the tie the quota is met; within it the whole tie leaves
    assert chosen.counts[0] == (leave if quota <= 300 else quota)
    small = RankedConfidences(confidences).choose(9.0)
    assert (small.quotas[0], small.counts[0]) == (100, 300)
    assert 0.99 < small.thresholds[0] < 1.0
    assert (exits(confidences, small.thresholds) == 0).sum() == 300


def test_a_tie_below_the_top_is_cut_on_the_nearer_side():
    first = np.concatenate([np.linspace(0.9, 0.99, 100), np.full(50, 0.5), np.linspace(0.1, 0.2, 50)])
    confidences = np.stack([first, first])
    for q, quota, leave in ((1.0, 100, 100), (0.65, 121, 100), (0.6, 125, 150), (0.4, 142, 150)):
        chosen = RankedConfidences(confidences).choose(q)
        assert (chosen.quotas[0], chosen.counts[0]) == (quota, leave)


@given(
    st.integers(2, 6),
    st.integers(1, 60),
    st.floats(0.05, 5),
    st.integers(0, 2**32 - 1),
    st.sampled_from([2, 5, 1000]),
)
def test_counts_are_those_of_the_run_time_rule(num_exits, num_videos, q, seed, levels):
    levels_of = np.random.default_rng(seed).integers(1, levels + 1, (num_exits, num_videos))
    confidences = (levels_of / levels).astype(np.float32)
    chosen = RankedConfidences(confidences).choose(q)
    counts = np.bincount(exits(confidences, chosen.thresholds), minlength=num_exits)
    assert tuple(counts) == chosen.counts
    assert sum(chosen.counts) == sum(chosen.quotas) == num_videos
    assert all(t is None or 0 <= t <= 1 for t in chosen.thresholds)
    assert (chosen.counts[0] == 0) == (chosen.quotas[0] == 0)  # no exit is silently closed


def test_the_threshold_must_be_exceeded_strictly():
    confidences = np.array([[0.5, 0.6], [0.9, 0.9]], np.float32)
    assert exits(confidences, (float(np.float32(0.6)), None)).tolist() == [1, 1]
    assert exits(confidences, (0.55, None)).tolist() == [1, 0]


@pytest.mark.parametrize("q", [0.0, -1.0, float("nan"), float("inf")])
def test_a_ratio_that_is_none_is_refused(q):
    with pytest.raises(UsageError, match="expected a positive ratio"):
        exit_quotas(q, 3, 10)
