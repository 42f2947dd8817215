"""Several streams as one: the same answers, fair shares, one end for all."""

import threading

import numpy as np
import pytest

from dynvid.exporter.graphs.fuse import fuse
from dynvid.exporter.proof.clips import proof_clips
from dynvid.grid.errors import BackendError, UsageError
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.execution.executor import Executor
from dynvid.runtime.session import ArraySource, Session
from dynvid.runtime.stream.pool import StreamPool
from dynvid.runtime.stream.stream import Stream

COUNT = 12


@pytest.fixture(scope="module")
def clips(tiny_bundle):
    manifest = tiny_bundle.manifest
    return proof_clips(COUNT, manifest.grid.num_frames, manifest.preprocessing)


@pytest.fixture(scope="module")
def open_stream(tiny_bundle):
    def load(segment):
        return fuse(tiny_bundle, segment, "fp32")

    def executor():
        buckets = [[1, 2]] * len(tiny_bundle.manifest.route.cells)
        return Executor(tiny_bundle, open_backend("onnxruntime"), "fp32", load, 8, buckets)

    return lambda: Stream(executor, decoders=1)


class Held(ArraySource):
    """Frames that wait for a gate."""

    def __init__(self, frames, gate):
        super().__init__(frames)
        self.gate = gate

    def read(self, samples):
        self.gate.wait(30)
        return super().read(samples)


def test_every_video_is_answered_as_a_session_answers_it(tiny_bundle, clips, open_stream):
    session = Session.open(tiny_bundle, open_backend("onnxruntime"))
    sources = [ArraySource(clip) for clip in clips]
    with StreamPool(open_stream, 2) as replicas:
        found = list(replicas.classify(sources))
        served = [stream.stats.offered for stream in replicas.streams]
    assert [id(source) for source, _ in sorted(found, key=lambda f: sources.index(f[0]))] == [id(s) for s in sources]
    for source, answer in found:
        wanted = session.classify(ArraySource(clips[sources.index(source)]))
        assert np.stack(answer.logits).tobytes() == np.stack(wanted.logits).tobytes()
    assert sum(served) == COUNT and min(served) >= 1


def test_a_video_goes_to_the_stream_that_has_the_fewest(clips, open_stream):
    gate = threading.Event()
    with StreamPool(open_stream, 3) as replicas:
        futures = [replicas.submit(Held(clips[n], gate)) for n in range(9)]
        held = list(replicas._held)
        futures[0].cancel()
        after = sum(replicas._held)
        gate.set()
        for future in futures[1:]:
            future.result(30)
    assert held == [3, 3, 3]
    assert after == 8
    assert sum(replicas._held) == 0


def test_closing_ends_every_stream(clips, open_stream):
    with StreamPool(open_stream, 2) as replicas:
        pass
    assert replicas.fault is None
    for stream in replicas.streams:
        with pytest.raises(UsageError, match="closed"):
            stream.submit(ArraySource(clips[0]))
    with pytest.raises(UsageError, match="closed"):
        replicas.submit(ArraySource(clips[0]))
    assert sum(replicas._held) == 0  # what was refused is not counted


def test_one_that_does_not_open_closes_those_before(open_stream):
    opened = []

    def fail_second():
        if opened:
            raise BackendError("no second one")
        opened.append(open_stream())
        return opened[0]

    with pytest.raises(BackendError, match="no second one"):
        StreamPool(fail_second, 2)
    with pytest.raises(UsageError, match="closed"):
        opened[0].submit(ArraySource(np.zeros((8, 3, 32, 32), np.float32)))
    with pytest.raises(UsageError, match="0 streams"):
        StreamPool(open_stream, 0)
