import numpy as np
import pytest

from dynvid.grid.errors import DecodeTimeoutError, ListError, VideoError
from dynvid.grid.preprocessing import Preprocessing
from dynvid.runtime.video.decoder import Decoder
from dynvid.runtime.video.file import VideoFile
from dynvid.training.batches.augmentation import Augmentation
from dynvid.training.batches.clips import Clips
from dynvid.training.batches.loader import Loader
from dynvid.training.batches.looks import EvaluationLooks, TrainingLooks
from dynvid.training.batches.order import Order
from dynvid.training.clips import CLASSES, write_clips
from dynvid.training.data.clip_list import read_clip_list
from dynvid.training.data.record import FrameFiles, Record

SMALL = Preprocessing(short_side=36, crop=32)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return read_clip_list(write_clips(tmp_path_factory.mktemp("clips"), 13, 5))


@pytest.fixture
def clips(records):
    return Clips(records, CLASSES, "clips.csv")


def training(clips, **settings):
    return TrainingLooks(clips, SMALL, 4, Augmentation(**settings), CLASSES, seed=7)


def load(looks, batches, workers=0):
    with Loader(workers) as loader:
        return list(loader.batches(looks, batches))


def alike(one, other):
    return (
        np.array_equal(one.pixels, other.pixels)
        and np.array_equal(one.labels, other.labels)
        and one.drawn == other.drawn
        and one.broken == other.broken
    )


def test_clips_are_the_records_they_were_made_of(records):
    mixed = [*records, Record(records[0].path.parent, "disc", FrameFiles("{:02d}.png", 3, 4), 1.5, None, "g1")]
    clips = Clips(mixed, CLASSES, "clips.csv")
    assert [clips[number] for number in range(len(clips))] == mixed
    assert [CLASSES[label] for label in clips.labels] == [record.label for record in mixed]
    assert clips.sha256 != Clips(mixed[::-1], CLASSES, "clips.csv").sha256
    with pytest.raises(ListError, match="has 1 clips without a label, such as"):
        Clips([Record(records[0].path, None)], CLASSES, "clips.csv")
    with pytest.raises(ListError, match="labels 'comet', which are not among the 13 classes"):
        Clips([Record(records[0].path, "comet")], CLASSES, "clips.csv")
    with pytest.raises(ListError, match="has no clips"):
        Clips([], CLASSES, "clips.csv")


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing_but_time(clips, workers):
    batches = [range(start, start + 4) for start in range(0, 24, 4)]
    inline, ahead = load(training(clips), batches), load(training(clips), batches, workers)
    assert len(inline) == 6 and all(alike(one, other) for one, other in zip(inline, ahead, strict=True))
    assert inline[0].pixels.shape == (4, 4, 32, 32, 3)


def test_two_ranks_see_together_what_one_sees(clips):
    (one,) = load(training(clips), [range(4, 10)])
    (even,), (odd,) = (load(training(clips), [range(4 + rank, 10, 2)]) for rank in (0, 1))
    np.testing.assert_array_equal(one.pixels[::2], even.pixels)
    np.testing.assert_array_equal(one.pixels[1::2], odd.pixels)
    assert one.drawn[::2] == even.drawn and one.drawn[1::2] == odd.drawn


def test_the_second_epoch_looks_at_the_same_clips_in_another_way(clips):
    first, second = load(training(clips), [range(13), range(13, 26)])
    assert sorted(first.labels) == sorted(second.labels)
    place = [drawn.clip for drawn in second.drawn].index(first.drawn[0].clip)
    assert not np.array_equal(first.pixels[0], second.pixels[place])


def test_evaluation_sees_every_clip_once_as_deployment_does(clips, records):
    batch, rest = load(EvaluationLooks(clips, SMALL, 4), [range(8), range(8, 13)])
    with VideoFile(records[3].path, SMALL, 4) as source:
        np.testing.assert_array_equal(batch.pixels[3], source.pixels(range(4)))
    assert [*batch.labels, *rest.labels] == [*clips.labels]


def test_mirrored_clips_exchange_their_classes(clips):
    (batch,) = load(training(clips, flip="swap"), [range(26)])
    own = np.array([clips.labels[drawn.clip] for drawn in batch.drawn])
    changed = {(CLASSES[one], CLASSES[other]) for one, other in zip(own, batch.labels, strict=True) if one != other}
    assert changed and changed <= {("moves_left", "moves_right"), ("moves_right", "moves_left")}


def test_the_next_clip_of_the_epoch_stands_in_for_a_broken_one(records, tmp_path):
    (tmp_path / "broken.mp4").write_text("not a video")
    order = Order(13, 7)
    bad = order.at(2).clip
    clips = Clips(
        [Record(tmp_path / "broken.mp4", r.label) if i == bad else r for i, r in enumerate(records)], CLASSES, ""
    )
    (batch,) = load(training(clips), [range(4)])
    assert batch.drawn == (order.at(0), order.at(1), order.at(3), order.at(3))
    assert set(batch.broken) == {bad} and "broken.mp4" in batch.broken[bad]
    np.testing.assert_array_equal(batch.pixels[2], batch.pixels[3])
    (seen,) = load(EvaluationLooks(clips, SMALL, 4), [range(13)])
    assert len(seen.labels) == 12 and set(seen.broken) == {bad}
    nothing = Clips([Record(tmp_path / "broken.mp4", "disc")] * 3, CLASSES, "")
    with pytest.raises(VideoError, match="3 clips in a row cannot be read"):
        load(training(nothing), [range(2)], workers=2)


def test_no_clip_stands_in_for_one_that_was_not_decoded_in_time(clips, monkeypatch, caplog):
    asked = []

    def late(self, *arguments):
        asked.append(arguments[0])
        raise DecodeTimeoutError("video 'x' takes more than 30 s.")

    monkeypatch.setattr(Decoder, "open", late)
    for looks in (training(clips), EvaluationLooks(clips, SMALL, 4)):
        asked.clear()
        with pytest.raises(DecodeTimeoutError):
            load(looks, [range(2)])
        assert len(asked) == 2 and asked[0] == asked[1]
    assert "tried once more" in caplog.text


def test_a_part_of_a_video_is_read_from_the_part(records):
    part = Clips([Record(records[0].path, "disc", start_s=0.5, end_s=1.0)], CLASSES, "")
    (batch,) = load(EvaluationLooks(part, SMALL, 4), [range(1)])
    (whole,) = load(EvaluationLooks(Clips(records[:1], CLASSES, ""), SMALL, 4), [range(1)])
    assert not np.array_equal(batch.pixels, whole.pixels)
