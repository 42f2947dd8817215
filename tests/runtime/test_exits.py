import numpy as np
import pytest

from dynvid.grid.errors import ThresholdsError
from dynvid.grid.route import Route
from dynvid.grid.topology import Cell, Grid
from dynvid.runtime.exits import ExitRule, Verdict

ROUTE = Route(Grid(3, 1, 1), (Cell(0, 0), Cell(1, 0), Cell(2, 0)))
ANSWER = np.array([0.25, 0.5, 0.25], np.float32)


def judge(index, thresholds, probabilities=ANSWER, temperatures=None, logits=ANSWER):
    return ExitRule(ROUTE, thresholds, temperatures).judge(index, logits, probabilities)


@pytest.mark.parametrize(
    ("index", "thresholds", "leaves"),
    [
        (1, (0.5, 0.0, None), False),  # it must be exceeded
        (1, (float(np.nextafter(0.5, 0)), 1.0, None), True),
        (2, (0.5, 0.0, None), True),
        (3, (1.0, 1.0, None), True),  # the last always answers
        (2, None, False),
        (3, None, True),
    ],
)
def test_a_video_leaves_where_its_threshold_is_exceeded(index, thresholds, leaves):
    assert judge(index, thresholds) == Verdict(1, 0.5, leaves)


def test_nothing_exceeds_one():
    certain = np.array([0, 1, 0], np.float32)
    assert judge(1, (1.0, 1.0, None), certain) == judge(1, None, certain) == Verdict(1, 1.0, False)


def test_of_equals_the_first_class_is_named():
    assert judge(3, None, np.full(4, 0.25, np.float32)).class_index == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["logits", "probabilities"])
@pytest.mark.parametrize("index", [1, 3])
def test_no_class_is_named_where_a_number_is_none(bad, where, index):
    spoilt = ANSWER.copy()
    spoilt[0] = bad
    assert judge(index, (1.0, 1.0, None), **{where: spoilt}) == Verdict(None, None, True)


def test_the_confidence_is_that_of_its_checkpoints_temperature():
    found = judge(2, (1.0, 0.4, None), temperatures=(1.0, 2.0, 1.0))
    assert found.confidence == pytest.approx(0.5**0.5 / (0.5**0.5 + 2 * 0.25**0.5)) and found.leaves
    assert judge(2, (1.0, 0.45, None), temperatures=(1.0, 2.0, 1.0)).leaves is False


def test_what_does_not_fit_the_route_is_refused():
    with pytest.raises(ThresholdsError, match="2 values for 3 checkpoints"):
        judge(1, (0.5, None))
    with pytest.raises(ThresholdsError, match="1 temperatures for 3 checkpoints"):
        judge(1, None, temperatures=(1.0,))
