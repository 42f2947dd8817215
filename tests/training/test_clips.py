from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from dynvid.training.clips import (
    CLASSES,
    LATE,
    LOOK_ALIKES,
    MAX_FPS,
    MAX_FRAMES,
    MIN_FPS,
    MIN_FRAMES,
    Clip,
    encode,
    label_of,
    render,
    write_clips,
)

FALLS = LOOK_ALIKES[2]


def clips_of(label: str, count: int, seed: int) -> list[tuple[Clip, np.ndarray]]:
    indices = (index for index in range(count * len(CLASSES)) if label_of(seed, index) == label)
    return [render(seed, index) for index in indices]


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def actor_share(frames: np.ndarray) -> np.ndarray:
    """How far each pixel is from its frame's usual colour, as a share of the frame: [frames, 64, 64]."""
    pixels = frames.astype(np.float32)
    distance = np.abs(pixels - np.median(pixels, axis=(1, 2), keepdims=True)).sum(-1)
    distance = np.where(distance > 0.5 * distance.max(axis=(1, 2), keepdims=True), distance, 0)
    return distance / distance.sum(axis=(1, 2), keepdims=True)


def test_about_half_of_the_classes_have_look_alikes():
    assert len(CLASSES) == len(set(CLASSES)) == 13
    assert sum(len(group) for group in LOOK_ALIKES) == 7
    assert {name for group in LOOK_ALIKES for name in group} < set(CLASSES)


def test_a_clip_follows_from_seed_and_index():
    first, again = render(5, 17), render(5, 17)
    assert first[0] == again[0]
    np.testing.assert_array_equal(first[1], again[1])


def test_other_seeds_and_indices_give_other_clips():
    records = {(clip.num_frames, clip.difficulty) for clip, _ in (render(seed, i) for seed in (0, 1) for i in (0, 1))}
    assert len(records) == 4
    assert [label_of(0, i) for i in range(13)] != [label_of(1, i) for i in range(13)]


def test_frames_have_the_size_that_the_record_names():
    for index in range(26):
        clip, frames = render(2, index)
        assert clip.index == index
        assert clip.label == label_of(2, index)
        assert frames.shape == (clip.num_frames, 64, 64, 3)
        assert frames.dtype == np.uint8
        assert MIN_FRAMES <= clip.num_frames <= MAX_FRAMES
        assert MIN_FPS <= clip.fps <= MAX_FPS
        assert 0 <= clip.difficulty < 1
        assert (clip.event is not None) == (clip.label in FALLS)


def test_every_run_of_thirteen_clips_holds_every_class_once():
    for start in range(0, 130, 13):
        assert Counter(label_of(9, start + place) for place in range(13)) == Counter(CLASSES)


@pytest.mark.parametrize("group", LOOK_ALIKES[:2])
def test_motion_look_alikes_hold_the_same_unordered_frames(group):
    """Two-sample tests on where the actor is, how much of the picture it takes and how that spreads."""
    statistics = []
    for label in group:
        rows = []
        for _, frames in clips_of(label, 60, seed=4):
            share = actor_share(frames[::4])
            x = (share.sum(1) * (np.arange(64) + 0.5)).sum(-1)
            area = (share > 0).mean(axis=(1, 2))
            rows.append((x.mean(), x.std(), area.mean(), area.std(), area.max(), frames.mean()))
        statistics.append(np.array(rows))
    one, other = statistics
    gap = np.abs(one.mean(0) - other.mean(0))
    error = np.sqrt(one.var(0) / len(one) + other.var(0) / len(other))
    assert (gap < 3.5 * error).all(), gap / error


@pytest.mark.parametrize(("group", "sign"), [(LOOK_ALIKES[0], "x"), (LOOK_ALIKES[1], "area")])
def test_motion_look_alikes_differ_in_the_order_of_frames(group, sign):
    for label, direction in zip(group, (-1, 1) if sign == "x" else (1, -1), strict=True):
        changes = []
        for clip, frames in clips_of(label, 30, seed=6):
            if clip.difficulty < 0.4:
                share = actor_share(frames[[0, -1]])
                x, area = (share.sum(1) * np.arange(64)).sum(-1), (share > 0).sum(axis=(1, 2))
                changes.append(np.diff(x if sign == "x" else area)[0])
        assert len(changes) >= 8
        assert np.mean(np.sign(changes) == direction) >= 0.9


def test_one_event_in_three_comes_after_sampled_frame_13_and_all_before_14():
    records = [clip for label in FALLS for clip, _ in clips_of(label, 40, seed=8)]
    for clip in records:
        frame = clip.event * clip.num_frames
        if clip.event > LATE:
            assert 27 * clip.num_frames // 32 < frame < 29 * clip.num_frames // 32
        else:
            assert 0.45 * clip.num_frames <= frame <= 27 * clip.num_frames // 32 - 1
    for label in FALLS:
        events = np.array([clip.event for clip in records if clip.label == label])
        assert 0.2 <= np.mean(events > LATE) <= 0.47
        assert events.std() > 0.1
    assert 0.25 <= np.mean([clip.event > LATE for clip in records]) <= 0.45


def test_endings_are_drawn_alike_up_to_the_event_and_differ_after(monkeypatch):
    drawn = []
    for label in FALLS:
        monkeypatch.setattr("dynvid.training.clips.label_of", lambda seed, index, label=label: label)
        drawn.append(render(3, 1))
    event_frame = drawn[0][0].event * drawn[0][0].num_frames
    before = int(event_frame) + 1
    for clip, frames in drawn[1:]:
        assert clip.event == drawn[0][0].event
        np.testing.assert_array_equal(frames[:before], drawn[0][1][:before])
        assert (frames[-1] != drawn[0][1][-1]).any()


def test_a_backward_class_is_its_look_alike_in_reverse(monkeypatch):
    # Without difficulty there is almost no noise and there are no specks, so the frames themselves compare.
    index = next(index for index in range(200) if render(3, index)[0].difficulty < 0.03)
    for group in LOOK_ALIKES[:2]:
        drawn = []
        for label in group:
            monkeypatch.setattr("dynvid.training.clips.label_of", lambda seed, index, label=label: label)
            drawn.append(render(3, index)[1].astype(int))
        assert np.abs(drawn[0] - drawn[1][::-1]).max() < 20
        assert np.abs(drawn[0] - drawn[1]).max() > 40


def test_encoded_clips_decode_to_nearly_the_same_frames(tmp_path):
    for index in range(4):
        clip, frames = render(1, index)
        encode(frames, tmp_path / "clip.mp4", clip.fps)
        decoded = decode(tmp_path / "clip.mp4")
        assert decoded.shape == frames.shape
        error = np.abs(decoded.mean(-1) - frames.mean(-1)).mean()  # of brightness: colour has half the pixels
        assert error < 6
        with av.open(str(tmp_path / "clip.mp4")) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.average_rate) == ("h264", clip.fps)
            keys = [i for i, packet in enumerate(container.demux(stream)) if packet.is_keyframe]
            assert max(np.diff([*keys, clip.num_frames])) <= 12


def test_a_data_set_is_written_the_same_again(tmp_path):
    seen = []
    listing = write_clips(tmp_path / "set", count=5, seed=3, progress=seen.append)
    assert seen == [1, 2, 3, 4, 5]
    with listing.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["video", "label", "event", "difficulty"]
    for index, row in enumerate(rows):
        clip, frames = render(3, index)
        assert row["video"] == f"clips/{index:06d}.mp4"
        assert row["label"] == clip.label
        assert row["event"] == ("" if clip.event is None else f"{clip.event:.6f}")
        assert float(row["difficulty"]) == pytest.approx(clip.difficulty, abs=1e-6)
        assert len(decode(listing.parent / row["video"])) == len(frames)
    other = write_clips(tmp_path / "other", count=5, seed=3)
    assert other.read_bytes() == listing.read_bytes()
    for row in rows:
        assert (other.parent / row["video"]).read_bytes() == (listing.parent / row["video"]).read_bytes()


def test_an_interrupted_data_set_has_no_list_and_is_repaired_by_the_same_call(tmp_path):
    def stop(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    write_clips(tmp_path, count=1, seed=0)
    with pytest.raises(KeyboardInterrupt):
        write_clips(tmp_path, count=3, seed=1, progress=stop)
    assert not (tmp_path / "clips.csv").exists()
    write_clips(tmp_path, count=3, seed=1)
    assert len((tmp_path / "clips.csv").read_text().splitlines()) == 4
    assert not list(tmp_path.rglob("*.part"))
