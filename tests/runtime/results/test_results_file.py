"""Results that outlive any death: every video exactly one line, and nothing that is not this run's."""

import dataclasses
import errno
import fcntl
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from dynvid.cli import cli
from dynvid.grid.errors import DynvidError, ResourceError, StaleResultsError, UsageError
from dynvid.runtime.open_model import open_model
from dynvid.runtime.results.records import parse_shard, shard_of
from dynvid.runtime.results.results_file import open_results
from dynvid.runtime.results.run import Run, sha256_of_videos
from dynvid.runtime.results.summary import Summary
from dynvid.runtime.video.listing import VideoList

VIDEOS = [f"v/{i} ü.mp4" for i in range(6)]
RUN = Run("b" * 64, (0.5, 0.25, None), None, "fp32", "onnxruntime", False, 6, sha256_of_videos(VIDEOS))


def record(video, status="ok"):
    return {"video": video, "status": status, "confidence": 1 / (2 + VIDEOS.index(video))}


def fill(path, videos=VIDEOS, **options):
    """Go on with a file until every video has a line; return the file's bytes."""
    with open_results(path, RUN, VIDEOS, **options) as results:
        for video in videos:
            if video not in results.done:
                results.append(record(video, "damaged" if video == VIDEOS[2] else "ok"))
    return path.read_bytes()


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.jsonl"


@pytest.fixture
def whole(tmp_path):
    """Return what an uninterrupted run writes."""
    return fill(tmp_path / "whole.jsonl")


# going on


def test_a_line_a_video_and_the_run_beside_it(out, whole):
    with open_results(out, RUN, VIDEOS) as results:
        beside = json.loads(Path(f"{out}.run.json").read_bytes())
        assert (results.done, out.read_bytes()) == (set(), b"")
        for video in VIDEOS[:3]:
            results.append(record(video, "damaged" if video == VIDEOS[2] else "ok"))
        assert out.read_bytes() == b"".join(whole.splitlines(keepends=True)[:3])
        assert results.failed == {VIDEOS[2]}
    assert beside["format"] == "dynvid.run" and beside["thresholds"] == [0.5, 0.25, None]
    with open_results(out, RUN, VIDEOS) as results:
        assert (results.done, results.failed) == (set(VIDEOS[:3]), {VIDEOS[2]})
    assert fill(out) == whole
    assert [json.loads(line) for line in whole.splitlines()] == [
        record(v, "damaged" if v == VIDEOS[2] else "ok") for v in VIDEOS
    ]


def test_a_last_line_torn_at_any_byte_is_done_again(out, whole):
    fill(out)
    last = whole.rindex(b"\n", 0, -1)
    for length in (*range(0, last, 29), *range(last, len(whole))):
        out.write_bytes(whole[:length])
        with open_results(out, RUN, VIDEOS) as results:
            assert len(results.done) == whole[:length].count(b"\n")
        assert fill(out) == whole


class Dead(BaseException):
    """Stands for kill -9."""


@pytest.fixture
def die_at(monkeypatch):
    """Return a context in which nothing more happens from the k-th system call on; a write is done by half."""
    calls = ("open", "write", "fsync", "ftruncate", "replace", "unlink")
    real = {name: getattr(os, name) for name in calls}

    def run(k, work):
        count, opened, dead = 0, [], False

        def call(name):
            def wrapper(*arguments, **options):
                nonlocal count, dead
                count += 1
                if dead or count > k:
                    if name == "write" and not dead:
                        real[name](arguments[0], arguments[1][: len(arguments[1]) // 2])
                    dead = True
                    raise Dead
                result = real[name](*arguments, **options)
                if name == "open":
                    opened.append(result)
                return result

            return wrapper

        with monkeypatch.context() as patch:
            for name in calls:
                patch.setattr(os, name, call(name))
            try:
                work()
            except Dead:
                for descriptor in opened:  # death lets go of them, and of their locks
                    try:
                        os.close(descriptor)
                    except OSError:
                        continue
        return dead

    return run


def test_death_at_any_system_call_loses_and_doubles_nothing(die_at, tmp_path, whole):
    for k in range(200):
        out = tmp_path / f"{k}.jsonl"
        died = die_at(k, lambda out=out: fill(out))
        written = out.read_bytes() if out.exists() else b""
        assert whole.startswith(written)
        assert fill(out) == whole
        if not died:
            break
    assert not died and k > 12
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_death_at_any_system_call_of_a_retry_loses_and_doubles_nothing(die_at, tmp_path, whole):
    lines = whole.splitlines(keepends=True)
    retried = b"".join(lines[:2] + lines[3:] + lines[2:3])
    for k in range(200):
        out = tmp_path / f"{k}.jsonl"
        fill(out)
        died = die_at(k, lambda out=out: fill(out, retry_failed=True))
        assert fill(out) in (whole, retried)
        assert fill(out, retry_failed=True) == retried
        if not died:
            break
    assert not died and k > 8
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_failed_videos_are_tried_again_only_when_asked(out):
    fill(out)
    with open_results(out, RUN, VIDEOS) as results:
        assert results.done == set(VIDEOS)
    with open_results(out, RUN, VIDEOS, retry_failed=True) as results:
        assert (results.done, results.failed) == (set(VIDEOS) - {VIDEOS[2]}, set())
        with pytest.raises(UsageError, match="being written by another process"):
            open_results(out, RUN, VIDEOS)
        results.append(record(VIDEOS[2]))
    videos = [json.loads(line)["video"] for line in out.read_bytes().splitlines()]
    assert sorted(videos) == VIDEOS


# the disk


def test_lines_reach_the_disk_with_the_hundredth_or_after_a_second(out, monkeypatch):
    now, synced = [0.0], []
    monkeypatch.setattr("dynvid.runtime.results.results_file.time", SimpleNamespace(monotonic=lambda: now[0]))
    fsync = os.fsync
    videos = [str(i) for i in range(1000)]
    with open_results(out, RUN, videos) as results:
        monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(len(results.done)), fsync(descriptor)))
        for number, video in enumerate(videos[:250], 1):
            results.append({"video": video, "status": "ok"})
            assert results.on_disk == number // 100 * 100
        now[0] += 0.99
        results.append({"video": "250", "status": "ok"})
        assert (synced, results.on_disk) == ([100, 200], 200)
        now[0] += 0.01
        results.append({"video": "251", "status": "ok"})
        results.append({"video": "252", "status": "ok"})
        assert (synced, results.on_disk) == ([100, 200, 252], 252)
    assert synced == [100, 200, 252, 253]


def test_a_line_that_the_system_takes_in_pieces_is_whole(out, whole, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: real(descriptor, content[:7]))
    assert fill(out) == whole


def test_a_full_disk_stops_and_the_same_command_goes_on(out, whole, monkeypatch):
    real, left = os.write, [2 * len(whole) // 3]

    def write(descriptor, content):
        if not left[0]:
            raise OSError(28, "No space left on device")
        written = real(descriptor, content[: left[0]])
        left[0] -= written
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(
            ResourceError, match=r"out\.jsonl' cannot be written \(No space left on device\): free some"
        ):
            fill(out)
    assert out.read_bytes() == whole[: 2 * len(whole) // 3]
    assert fill(out) == whole


# what is not ours


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("bundle_sha256", "c" * 64, "bundle_sha256 bbbbbbbb…, here cccccccc…"),
        ("thresholds", None, r"thresholds \(0.5, 0.25, None\), here None"),
        ("thresholds", (0.5, 0.26, None), r"thresholds \(0.5, 0.25, None\), here \(0.5, 0.26, None\)"),
        ("temperatures", (1.0, 2.0, 1.0), r"temperatures None, here \(1.0, 2.0, 1.0\)"),
        ("precision", "fp16", "precision fp32, here fp16"),
        ("backend", "onnxruntime-cuda", "backend onnxruntime, here onnxruntime-cuda"),
        ("trace", True, "trace False, here True"),
        ("videos", 7, "videos 6, here 7"),
        ("videos_sha256", "d" * 64, "videos_sha256 [0-9a-f]{8}…, here dddddddd…"),
        ("shard", (1, 2), r"shard \(1, 1\), here \(1, 2\)"),
    ],
)
def test_results_of_another_run_are_refused_untouched(out, whole, field, value, said):
    fill(out)
    sidecar = Path(f"{out}.run.json").read_bytes()
    with pytest.raises(StaleResultsError, match=f"holds results of another run: {said}. Give another, or remove it"):
        open_results(out, dataclasses.replace(RUN, **{field: value}), VIDEOS)
    assert (out.read_bytes(), Path(f"{out}.run.json").read_bytes()) == (whole, sidecar)
    assert StaleResultsError.exit_code == 4


def test_engines_built_since_are_left_out_on_request(out, whole):
    fill(out)
    with pytest.raises(StaleResultsError, match="fused False, here True. .*: go on with --engines none. Else give ano"):
        open_results(out, dataclasses.replace(RUN, fused=True), VIDEOS)


def test_the_order_of_the_list_is_not_what_a_run_is():
    shuffled = random.Random(0).sample(VIDEOS, 6)
    assert sha256_of_videos(shuffled) == sha256_of_videos(VIDEOS) != sha256_of_videos(VIDEOS[1:])


def test_a_file_that_is_no_results_is_refused_untouched(out):
    out.write_text("my notes")
    with pytest.raises(StaleResultsError, match=r"exists, but without out.jsonl.run.json beside it"):
        open_results(out, RUN, VIDEOS)
    assert out.read_text() == "my notes" and [p.name for p in out.parent.iterdir()] == ["out.jsonl"]


def test_a_run_whose_results_were_removed_starts_anew(out, whole):
    fill(out)
    out.unlink()
    other = dataclasses.replace(RUN, trace=True)
    open_results(out, other, VIDEOS).close()
    with open_results(out, other, VIDEOS) as results:
        results.append(record(VIDEOS[0]))
    with pytest.raises(StaleResultsError, match="trace True, here False"):
        open_results(out, RUN, VIDEOS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace(b"fp32", b"fp16"), "it has changed since it was written"),
        (lambda text: text[:40], "Expecting|Unterminated"),
        (lambda text: b"{}", "its format is not 'dynvid.run'"),
        (
            lambda text: text.replace(b'"version": [\n  1', b'"version": [\n  2'),
            "version 2.2, but this dynvid reads 1.x",
        ),
    ],
)
def test_a_changed_run_is_refused(out, whole, change, said):
    fill(out)
    sidecar = Path(f"{out}.run.json")
    sidecar.write_bytes(change(text := sidecar.read_bytes()))
    assert sidecar.read_bytes() != text
    with pytest.raises(StaleResultsError, match=rf"run\.json': .*({said}).*Give other results, or remove both files"):
        open_results(out, RUN, VIDEOS)
    assert out.read_bytes() == whole


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"notes\n", "line 3: Expecting value"),
        (b"\n", "line 3: Expecting value"),
        (b"[1]\n", "line 3: status None of None, which is not a result of this run"),
        (b'{"video": "other", "status": "ok"}\n', "line 3: status 'ok' of 'other', which is not a result"),
        (b'{"video": ["x"], "status": "ok"}\n', "line 3: status 'ok' of .'x'., which is not a result"),
        (json.dumps(record(VIDEOS[4], "fine")).encode() + b"\n", "line 3: status 'fine'"),
        (json.dumps(record(VIDEOS[0])).encode() + b"\n", "line 3: 'v/0 ü.mp4' already has a line"),
    ],
)
def test_a_file_that_something_else_wrote_to_is_refused_untouched(out, whole, line, said):
    fill(out)
    lines = whole.splitlines(keepends=True)
    out.write_bytes(content := b"".join([*lines[:2], line, *lines[3:4], b"torn"]))
    with pytest.raises(StaleResultsError, match=f"{said}.*Something else changed the file: remove that line"):
        open_results(out, RUN, VIDEOS)
    assert out.read_bytes() == content


def test_two_processes_never_write_one_file(out, monkeypatch):
    with open_results(out, RUN, VIDEOS), pytest.raises(UsageError, match="is being written by another process: wait"):
        open_results(out, RUN, VIDEOS)
    flock = fcntl.flock

    def late(descriptor, how):
        """Lock only after another process has replaced the file, and closed it."""
        monkeypatch.setattr(fcntl, "flock", flock)
        fill(out)
        open_results(out, RUN, VIDEOS, retry_failed=True).close()
        return flock(descriptor, how)

    fill(out)
    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(UsageError, match="is being written by another process"):
        open_results(out, RUN, VIDEOS)
    open_results(out, RUN, VIDEOS).close()


def test_only_a_regular_file_is_written(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("pipe", "is not a regular file"), (".", "cannot be written")):
        with pytest.raises(UsageError, match=f"{said}.*give another"):
            open_results(tmp_path / name, RUN, VIDEOS)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot be written \(.*\): give another"):
        open_results(tmp_path / "file" / "out.jsonl", RUN, VIDEOS)
    (tmp_path / "file").unlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pipe"]
    for stream in ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        with pytest.raises(UsageError, match="cannot be resumed: leave -o out and add --json"):
            open_results(Path(stream), RUN, VIDEOS)


def test_its_folder_is_created(tmp_path, whole):
    assert fill(tmp_path / "results" / "of today" / "out.jsonl") == whole


def test_a_link_is_followed(tmp_path, whole):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert fill(tmp_path / "link") == whole
    open_results(tmp_path / "link", RUN, VIDEOS, retry_failed=True).close()
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target.run.json").is_file()
    assert fill(tmp_path / "link") == fill(tmp_path / "target")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(out, monkeypatch, code):
    def flock(descriptor, how):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UsageError, match="cannot be locked .*: its file system has no locks, .*; give another"):
        open_results(out, RUN, VIDEOS)


# shards


@pytest.mark.parametrize(("videos", "count"), [(1, 1), (7, 2), (60, 7), (3, 5), (64, 64)])
def test_shards_are_disjoint_complete_and_even_whatever_the_order(videos, count):
    listed = [Path(f"clips/{i % 3}/{i}.mp4") for i in range(videos)]
    found = []
    for index in range(1, count + 1):
        shuffled = random.Random(index).sample(listed, videos)
        shard = shard_of(shuffled, index, count)
        assert shard == [video for video in shuffled if video in set(shard)]
        found.append(shard)
    assert sorted(video for shard in found for video in shard) == sorted(listed)
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_a_shard_is_i_of_n():
    assert parse_shard("2/16") == (2, 16)
    for text in ("0/4", "5/4", "1", "1/0", "a/b", "-1/4", "1/4/2", "1/٤", " 1/4", ""):
        with pytest.raises(UsageError, match="expected i/n with i from 1 to n, such as 1/4"):
            parse_shard(text)


def test_a_path_named_twice_is_one_video():
    paths = [*map(Path, ("a/b", "c", "a/../a/b", "c", "a/./b")), Path.cwd() / "c"]
    assert [row.path for row in VideoList.of(paths)] == [Path("a/b"), Path("c")]
    assert [row.path for row in VideoList.of(paths[::-1])] == [Path.cwd() / "c", Path("a/b")]
    assert len(VideoList.of(paths, once=False)) == len(paths)


# failures


@pytest.mark.parametrize(
    ("videos", "dead", "tried"), [(2000, 20, 2000), (2000, 80, 2000), (2000, 2000, 21), (2000, 1900, None)]
)
def test_only_more_failures_than_the_whole_list_may_have_stop_a_run(videos, dead, tried):
    for seed in range(50):
        summary = Summary(0.05, videos)
        for fails in random.Random(seed).sample([True] * dead + [False] * (videos - dead), videos):
            if summary.too_many:
                break
            summary.add({"status": "damaged" if fails else "ok", "checkpoint": 1, "label": "a"})
        assert summary.tried == tried or (tried is None and summary.failed <= 101)


def test_twenty_videos_may_always_fail():
    summary = Summary(0.0, 100)
    for number in range(1, 22):
        summary.add({"status": "damaged"})
        assert Summary(1.0, 100, number, number).too_many is False
        assert summary.too_many == (number == 21)
    assert not Summary(0.29, 100, 99, 29).too_many and Summary(0.29, 100, 99, 30).too_many
    assert not Summary(1.0, 1000, 1000, 1000).too_many


def test_a_run_that_cannot_succeed_stops_and_goes_on_only_when_told(tiny_bundle, tmp_path, out):
    missing = [tmp_path / f"{i}.npy" for i in range(100)]

    def classify(most, **options):
        tried = []
        with open_model(tiny_bundle) as model:
            summary = model.classify_list(missing, out, max_failures=most, on_record=tried.append, **options)
        return len(tried), summary.tried

    assert classify(0.05) == (21, 21)
    assert classify(0.05) == (0, 21)
    for path in missing:
        np.save(path, np.zeros((8, 3, 32, 32), np.float32))
    assert classify(0.05) == (0, 21)
    assert classify(1.0) == (79, 100)
    assert classify(0.05, retry_failed=True) == (21, 100)
    assert sorted(json.loads(line)["video"] for line in out.read_bytes().splitlines()) == sorted(map(str, missing))


def test_a_summary_counts_earlier_calls_too():
    summary = Summary(0.05, 5)
    summary.add_earlier({"status": "ok", "checkpoint": 3, "label": "a"})  # as an older dynvid wrote it
    summary.add_earlier({"status": "ok", "checkpoint": 1, "label": "a", "listed_label": "a"})
    summary.seconds = 2.0
    assert (summary.rate, str(summary).count("videos/s")) == (None, 0)
    summary.add({"status": "ok", "checkpoint": 1, "label": "a", "listed_label": "b"})
    summary.add({"status": "damaged", "label": None, "checkpoint": None, "listed_label": "b"})
    assert (summary.accuracy, summary.exits, summary.rate) == (0.5, {1: 2, 3: 1}, 1.0)
    assert str(summary) == (
        "3 of 5 videos answered, 1 failed, accuracy 50.00% of 2 labelled, answers by checkpoint 2 0 1, 1 videos/s"
    )
    assert Summary(0.05, 1).accuracy is None


# the command


@pytest.fixture
def listed(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(24):
        np.save(tmp_path / f"{i}.npy", rng.integers(0, 256, (8 + i, 40, 40, 3), np.uint8))
    path = tmp_path / "list.csv"
    path.write_text("video\n" + "".join(f"{i}.npy\n" for i in range(24)))
    return path


@pytest.fixture
def classify(tiny_bundle):
    def run(*arguments):
        done = CliRunner().invoke(cli, ["classify", str(tiny_bundle.root), *map(str, arguments)])
        if isinstance(done.exception, DynvidError):
            return done.exception.exit_code, str(done.exception)
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return done.exit_code, done.stderr

    return run


def records(path):
    found = [json.loads(line) for line in path.read_text().splitlines()]
    for one in found:
        for field in ("latency_ms", "decode_ms", "waited_ms", "elapsed_ms"):
            one.pop(field, None)  # a video without an answer waited for none
    return {one["video"]: one for one in found}, len(found)


def test_the_same_command_goes_on_and_another_one_is_refused(classify, listed, out):
    code, _ = classify("--data", listed, "-o", out)
    whole, lines = records(out)
    assert (code, lines, len(whole)) == (0, 24, 24)
    content = out.read_bytes()
    code, said = classify("--data", listed, "-o", out)
    assert code == 0 and "24 of 24 videos are done already" in said and out.read_bytes() == content
    out.write_bytes(content[: len(content) // 2])
    code, said = classify("--data", listed, "-o", out)
    assert code == 0 and " of 24 videos are done already" in said
    assert records(out) == (whole, 24)
    content = out.read_bytes()
    for option in (["--trace"], ["--precision", "fp16"], ["--shard", "1/2"]):
        code, said = classify("--data", listed, "-o", out, *option)
        assert code == 4 and "holds results of another run" in said
    listed.write_text(listed.read_text().replace("7.npy\n", ""))
    code, said = classify("--data", listed, "-o", out)
    assert code == 4 and "videos 24, here 22" in said
    assert out.read_bytes() == content
    with out.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code, said = classify("--data", listed, "-o", out)
    assert code == 2 and "is being written by another process" in said


def test_a_file_replaced_under_the_same_name_is_noticed(classify, listed, out):
    listed.write_text("video,label\n" + "".join(f"{i}.npy,{'abz'[i % 3]}\n" for i in range(4)))
    code, said = classify("--data", listed, "-o", out)
    assert code == 0 and "1 label of the list is not a class of the bundle, first 'z' of" in said
    assert "4 of 4 videos answered, 0 failed, accuracy " in said and " of 4 labelled" in said
    for line in map(json.loads, out.read_text().splitlines()):
        found = os.stat(line["video"])
        assert line["file"] == {"bytes": found.st_size, "modified": found.st_mtime_ns}
        assert line["listed_label"] == "abz"[int(Path(line["video"]).stem) % 3]
    code, said = classify("--data", listed, "-o", out)
    assert code == 0 and "other files now" not in said
    np.save(listed.parent / "2.npy", np.zeros((8, 40, 40, 3), np.uint8))
    (listed.parent / "3.npy").unlink()
    code, said = classify("--data", listed, "-o", out)
    assert code == 0 and f"1 videos that are done are other files now, first '{listed.parent}/2.npy'" in said
    assert "remove their lines, then run this again" in said
    out.write_text("".join(line for line in out.read_text().splitlines(True) if "/2.npy" not in line))
    np.save(listed.parent / "3.npy", np.zeros((8, 40, 40, 3), np.uint8))
    code, said = classify("--data", listed, "-o", out)
    assert code == 0 and "3 of 4 videos are done already" in said and "1 videos that are done are other" in said


def test_shards_together_are_the_whole(classify, listed, out, tmp_path):
    assert classify("--data", listed, "-o", out)[0] == 0
    together, lines = {}, 0
    for index in (1, 2, 3):
        shard = tmp_path / f"shard{index}.jsonl"
        assert classify("--data", listed, "-o", shard, "--shard", f"{index}/3")[0] == 0
        found, count = records(shard)
        together |= found
        lines += count
    assert (together, lines) == records(out)
    assert classify(tmp_path / "0.npy", "-o", tmp_path / "none.jsonl", "--shard", "2/2")[0] == 0
    assert (tmp_path / "none.jsonl").read_bytes() == b""


def test_the_command_stops_when_too_many_fail(classify, listed, out):
    arrays = {i: np.load(listed.parent / f"{i}.npy") for i in range(22)}
    for i in arrays:
        (listed.parent / f"{i}.npy").write_bytes(b"no array")
    code, said = classify("--data", listed, "-o", out)
    assert code == 3 and "no video could be classified (21 of 21 failed" in said
    np.save(listed.parent / "0.npy", arrays[0])
    out.unlink()
    code, said = classify("--data", listed, "-o", out)
    assert code == 7 and records(out)[1] == 22
    assert "stopped after 22 of 24 videos: 21 could not be classified, more than --max-failures 0.05 allows" in said
    assert "repair them and add --retry-failed, or go on with --max-failures 1" in said
    code, said = classify("--data", listed, "-o", out, "--max-failures", 1)
    assert code == 7 and records(out)[1] == 24 and "21 of 24 videos could not be classified" in said
    np.save(listed.parent / "3.npy", arrays[3])
    code, said = classify("--data", listed, "-o", out, "--retry-failed")
    found, lines = records(out)
    assert code == 7 and lines == len(found) == 24 and "20 of 24 videos could not be classified" in said
    (listed.parent / "0.npy").write_bytes(b"no array")
    (listed.parent / "3.npy").write_bytes(b"no array")
    listed.write_text("video\n23.npy\n" + "".join(f"{i}.npy\n" for i in range(23)))
    code, said = classify("--data", listed, "--json", "--max-failures", 0)
    assert code == 7 and "stopped after 22 of 24" in said and "leave them out" in said


def test_the_command_refuses_wrong_use(classify, listed, out):
    assert classify("--data", listed, "--retry-failed") == (
        2, "--retry-failed needs -o OUT.jsonl, which holds the earlier failures",
    )  # fmt: skip
    assert classify("--data", listed, "--shard", "3/2")[0] == 2
    assert classify("--data", listed, "--max-failures", "1.5")[0] == 2
    video = listed.parent / "0.npy"
    assert classify(video, video, "-o", out)[0] == 0 and records(out)[1] == 1


def test_results_need_neither_numpy_nor_av():
    code = "import sys, dynvid.runtime.results.results_file; sys.exit(bool({'numpy', 'av'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
