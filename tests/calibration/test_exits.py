"""One exit decision, made twice: by the runtime for one answer, by calibration for all at once. They may never differ."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dynvid.calibration.choosing.thresholds import exits
from dynvid.calibration.scores.answers import answers_of
from dynvid.calibration.scores.scores import Scores
from dynvid.grid.route import Route
from dynvid.grid.topology import Cell, Grid
from dynvid.runtime.exits import ExitRule

ROUTE = Route(Grid(3, 1, 1), (Cell(0, 0), Cell(1, 0), Cell(2, 0)))


@st.composite
def cases(draw):
    """Return probabilities [3, videos, classes], thresholds and temperatures; some thresholds are confidences themselves."""
    videos, classes = draw(st.integers(1, 6)), draw(st.integers(2, 5))
    weights = draw(st.lists(st.integers(0, 9), min_size=3 * videos * classes, max_size=3 * videos * classes))
    p = np.array(weights, np.float32).reshape(3, videos, classes) + np.float32(0.25)
    p /= p.sum(axis=2, keepdims=True)
    temperatures = draw(st.none() | st.tuples(*[st.sampled_from([1.0, 0.5, 1.7, 3.0])] * 3))
    seen = answers_of(Scores(p, None, None), temperatures).confidences
    limit = st.floats(0, 1) | st.sampled_from([float(value) for value in seen.ravel()])
    return p, (draw(limit), draw(limit), None), temperatures


@given(cases())
def test_calibration_counts_a_video_where_the_runtime_lets_it_leave(case):
    p, thresholds, temperatures = case
    answers, rule = answers_of(Scores(p, None, None), temperatures), ExitRule(ROUTE, thresholds, temperatures)
    expected = exits(answers.confidences, thresholds).tolist()
    for video, exit_ in enumerate(expected):
        verdicts = [rule.judge(k + 1, np.log(p[k, video]), p[k, video]) for k in range(3)]
        assert [verdict.leaves for verdict in verdicts].index(True) == exit_
        assert verdicts[exit_].confidence == answers.confidences[exit_, video]
        assert verdicts[exit_].class_index == p[exit_, video].argmax()
