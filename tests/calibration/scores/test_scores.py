import dataclasses

import numpy as np
import pytest
from samples import synthetic_scores

from dynvid.calibration.scores.journal import Journal
from dynvid.calibration.scores.scores import Scores, check_scores, read_scores
from dynvid.grid.errors import ScoresError, StaleScoresError, UsageError

GOOD = synthetic_scores(20)


def test_scores_read_back_as_written_and_equal_scores_are_equal_bytes(tmp_path):
    GOOD.write(tmp_path / "a.npz")
    GOOD.write(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    found = read_scores(tmp_path / "a.npz")
    for name in ("probabilities", "labels", "macs"):
        assert (getattr(found, name) == getattr(GOOD, name)).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_scores_from_elsewhere_need_no_more_than_probabilities(tmp_path):
    np.savez(tmp_path / "s.npz", probabilities=GOOD.probabilities.astype(np.float64), other=np.arange(3))
    found = read_scores(tmp_path / "s.npz")
    assert found.labels is None and found.macs is None and found.videos == ()


def changed(**values):
    return dataclasses.replace(GOOD, **values)


def spoilt(value):
    p = GOOD.probabilities.copy()
    p[2, 7, 1] = value
    return p


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (changed(probabilities=spoilt(np.nan)), "1 of 120 answers are not probabilities .* at exit 3 for video 7"),
        (changed(probabilities=spoilt(np.inf)), "1 of 120 answers are not probabilities"),
        (changed(probabilities=GOOD.probabilities * 2), "120 of 120 answers are not probabilities"),
        (changed(probabilities=np.array([[[1.5, -0.5]]], np.float32), labels=None, macs=None), "negative"),
        (changed(probabilities=GOOD.probabilities[:, :0]), "at least one exit, one video and two classes"),
        (changed(probabilities=GOOD.probabilities[0]), r"expected float32 or float64 \[exits, videos, classes\]"),
        (changed(probabilities=(GOOD.probabilities * 255).astype(np.uint8)), "probabilities uint8"),
        (changed(labels=np.full(20, 13)), "20 labels lie outside the 13 classes, first 13 of video 0"),
        (changed(labels=np.full(20, -1)), "20 labels lie outside"),
        (changed(labels=np.zeros(19, np.int64)), "expected 20 whole numbers"),
        (changed(labels=np.zeros(20)), "labels float64"),
        (changed(macs=np.arange(5)), "expected one number for each of 6 exits"),
        (changed(macs=np.array([1.0, 3, 2, 4, 5, 6])), "positive, ascending numbers: sort the exits"),
        (changed(macs=np.array([0.0, 1, 2, 4, 5, 6])), "positive, ascending numbers"),
        (changed(macs=np.array([1.0, 2, 3, 4, 5, np.nan])), "positive, ascending numbers"),
    ],
)
def test_scores_that_cannot_be_used_are_refused(scores, message):
    with pytest.raises(ScoresError, match=message) as caught:
        check_scores(scores, "given")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"\x93NUMPY", b"text"])
def test_a_file_that_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "s.npz").write_bytes(content)
    with pytest.raises(ScoresError, match="Expected an .npz"):
        read_scores(tmp_path / "s.npz")


def test_an_archive_without_scores_is_refused(tmp_path):
    with pytest.raises(ScoresError, match="cannot be read"):
        read_scores(tmp_path / "missing.npz")
    np.savez(tmp_path / "s.npz", labels=np.arange(3))
    with pytest.raises(ScoresError, match="hold no 'probabilities'"):
        read_scores(tmp_path / "s.npz")
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(ScoresError, match="are a single array"):
        read_scores(tmp_path / "a.npy")
    np.savez(tmp_path / "o.npz", probabilities=np.array([{}], object))
    with pytest.raises(ScoresError, match="cannot be read"):
        read_scores(tmp_path / "o.npz")


# the journal


def reopened(path, size=8, belongs_to="x"):
    with Journal(path, {"of": belongs_to}, size) as journal:
        return journal.records


def test_a_journal_cut_or_spoilt_anywhere_keeps_the_records_before(tmp_path):
    path, records = tmp_path / "j", [bytes([i] * 8) for i in range(5)]
    with Journal(path, {"of": "x"}, 8) as journal:
        for record in records:
            journal.append(record)
    whole = path.read_bytes()
    start = len(whole) - 5 * 12
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        assert reopened(path) == records[: max(0, cut - start) // 12]
        with Journal(path, {"of": "x"}, 8) as journal:  # and goes on from there
            journal.append(b"continue")
        assert reopened(path)[-1] == b"continue"
    for place in range(start, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert reopened(path) == records[: (place - start) // 12]


def test_a_journal_of_something_else_is_refused_and_left_alone(tmp_path):
    with Journal(tmp_path / "j", {"of": "x"}, 8) as journal:
        journal.append(b"12345678")
    before = (tmp_path / "j").read_bytes()
    with pytest.raises(
        StaleScoresError, match="another bundle, other videos, labels, thresholds or preprocessing"
    ) as caught:
        Journal(tmp_path / "j", {"of": "y"}, 8)
    assert caught.value.exit_code == 4
    assert (tmp_path / "j").read_bytes() == before


def test_two_writers_of_one_journal_are_refused(tmp_path):
    with Journal(tmp_path / "j", {}, 8), pytest.raises(UsageError, match="being written by another process"):
        Journal(tmp_path / "j", {}, 8)


def test_scores_are_plain_data():
    assert Scores(GOOD.probabilities).belongs_to == {}
