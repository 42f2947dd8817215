import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dynvid.exporter.proof.clips import proof_clips
from dynvid.grid.errors import FramesError, ThresholdsError
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.session import ArraySource, Session


@pytest.fixture(scope="module")
def clip(tiny_bundle):
    return proof_clips(1, tiny_bundle.manifest.grid.num_frames, tiny_bundle.manifest.preprocessing)[0]


@pytest.fixture(scope="module")
def backend():
    return open_backend("onnxruntime")


class Recorded(ArraySource):
    """An ArraySource that remembers what was asked of it."""

    def __init__(self, frames):
        super().__init__(frames)
        self.asked = []

    def read(self, samples):
        self.asked.append(tuple(samples))
        return super().read(samples)


def confidences(prediction):
    z = np.stack(prediction.logits).astype(np.float64)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return (e / e.sum(axis=1, keepdims=True)).max(axis=1)


@pytest.mark.parametrize("checkpoint", [1, 2, 3, 4])
def test_a_video_exits_at_the_first_confident_checkpoint_and_is_read_no_further(tiny_bundle, backend, clip, checkpoint):
    thresholds = [1.0] * (checkpoint - 1) + [0.0] * (4 - checkpoint)
    thresholds = (*thresholds[:3], None)
    source = Recorded(clip)
    found = Session.open(tiny_bundle, backend, thresholds).classify(source)
    costs, route = tiny_bundle.manifest.costs, tiny_bundle.manifest.route
    assert (found.status, found.checkpoint, len(found.logits)) == ("ok", checkpoint, checkpoint)
    assert found.gmacs == costs.checkpoint(route, checkpoint) / 1e9
    order = tiny_bundle.manifest.grid.frame_order
    assert [s for part in source.asked for s in part] == list(order[: 2 * (route.cells[checkpoint - 1].input_set + 1)])
    assert found.frames_decoded == 2 * (route.cells[checkpoint - 1].input_set + 1)


def test_the_threshold_must_be_exceeded_strictly(tiny_bundle, backend, clip):
    session = Session.open(tiny_bundle, backend)
    plain = session.classify(ArraySource(clip), trace=True)
    first = Session.open(tiny_bundle, backend, (0.0, 1.0, 1.0, None)).classify(ArraySource(clip)).confidence
    assert first == pytest.approx(confidences(plain)[0], abs=1e-6)
    at = Session.open(tiny_bundle, backend, (first, 1.0, 1.0, None)).classify(ArraySource(clip))
    below = Session.open(tiny_bundle, backend, (np.nextafter(first, 0), 1.0, 1.0, None)).classify(ArraySource(clip))
    assert (at.checkpoint, below.checkpoint) == (4, 1)


def test_without_thresholds_a_video_runs_to_the_end(tiny_bundle, backend, clip):
    assert Session.open(tiny_bundle, backend).classify(ArraySource(clip)).checkpoint == 4


def test_a_trace_runs_on_but_reports_the_deciding_checkpoint(tiny_bundle, backend, clip):
    session = Session.open(tiny_bundle, backend, (0.0, 0.0, 0.0, None))
    plain, traced = session.classify(ArraySource(clip)), session.classify(ArraySource(clip), trace=True)
    assert len(traced.logits) == 4 and len(plain.logits) == 1
    same = ("status", "class_index", "confidence", "checkpoint", "gmacs", "fraction", "frames_decoded")
    assert all(getattr(plain, name) == getattr(traced, name) for name in same)


def test_the_predicted_class_is_that_of_the_deciding_logits(tiny_bundle, backend, clip):
    found = Session.open(tiny_bundle, backend).classify(ArraySource(clip))
    assert found.class_index == int(found.logits[-1].argmax())
    assert found.confidence == pytest.approx(confidences(found)[-1], abs=1e-6)


def test_threads_that_share_a_session_get_the_answers_of_one_thread(tiny_bundle, backend):
    preprocessing = tiny_bundle.manifest.preprocessing
    clips = proof_clips(8, tiny_bundle.manifest.grid.num_frames, preprocessing)
    session = Session.open(tiny_bundle, backend)

    class Slow(ArraySource):
        def read(self, samples):
            time.sleep(1e-3)  # another thread's turn, if it may have one
            return super().read(samples)

    def logits(clip):
        return np.stack(session.classify(Slow(clip), trace=True).logits)

    alone = [logits(clip) for clip in clips]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(logits, [*clips, *clips]))
    for expected, found in zip([*alone, *alone], together, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_never_answers_with_a_class(tiny_bundle, backend, clip, value):
    class Poisoned(ArraySource):
        def read(self, samples):
            frames = super().read(samples).copy()
            frames[0, 0, 0, 0] = value
            return frames

    session = Session.open(tiny_bundle, backend, (0.0, 0.0, 0.0, None))
    found = session.classify(Poisoned(clip))
    assert (found.status, found.class_index, found.confidence) == ("numeric_error", None, None)
    clean = session.classify(ArraySource(clip))
    assert clean.status == "ok" and np.isfinite(clean.logits[0]).all()


@pytest.mark.parametrize("change", [lambda f: f.astype(np.float64), lambda f: f[:, 0], lambda f: f * np.nan])
def test_frames_that_cannot_be_used_are_refused(clip, change):
    with pytest.raises(FramesError, match="expected finite float32"):
        ArraySource(change(clip))


def test_thresholds_that_do_not_fit_the_route_are_refused(tiny_bundle, backend):
    with pytest.raises(ThresholdsError, match="2 values for 4 checkpoints"):
        Session.open(tiny_bundle, backend, (0.5, None))


def test_fp16_agrees_with_fp32_within_its_bound(tiny_bundle, backend, clip):
    full = np.stack(Session.open(tiny_bundle, backend).classify(ArraySource(clip), trace=True).logits)
    half = np.stack(Session.open(tiny_bundle, backend, precision="fp16").classify(ArraySource(clip), trace=True).logits)
    error = np.abs(full - half).max() / full.std(axis=1).mean()
    assert 0 < error <= 2e-2


def test_a_prediction_is_plain_data(tiny_bundle, backend, clip):
    fields = dataclasses.asdict(Session.open(tiny_bundle, backend).classify(ArraySource(clip)))
    assert (
        fields["latency_ms"] == sum(fields["segment_ms"]) > 0
        and fields["decode_ms"] == 0.0
        and fields["damaged"] is False
    )
