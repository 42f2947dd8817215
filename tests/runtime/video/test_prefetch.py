"""Reading ahead: what is read in which order, how far, and what becomes of what nothing used."""

import threading
import time

import numpy as np
import pytest

from dynvid.grid.errors import FramesError, UsageError
from dynvid.grid.preprocessing import Preprocessing
from dynvid.runtime.session import ArraySource
from dynvid.runtime.video.prefetch import Prefetcher

SMALL = Preprocessing(short_side=4, crop=4)
SAMPLES = [(0, 3), (), (1,), (2,)]  # of four segments
FRAMES = np.arange(4 * 3 * 4 * 4, dtype=np.float32).reshape(4, 3, 4, 4)


class Source(ArraySource):
    """Writes down every read, and reads only while its gate is open."""

    def __init__(self, name, log, gate=None):
        super().__init__(FRAMES)
        self.name, self.log, self.gate = name, log, gate

    def __str__(self):
        return self.name

    def read(self, samples):
        self.log.append((self.name, tuple(samples)))
        if self.gate is not None:
            assert self.gate.wait(30)
        return super().read(samples)


@pytest.fixture
def opened():
    readers = []

    def open_(threads=1, ahead=2, samples=SAMPLES, **options):
        readers.append(Prefetcher(SMALL, 4, samples, threads, ahead, **options))
        return readers[-1]

    yield open_
    for reader in readers:
        reader.close()


def settled(reader, condition):
    """Wait until a condition holds under the lock."""
    end = time.monotonic() + 30
    with reader.changed:
        while not condition():
            assert time.monotonic() < end
            reader.changed.wait(0.01)


def added(reader, *videos):
    with reader.changed:
        return [reader.add(video) for video in videos]


def test_the_first_part_is_read_and_then_only_what_is_asked_for(opened):
    reader, log = opened(), []
    (reading,) = added(reader, Source("a", log))
    settled(reader, lambda: list(reader.ready) == [reading])
    np.testing.assert_array_equal(reading.parts[1].frames, FRAMES[[0, 3]])
    assert (reading.parts[1].decoded, reading.parts[1].frames_decoded, reading.parts[1].frames_total) == (2, 2, 4)
    with reader.changed:
        reader.admit(reading)
        reader.used(reading, 1)
        assert reader.has(reading, 2) and not reader.has(reading, 3)
        reader.want(reading, 2, certain=True)
        reader.want(reading, 3, certain=True)
    settled(reader, lambda: reader.has(reading, 3))
    np.testing.assert_array_equal(reading.parts[3].frames, FRAMES[[1]])
    assert (reading.parts[3].decoded, reading.parts[3].frames_decoded) == (1, 3)
    assert log == [("a", (0, 3)), ("a", (1,))] and reader.frames_in_vain == 0


def test_what_is_certain_goes_first_then_new_videos_then_what_may_be_needed(opened):
    reader, log, gate = opened(ahead=9), [], threading.Event()
    surely, perhaps = added(reader, Source("surely", log), Source("perhaps", log))
    settled(reader, lambda: len(reader.ready) == 2)
    (blocking,) = added(reader, Source("blocking", log, gate))
    settled(reader, lambda: len(log) == 3)
    with reader.changed:
        for reading in (surely, perhaps):
            reader.admit(reading)
        reader.want(perhaps, 3, certain=False)
        reader.add(Source("new", log))
        reader.want(surely, 3, certain=True)
    gate.set()
    settled(reader, lambda: len(log) == 6)
    assert [name for name, _ in log[3:]] == ["surely", "new", "perhaps"]
    assert blocking in reader.ready


def test_what_may_be_needed_becomes_certain_and_is_read_once(opened):
    reader, log, gate = opened(ahead=9), [], threading.Event()
    (reading,) = added(reader, Source("a", log))
    settled(reader, lambda: reader.ready)
    added(reader, Source("blocking", log, gate))
    settled(reader, lambda: len(log) == 2)
    with reader.changed:
        reader.admit(reading)
        reader.want(reading, 3, certain=False)
        reader.add(Source("new", log))
        reader.want(reading, 3, certain=True)
    gate.set()
    settled(reader, lambda: reader.has(reading, 3) and len(log) == 4)
    assert [name for name, _ in log] == ["a", "blocking", "a", "new"]
    with reader.changed:
        reader.want(reading, 4, certain=False)
    settled(reader, lambda: reader.has(reading, 4))
    assert len(log) == 5


def test_no_more_is_read_ahead_than_was_allowed(opened):
    reader, log = opened(threads=2, ahead=2), []
    readings = added(reader, *(Source(name, log) for name in "abcdef"))
    settled(reader, lambda: len(reader.ready) == 2)
    time.sleep(0.05)  # nobody takes a third
    assert len(log) == 2 and reader.unread
    for _ in range(3):
        settled(reader, lambda: reader.ready)
        with reader.changed:
            reader.admit(reader.ready[0])
    settled(reader, lambda: len(log) == 5)
    with reader.changed:
        begun = [reading for reading in readings if reading._begun and reading not in reader.ready]
        for reading in begun[:3]:
            reader.want(reading, 3, certain=False)
    settled(reader, lambda: len(log) == 7)
    time.sleep(0.05)
    assert len(log) == 7
    with reader.changed:  # one of them is needed for certain now: another one may be read ahead
        reader.want(next(r for r in begun if 3 in r.parts), 3, certain=True)
    settled(reader, lambda: len(log) == 8)
    assert reader.most_held <= 8


def test_nothing_is_read_ahead_where_that_is_not_wanted(opened):
    reader, log = opened(ahead=0), []
    (reading,) = added(reader, Source("a", log))
    settled(reader, lambda: reader.ready)
    with reader.changed:
        reader.admit(reading)
        reader.want(reading, 3, certain=False)
    time.sleep(0.05)
    assert len(log) == 1
    with reader.changed:
        reader.want(reading, 3, certain=True)
    settled(reader, lambda: reader.has(reading, 3))


def test_what_was_read_in_vain_is_counted(opened):
    reader, log, gate = opened(ahead=9), [], threading.Event()
    held, reading = added(reader, Source("held", log), Source("reading", log, gate))
    settled(reader, lambda: len(log) == 2)
    with reader.changed:
        assert list(reader.ready) == [held] and reader.unread  # the other one is being read
        reader.drop(held)
        assert reader.frames_in_vain == 2 and not reader.ready
        reader.drop(reading)
        reader.drop(reading)
    gate.set()
    settled(reader, lambda: reader.frames_in_vain == 4)
    assert not reading.parts
    added(reader, Source("next", log))
    settled(reader, lambda: reader.ready)


def test_a_video_that_is_dropped_leaves_its_place_to_one_other(opened):
    reader, log = opened(ahead=1), []
    readings = []
    for name in "abc":
        readings += added(reader, Source(name, log))
        settled(reader, lambda: reader.ready)
        with reader.changed:
            reader.admit(readings[-1])
            reader.want(readings[-1], 3, certain=False)
    settled(reader, lambda: len(log) == 4 and 3 in readings[0].parts)
    time.sleep(0.05)
    assert [name for name, _ in log] in (["a", "a", "b", "c"], ["a", "b", "a", "c"], ["a", "b", "c", "a"])
    with reader.changed:
        reader.drop(readings[0])
        reader.drop(readings[0])
        reader.want(readings[0], 3, certain=True)
        reader.want(readings[0], 4, certain=True)
    settled(reader, lambda: len(log) == 5)
    time.sleep(0.05)
    assert len(log) == 5 and log[-1][0] == "b"


def test_a_video_that_is_dropped_unread_is_never_read(opened):
    reader, log, gate = opened(), [], threading.Event()
    _, dropped, last = added(reader, *(Source(n, log, gate) for n in ("blocking", "dropped", "last")))
    settled(reader, lambda: log)
    with reader.changed:
        reader.drop(dropped)
        assert reader.unread
    gate.set()
    settled(reader, lambda: last in reader.ready)
    assert [name for name, _ in log] == ["blocking", "last"]
    with reader.changed:
        for reading in list(reader.ready):
            reader.drop(reading)
        assert not reader.unread and not reader.ready


class Broken(Source):
    def read(self, samples):
        super().read(samples)
        raise ZeroDivisionError("no such frame")


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 3, 4, 4)])
def test_frames_that_do_not_fit_are_the_videos_own_error(opened, shape):
    class Misshapen(Source):
        def read(self, samples):
            return np.zeros(shape, np.float32)

    reader = opened()
    odd, broken, good = added(reader, Misshapen("odd", []), Broken("broken", []), Source("good", []))
    settled(reader, lambda: len(reader.ready) == 2)
    with reader.changed:
        refusal = odd.parts[1]
        reader.drop(odd)
    settled(reader, lambda: good in reader.ready)
    assert isinstance(broken.parts[1], ZeroDivisionError) and good.parts[1].frames.shape == (2, 3, 4, 4)
    assert isinstance(refusal, FramesError) and "of odd: expected float32 [2, 3, 4, 4]" in str(refusal)


def test_files_are_opened_by_the_threads_own_decoder_and_closed_by_it(opened, tmp_path):
    log = []

    class Opened(Source):
        def close(self):
            log.append((self.name, "closed"))

    class Decoder:
        def __enter__(self):
            log.append(("decoder", "opened"))
            return self

        def __exit__(self, *fault):
            log.append(("decoder", "closed"))

        def open(self, path, preprocessing, num_samples):
            assert (preprocessing, num_samples) == (SMALL, 4)
            return Opened(path.name, log)

    reader = opened(open_decoder=Decoder)
    (reading,) = added(reader, tmp_path / "v.mp4")
    settled(reader, lambda: reader.ready)
    with reader.changed:
        reader.drop(reading)
    settled(reader, lambda: ("v.mp4", "closed") in log)
    reader.close()
    assert log == [("decoder", "opened"), ("v.mp4", (0, 3)), ("v.mp4", "closed"), ("decoder", "closed")]


def test_what_ends_a_thread_is_not_lost(opened):
    def no_decoder():
        raise OSError("none left")

    reader = opened(open_decoder=no_decoder)
    settled(reader, lambda: reader.fault is not None)
    assert str(reader.fault) == "none left"


@pytest.mark.parametrize(("threads", "ahead"), [(0, 1), (1, -1)])
def test_wrong_numbers_are_refused(threads, ahead):
    with pytest.raises(UsageError, match="expected at least 1 decoder and 0 videos"):
        Prefetcher(SMALL, 4, SAMPLES, threads, ahead)
