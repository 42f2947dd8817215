"""Parts become one file: every video once, and never two answers for one."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from dynvid.cli import cli
from dynvid.grid.errors import ResultsError, StaleResultsError, UsageError
from dynvid.runtime.results.formats import lines_of, read_records, write_parquet
from dynvid.runtime.results.merge import merge
from dynvid.runtime.results.results_file import open_results
from dynvid.runtime.results.run import Run, run_beside, sha256_of_videos

VIDEOS = [f"v/{i}.mp4" for i in range(9)]
RUN = Run("b" * 64, None, None, "fp32", "onnxruntime", False, 9, sha256_of_videos(VIDEOS))


def record(video, ms=1.0, **more):
    return {"video": video, "status": "ok", "confidence": 0.1 + 0.2, "latency_ms": ms, **more}


def part(path, videos, run=RUN, **more):
    with open_results(path, run, VIDEOS) as results:
        for video in videos:
            results.append(record(video, **more))
    return path


@pytest.fixture
def parts(tmp_path):
    return [part(tmp_path / f"{i}.jsonl", VIDEOS[i::3], replace(RUN, shard=(i + 1, 3))) for i in range(3)]


def test_shards_together_are_what_one_process_would_have_written(parts, tmp_path):
    out = tmp_path / "all.jsonl"
    found = merge(parts, out)
    assert (found.parts, found.lines, found.videos, found.failed, found.missing) == (3, 9, 9, 0, 0)
    whole = part(tmp_path / "whole.jsonl", [v for i in range(3) for v in VIDEOS[i::3]])
    assert out.read_bytes() == whole.read_bytes()
    with open_results(out, RUN, VIDEOS) as results:  # it goes on as if one process had written it
        assert results.done == set(VIDEOS)


def test_a_line_that_is_there_twice_is_written_once(parts, tmp_path):
    again = part(tmp_path / "again.jsonl", VIDEOS[:4], ms=7.5)
    found = merge([*parts, again], tmp_path / "all.jsonl")
    assert (found.lines, found.videos, found.missing) == (13, 9, 0)
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert sorted(row["video"] for row in rows) == VIDEOS and {row["latency_ms"] for row in rows} == {1.0}


@pytest.mark.parametrize("change", [{"confidence": 0.3}, {"status": "damaged"}, {"more": None}])
def test_two_lines_of_a_video_that_differ_are_refused_and_nothing_is_written(parts, tmp_path, change):
    other = tmp_path / "other.jsonl"
    shutil.copy(f"{parts[0]}.run.json", f"{other}.run.json")
    other.write_text(json.dumps(record(VIDEOS[3]) | change) + "\n")
    out = tmp_path / "all.jsonl"
    kept = json.dumps(record("kept.mp4")) + "\n"
    out.write_text(kept)
    with pytest.raises(ResultsError, match=r"'v/3.mp4' has two lines that differ, in '.*0.jsonl' and '.*other.jsonl'"):
        merge([*parts, other], out)
    assert out.read_text() == kept and not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_ids_are_what_counts_where_there_are_any(tmp_path):
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path, ids in zip(paths, ("01", "12"), strict=True):
        path.write_text("".join(json.dumps(record("same.mp4", id=i)) + "\n" for i in ids))
    found = merge(paths, tmp_path / "all.jsonl")
    assert (found.lines, found.videos, found.missing) == (4, 3, None)
    assert not (tmp_path / "all.jsonl.run.json").exists()  # of which run they are, they do not say


def test_what_is_missing_is_counted_and_warned_of(parts, tmp_path, caplog):
    assert merge(parts[:2], tmp_path / "all.jsonl").missing == 3
    assert caplog.messages == ["3 of the 9 videos of the list have no line in these parts"]
    done = CliRunner().invoke(cli, ["merge", *map(str, parts[:2]), "-o", str(tmp_path / "all.jsonl"), "--json"])
    assert (done.exit_code, json.loads(done.stdout)["missing"]) == (7, 3)
    done = CliRunner().invoke(cli, ["merge", *map(str, parts), "-o", str(tmp_path / "all.jsonl")])
    assert (done.exit_code, done.stdout.split(": ")[1]) == (0, "9 videos of 9 lines in 3 files, 0 failed, 0 missing\n")


def test_parts_of_different_runs_are_refused(parts, tmp_path):
    other = part(tmp_path / "other.jsonl", VIDEOS[:1], replace(RUN, precision="fp16"))
    with pytest.raises(StaleResultsError, match="another run than '.*0.jsonl': precision fp16, here fp32"):
        merge([*parts, other], tmp_path / "all.jsonl")


def test_what_is_no_results_is_refused(parts, tmp_path):
    with pytest.raises(UsageError, match="is one of the parts"):
        merge(parts, parts[0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResultsError, match="empty' holds no results"):
        merge([tmp_path / "empty"], tmp_path / "all.jsonl")
    with pytest.raises(ResultsError, match=r"none.jsonl' cannot be read \(No such file"):
        merge([tmp_path / "none.jsonl"], tmp_path / "all.jsonl")
    (tmp_path / "text.jsonl").write_text("[1]\n")
    with pytest.raises(ResultsError, match="line 1: no 'video' and 'status'"):
        merge([tmp_path / "text.jsonl"], tmp_path / "all.jsonl")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_what_lay_beside_the_old_file_says_nothing_of_the_new_lines(tmp_path, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    out = tmp_path / f"all.{suffix}"
    lines = part(lines_of(out), VIDEOS[:4])
    (tmp_path / "other.jsonl").write_text(json.dumps(record(VIDEOS[5], confidence=0.9)) + "\n")
    merge([tmp_path / "other.jsonl"], out)
    assert run_beside(out) is None
    with pytest.raises(StaleResultsError, match="without all.*run.json beside it these are no results to resume"):
        open_results(lines, RUN, VIDEOS)


@pytest.mark.parametrize("killed_at", [1, 2])
def test_killed_between_lines_and_what_lies_beside_them_classify_refuses_the_file(
    parts, tmp_path, monkeypatch, killed_at
):
    out = part(tmp_path / "all.jsonl", VIDEOS[:4], replace(RUN, precision="fp16"))
    replaced = []

    def replace_file(self, target):
        replaced.append(target)
        if len(replaced) == killed_at:
            raise KeyboardInterrupt
        os.replace(self, target)

    monkeypatch.setattr(Path, "replace", replace_file)
    with pytest.raises(KeyboardInterrupt):
        merge(parts, out)
    assert [target.name for target in replaced] == ["all.jsonl", "all.jsonl.run.json"][:killed_at]
    monkeypatch.undo()
    for run in (RUN, replace(RUN, precision="fp16")):
        with pytest.raises(StaleResultsError, match="these are no results to resume"):
            open_results(out, run, VIDEOS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("T.json", '{"format": "dynvid.thresholds", "thresholds": [0.5, null]}\n'),
        ("list.jsonl", '{"video": "a.mp4", "label": "cat"}\n'),
        ("list", "video,label\na.mp4,cat\n"),
        ("manifest.json", "{\n}\n"),
        ("0.jsonl.run.json", "one of the parts'"),
        ("all.jsonl.run.json", None),
        ("run.json", None),
        ("all.csv", None),
        ("all.html", json.dumps(record("a.mp4"))),
    ],
)
def test_only_results_are_replaced_and_only_by_a_name_of_results(parts, tmp_path, name, content):
    out = tmp_path / name
    if content is not None and name != "0.jsonl.run.json":
        out.write_text(content)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="exists and is not results|expected the name of results"):
        merge(parts, out)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_or_a_device_is_not_replaced(parts, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for out in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(UsageError, match="is not a regular file"):
            merge(parts, out)


def test_more_videos_than_the_run_has_are_refused(parts, tmp_path):
    with parts[2].open("a") as file:
        file.writelines(json.dumps(record(f"more/{i}.mp4")) + "\n" for i in range(100))
    with pytest.raises(StaleResultsError, match="2.jsonl' has lines of other videos: its run has 9"):
        merge(parts, tmp_path / "all.jsonl")
    assert not (tmp_path / "all.jsonl").exists()


def test_of_a_list_that_was_not_read_to_its_end_nothing_is_missing_that_is_known(tmp_path, caplog):
    run = RUN.provisional("c" * 64)
    found = merge([part(tmp_path / "killed.jsonl", VIDEOS[:4], run)], tmp_path / "all.jsonl")
    assert (found.videos, found.missing) == (4, None) and "not read to its end" in caplog.messages[0]
    assert run_beside(tmp_path / "all.jsonl") == run


def test_an_empty_file_is_no_results_unless_its_run_lies_beside_it(parts, tmp_path):
    (tmp_path / "empty.jsonl").touch()
    for empty in (tmp_path / "empty.jsonl", Path("/dev/null")):
        with pytest.raises(ResultsError, match=f"'{empty}' is empty"):
            merge([parts[0], empty], tmp_path / "all.jsonl")
    shard = part(tmp_path / "shard.jsonl", [], replace(RUN, shard=(4, 4)))
    assert merge([*parts, shard], tmp_path / "all.jsonl").missing == 0


def test_parts_that_do_not_say_of_which_run_they_are_are_warned_of(parts, tmp_path, caplog):
    Path(f"{parts[1]}.run.json").unlink()
    assert merge(parts, tmp_path / "all.jsonl").missing is None
    assert len(caplog.messages) == 1
    assert f"1 of 3 files do not say of which run they are, first '{parts[1]}': whether" in caplog.messages[0]


def test_of_a_folder_every_file_of_results_is_taken(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    for i, name in enumerate(("1.jsonl", "2", "3.json")):
        part(folder / name, VIDEOS[i::3], replace(RUN, shard=(i + 1, 3)))
    found = merge([folder], tmp_path / "all.jsonl")
    assert (found.parts, found.videos, found.missing) == (3, 9, 0)
    (folder / "list.jsonl").write_text('{"video": "a.mp4"}\n')
    with pytest.raises(ResultsError, match=r"list.jsonl', line 1: no 'video' and 'status'"):
        merge([folder], tmp_path / "all.jsonl")


def test_of_a_folder_lines_count_more_than_the_parquet_that_was_written_from_them(tmp_path, caplog):
    pytest.importorskip("pyarrow")
    folder = tmp_path / "results"
    folder.mkdir()
    for i in range(3):  # the first has gone on since, the last was killed
        lines = part(folder / f"{i}.parquet.jsonl", VIDEOS[i::3], replace(RUN, shard=(i + 1, 3)))
        if i < 2:
            write_parquet(list(read_records(lines))[i == 0 :], folder / f"{i}.parquet")
    write_parquet([record("more.mp4")], folder / "more.parquet")
    found = merge([folder], tmp_path / "all.jsonl")
    assert (found.parts, found.lines, found.videos) == (4, 10, 10)
    (folder / "checkpoint").mkdir()
    caplog.clear()
    assert merge([folder], tmp_path / "all.jsonl").parts == 3
    assert "3 parquet files are left out, first '0.parquet': Ray had not finished them" in caplog.messages[0]


def test_lines_that_lost_their_sidecar_do_not_replace_the_parquet_beside_them(parts, tmp_path):
    pytest.importorskip("pyarrow")
    folder = tmp_path / "results"
    folder.mkdir()
    out = folder / "all.parquet"
    part(lines_of(out), VIDEOS[:1], confidence=0.9)
    merge(parts, out)
    with pytest.raises(ResultsError, match="'v/0.mp4' has two lines that differ, in .*parquet' and .*parquet.jsonl'"):
        merge([folder], tmp_path / "all.jsonl")
