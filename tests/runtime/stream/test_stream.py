"""Streams: many videos at once, each answered as a session alone would answer it, whatever happens to the others."""

import asyncio
import dataclasses
import itertools
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import CancelledError, wait
from pathlib import Path

import av
import numpy as np
import pytest
from contract import BATCH, build_here
from host_device import HostDevice
from tensorrt_stub.stub import Stub

from dynvid.exporter.graphs.fuse import fuse
from dynvid.exporter.proof.clips import proof_clips
from dynvid.grid.errors import BackendError, ResourceError, ThresholdsError, UsageError, VideoError
from dynvid.grid.segments import fused_full, fused_segments
from dynvid.runtime.backends.onnxruntime import OnnxRuntimeBackend
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.backends.tensorrt import TensorRTBackend
from dynvid.runtime.backends.tensorrt_api import open_api
from dynvid.runtime.execution.engine_lookup import open_engines
from dynvid.runtime.execution.executor import Executor
from dynvid.runtime.scheduling.policies import POLICIES
from dynvid.runtime.scheduling.slots import SlotError
from dynvid.runtime.session import ArraySource, Session
from dynvid.runtime.stream.stream import Stream
from dynvid.runtime.video.decoder import Decoder
from dynvid.runtime.video.frames import FrameArray

TIMES = ("decode_ms", "latency_ms", "segment_ms", "waited_ms", "elapsed_ms")
COUNT = 16


@pytest.fixture(scope="module")
def graphs(tiny_bundle):
    segments = (*fused_segments(tiny_bundle.manifest, "fp32"), fused_full(tiny_bundle.manifest, "fp32"))
    return {s.name: fuse(tiny_bundle, s, "fp32") for s in segments}


@pytest.fixture(scope="module")
def clips(tiny_bundle):
    manifest = tiny_bundle.manifest
    return proof_clips(COUNT, manifest.grid.num_frames, manifest.preprocessing)


@pytest.fixture(scope="module")
def thresholds(tiny_bundle, clips):
    """Return thresholds at which about a third of the videos leave at each checkpoint."""
    session = Session.open(tiny_bundle, open_backend("onnxruntime"))
    sure = np.array([[p.max() for p in session.classify(ArraySource(c), trace=True).probabilities] for c in clips])
    found = []
    for k in range(3):
        found.append(float(np.quantile(sure[:, k], 0.67)))
        sure = sure[sure[:, k] <= found[-1]]
    assert len(sure) > 1
    return (*found, None)


@pytest.fixture(scope="module")
def expected(tiny_bundle, clips, thresholds):
    """Return what a session says of each clip."""
    session = Session.open(tiny_bundle, open_backend("onnxruntime"), thresholds)
    found = [session.classify(ArraySource(clip)) for clip in clips]
    assert {prediction.checkpoint for prediction in found} == {1, 2, 3, 4}
    return found


class HookedBackend(OnnxRuntimeBackend):
    """Calls ``hook(segment, rows)`` before each call; counts calls."""

    def __init__(self, hook=lambda name, rows: None):
        super().__init__()
        self.hook, self.calls, self.closed = hook, 0, False

    def load(self, content, ports, name):
        program = super().load(content, ports, name)
        plain = program.prepare

        def prepare(inputs, outputs):
            run = plain(inputs, outputs)

            def call():
                self.calls += 1
                self.hook(name, outputs["logits"].shape[0])
                run()

            return call

        program.prepare = prepare
        return program

    def close(self):
        self.closed = True


class Source(ArraySource):
    """Frames that can be held back: a read waits for the gate."""

    def __init__(self, frames, gate=None):
        super().__init__(frames)
        self.gate, self.asked = gate, []

    def read(self, samples):
        self.asked.append(tuple(samples))
        if self.gate is not None:
            assert self.gate.wait(30)
        return super().read(samples)


@pytest.fixture
def opened(tiny_bundle, graphs):
    """Return a function that opens a stream; all are closed in the end, and must have given everything back."""
    streams, threads = [], set(threading.enumerate())

    def open_(thresholds=None, *, buckets=(1, 2, 3, 4), slots=8, backend=None, full=False, **options):
        def executor():
            held = HookedBackend() if backend is None else backend
            sizes = [list(buckets)] * (1 if full else 4)
            return Executor(
                tiny_bundle,
                held,
                "fp32",
                lambda s: graphs[s.name],
                slots,
                sizes,
                tiny_bundle.manifest.route.full if full else None,
            )

        options = {"cost": lambda k, n: 1e-4 * (1 + n), **options}
        streams.append(Stream(executor, thresholds, **options))
        return streams[-1]

    yield open_
    for stream in streams:
        stream.close()
    assert set(threading.enumerate()) <= threads


def same(found, wanted):
    """Assert that two predictions differ in times only, to the last bit."""
    for field in dataclasses.fields(wanted):
        if field.name not in TIMES:
            one, other = getattr(found, field.name), getattr(wanted, field.name)
            if field.name in ("logits", "probabilities"):
                one, other = ([z.tobytes() for z in values] for values in (one, other))
            assert one == other, field.name


def settled(stream, condition):
    """Wait until a condition holds."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def free_again(stream):
    slots = stream.executor.store.slots
    settled(stream, lambda: slots.free == slots.count)
    assert all(np.isnan(array).all() for array in stream.executor.store.arrays.values())


def test_answers_are_those_of_a_session(opened, clips, thresholds, expected, tiny_bundle):
    session = Session.open(tiny_bundle, open_backend("onnxruntime"), thresholds)
    for clip in clips:
        session.classify(ArraySource(clip))
    stream = opened(thresholds)
    sources = [Source(clip) for clip in clips]
    found = dict(stream.classify(sources))
    assert len(found) == COUNT
    for source, wanted in zip(sources, expected, strict=True):
        same(found[source], wanted)
        assert not found[source].cut and found[source].latency_ms == sum(found[source].segment_ms) > 0
        assert found[source].elapsed_ms >= found[source].waited_ms >= 0
    assert stream.tally.counts == session.tally.counts
    assert stream.stats.ended["exited"] == COUNT and sum(map(sum, stream.stats.fills)) < sum(
        w.checkpoint for w in expected
    )
    free_again(stream)


def test_temperatures_count(opened, clips, expected, thresholds, tiny_bundle):
    temperatures = (0.2, 0.9, 3.0, 1.5)
    session = Session.open(tiny_bundle, open_backend("onnxruntime"), thresholds, temperatures=temperatures)
    wanted = [session.classify(ArraySource(clip)) for clip in clips[:6]]
    assert [w.checkpoint for w in wanted] != [e.checkpoint for e in expected[:6]]
    found = opened(thresholds, temperatures=temperatures).classify([ArraySource(clip) for clip in clips[:6]])
    by_logits = {answer.logits[0].tobytes(): answer for _, answer in found}
    for prediction in wanted:
        same(by_logits[prediction.logits[0].tobytes()], prediction)


def test_files_are_answered_as_a_session_answers_them(opened, tmp_path, tiny_bundle):
    manifest, rng = tiny_bundle.manifest, np.random.default_rng(0)
    paths = []
    for number in range(8):
        paths.append(tmp_path / f"{number}.npy")
        np.save(paths[-1], rng.integers(0, 256, (9 + number, 48, 40, 3), np.uint8))
    paths.append(tmp_path / "missing.npy")
    session = Session.open(tiny_bundle, open_backend("onnxruntime"))
    found = dict(opened().classify(paths))
    assert isinstance(found.pop(paths.pop()), Exception) and len(found) == 8
    for path in paths:
        with FrameArray(path, manifest.preprocessing, manifest.grid.num_frames) as source:
            same(found[path], session.classify(source))


def test_videos_are_taken_as_there_is_room(opened, clips):
    taken = []

    def endless():
        for number in itertools.count():
            taken.append(number)
            yield Source(clips[number % COUNT])

    stream = opened(slots=3, ahead=2, decoders=1)
    answers = stream.classify(endless())
    for count in range(1, 40):
        _, answer = next(answers)
        assert answer.checkpoint == 4
        assert len(taken) <= count + 3 + 2 + 1
    answers.close()
    free_again(stream)


def test_a_stream_goes_on_after_its_videos_ended(opened, clips, thresholds, expected):
    stream = opened(thresholds)
    for _ in range(3):
        answers = dict(stream.classify(sources := [Source(clip) for clip in clips[:5]]))
        for source, wanted in zip(sources, expected, strict=False):
            same(answers[source], wanted)
    assert list(stream.classify([])) == []
    assert stream.stats.offered == 15


def test_no_video_exits(opened, clips, expected, tiny_bundle):
    """With thresholds of 1.0 nothing does: memory stays within the slots and what is prefetched; answers are right."""
    session = Session.open(tiny_bundle, open_backend("onnxruntime"), (1.0, 1.0, 1.0, None))
    stream = opened((1.0, 1.0, 1.0, None), slots=3, ahead=2)
    sources = [Source(clips[n % COUNT]) for n in range(48)]
    found = dict(stream.classify(sources))
    wanted = [session.classify(ArraySource(clip)) for clip in clips]
    for number, source in enumerate(sources):
        assert found[source].checkpoint == 4
        same(found[source], wanted[number % COUNT])
    assert stream.reader.most_held <= 2 + 2 * 3 and stream.executor.store.slots.count == 3
    assert stream.reader.frames_in_vain == 0
    free_again(stream)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("first", [0, 4])
def test_a_numeric_error_is_the_videos_own(opened, clips, expected, thresholds, value, first):
    """Bad frames from the first segment on, or only in the third, where checkpoints 1 and 2 answered well."""

    class Poisoned(Source):
        def read(self, samples):
            frames = super().read(samples)
            return frames if self.asked[0] == self.asked[-1] and first else frames * np.float32(value)

    never = (1.0, 1.0, 1.0, None)
    stream = opened(never, buckets=(4,))
    sources = [(Poisoned if n == 5 else Source)(clip) for n, clip in enumerate(clips)]
    found = dict(stream.classify(sources))
    bad = found.pop(sources[5])
    assert (bad.status, bad.class_index, bad.confidence) == ("numeric_error", None, None)
    assert bad.checkpoint == (3 if first else 1)
    for source, wanted in zip(sources, expected, strict=True):
        if source is not sources[5]:
            assert found[source].status == "ok"
            for z, other in zip(found[source].logits, wanted.logits, strict=False):
                assert z.tobytes() == other.tobytes()
    assert sum(map(sum, stream.tally.counts)) == COUNT - 1
    free_again(stream)


def fail_each_call_in_turn(opened, clips, videos):
    """Fail call 1, then 2 and so on, of runs of so many videos; return how many runs there were."""
    reference = {}
    for number in itertools.count(1):
        backend, alone = HookedBackend(), []

        def hook(name, rows, backend=backend, number=number, alone=alone):
            if backend.calls == number:
                alone.append(rows == 1)
                raise BackendError(f"call {number} fails")

        backend.hook = hook
        stream = opened(backend=backend, slots=6)
        sources = [Source(clips[n % COUNT]) for n in range(videos)]
        found = dict(stream.classify(sources))
        errors = [answer for answer in found.values() if isinstance(answer, Exception)]
        assert len(errors) == sum(alone), "only a video that fails alone fails"
        assert all(str(error) == f"call {number} fails" for error in errors)
        for n, source in enumerate(sources):
            if not isinstance(found[source], Exception):
                bits = [z.tobytes() for z in found[source].logits]
                assert len(bits) == 4 and reference.setdefault(n % COUNT, bits) == bits
        free_again(stream)
        stream.close()
        if not alone:
            return number - 1


def test_the_kth_call_fails_for_every_k(opened, clips):
    assert fail_each_call_in_turn(opened, clips, 16) >= 16


@pytest.mark.full
def test_the_kth_call_fails_for_every_k_of_64_videos(opened, clips):
    assert fail_each_call_in_turn(opened, clips, 64) >= 64


def test_a_guilty_video_fails_alone(opened, clips, expected, thresholds):
    """Whatever call holds it fails; its partners are answered in calls of their own."""
    stream = opened(thresholds)
    guilty = clips[3, stream.executor.bundle.manifest.grid.frame_order[0]].tobytes()
    plain = stream.executor.run

    def run(index, slots, frames):
        if frames is not None and any(video[0].tobytes() == guilty for video in frames):
            raise ResourceError("too big")
        return plain(index, slots, frames)

    stream.executor.run = run
    sources = [Source(clip) for clip in clips]
    found = dict(stream.classify(sources))
    assert isinstance(found.pop(sources[3]), ResourceError)
    for source, wanted in zip(sources, expected, strict=True):
        if source is not sources[3]:
            same(found[source], wanted)
    assert stream.stats.ended == {"exited": 15, "cut": 0, "late": 0, "failed": 1}
    free_again(stream)


@pytest.fixture
def views(monkeypatch):
    """What the policies of the streams' schedulers saw last, by mode."""
    seen = {}

    def watched(mode, policy):
        def choose(view, now):
            seen[mode] = view
            return policy(view, now)

        return choose

    for mode, policy in list(POLICIES.items()):
        monkeypatch.setitem(POLICIES, mode, watched(mode, policy))
    return seen


class TestCancelling:
    """A video is cancelled in each phase of its life: its slot is free again, and its neighbours do not notice."""

    def check(self, stream, futures, expected):
        assert futures[0].cancel() or futures[0].cancelled()
        for future, wanted in zip(futures[1:], expected[1:], strict=False):
            same(future.result(30), wanted)
        assert wait(futures, 30).not_done == set()
        with pytest.raises(CancelledError):
            futures[0].result(30)
        free_again(stream)
        with stream.reader.changed:
            assert not stream.reader.unread and not stream.reader.ready

    def test_before_it_is_read(self, opened, clips, expected, thresholds):
        stream, gate = opened(thresholds, decoders=1), threading.Event()
        blocking = stream.submit(Source(clips[9], gate))
        sources = [Source(clip) for clip in clips[:4]]
        futures = [stream.submit(source) for source in sources]
        assert futures[0].cancel()
        gate.set()
        self.check(stream, futures, expected)
        assert sources[0].asked == [] and blocking.result(30)

    def test_while_it_is_read(self, opened, clips, expected, thresholds):
        stream, gate = opened(thresholds), threading.Event()
        source = Source(clips[0], gate)
        futures = [stream.submit(source), *(stream.submit(Source(clip)) for clip in clips[1:4])]
        settled(stream, lambda: source.asked)
        assert futures[0].cancel()
        gate.set()
        self.check(stream, futures, expected)
        settled(stream, lambda: stream.reader.frames_in_vain >= 4)

    def test_while_it_waits_for_a_slot(self, opened, clips, expected, thresholds):
        gate, begun = threading.Event(), threading.Event()
        stream = opened(thresholds, slots=1, backend=HookedBackend(lambda *_: begun.set() or gate.wait(30)))
        blocking = stream.submit(Source(clips[9]))
        assert begun.wait(30)
        source = Source(clips[0])
        futures = [stream.submit(source), *(stream.submit(Source(clip)) for clip in clips[1:4])]
        settled(stream, lambda: source.frames_decoded)
        assert futures[0].cancel()
        gate.set()
        self.check(stream, futures, expected)
        assert blocking.result(30) and stream.stats.offered == 4

    def test_in_a_queue(self, opened, clips, tiny_bundle, views):
        """One video runs alone and goes on at once; the others have their slots and wait for segment 1."""
        gate, reached = threading.Event(), threading.Event()

        def hook(name, rows):
            if name == "segment1" and not reached.is_set():
                queue = views["latency"].queues[0]
                settled(stream, lambda: len(stream.reader.ready) + len(queue) == 3)
            if name == "segment2" and not gate.is_set():
                reached.set()
                assert gate.wait(30)

        stream = opened(backend=HookedBackend(hook), buckets=(1,), mode="latency", ahead=4)
        futures = [stream.submit(Source(clip)) for clip in clips[:4]]
        assert reached.wait(30)
        chosen = views["latency"].queues[0][1]
        assert (chosen.place, chosen.segment) == ("queue", 1) and stream.executor.store.slots.free == 4
        assert chosen.video.future.cancel()
        gate.set()
        session = Session.open(tiny_bundle, open_backend("onnxruntime"))
        for future, clip in zip(futures, clips, strict=False):
            if future is not chosen.video.future:
                same(future.result(30), session.classify(ArraySource(clip)))
        assert stream.stats.cancelled == 1 and stream.stats.fills[0][1] == 3
        free_again(stream)

    @pytest.mark.parametrize("segment", [1, 2, 3, 4])
    def test_in_a_launch(self, opened, clips, segment, tiny_bundle, views):
        gate, reached = threading.Event(), threading.Event()

        def hook(name, rows):
            if name == f"segment{segment}" and not gate.is_set():
                reached.set()
                assert gate.wait(30)

        session = Session.open(tiny_bundle, open_backend("onnxruntime"))
        stream = opened(backend=HookedBackend(hook), buckets=(4,))
        futures = [stream.submit(Source(clip)) for clip in clips[:4]]
        assert reached.wait(30)
        with stream.reader.changed:
            (launch,) = views["throughput"].in_flight
            chosen = launch.tickets[0].video.future
        assert chosen.cancel()
        assert stream.executor.store.slots.free < 8  # the launch still holds it
        gate.set()
        for future, clip in zip(futures, clips, strict=False):
            if future is not chosen:
                same(future.result(30), session.classify(ArraySource(clip)))
        assert stream.stats.cancelled == 1 and stream.stats.ended["exited"] == 3
        free_again(stream)

    def test_while_a_launch_waits_for_its_frames(self, opened, clips, tiny_bundle):
        """Nobody else waits for frames that will not be used."""

        both = threading.Barrier(2)  # a thread each

        class Late(Source):
            def read(self, samples):
                if not self.asked:
                    both.wait(30)
                    self.asked.append(tuple(samples))
                    return ArraySource.read(self, samples)
                return super().read(samples)

        gate = threading.Event()
        stream = opened(buckets=(2,), decoders=2)
        held = Late(clips[0], gate)
        futures = [stream.submit(held), stream.submit(Late(clips[1]))]
        settled(stream, lambda: len(held.asked) == 2)  # its next frames are being read, and wait
        assert futures[0].cancel()
        session = Session.open(tiny_bundle, open_backend("onnxruntime"))
        same(futures[1].result(30), session.classify(ArraySource(clips[1])))
        gate.set()
        free_again(stream)

    def test_as_it_is_answered(self, opened, clips):
        stream = opened()
        gate, add = threading.Event(), stream.tally.add
        future = stream.submit(Source(clips[0], gate))

        def count(*answer):
            assert future.cancel()
            add(*answer)

        stream.tally.add = count
        gate.set()
        assert wait([future], 30).not_done == set() and future.cancelled()
        stream.tally.add = add
        assert stream.submit(Source(clips[1])).result(30).checkpoint == 4
        free_again(stream)

    def test_after_it_was_answered(self, opened, clips):
        stream = opened()
        future = stream.submit(Source(clips[0]))
        answer = future.result(30)
        assert not future.cancel() and future.result() is answer
        free_again(stream)


@pytest.mark.parametrize("thresholds", [(0.0, 0.0, 0.0, None), (1.0, 0.0, 0.0, None)])
def test_a_video_that_exits_is_read_no_further(opened, clips, thresholds, tiny_bundle):
    """Without reading ahead, exactly what its segments need; segment 3 would read more."""
    stream = opened(thresholds, ahead=0)
    plain, surely = stream.reader.want, []

    def want(reading, index, certain):
        surely.extend([index] * certain)
        plain(reading, index, certain)

    stream.reader.want = want
    sources = [Source(clips[n % COUNT]) for n in range(48)]
    for source, answer in stream.classify(sources):
        assert answer.checkpoint == 1 + thresholds[0] and source.asked == [tiny_bundle.manifest.grid.frame_order[:4]]
    assert stream.reader.frames_in_vain == 0 and 3 not in surely


def test_what_comes_while_a_stream_is_flushed_waits_for_the_end_of_that(opened, clips, tiny_bundle):
    later = []

    def hook(name, rows):
        if name == "segment2" and not later:
            later.append(stream.submit(Source(clips[1])))
            settled(stream, lambda: stream.reader.ready)

    stream = opened(backend=HookedBackend(hook))
    ((_, first),) = stream.classify([Source(clips[0])])
    session = Session.open(tiny_bundle, open_backend("onnxruntime"))
    same(first, session.classify(ArraySource(clips[0])))
    same(later[0].result(30), session.classify(ArraySource(clips[1])))


def test_a_flush_waits_until_all_that_came_is_admitted(opened, clips):
    gate = threading.Event()
    stream = opened(full=True, mode="static", buckets=(4,), patience_s=1e6)
    futures = [stream.submit(Source(clips[n], gate if n == 5 else None)) for n in range(6)]
    stream.flush()
    settled(stream, lambda: stream.stats.fills[0][4] == 1)
    time.sleep(0.05)
    gate.set()
    assert wait(futures, 30).not_done == set()  # the last two would wait for two others
    assert stream.stats.fills[0][2] == 1


def test_the_next_frames_are_read_while_a_segment_runs(opened, clips):
    """Read ahead in vain where the video leaves there: counted, and no part of its answer."""
    source = Source(clips[0])

    def hook(name, rows):
        settled(None, lambda: source.frames_decoded == 6)  # segment 2 reads none, segment 3 reads two frames

    stream = opened((1.0, 0.0, 0.0, None), backend=HookedBackend(lambda n, r: hook(n, r) if n == "segment2" else None))
    ((_, answer),) = stream.classify([source])
    assert (answer.checkpoint, answer.frames_decoded) == (2, 4)
    assert stream.reader.frames_in_vain == 2


def test_frames_that_turn_out_not_to_be_needed_may_be_broken(opened, clips):
    class Broken(Source):
        def read(self, samples):
            if self.asked:
                self.asked.append(samples)
                raise VideoError("the rest is lost")
            return super().read(samples)

    broken = Broken(clips[0])

    def hook(name, rows):
        if name == "segment2":
            settled(None, lambda: len(broken.asked) == 2)

    ((_, answer),) = opened((1.0, 0.0, 0.0, None), backend=HookedBackend(hook)).classify([broken])
    assert (answer.status, answer.checkpoint) == ("ok", 2)
    videos = [Source(clips[1]), Broken(clips[0]), Source(clips[2])]
    found = dict(opened(buckets=(3,)).classify(videos))
    assert isinstance(found[videos[1]], VideoError) and str(found[videos[1]]) == "the rest is lost"
    assert found[videos[0]].checkpoint == found[videos[2]].checkpoint == 4


def test_an_error_of_the_callers_frames_is_raised(opened, clips):
    class Odd(Source):
        def read(self, samples):
            raise ZeroDivisionError("odd")

    stream = opened()
    future = stream.submit(Odd(clips[0]))
    good = stream.submit(Source(clips[1]))
    assert isinstance(future.exception(30), ZeroDivisionError) and good.result(30).status == "ok"
    with pytest.raises(ZeroDivisionError, match="odd"):
        list(stream.classify([Source(clips[1]), Odd(clips[0])]))
    free_again(stream)


def test_shares_of_a_launch_add_up_to_it(opened, clips):
    """Videos that ran together have the same times, and all times together are no more than the time that passed."""
    gate = threading.Event()
    backend = HookedBackend(lambda *_: gate.wait(30) and time.sleep(0.01))
    stream = opened(buckets=(4,), slots=8, ahead=8, backend=backend)
    started = time.perf_counter()
    blocking = stream.submit(Source(clips[9]))
    settled(stream, lambda: backend.calls == 1)
    futures = [stream.submit(Source(clip)) for clip in clips[:4]]
    settled(stream, lambda: len(stream.reader.ready) == 4)
    gate.set()
    answers = [future.result(30) for future in futures]
    together_ms = blocking.result(30).latency_ms + sum(answer.latency_ms for answer in answers)
    assert together_ms <= (time.perf_counter() - started) * 1e3
    assert len({answer.segment_ms[0] for answer in answers}) == 1 and stream.stats.fills[0][4] == 1


def test_asyncio_waits_for_answers_and_cancels(opened, clips, expected, thresholds):
    gate = threading.Event()
    stream = opened(thresholds)

    async def main():
        held = asyncio.wrap_future(stream.submit(Source(clips[5], gate)))
        answers = await asyncio.gather(*(asyncio.wrap_future(stream.submit(Source(c))) for c in clips[:4]))
        held.cancel()
        with pytest.raises(asyncio.CancelledError):
            await held
        return answers

    for answer, wanted in zip(asyncio.run(main()), expected, strict=False):
        same(answer, wanted)
    gate.set()
    free_again(stream)


def submit_from_threads(stream, clips, expected, threads, videos):
    right = []

    def work(offset):
        for n in range(videos):
            place = (offset + n) % COUNT
            same(stream.submit(Source(clips[place])).result(30), expected[place])
            right.append(True)

    running = [threading.Thread(target=work, args=(3 * n,)) for n in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert len(right) == threads * videos
    free_again(stream)


def test_threads_submit_at_once(opened, clips, expected, thresholds):
    submit_from_threads(opened(thresholds), clips, expected, 4, 12)


@pytest.mark.full
def test_eight_threads_submit_2000_videos_each(opened, clips, expected, thresholds):
    submit_from_threads(opened(thresholds), clips, expected, 8, 2000)


def cancel_at_random(opened, clips, expected, thresholds, seeds):
    """Cancel some of twelve videos at any moment, time after time; return how many were cancelled in time."""
    stream, cancelled = opened(thresholds, slots=5, decoders=2, ahead=3), 0
    for seed in range(seeds):
        rng = random.Random(seed)
        places = [rng.randrange(COUNT) for _ in range(12)]
        futures = [stream.submit(Source(clips[place])) for place in places]
        doomed = rng.sample(range(12), rng.randint(1, 6))
        for number in doomed:
            time.sleep(rng.choice([0, 0, 0.0005, 0.002]))
            futures[number].cancel()
        for number, (future, place) in enumerate(zip(futures, places, strict=True)):
            if future.cancelled():
                assert number in doomed
                cancelled += 1
            else:
                same(future.result(30), expected[place])
    free_again(stream)
    assert not stream._drive.unanswered and stream.reader._ahead == stream.reader._waiting == stream.reader._held == 0
    return cancelled


def test_cancels_at_random_moments(opened, clips, expected, thresholds):
    assert cancel_at_random(opened, clips, expected, thresholds, 40) > 20


@pytest.mark.full
def test_cancels_at_random_moments_1000_times(opened, clips, expected, thresholds):
    assert cancel_at_random(opened, clips, expected, thresholds, 1000) > 500


class TestDeadlines:
    def test_a_video_answers_from_the_last_checkpoint_passed(self, opened, clips, expected):
        stream = opened(mode="deadline", cost=lambda k, n: 1e-4 if k < 3 else 1e6)
        future = stream.submit(Source(clips[0]), deadline_s=1e3)
        answer = future.result(30)
        assert (answer.status, answer.checkpoint, answer.cut, len(answer.logits)) == ("ok", 2, True, 2)
        assert answer.class_index == answer.logits[-1].argmax()
        assert answer.gmacs == pytest.approx(
            stream.executor.bundle.manifest.costs.checkpoint(stream.executor.route, 2) / 1e9
        )
        assert sum(map(sum, stream.tally.counts)) == 0
        assert stream.submit(Source(clips[1])).result(30).checkpoint == 4  # no deadline
        free_again(stream)

    def test_a_video_that_passed_none_is_late(self, opened, clips):
        stream = opened(mode="deadline")
        sources = [Source(clip) for clip in clips[:3]]
        for source, error in stream.classify(sources, deadline_s=0.0):
            assert isinstance(error, ResourceError) and source in sources
            assert "no checkpoint was passed by its deadline" in str(error)
        assert stream.stats.ended["late"] == 3
        free_again(stream)

    def test_only_that_mode_has_them(self, opened, clips):
        with pytest.raises(UsageError, match="a deadline of 1.0 s in mode 'throughput'"):
            opened().submit(Source(clips[0]), 1.0)


@pytest.mark.parametrize("mode", ["latency", "deadline", "throughput"])
def test_every_mode_gives_the_same_answers(opened, clips, expected, thresholds, mode):
    sources = [Source(clip) for clip in clips]
    found = dict(opened(thresholds, mode=mode, patience_s=0.01).classify(sources))
    for source, wanted in zip(sources, expected, strict=True):
        same(found[source], wanted)


def test_static_is_the_full_route_in_one_segment(opened, clips, tiny_bundle):
    session = Session.open(tiny_bundle, open_backend("onnxruntime"), route=tiny_bundle.manifest.route.full)
    stream = opened(full=True, mode="static", buckets=(4,))
    sources = [Source(clip) for clip in clips[:6]]
    found = dict(stream.classify(sources))
    for source, clip in zip(sources, clips, strict=False):
        same(found[source], session.classify(ArraySource(clip)))
    with pytest.raises(UsageError, match="expected one segment"):
        opened(mode="static")


def test_a_gpu_belongs_to_the_streams_own_thread(tiny_bundle, tmp_path, monkeypatch, clips, expected, thresholds):
    """On a fake TensorRT, which only the thread that opened it may use."""
    device = HostDevice("sm86")
    stub = Stub("11.1", "sm86").install(monkeypatch)
    stub.recordings[device.stream] = device
    build_here(tiny_bundle, tmp_path, "fp32", open_api("tensorrt"), ("sm86",))

    def executor():
        backend = TensorRTBackend(open_api("tensorrt"), device)
        load = open_engines(tiny_bundle, backend, tmp_path, "fp32", BATCH).plan
        return Executor(tiny_bundle, backend, "fp32", load, 6, [[1, BATCH]] * 4)

    with Stream(executor, thresholds) as stream:
        found = dict(stream.classify(sources := [Source(clip) for clip in clips]))
        assert not device.closed
    assert device.closed
    for source, wanted in zip(sources, expected, strict=True):
        same(found[source], wanted)


def test_costs_are_measured_where_none_are_given(opened, clips):
    backend = HookedBackend()
    stream = opened(cost=None, backend=backend)
    assert backend.calls == 4 * 2 * 4  # segments, both ends, one of warm-up and three timed
    assert len(list(stream.classify([Source(clip) for clip in clips]))) == COUNT


def test_what_does_not_fit_is_refused_at_once(opened, tiny_bundle, graphs):
    with pytest.raises(ThresholdsError, match="2 values for 4 checkpoints"):
        opened((0.5, None))
    with pytest.raises(ThresholdsError, match="1 temperatures"):
        opened(temperatures=(1.0,))
    with pytest.raises(UsageError, match="mode 'fast': expected one of"):
        opened(mode="fast")
    backend = HookedBackend()
    with pytest.raises(UsageError, match="0 decoders"):
        opened(decoders=0, backend=backend)
    assert backend.closed

    def no_backend():
        raise BackendError("no such thing")

    with pytest.raises(BackendError, match="no such thing"):
        Stream(no_backend)


def test_closing_cancels_the_rest_and_gives_everything_back(opened, clips):
    gate, begun, backend = threading.Event(), threading.Event(), HookedBackend()
    backend.hook = lambda *_: begun.set() or gate.wait(30)
    stream = opened(backend=backend)
    futures = [stream.submit(Source(clip)) for clip in clips]
    assert begun.wait(30)
    closing = threading.Thread(target=stream.close)
    closing.start()
    settled(stream, lambda: stream._drive.stopped)
    with pytest.raises(UsageError, match="the stream is closed"):
        stream.submit(Source(clips[0]))
    gate.set()
    closing.join()
    assert backend.closed and all(future.cancelled() for future in futures) and wait(futures, 1).not_done == set()
    stream.close()


def test_a_fault_of_the_program_ends_the_stream_and_is_raised(opened, clips):
    stream, gate = opened(), threading.Event()

    def run(index, slots, frames):
        assert gate.wait(30)
        raise SlotError("planted")

    stream.executor.run = run
    futures = [stream.submit(Source(clip)) for clip in clips[:4]]
    gate.set()
    for future in futures:
        assert isinstance(future.exception(30), SlotError)
    stream._owner.join(30)
    with pytest.raises(UsageError, match=r"the stream is broken \(planted\): open another one") as refusal:
        stream.submit(Source(clips[0]))
    assert isinstance(refusal.value.__cause__, SlotError)
    assert stream.executor.backend.closed
    stream = opened()
    stream.executor.run = run
    with pytest.raises((SlotError, UsageError), match="planted"):
        list(stream.classify(Source(clip) for clip in clips))


def test_a_fault_of_a_reader_ends_the_stream(opened, clips):
    gate = threading.Event()

    def no_decoder():
        assert gate.wait(30)
        raise OSError("none left")

    stream = opened(open_decoder=no_decoder)
    future = stream.submit(Source(clips[0]))
    gate.set()
    with pytest.raises(OSError, match="none left"):
        future.result(30)


# video files


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, paths = tmp_path_factory.mktemp("videos"), []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        paths.append(folder / f"{seed}.mp4")
        with av.open(paths[-1], "w") as out:
            stream = out.add_stream("libx264", rate=25, options={"g": "8", "threads": "1", "preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for _ in range(24):
                image = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image))))
            out.mux(stream.encode(None))
    return paths


class Deadly(Decoder):
    """Holds its child still while one video is read, and kills it meanwhile."""

    def open(self, path, preprocessing, num_samples):
        source = super().open(path, preprocessing, num_samples)
        if path.name == "2.mp4":
            plain = source.read

            def read(samples):
                os.kill(self.pid, signal.SIGSTOP)
                killer = threading.Timer(0.1, os.kill, (self.pid, signal.SIGKILL))
                killer.start()
                try:
                    return plain(samples)
                finally:
                    killer.join()

            source.read = read
        return source


def test_a_crash_of_a_decoder_costs_the_video_that_it_read(opened, files, tiny_bundle):
    manifest, decoders = tiny_bundle.manifest, []

    def open_decoder():
        decoders.append(Deadly(timeout_s=30))
        return decoders[-1]

    stream = opened(open_decoder=open_decoder)
    found = dict(stream.classify(files))
    crash = found.pop(files[2])
    assert isinstance(crash, VideoError) and "2.mp4' cannot be decoded: the decoder process died (SIGKILL)" in str(
        crash
    )
    session = Session.open(tiny_bundle, open_backend("onnxruntime"))
    with Decoder() as decoder:
        for path, answer in found.items():
            wanted = session.classify(decoder.open(path, manifest.preprocessing, manifest.grid.num_frames))
            assert [z.tobytes() for z in answer.logits] == [z.tobytes() for z in wanted.logits]
    assert len(found) == 5
    pids = [decoder.pid for decoder in decoders]
    stream.close()
    assert len(pids) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize("way", ["SIGINT", "raise"])
def test_ctrl_c_and_errors_leave_no_child(files, tiny_bundle, way):
    script = f"""
        import itertools, os, signal, sys
        from pathlib import Path
        from dynvid.exporter.graphs.fuse import fuse
        from dynvid.grid.bundle import Bundle
        from dynvid.runtime.backends.registry import open_backend
        from dynvid.runtime.execution.executor import Executor
        from dynvid.runtime.video.decoder import Decoder
        from dynvid.runtime.stream.stream import Stream
        bundle, decoders = Bundle.open(Path({str(tiny_bundle.root)!r})), []
        def executor():
            backend = open_backend("onnxruntime", 1)
            return Executor(bundle, backend, "fp32", lambda s: fuse(bundle, s, "fp32"), 4, [[1, 2]] * 4)
        def decoder():
            decoders.append(Decoder())
            return decoders[-1]
        with Stream(executor, cost=lambda k, n: n * 1e-3, open_decoder=decoder) as stream:
            for count, _ in enumerate(stream.classify(itertools.cycle([Path(p) for p in {[str(p) for p in files]!r}]))):
                if count == 20:
                    print(*(d.pid for d in decoders), flush=True)
                    if {way!r} == "raise":
                        raise ValueError("stop")
                    os.kill(os.getpid(), signal.SIGINT)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120)
    assert ("KeyboardInterrupt" if way == "SIGINT" else "ValueError: stop") in done.stderr
    pids = done.stdout.split()
    assert len(pids) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_stream_that_nobody_closed_ends_with_its_process(files, tiny_bundle):
    script = f"""
        from pathlib import Path
        from dynvid.exporter.graphs.fuse import fuse
        from dynvid.grid.bundle import Bundle
        from dynvid.runtime.backends.registry import open_backend
        from dynvid.runtime.execution.executor import Executor
        from dynvid.runtime.stream.stream import Stream
        bundle = Bundle.open(Path({str(tiny_bundle.root)!r}))
        def executor():
            backend = open_backend("onnxruntime", 1)
            return Executor(bundle, backend, "fp32", lambda s: fuse(bundle, s, "fp32"), 4, [[1, 2]] * 4)
        stream = Stream(executor, cost=lambda k, n: n * 1e-3)
        futures = [stream.submit(Path({str(files[0])!r})) for _ in range(9)]
        print(futures[0].result().checkpoint)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "4\n", "")
