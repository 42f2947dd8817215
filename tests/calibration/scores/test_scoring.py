"""Scores of real runs: the same bits whatever the order and wherever it was killed; other inputs refused."""

import dataclasses
import hashlib
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dynvid.calibration.calibrate import calibrate
from dynvid.calibration.choosing.request import Request
from dynvid.calibration.choosing.sweep import costs_of
from dynvid.calibration.choosing.thresholds import exits
from dynvid.calibration.scores.answers import answers_of
from dynvid.calibration.scores.scoring import class_labels, kept_scores, score_videos
from dynvid.grid.errors import ListError, ScoresError, StaleScoresError
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.session import Session
from dynvid.runtime.video.decoder import Decoder
from dynvid.runtime.video.listing import ListedVideo, read_list


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def session(tiny_bundle):
    return Session.open(tiny_bundle, open_backend("onnxruntime"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[ListedVideo]:
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    videos = []
    for index in range(8):
        path = folder / f"{index}.npy"
        np.save(path, rng.integers(0, 256, (10 + index, 40, 56, 3), np.uint8))
        videos.append(ListedVideo(path, "abcde"[index % 5]))
    return videos


@pytest.fixture
def score(session):
    def run(videos, keep):
        with Decoder() as decoder:
            return score_videos(session, videos, keep, decoder)

    return run


def test_neither_order_nor_an_interruption_changes_a_bit(session, score, clips, tmp_path):
    score(clips, tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    videos = score(clips, tmp_path / "whole.npz").videos
    assert videos == tuple(sorted(sha256(v.path) for v in clips))
    for number in range(3):
        shuffled = random.Random(number).sample(clips, len(clips))
        keep = tmp_path / f"{number}.npz"

        class Stop(Exception):
            pass

        class Stopping(Decoder):
            left = 2 + 2 * number

            def open(self, *arguments):
                if not self.left:
                    raise Stop
                self.left -= 1
                return super().open(*arguments)

        with pytest.raises(Stop), Stopping() as decoder:
            score_videos(session, shuffled, keep, decoder)
        journal = keep.with_name(keep.name + ".journal")
        with journal.open("ab") as file:
            file.write(b"torn")
        score(random.Random(9).sample(clips, len(clips)), keep)
        assert keep.read_bytes() == whole
        assert not journal.exists()


def test_the_thresholds_and_exits_of_calibration_are_those_of_the_runtime(session, score, clips, tmp_path):
    """Thresholds at a video's very confidence: one bit more or less would send it elsewhere."""
    scores = score(clips, tmp_path / "s.npz")
    for temperatures in (None, (1.7, 0.6, 1.0, 3.1)):
        answers = answers_of(scores, temperatures)
        by_sha = dict(zip(scores.videos, range(len(clips)), strict=True))
        for column in range(len(clips)):
            thresholds = (*map(float, answers.confidences[:-1, column]), None)
            expected = exits(answers.confidences, thresholds) + 1
            run = Session.open(session.executor.bundle, session.executor.backend, thresholds, temperatures=temperatures)
            found, sure = np.zeros(len(clips), int), np.zeros(len(clips))
            with Decoder() as decoder:
                for video in clips:
                    place = by_sha[sha256(video.path)]
                    manifest = session.executor.bundle.manifest
                    with decoder.open(video.path, manifest.preprocessing, 8) as source:
                        prediction = run.classify(source)
                    found[place], sure[place] = prediction.checkpoint, prediction.confidence
            assert (found == expected).all()
            assert (sure == answers.confidences[expected - 1, np.arange(len(clips))]).all()
            assert sum(map(sum, run.tally.counts)) == len(clips)
            assert [sum(row) for row in run.tally.counts] == np.bincount(expected, minlength=5)[1:].tolist()


def test_kept_scores_of_other_inputs_are_refused(score, clips, tmp_path, session):
    keep = tmp_path / "s.npz"
    score(clips, keep)
    with pytest.raises(StaleScoresError, match="belong to another data") as caught:
        score(clips[:-1], keep)
    assert caught.value.exit_code == 4
    relabelled = [ListedVideo(v.path, "a") for v in clips]
    with pytest.raises(StaleScoresError, match="belong to another data"):
        score(relabelled, keep)
    assert kept_scores(keep, session.executor.bundle).labels is not None
    np.savez(tmp_path / "foreign.npz", probabilities=np.full((4, 3, 5), 0.2))
    with pytest.raises(StaleScoresError, match="belong to bundle none"):
        kept_scores(tmp_path / "foreign.npz", session.executor.bundle)


def test_without_a_file_scores_lie_beside_the_bundle(session, clips, tiny_bundle, tmp_path):
    from dynvid.grid.bundle import Bundle

    shutil.copytree(tiny_bundle.root, tmp_path / "b")
    own = Session.open(Bundle.open(tmp_path / "b"), session.executor.backend)
    with Decoder() as decoder:
        score_videos(own, clips[:2], None, decoder)
    assert [p.suffix for p in (tmp_path / "b.scores").iterdir()] == [".npz"]


def test_videos_without_an_answer_are_counted_and_left_out(score, clips, tmp_path):
    (tmp_path / "text.mp4").write_text("this is not a video")
    scores = score([*clips, ListedVideo(tmp_path / "text.mp4", "a")], tmp_path / "s.npz")
    assert scores.failed == (sha256(tmp_path / "text.mp4"),) and scores.probabilities.shape == (4, 8, 5)
    report = calibrate(scores, costs_of(scores.macs, None, 4), Request(q=1.0)).report
    assert report["failed"] == 1 and "1 of 9 videos gave no answer" in report["warnings"][0]
    with pytest.raises(ScoresError, match="none of 1 videos gave an answer"):
        score([ListedVideo(tmp_path / "text.mp4", "a")], tmp_path / "none.npz")


def test_lists_that_cannot_be_used_are_refused(score, clips, tmp_path):
    keep = tmp_path / "s.npz"
    (tmp_path / "empty.csv").write_text("video,label\n")
    with pytest.raises(ListError, match="has a header but no rows"):
        read_list(tmp_path / "empty.csv")
    with pytest.raises(ListError, match="1 labels are not classes of the bundle, first 'z'.*one of the 5 classes a, b"):
        score([*clips[1:], ListedVideo(clips[0].path, "z")], keep)
    with pytest.raises(ListError, match="1 of 8 rows have no label"):
        score([*clips[1:], ListedVideo(clips[0].path)], keep)
    shutil.copy(clips[0].path, tmp_path / "copy.npy")
    with pytest.raises(ListError, match="copy.npy' is the same file as '.*0.npy', but has label 'b', not 'a'"):
        score([*clips, ListedVideo(tmp_path / "copy.npy", "b")], keep)
    with pytest.raises(ListError, match="cannot be read"):
        score([ListedVideo(tmp_path / "missing.npy", "a")], keep)
    assert not keep.exists()
    assert score([ListedVideo(v.path) for v in clips], keep).labels is None


def test_a_file_under_two_names_counts_once(score, clips, tmp_path, caplog):
    shutil.copy(clips[0].path, tmp_path / "copy.npy")
    scores = score([*clips, ListedVideo(tmp_path / "copy.npy", "a")], tmp_path / "s.npz")
    assert len(scores.videos) == 8 and [m for m in caplog.messages if "counts once" in m] == [
        f"1 files of the list occur again under another name, first '{tmp_path}/copy.npy' is '{clips[0].path}': "
        "each counts once"
    ]
    score(clips, tmp_path / "s.npz")  # the same scores


def test_few_videos_or_one_class_are_warned_of(score, clips, tmp_path):
    scores = score([ListedVideo(v.path, "b") for v in clips], tmp_path / "s.npz")
    warnings = calibrate(scores, costs_of(scores.macs, None, 4), Request(q=1.0)).report["warnings"]
    assert any(line.startswith("only 8 videos: ") for line in warnings)
    assert any(line.startswith("all 8 videos have class 1: ") for line in warnings)


@pytest.mark.parametrize(
    ("names", "labels", "said"),
    [
        (None, ["1", "2", "5"], "They run from 1 to 5, but classes are numbered from 0: subtract 1 from each"),
        (None, ["0", "7", "5"], "classes 0, 1, 2, 3, 4$"),
        (None, ["3.0", "0.0", "1.0"], "write 3 for 3.0, in pandas with .astype.'Int64'."),
        (tuple("abcde"), ["1", "2", "5"], "They are numbers: write the names of the classes"),
        (tuple("abcde"), ["a", "b", "F"], "classes a, b, c, d, e$"),
    ],
)
def test_mistaken_labels_are_recognised(tiny_bundle, names, labels, said):
    manifest = dataclasses.replace(tiny_bundle.manifest, labels=names)
    with pytest.raises(ListError, match=said):
        class_labels([ListedVideo(Path(f"{i}.mp4"), label) for i, label in enumerate(labels)], manifest)


def killed_and_resumed(bundle: Path, listing: Path, keep: Path, after: int) -> bool:
    """Score a list in a process that is killed by SIGKILL once ``after`` records are written, then to the end.

    Return whether it was killed with its work unfinished.
    """
    command = [sys.executable, "-m", "dynvid.cli", "calibrate", bundle, "--data", listing, "--scores", keep, "--q", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal, size = keep.with_name(keep.name + ".journal"), 32 + 4 * 4 * 5 + 4
    while process.poll() is None:
        if journal.exists() and len(journal.read_bytes().partition(b"\n")[2]) >= after * size:
            break
        time.sleep(0.0005)
    process.kill()
    process.wait()
    unfinished = not keep.exists()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return unfinished


def lists(clips, folder, count):
    for index, clip in enumerate(clips):
        shutil.copy(clip.path, folder / f"{index}.npy")
    for number in range(count):
        rows = [f"{i}.npy,{v.label}" for i, v in enumerate(clips)]
        random.Random(number).shuffle(rows)
        (folder / f"{number}.csv").write_text("video,label\n" + "\n".join(rows) + "\n")
    return [folder / f"{number}.csv" for number in range(count)]


def test_a_killed_run_goes_on_to_the_same_bits(tiny_bundle, score, clips, tmp_path):
    score(clips, tmp_path / "whole.npz")
    (listing,) = lists(clips, tmp_path, 1)
    unfinished = 0
    for number in (1, 2, 3):
        unfinished += killed_and_resumed(tiny_bundle.root, listing, tmp_path / f"{number}.npz", number)
        assert (tmp_path / f"{number}.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert unfinished


@pytest.mark.full
def test_fifty_kills_in_each_of_three_orders_give_the_same_bits(tiny_bundle, score, clips, tmp_path):
    score(clips, tmp_path / "whole.npz")
    unfinished = 0
    for listing in lists(clips, tmp_path, 3):
        for kill in range(50):
            keep = tmp_path / f"{listing.stem}-{kill}.npz"
            unfinished += killed_and_resumed(tiny_bundle.root, listing, keep, kill % len(clips))
            assert keep.read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert unfinished > 100, unfinished
