"""A long list is classified while it is read; the results know at any time which list they belong to."""

import json

import pytest

from dynvid.grid.errors import ListError, StaleResultsError
from dynvid.runtime.results.list_run import run_list
from dynvid.runtime.results.run import Run

RUN = Run("b" * 64, None, None, "fp32", "onnxruntime", False, 0, "")
COUNT = 20


@pytest.fixture(autouse=True)
def short_steps(monkeypatch):
    monkeypatch.setattr("dynvid.runtime.video.listing._ROWS_AT_ONCE", 3)


@pytest.fixture
def listed(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("video,label\n" + "".join(f"{i:02d}.mp4,{'ab'[i % 2]}\n" for i in range(COUNT)))
    return path


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.jsonl"


class Killed(Exception):
    """Stands for kill -9."""


def classify(listed, out, *, kill_after=None, run=RUN, failing=(), most=1.0):
    """Return the videos that were tried, how far the list was read at the first answer, and the summary."""
    tried, known = [], []

    def records(rows):
        for row in rows:
            tried.append(row.path.name)
            status = "damaged" if row.path.name in failing else "ok"
            yield {"video": str(row), "status": status, "label": "a", "listed_label": row.label, "checkpoint": 1}

    def arrived(record):
        known.append(json.loads(out.with_name(f"{out.name}.run.json").read_text())["videos"])
        if len(known) == kill_after:
            raise Killed

    summary = run_list(records, listed, ("a", "b"), out, run, most, False, arrived)
    return tried, known, summary


def lines(out):
    return [json.loads(line)["video"].rpartition("/")[2] for line in out.read_text().splitlines()]


NAMES = [f"{i:02d}.mp4" for i in range(COUNT)]


def test_the_first_answer_does_not_wait_for_the_list(listed, out):
    tried, known, summary = classify(listed, out)
    assert tried == lines(out) == NAMES
    assert known[0] == 0 and known[-1] == COUNT and summary.videos == COUNT and summary.correct == COUNT / 2


@pytest.mark.parametrize("kill_after", [1, 3, 12])
def test_killed_before_or_after_the_list_was_read_it_goes_on(listed, out, kill_after):
    with pytest.raises(Killed):
        classify(listed, out, kill_after=kill_after)
    tried, _, summary = classify(listed, out)
    assert tried == NAMES[kill_after:] and lines(out) == NAMES and summary.tried_before == kill_after


@pytest.mark.parametrize("kill_after", [1, 12])
def test_another_list_is_refused_whether_it_was_read_to_its_end_or_not(listed, out, kill_after):
    with pytest.raises(Killed):
        classify(listed, out, kill_after=kill_after)
    listed.write_text(listed.read_text() + "20.mp4,a\n")
    with pytest.raises(StaleResultsError, match="holds results of another run: videos"):
        classify(listed, out)
    assert lines(out) == NAMES[:kill_after]


def test_another_order_is_the_same_list_once_it_was_read(listed, out):
    with pytest.raises(Killed):
        classify(listed, out, kill_after=12)
    header, *rows = listed.read_text().splitlines(keepends=True)
    listed.write_text(header + "".join(rows[::-1]))
    tried, _, _ = classify(listed, out)
    assert tried == NAMES[:11:-1] and sorted(lines(out)) == NAMES


def test_a_wrong_row_far_down_is_refused_and_the_lines_before_stay(listed, out):
    listed.write_text(listed.read_text() + "too,many,fields\n")
    with pytest.raises(ListError, match="line 22: 3 fields, expected 2"):
        classify(listed, out)
    assert lines(out) == NAMES[: len(lines(out))] and len(lines(out)) < COUNT


def test_a_shard_reads_the_list_first(listed, out):
    from dataclasses import replace

    tried, known, summary = classify(listed, out, run=replace(RUN, shard=(2, 3)))
    assert tried == NAMES[1::3] and set(known) == {COUNT} and summary.videos == len(tried)
