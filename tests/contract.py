"""What every backend must keep, said once: for onnxruntime and OpenVINO on a CPU, for fakes of a GPU, and on a real one.

Each statement is a function of a ``Case`` and fails with an AssertionError or the backend's own error.
"""

import hashlib
import statistics
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from engine_samples import graph_of

from dynvid.exporter.engines.build import build_engines, key_of
from dynvid.exporter.engines.jobs import jobs
from dynvid.exporter.engines.tensorrt_builder import build
from dynvid.exporter.graphs.fuse import fuse
from dynvid.exporter.proof.clips import proof_clips
from dynvid.exporter.proof.tolerances import BOUND
from dynvid.grid.bundle import Bundle
from dynvid.grid.engines.cache import EngineCache
from dynvid.grid.errors import BackendError
from dynvid.grid.segments import fused_segments
from dynvid.runtime.execution.engine_lookup import open_engines
from dynvid.runtime.execution.executor import Executor
from dynvid.runtime.session import ArraySource, Session

BATCH = 3
_GRAPHS = {}  # fused graphs made so far, by bundle, segment and precision


@dataclass(frozen=True)
class Case:
    """One backend to hold to the contract.

    Attributes:
        open: returns a backend; takes ``cuda_graphs``.
        content: what the backend runs: ``Graphs`` or ``Plans``.
        on_device: whether tensors are in a device's memory.
        bound: of the error, where arithmetic is not that of the graphs; None: that of their precision.
        eps: how far a video alone may be from itself among others; None: as ``bound``.
    """

    open: Callable[..., Any]
    content: Any
    on_device: bool = True
    bound: float | None = None
    eps: float | None = None

    def error_bound(self, precision):
        return BOUND[precision] if self.bound is None else self.bound


class Graphs:
    """Backends that run ONNX models."""

    def bundle(self, bundle, backend, precision):
        return bundle

    def load(self, bundle, backend, precision, batch=1):
        def load(segment):
            key = (bundle.sha256, segment.name, precision)
            if key not in _GRAPHS:
                _GRAPHS[key] = fuse(bundle, segment, precision)
            return _GRAPHS[key]

        return load


class Plans:
    """Backends that run engines; ``build(bundle, folder, precision)`` is called once for each."""

    def __init__(self, folder, build):
        self._folder, self._build = folder, build

    def bundle(self, bundle, backend, precision):
        return EngineBundle(
            bundle.root, bundle.manifest, bundle.sha256, engines=self._engines(bundle, backend, precision, 1)
        )

    def load(self, bundle, backend, precision, batch=1):
        return self._engines(bundle, backend, precision, batch).plan

    def _engines(self, bundle, backend, precision, batch):
        folder = self._folder / f"{bundle.sha256[:12]}-{precision}"
        if not folder.exists():
            self._build(bundle, folder, precision)
        return open_engines(bundle, backend, folder, precision, batch)


@dataclass(frozen=True)
class EngineBundle(Bundle):
    """A bundle whose subgraphs are read as engines."""

    engines: Any = None

    def read(self, variant):
        return self.engines.plan(next(s for s in self.manifest.subgraphs if variant in s.variants.values()))


def build_here(bundle, folder, precision, api, targets):
    """Build every engine of a bundle in this process, where a fake TensorRT is."""
    cache = EngineCache(folder, bundle.root)
    maker = SimpleNamespace(flavour=api.flavour, version=api.version, cuda=api.cuda, targets=targets)
    for job in jobs(bundle, precision, BATCH):
        content = graph_of(job, bundle, precision)
        key = key_of(job, bundle, hashlib.sha256(content).hexdigest(), maker, precision)
        cache.write(key, *_timed(build(api, content, job.source, job.name, job.profiles, targets)))


def build_with_children(bundle, folder, precision, flavour):
    """Build every engine of a bundle as the command does: for the present GPU, or for Ampere and later."""
    rows = build_engines(bundle, folder, flavour, precision, max_batch=BATCH)
    assert [f"{row.subgraph}: {row.error}" for row in rows if row.error] == []


def _timed(built):
    plan, census = built
    return plan, 0.5, census


# what is compared


def fused_segments_of(bundle, precision="fp32"):
    """Return the fused segments of a bundle's route."""
    return fused_segments(bundle.manifest, precision)


def clips_of(bundle, count, seed=0):
    """Return [count, l, 3, crop, crop], different clips."""
    return proof_clips(count, bundle.manifest.grid.num_frames, bundle.manifest.preprocessing, seed)


@torch.no_grad()
def whole(network, clips):
    """Return the logits of the plain network, one video alone, [clips, checkpoints, classes]."""
    order = list(network.grid.frame_order)
    return np.stack([torch.cat(network(torch.from_numpy(clip[order])[None])).numpy() for clip in clips])


def cells(case, backend, bundle, clips, precision="fp32"):
    """Return the logits of a session over the cells, [clips, checkpoints, classes]."""
    session = Session.open(case.content.bundle(bundle, backend, precision), backend, precision=precision)
    return np.stack([np.stack(session.classify(ArraySource(clip), trace=True).logits) for clip in clips])


def fused(case, backend, bundle, precision="fp32", batch=1, full=False):
    """Return an executor of fused segments, whose calls are for ``batch`` videos."""
    load = case.content.load(bundle, backend, precision, batch)
    route = bundle.manifest.route.full if full else bundle.manifest.route
    return Executor(bundle, backend, precision, load, batch, [[batch]] * len(route.cells), route)


def run(executor, clips):
    """Return the logits of an executor, [clips, checkpoints, classes]; as many clips as it runs at once."""

    class Frames(ArraySource):
        def __init__(self, clip):
            super().__init__(np.zeros_like(clip))
            self._frames = clip  # NaN, too

    return np.stack([at.logits for at in executor.walk([Frames(clip) for clip in clips])], axis=1)


def error(expected, found):
    """Return the largest difference, in standard deviations over the classes."""
    return float(np.abs(found.astype(np.float64) - expected).max() / expected.std(axis=-1).mean())


# the contract


def split_is_whole(case, network, bundle, precision="fp32"):
    clips, backend = clips_of(bundle, 3), case.open()
    expected = whole(network, clips)
    assert error(expected, cells(case, backend, bundle, clips, precision)) <= case.error_bound(precision)
    executor = fused(case, backend, bundle, precision)
    found = np.concatenate([run(executor, clip[None]) for clip in clips])
    assert error(expected, found) <= case.error_bound(precision)
    executor = fused(case, backend, bundle, precision, full=True)
    found = np.concatenate([run(executor, clip[None]) for clip in clips])
    assert error(expected[:, -1:], found) <= case.error_bound(precision)
    backend.close()


def exits_and_classes_agree(case, network, bundle):
    clips, backend = clips_of(bundle, 8), case.open()
    z = whole(network, clips).astype(np.float64)
    e = np.exp(z - z.max(-1, keepdims=True))
    probabilities = e / e.sum(-1, keepdims=True)
    confidences, running = probabilities.max(-1), np.ones(len(clips), bool)
    thresholds, exits = [], np.full(len(clips), z.shape[1])
    for k in range(z.shape[1] - 1):
        ordered = np.sort(confidences[running, k])
        place = np.diff(ordered).argmax()  # in the widest gap, so that rounding decides nothing
        thresholds.append(float(ordered[place : place + 2].mean()))
        leaving = running & (confidences[:, k] > thresholds[-1])
        exits[leaving], running = k + 1, running & ~leaving
        if running.sum() < 2:
            thresholds += [1.0] * (z.shape[1] - 2 - k)
            break
    assert len(set(exits)) > 1
    session = Session.open(case.content.bundle(bundle, backend, "fp32"), backend, (*thresholds, None))
    answers = [session.classify(ArraySource(clip)) for clip in clips]
    assert [answer.checkpoint for answer in answers] == exits.tolist()
    classes = probabilities.argmax(-1)[np.arange(len(clips)), exits - 1]
    assert [answer.class_index for answer in answers] == classes.tolist()
    backend.close()


def rows_are_isolated(case, bundle, precision="fp32"):
    clips, backend = clips_of(bundle, 2 * BATCH - 1), case.open()
    executor = fused(case, backend, bundle, precision, BATCH)
    first, among_others = clips[:BATCH], np.concatenate([clips[:1], clips[BATCH:]])
    one, other = run(executor, first), run(executor, among_others)
    np.testing.assert_array_equal(one[0], other[0])  # the same place in the same call: to the last bit
    assert not np.array_equal(one[1], other[1])
    np.testing.assert_array_equal(run(executor, first), one)
    alone = run(fused(case, backend, bundle, precision), first[:1])
    assert error(alone, one[:1]) <= (case.error_bound(precision) if case.eps is None else case.eps)
    backend.close()


def nothing_stays_of_a_poisoned_video(case, bundle, precision="fp32"):
    clips, backend = clips_of(bundle, BATCH), case.open()
    poison = np.full_like(clips, np.nan)
    executor = fused(case, backend, bundle, precision, BATCH)
    clean = run(executor, clips)
    assert np.isfinite(clean).all()
    assert np.isnan(run(executor, poison)).all()
    np.testing.assert_array_equal(run(executor, clips), clean)
    one_bad = clips.copy()
    one_bad[1] = np.nan
    found = run(executor, one_bad)
    assert np.isnan(found[1]).all()
    np.testing.assert_array_equal(found[[0, 2]], clean[[0, 2]])

    class Poison(ArraySource):
        def read(self, samples):
            return super().read(samples) * np.float32(np.nan)

    session = Session.open(case.content.bundle(bundle, backend, precision), backend, precision=precision)
    clean = session.classify(ArraySource(clips[0]), trace=True).logits
    assert session.classify(Poison(clips[1]), trace=True).status == "numeric_error"
    np.testing.assert_array_equal(session.classify(ArraySource(clips[0]), trace=True).logits, clean)
    backend.close()


def recorded_calls_change_nothing(case, bundle, precision="fp32"):
    clips = clips_of(bundle, 2 * BATCH)
    batches, found = (clips[:BATCH], clips[BATCH:], clips[:BATCH]), {}
    for cuda_graphs in (False, True):
        backend = case.open(cuda_graphs=cuda_graphs)
        executor = fused(case, backend, bundle, precision, BATCH)
        found[cuda_graphs] = [run(executor, batch) for batch in batches]
        backend.close()
    np.testing.assert_array_equal(found[True], found[False])
    assert not np.array_equal(found[True][0], found[True][1])


def tensors_hold_what_was_written(case):
    backend, rng = case.open(), np.random.default_rng(0)
    for dtype in ("float32", "float16"):
        assert not backend.read(backend.zeros((2, 3), dtype)).any()
        array = rng.normal(size=(1, 5, 3)).astype(np.float32)
        tensor = backend.zeros(array.shape, dtype)
        backend.write(tensor, array)
        array, kept = array * 0, array.astype(dtype)  # the source may change at once
        assert backend.read(tensor).dtype == dtype
        np.testing.assert_array_equal(backend.read(tensor), kept)
        middle = backend.frames(tensor, 2, 4)
        backend.write(middle, np.full((1, 2, 3), 7, np.float32))
        kept[:, 2:4] = 7
        found, of_middle = (value.copy() for value in backend.fetch([tensor, middle]))
        np.testing.assert_array_equal(found, kept)
        np.testing.assert_array_equal(of_middle, kept[:, 2:4])
        first = backend.read(middle)
        backend.read(backend.zeros((1, 2, 3), dtype))  # later reads change nothing of it
        assert (first == 7).all()
        many, few = backend.zeros((4, 2), dtype), backend.zeros((3, 2), dtype)
        backend.write(many, np.arange(8, dtype=np.float32).reshape(4, 2))
        backend.take(many, [3, 1], few)
        np.testing.assert_array_equal(backend.read(few), [[6, 7], [2, 3], [0, 0]])
        backend.put(few, many, [0, 3])
        np.testing.assert_array_equal(backend.read(many), [[6, 7], [2, 3], [4, 5], [2, 3]])
        backend.poison(many, 2)
        np.testing.assert_array_equal(backend.read(many), [[6, 7], [2, 3], [np.nan] * 2, [2, 3]])
        np.testing.assert_array_equal(backend.read(backend.rows(many, 2)), [[6, 7], [2, 3]])
    with np.errstate(over="raise"):
        backend.write(tensor, np.full((1, 5, 3), 1e6, np.float32))
    assert np.isinf(backend.read(tensor)).all()
    backend.close()


def one_thread_owns_it_until_it_is_closed(case):
    backend, errors = case.open(), []

    def elsewhere():
        try:
            backend.zeros((1,), "float32")
        except BackendError as error:
            errors.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(errors) == 1 and "one thread owns a GPU" in errors[0]
    tensor = backend.zeros((1,), "float32")
    backend.close()
    backend.close()
    for use in (
        lambda: backend.zeros((1,), "float32"),
        lambda: backend.read(tensor),
        lambda: backend.write(tensor, np.zeros(1)),
    ):
        with pytest.raises(BackendError, match="is closed"):
            use()


def segment_ms(case, bundle, precision="fp32", batch=1, cuda_graphs=True, repeats=50):
    """Return the median time of every fused segment with one read of its answer, in ms."""
    backend = case.open(cuda_graphs=cuda_graphs)
    executor = fused(case, backend, bundle, precision, batch)
    for _ in range(3):
        run(executor, clips_of(bundle, batch))
    found = []
    for index in range(1, len(executor.segments) + 1):
        found.append(statistics.median(executor.time_once(index, batch) for _ in range(repeats)) * 1e3)
    backend.close()
    return found
