import json

import numpy as np
import pytest

from dynvid.calibration.drift import check_results, compare, tally_of
from dynvid.grid.errors import ResultsError, ThresholdsError
from dynvid.grid.thresholds import Thresholds
from dynvid.runtime.exit_histogram import ExitHistogram

EXPECTED = (
    (0, 0, 0, 0, 0, 0, 0, 50, 100, 250),
    (0, 0, 0, 0, 0, 20, 80, 100, 50, 50),
    (0, 0, 50, 50, 50, 50, 50, 50, 0, 0),
)
RATES = np.array(EXPECTED) / np.sum(EXPECTED)


def draw(rates, videos, rng):
    return tuple(map(tuple, rng.multinomial(videos, rates.ravel() / rates.sum()).reshape(rates.shape).tolist()))


def test_equal_videos_seldom_warn_and_other_ones_do():
    rng = np.random.default_rng(0)
    assert sum(compare(EXPECTED, draw(RATES, 500, rng)).drifted for _ in range(100)) <= 5
    moved = RATES.copy()
    moved[[0, 2]] *= [[0.7], [1.48]]  # 12 % of the videos leave at the last checkpoint instead of the first
    found = compare(EXPECTED, draw(moved, 1000, rng))
    assert found.drifted and found.exit_distance == pytest.approx(0.12, abs=0.04)
    assert found.exit_chance < 0.08
    less_sure = np.roll(RATES, -1, axis=1)  # the same exits
    found = compare(EXPECTED, draw(less_sure, 1000, rng))
    assert found.exit_distance <= found.exit_chance and found.confidence_distance > found.confidence_chance
    assert found.drifted and found.to_json()["drifted"]


def test_equal_tallies_have_no_distance():
    found = compare(EXPECTED, EXPECTED)
    assert (found.exit_distance, found.confidence_distance, found.drifted) == (0, 0, False)
    assert found.shares == found.expected_shares and found.videos == 1000


def test_a_tally_counts_by_checkpoint_and_confidence():
    tally = ExitHistogram(2)
    for checkpoint, confidence in ((1, 0.0), (1, 0.99), (2, 1.0), (2, 1.0000001), (2, 0.5)):
        tally.add(checkpoint, confidence)
    assert tally.counts == ((1, 0, 0, 0, 0, 0, 0, 0, 0, 1), (0, 0, 0, 0, 0, 1, 0, 0, 0, 2))


def results(tmp_path, *records):
    path = tmp_path / "r.jsonl"
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in records))
    return path


def good(checkpoint=1, confidence=0.9):
    return {"status": "ok", "checkpoint": checkpoint, "confidence": confidence}


def test_results_are_counted_but_for_those_without_an_answer(tmp_path):
    path = results(tmp_path, good(), good(2, 0.35), {"status": "damaged"}, {"status": "numeric_error", "checkpoint": 1})
    assert [sum(row) for row in tally_of(path, 3)] == [1, 1, 0]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (["{\n"], "line 1: "),
        (["{"], "line 1 ends in the middle"),
        ([good(), "[]\n"], "line 2: checkpoint None, expected a number from 1 to 3"),
        ([good(4)], "checkpoint 4, expected a number from 1 to 3"),
        ([good(True)], "checkpoint True"),
        ([good(1, 1.5)], r"confidence 1.5, expected a number in \[0, 1\]"),
        ([good(1, None)], "confidence None"),
        ([good(1, "0.5")], "confidence '0.5'"),
        ([], "no video has an answer"),
        ([{"status": "damaged"}], "no video has an answer"),
    ],
)
def test_results_that_are_none_are_refused(tmp_path, records, message):
    with pytest.raises(ResultsError, match=message) as caught:
        tally_of(results(tmp_path, *records), 3)
    assert caught.value.exit_code == 3
    with pytest.raises(ResultsError, match="cannot be read"):
        tally_of(tmp_path / "missing.jsonl", 3)


def test_thresholds_that_expect_nothing_are_refused(tmp_path):
    with pytest.raises(ThresholdsError, match=r"'T.json' do not say how videos left at calibration"):
        check_results(results(tmp_path, good()), Thresholds("0" * 64, (0.5, 0.5, None)), "T.json")
    with pytest.raises(ResultsError, match="on the same route"):
        compare(EXPECTED, EXPECTED[:2])
