import numpy as np
import pytest
from samples import synthetic_scores

from dynvid.calibration.calibrate import calibrate
from dynvid.calibration.choosing.request import Request
from dynvid.calibration.choosing.sweep import costs_of
from dynvid.calibration.scores.answers import answers_of
from dynvid.calibration.scores.scores import Scores
from dynvid.calibration.scores.temperature import fit_temperatures, reliability
from dynvid.grid.errors import UsageError
from dynvid.runtime.confidence import confidence


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def drawn(temperatures, videos=20_000, classes=8, seed=0):
    """Return scores over-confident by known temperatures: labels are drawn from the tempered probabilities."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (videos, classes))
    labels = (softmax(logits).cumsum(1) > rng.random((videos, 1))).argmax(1)
    return Scores(np.stack([softmax(logits * t) for t in temperatures]).astype(np.float32), labels)


def test_the_tempered_confidence_is_that_of_the_divided_logits():
    logits = np.random.default_rng(0).normal(0, 5, (200, 400))
    for temperature in (0.3, 0.9, 1.0, 1.1, 4.0):
        found = [confidence(p, temperature) for p in softmax(logits)]
        assert found == pytest.approx(softmax(logits / temperature).max(-1), rel=1e-9)
    p = softmax(logits).astype(np.float32)[0]
    assert confidence(p) == float(p.max())


def test_a_temperature_tells_saturated_confidences_apart():
    p = softmax(np.array([[40.0, 0, 0], [30, 0, 0]], np.float32)).astype(np.float32)
    assert p.max(1).tolist() == [1.0, 1.0]
    assert confidence(p[1], 4.0) < confidence(p[0], 4.0) < 1.0


def test_known_temperatures_are_found():
    assert fit_temperatures(*two(drawn((2.0, 1.0, 0.5)))) == pytest.approx((2.0, 1.0, 0.5), rel=0.03)


def two(scores):
    return scores.probabilities, scores.labels


def test_where_no_temperature_is_best_confidences_stay():
    p = softmax(np.random.default_rng(0).normal(0, 2, (1, 50, 4))).astype(np.float32)
    assert fit_temperatures(p, p[0].argmax(1)) == (1.0,)


def test_the_calibration_error_shrinks_on_held_out_videos():
    scores = drawn((3.0, 1.5))
    report = calibrate(scores, costs_of(None, None, 2), Request(q=1.0, unit="exits", temperature=True)).report
    before, after = ([row["ece"] for row in report["reliability"][name]] for name in ("before", "after"))
    assert min(before) > 0.05 and max(after) < 0.02
    assert report["temperatures"] == pytest.approx([3.0, 1.5], rel=0.05)
    for row in report["reliability"]["after"]:
        assert sum(b["videos"] for b in row["bins"]) == 10_000


def test_a_calibrated_exit_has_a_small_error_and_full_bins():
    (row,) = reliability(answers_of(drawn((1.0,))))
    assert row["ece"] < 0.02 and row["checkpoint"] == 1
    assert all(b["bin"][0] <= b["confidence"] <= b["bin"][1] for b in row["bins"])


def test_temperatures_do_not_change_a_class():
    scores = synthetic_scores(500)
    plain, tempered = answers_of(scores), answers_of(scores, (2.0,) * 6)
    assert (plain.correct == tempered.correct).all() and (plain.confidences != tempered.confidences).any()


def test_temperatures_without_labels_are_refused():
    scores = Scores(synthetic_scores(50).probabilities)
    with pytest.raises(UsageError, match="--temperature needs labels"):
        calibrate(scores, costs_of(None, None, 6), Request(unit="exits", temperature=True))
