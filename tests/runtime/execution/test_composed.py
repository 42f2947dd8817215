"""Segments composed of cells: on any route, for any rows, they compute what the whole network computes."""

import numpy as np
import pytest
import torch
from samples import TINY

from dynvid.exporter.graphs.fuse import fuse
from dynvid.exporter.proof.clips import proof_clips
from dynvid.grid.errors import BackendError, UsageError
from dynvid.grid.route import Route, preset
from dynvid.grid.segments import fused_segments
from dynvid.grid.topology import Cell
from dynvid.runtime.backends.null import NullBackend
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.execution.composed import Cells, compose
from dynvid.runtime.execution.executor import Executor

ROUTES = ["depth", "input", "full", "0,0 0,1 3,1 3,2", "1,1 1,2 2,2 3,2", "0,2 3,2"]


def executor_of(bundle, route=None, slots=1, batch=1, backend="onnxruntime"):
    count = len((route or bundle.manifest.route).cells)
    return Executor(bundle, open_backend(backend), "fp32", Cells(), slots, [range(1, batch + 1)] * count, route)


def logits_of(executor, clips):
    """Return the logits of every checkpoint, [clips, checkpoints, classes], all clips in every call."""
    order = list(executor.bundle.manifest.grid.frame_order)
    slots, found = [executor.store.slots.acquire() for _ in clips], []
    for index, segment in enumerate(executor.segments, 1):
        frames = [clip[order[segment.start : segment.stop]] for clip in clips]
        logits, _ = executor.run(index, slots, frames if segment.start < segment.stop else None)
        found.append(logits)
    for slot in slots:
        executor.store.slots.release(slot)
    return np.stack(found, 1)


def whole(network, route, clips):
    order = list(network.grid.frame_order)
    with torch.no_grad():
        return np.stack([torch.cat(network.with_route(route)(torch.from_numpy(c[order])[None])).numpy() for c in clips])


@pytest.fixture(scope="module")
def clips(tiny_bundle):
    manifest = tiny_bundle.manifest
    return proof_clips(3, manifest.grid.num_frames, manifest.preprocessing)


@pytest.fixture
def network(exports):
    return exports.network(TINY)


def route_of(bundle, text):
    grid = bundle.manifest.grid
    if text in ("depth", "input", "full"):
        return preset(text, grid, (0, 1, 2))
    return Route(grid, tuple(Cell(*map(int, cell.split(","))) for cell in text.split()))


@pytest.mark.parametrize("text", ROUTES)
def test_any_route_computes_what_the_whole_network_computes(tiny_bundle, network, clips, text):
    route = route_of(tiny_bundle, text)
    found, expected = logits_of(executor_of(tiny_bundle, route), clips[:1]), whole(network, route, clips[:1])
    assert np.abs(found - expected).max() <= 1e-4 * expected.std(axis=2).mean()


def test_rows_of_a_call_are_answered_as_each_alone_to_the_last_bit(tiny_bundle, clips):
    alone = np.concatenate([logits_of(executor_of(tiny_bundle), clip[None]) for clip in clips])
    together = logits_of(executor_of(tiny_bundle, slots=3, batch=3), clips)
    np.testing.assert_array_equal(together, alone)


def test_a_slot_that_was_used_before_leaves_nothing_behind(tiny_bundle, clips):
    executor = executor_of(tiny_bundle)
    first = logits_of(executor, clips[:1])
    logits_of(executor, np.full_like(clips[1:2], 7.0))
    np.testing.assert_array_equal(logits_of(executor, clips[:1]), first)


def test_composed_and_fused_agree_port_by_port(tiny_bundle, clips):
    """The fused graphs as they are, and the cells for any number of frames, are optimised alike: bits can be compared."""
    backend = open_backend("onnxruntime")
    segments = fused_segments(tiny_bundle.manifest, "fp32")
    composed = compose(tiny_bundle, backend, "fp32", tiny_bundle.manifest.route, segments, Cells(specialised=False))
    order, handed_on = list(tiny_bundle.manifest.grid.frame_order), {}
    for segment, program in zip(segments, composed, strict=True):
        inputs = {spec.name: handed_on.get(spec.name.removeprefix("in.")) for spec in segment.inputs}
        if segment.start < segment.stop:
            inputs["frames"] = clips[:1, order[segment.start : segment.stop]].copy()
        results = []
        for part in (program, backend.load(fuse(tiny_bundle, segment, "fp32"), segment, segment.name)):
            results.append({s.name: np.full(s.concrete(1, 1), np.nan, s.dtype) for s in segment.outputs})
            part.prepare(inputs, results[-1])()
        for name, expected in results[1].items():
            np.testing.assert_array_equal(results[0][name], expected)
            handed_on[name.removeprefix("out.")] = expected


def test_the_calls_are_those_of_the_spans_and_heads(tiny_bundle):
    backend = NullBackend()
    route = tiny_bundle.manifest.route
    executor = Executor(tiny_bundle, backend, "fp32", Cells(), 1, [[1]] * len(route.cells))
    slot = executor.store.slots.acquire()
    manifest = tiny_bundle.manifest
    for index, segment in enumerate(executor.segments, 1):
        before = sum(backend.launches.values())
        shape = (segment.stop - segment.start, 3, manifest.preprocessing.crop, manifest.preprocessing.crop)
        executor.run(index, [slot], [np.zeros(shape, np.float32)] if shape[0] else None)
        assert sum(backend.launches.values()) - before == len(segment.spans) + 1


def test_a_backend_without_rows_takes_one_video_a_call(tiny_bundle):
    class NoRows(NullBackend):
        def row(self, value, index):
            return None

    executor = Executor(tiny_bundle, NoRows(), "fp32", Cells(), 2, [[2]] * 4)
    with pytest.raises(BackendError, match="one video per call, not for 2"):
        executor.time_once(1, 2)


@pytest.mark.parametrize("text", ["0,1 3,1", "3,2"])
def test_a_route_that_ends_early_or_has_one_checkpoint_runs(tiny_bundle, network, clips, text):
    route = route_of(tiny_bundle, text)
    found, expected = logits_of(executor_of(tiny_bundle, route), clips[:1]), whole(network, route, clips[:1])
    assert np.abs(found - expected).max() <= 1e-4 * expected.std(axis=2).mean()


def test_a_route_that_the_bundle_has_no_head_for_is_refused(exports):
    bundle = exports.bundle({**TINY, "heads": [1, 2], "route": "1,1 3,2"})
    with pytest.raises(UsageError, match="has 0 heads on that block"):
        executor_of(bundle, Route(bundle.manifest.grid, (Cell(1, 0), Cell(3, 2))))
