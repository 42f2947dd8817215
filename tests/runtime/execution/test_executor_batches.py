"""The executor with batches, and its state store: whose rows a call reads and writes, and that nobody else's change."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from contract import BATCH, build_here
from host_device import HostDevice
from tensorrt_stub.stub import Stub

from dynvid.exporter.graphs.fuse import fuse
from dynvid.exporter.proof.clips import proof_clips
from dynvid.grid.errors import BackendError, UsageError
from dynvid.grid.segments import fused_full, fused_segments
from dynvid.runtime.backends.null import NullBackend
from dynvid.runtime.backends.onnxruntime import OnnxRuntimeBackend
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.backends.tensorrt import TensorRTBackend
from dynvid.runtime.backends.tensorrt_api import open_api
from dynvid.runtime.execution.engine_lookup import open_engines
from dynvid.runtime.execution.executor import Executor
from dynvid.runtime.execution.state_store import StateStore, bytes_per_video
from dynvid.runtime.scheduling.slots import SlotError, Slots, slots_within
from dynvid.runtime.session import ArraySource, Session

SEGMENTS = 4
WIDTHS = ([1, 2, 3, 4, 5], [2, 5], [5], [8])


@pytest.fixture(scope="module")
def graphs(tiny_bundle):
    return {s.name: fuse(tiny_bundle, s, "fp32") for s in fused_segments(tiny_bundle.manifest, "fp32")}


@pytest.fixture(scope="module")
def clips(tiny_bundle):
    """Return five videos in temporal order."""
    manifest = tiny_bundle.manifest
    return proof_clips(5, manifest.grid.num_frames, manifest.preprocessing)


@pytest.fixture(scope="module")
def expected(tiny_bundle, clips):
    """Return the logits of a session, [clips][checkpoints] as bytes."""
    session = Session.open(tiny_bundle, open_backend("onnxruntime"))
    return [[z.tobytes() for z in session.classify(ArraySource(clip), trace=True).logits] for clip in clips]


@pytest.fixture
def opened(tiny_bundle, graphs):
    def open_(buckets=(1, 2, 3, 4, 5), slots=5, backend=None):
        backend = open_backend("onnxruntime") if backend is None else backend
        return Executor(tiny_bundle, backend, "fp32", lambda s: graphs[s.name], slots, [list(buckets)] * SEGMENTS)

    return open_


class FailingBackend(OnnxRuntimeBackend):
    """Fails calls after it has computed them; counts preparations."""

    def __init__(self):
        super().__init__()
        self.failing, self.prepared = False, Counter()

    def load(self, content, ports, name):
        program = super().load(content, ports, name)
        plain = program.prepare

        def prepare(inputs, outputs):
            rows = outputs["logits"].shape[0]
            self.prepared[name, rows] += 1
            run = plain(inputs, outputs)

            def call():
                run()
                if self.failing:
                    raise BackendError("out of luck")

            return call

        program.prepare = prepare
        return program


def frames_of(executor, clips, index):
    """Return the new frames of a segment for some clips, None where it reads none."""
    segment = executor.segments[index - 1]
    order = list(executor.bundle.manifest.grid.frame_order[segment.start : segment.stop])
    return np.stack([clip[order] for clip in clips]) if order else None


def run(executor, index, slots, clips):
    """Return the logits of a segment, one bytes a clip."""
    logits, probabilities = executor.run(index, slots, frames_of(executor, clips, index))
    assert logits.shape == probabilities.shape == (len(clips), 5)
    return [row.tobytes() for row in logits]


def test_a_video_alone_is_answered_as_a_session_answers_it_to_the_last_bit(opened, clips, expected):
    """So a fused segment is, on this network, its cells to the last bit."""
    executor = opened()
    for clip, wanted in zip(clips, expected, strict=True):
        slot = executor.store.slots.acquire()
        assert [run(executor, k, [slot], [clip])[0] for k in range(1, 5)] == wanted
        executor.store.slots.release(slot)


@pytest.mark.parametrize("buckets", WIDTHS)
def test_partners_and_buckets_change_no_bit(opened, clips, expected, buckets):
    executor = opened(buckets)
    for videos in range(1, 6):
        slots = [executor.store.slots.acquire() for _ in range(videos)]
        order = list(range(videos))
        for index in range(1, 5):
            order = order[1:] + order[:1]  # the same videos in other places
            found = run(executor, index, [slots[i] for i in order], [clips[i] for i in order])
            assert found == [expected[i][index - 1] for i in order]
        for slot in slots:
            executor.store.slots.release(slot)


def test_survivors_of_two_batches_become_one(opened, clips, expected):
    executor = opened()
    slots = [executor.store.slots.acquire() for _ in range(5)]
    assert run(executor, 1, slots[:3], clips[:3]) == [e[0] for e in expected[:3]]
    assert run(executor, 1, slots[3:], clips[3:]) == [e[0] for e in expected[3:]]
    for index in (2, 3, 4):
        assert run(executor, index, slots[4:2:-1] + slots[:1], [clips[4], clips[3], clips[0]]) == [
            expected[i][index - 1] for i in (4, 3, 0)
        ]


def test_free_rows_are_nan_from_the_start_and_after_release(opened, clips):
    executor = opened(slots=2)
    arrays = executor.store.arrays.values()
    assert arrays and all(np.isnan(array).all() for array in arrays)
    first, second = executor.store.slots.acquire(), executor.store.slots.acquire()
    for index in (1, 2, 3):
        run(executor, index, [first, second], clips[:2])
    assert not any(np.isnan(array).any() for array in arrays)
    executor.store.slots.release(first)
    for array in arrays:
        assert np.isnan(array[first.index]).all() and not np.isnan(array[second.index]).any()


def test_a_row_that_nobody_wrote_gives_no_answer(opened, clips):
    executor = opened()
    logits, _ = executor.run(2, [executor.store.slots.acquire()], frames_of(executor, clips[:1], 2))
    assert np.isnan(logits).all()


def test_a_call_writes_the_rows_of_its_videos_only(opened, clips):
    executor = opened(buckets=(4,), slots=4)
    slots = [executor.store.slots.acquire() for _ in range(3)]
    run(executor, 1, slots[:2], clips[:2])
    before = {key: array.copy() for key, array in executor.store.arrays.items()}
    run(executor, 1, slots[2:], clips[2:3])
    run(executor, 2, slots[:1], clips[:1])
    for key, array in executor.store.arrays.items():
        for row in (1, 3):
            assert array[row].tobytes() == before[key][row].tobytes()


def test_a_video_alone_runs_on_its_row_of_the_store_and_nothing_is_copied(opened, clips, expected, monkeypatch):
    executor = opened()
    slots = [executor.store.slots.acquire() for _ in range(2)]
    copied = []
    monkeypatch.setattr(executor.backend, "take", lambda *given: copied.append(given))
    monkeypatch.setattr(executor.backend, "put", lambda *given: copied.append(given))
    for index in range(1, 5):
        for slot, clip, wanted in zip(slots, clips, expected, strict=False):
            assert run(executor, index, [slot], [clip]) == [wanted[index - 1]]
    assert not copied
    run(executor, 1, slots, clips[:2])
    assert copied


def test_a_call_that_fails_can_be_made_again(opened, clips, expected):
    """Alone and among others: nothing that a call reads was written by it."""
    executor = opened(backend=FailingBackend())
    for videos in (1, 2):
        slots = [executor.store.slots.acquire() for _ in range(videos)]
        for index in range(1, 5):
            executor.backend.failing = True
            with pytest.raises(BackendError, match="out of luck"):
                run(executor, index, slots, clips[:videos])
            executor.backend.failing = False
            assert run(executor, index, slots, clips[:videos]) == [e[index - 1] for e in expected[:videos]]
        for slot in slots:
            executor.store.slots.release(slot)
        assert all(np.isnan(array).all() for array in executor.store.arrays.values())


def test_padding_repeats_the_first_video_and_is_never_nan(tiny_bundle, graphs, clips):
    seen = []

    class ObservedCells(OnnxRuntimeBackend):
        def load(self, content, ports, name):
            program = super().load(content, ports, name)
            plain = program.prepare

            def prepare(inputs, outputs):
                run = plain(inputs, outputs)

                def call():
                    seen.append({port: value.copy() for port, value in inputs.items()})
                    run()

                return call

            program.prepare = prepare
            return program

    executor = Executor(tiny_bundle, ObservedCells(), "fp32", lambda s: graphs[s.name], 3, [[4]] * SEGMENTS)
    slots = [executor.store.slots.acquire() for _ in range(2)][::-1]  # the first video is not in row 0
    for index in range(1, 5):
        run(executor, index, slots, clips[:2])
    assert len(seen) == 4
    for inputs in seen:
        for value in inputs.values():
            assert value.shape[0] == 4 and not np.isnan(value).any()
            assert value[2].tobytes() == value[3].tobytes() == value[0].tobytes() != value[1].tobytes()


def test_a_call_is_prepared_once_for_each_number_of_rows(opened, clips):
    backend = FailingBackend()
    executor = opened(buckets=(1, 3), backend=backend)
    slots = [executor.store.slots.acquire() for _ in range(3)]
    assert not backend.prepared
    for videos in (1, 2, 3, 1, 2):
        run(executor, 1, slots[:videos], clips[:videos])
    assert backend.prepared == Counter({("segment1", 1): 1, ("segment1", 3): 1})


def test_a_failed_call_leaves_the_videos_as_they_were(opened, clips, expected):
    backend = FailingBackend()
    executor = opened(backend=backend)
    slots = [executor.store.slots.acquire() for _ in range(2)]
    for index in range(1, 5):
        backend.failing = True
        with pytest.raises(BackendError, match="out of luck"):
            run(executor, index, slots[::-1], clips[1::-1])
        backend.failing = False
        for row in (1, 0):
            assert run(executor, index, slots[row : row + 1], clips[row : row + 1]) == [expected[row][index - 1]]


def test_slots_are_checked_on_every_use(opened, clips):
    executor = opened()
    ledger = executor.store.slots
    stale = ledger.acquire()
    run(executor, 1, [stale], clips[:1])
    ledger.release(stale)
    with pytest.raises(SlotError, match="its row is free"):
        run(executor, 2, [stale], clips[:1])
    held = ledger.acquire()
    with pytest.raises(SlotError, match="held under generation 2"):
        run(executor, 2, [stale], clips[:1])
    with pytest.raises(SlotError, match="expected each video once"):
        run(executor, 1, [held, held], clips[:2])
    with pytest.raises(SlotError, match="expected held by it"):
        run(executor, 1, [Slots(9).acquire()], clips[:1])


def test_what_does_not_fit_a_call_is_refused(opened, clips):
    executor = opened(buckets=(1, 2))
    slots = [executor.store.slots.acquire() for _ in range(3)]
    with pytest.raises(UsageError, match="3 videos in a call of segment 1: expected 1 to 2"):
        run(executor, 1, slots, clips[:3])
    with pytest.raises(UsageError, match="0 videos"):
        executor.run(2, [], None)
    with pytest.raises(UsageError, match=r"frames None for 1 videos in segment 1: expected \[\(4, 3, 32, 32\)\]"):
        executor.run(1, slots[:1], None)
    with pytest.raises(UsageError, match="for 1 videos in segment 2: expected None"):
        executor.run(2, slots[:1], np.zeros((1, 4, 3, 32, 32), np.float32))
    with pytest.raises(UsageError, match="for 2 videos in segment 1"):  # numpy would spread one over two
        executor.run(1, slots[:2], np.zeros((1, 4, 3, 32, 32), np.float32))


@pytest.mark.parametrize("buckets", [(), (0, 1), (2, 2), (3, 1)])
def test_buckets_must_ascend(opened, buckets):
    with pytest.raises(UsageError, match="of segment 1: expected ascending numbers, at least 1"):
        opened(buckets, backend=NullBackend())


def test_one_list_of_buckets_a_segment(tiny_bundle):
    with pytest.raises(UsageError, match="buckets of 1 segments: expected 4"):
        Executor(tiny_bundle, NullBackend(), "fp32", lambda _: b"", 1, [[1]])


def test_a_precision_that_the_bundle_lacks_is_refused(tiny_bundle):
    only = dataclasses.replace(tiny_bundle, manifest=dataclasses.replace(tiny_bundle.manifest, precisions=("fp32",)))
    with pytest.raises(UsageError, match="holds fp32. Export again with --precision fp16"):
        Executor(only, NullBackend(), "fp16", lambda _: b"", 1, [[1]] * SEGMENTS)


def test_the_memory_of_a_video_is_known_before_anything_runs(opened, tiny_bundle):
    segments = fused_segments(tiny_bundle.manifest, "fp32")
    each = bytes_per_video(segments)
    store = StateStore(NullBackend(), segments, 7)
    assert each > 0 and sum(array.nbytes for array in store.arrays.values()) == 7 * each
    assert slots_within(10 * each / 1e6, each) == 10
    assert bytes_per_video(fused_segments(tiny_bundle.manifest, "fp16")) < each


def test_half_precision_runs_too(tiny_bundle, clips):
    executor = Executor(
        tiny_bundle, open_backend("onnxruntime"), "fp16", lambda s: fuse(tiny_bundle, s, "fp16"), 2, [[1, 2]] * SEGMENTS
    )
    assert {array.dtype for array in executor.store.arrays.values()} >= {np.dtype("float16")}
    assert all(np.isnan(array).all() for array in executor.store.arrays.values())
    slots = [executor.store.slots.acquire() for _ in range(2)]
    together = [run(executor, k, slots, clips[:2]) for k in range(1, 5)]
    executor.store.slots.release(slots[1])
    alone = [run(executor, k, slots[:1], clips[:1]) for k in range(1, 5)]
    assert [row[0] for row in together] == [row[0] for row in alone]


def test_the_static_network_is_one_segment_that_hands_nothing_on(tiny_bundle, clips, expected):
    graph = fuse(tiny_bundle, fused_full(tiny_bundle.manifest, "fp32"), "fp32")
    executor = Executor(
        tiny_bundle, open_backend("onnxruntime"), "fp32", lambda _: graph, 5, [[5]], tiny_bundle.manifest.route.full
    )
    assert not executor.store.arrays and executor.route == tiny_bundle.manifest.route.full
    slots = [executor.store.slots.acquire() for _ in range(5)]
    assert run(executor, 1, slots, clips) == [e[-1] for e in expected]


def test_the_cost_of_calls_is_measured_at_both_ends_and_on_a_line_between(opened, monkeypatch):
    executor = opened(buckets=(1, 2, 5))
    assert executor.time_call(1, 2) > 0
    monkeypatch.setattr(executor, "time_call", lambda index, rows: index + 0.5 * rows)
    cost = executor.measured_cost()
    assert [cost(2, rows) for rows in (1, 2, 3, 5)] == pytest.approx([2.5, 3.0, 3.5, 4.5])
    monkeypatch.setattr(executor, "buckets", ((3,),))
    assert executor.measured_cost()(1, 3) == pytest.approx(2.5)


def test_host_time_is_told_apart(opened, clips):
    executor = opened()
    slots = [executor.store.slots.acquire() for _ in range(2)]
    assert (executor.frames_s, executor.copies_s, executor.calls_s) == (0, 0, 0)
    run(executor, 1, slots, clips[:2])
    assert min(executor.frames_s, executor.copies_s, executor.calls_s) > 0


@pytest.mark.parametrize("name", ["onnxruntime", "null"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_of_tensors(name, dtype):
    backend = open_backend(name)
    store, value = backend.zeros((4, 2), dtype), backend.zeros((3, 2), dtype)
    first = backend.rows(value, 2)
    assert first.shape == (2, 2) and first.ctypes.data == value.ctypes.data
    value[:] = [[1, 2], [3, 4], [5, 6]]
    backend.put(value, store, [3, 1])
    np.testing.assert_array_equal(store, [[0, 0], [3, 4], [0, 0], [1, 2]])
    backend.poison(store, 0)
    np.testing.assert_array_equal(store, [[np.nan] * 2, [3, 4], [0, 0], [1, 2]])
    backend.take(store, [1, 1, 3], value)
    np.testing.assert_array_equal(value, [[3, 4], [3, 4], [1, 2]])
    with pytest.raises(IndexError):
        backend.take(store, [4], value)


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_on_the_late_stream_of_a_gpu(tiny_bundle, tmp_path, monkeypatch, clips, expected, cuda_graphs):
    """A fake TensorRT, whose device does nothing before somebody waits for it."""
    device = HostDevice("sm86")
    stub = Stub("11.1", "sm86").install(monkeypatch)
    stub.recordings[device.stream] = device
    api = open_api("tensorrt")
    build_here(tiny_bundle, tmp_path, "fp32", api, ("sm86",))
    backend = TensorRTBackend(api, device, cuda_graphs)
    load = open_engines(tiny_bundle, backend, tmp_path, "fp32", BATCH).plan
    executor = Executor(tiny_bundle, backend, "fp32", load, 4, [[1, 2, BATCH]] * SEGMENTS)
    arrays = executor.store.arrays.values()
    assert all(np.isnan(backend.read(array)).all() for array in arrays)
    slots = [executor.store.slots.acquire() for _ in range(4)]
    order = [0, 1, 2, 3]
    for index in range(1, 5):
        order = order[1:] + order[:1]
        for group in (order[:3], order[3:]):
            found = run(executor, index, [slots[i] for i in group], [clips[i] for i in group])
            assert found == [expected[i][index - 1] for i in group]
    executor.store.slots.release(slots[2])
    for array in arrays:
        values = backend.read(array)
        assert [bool(np.isnan(values[slot.index]).all()) for slot in slots] == [False, False, True, False]
    backend.close()
