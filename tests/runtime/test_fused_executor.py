"""The fused executor: whose tensors a segment reads, and that nothing is left of the video before."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from dynvid.exporter.fuse import fuse
from dynvid.exporter.proof_clips import proof_clips
from dynvid.grid.errors import UsageError
from dynvid.grid.route import Route
from dynvid.grid.topology import Cell
from dynvid.runtime.backends.base import open_backend
from dynvid.runtime.backends.null import NullBackend
from dynvid.runtime.executor import Executor
from dynvid.runtime.fused_executor import FusedExecutor


@pytest.fixture(scope="module")
def backend():
    return open_backend("onnxruntime")


@pytest.fixture(scope="module")
def clips(tiny_bundle):
    """Return five videos in permuted order."""
    manifest = tiny_bundle.manifest
    return proof_clips(5, manifest.grid.num_frames, manifest.preprocessing)[:, list(manifest.grid.frame_order)]


def fused_on(bundle, backend, precision="fp32", **options):
    return FusedExecutor(bundle, backend, precision, lambda s: fuse(bundle, s, precision), **options)


def answers(executor, clips, times=1):
    """Return logits and probabilities of every checkpoint, [checkpoints, 2, batch, classes]."""
    found = []
    for segment in executor.segments:
        if segment.frames is not None:
            executor.backend.write(segment.frames, clips[:, segment.start : segment.stop])
        for _ in range(times):
            executor.run_spans(segment)
        found.append(np.stack(executor.answer(segment)).copy())
    return np.stack(found)


class WatchedBackend(NullBackend):
    """Computes nothing, and remembers the tensors of every call."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def load(self, content, ports, name):
        program = super().load(content, ports, name)
        plain = program.prepare

        def prepare(inputs, outputs):
            self.calls.append((inputs, outputs))
            return plain(inputs, outputs)

        program.prepare = prepare
        return program


def watched(bundle, **options):
    backend = WatchedBackend()
    FusedExecutor(bundle, backend, "fp32", lambda _: b"", **options)
    return backend.calls


@pytest.mark.parametrize("batch", [1, 3])
def test_a_segment_reads_what_was_written_last_and_every_tensor_is_written_by_one(tiny_bundle, batch):
    calls = watched(tiny_bundle, batch=batch)
    latest, written = {}, []
    for inputs, outputs in calls:
        for port, value in inputs.items():
            assert value.shape[0] == batch
            if port != "frames":
                assert value is latest[port.removeprefix("in.")]
        latest |= {port.removeprefix("out."): value for port, value in outputs.items()}
        written += outputs.values()
        assert not {id(v) for v in inputs.values()} & {id(v) for v in outputs.values()}
    assert len({id(value) for value in written}) == len(written)
    assert len(calls) == 4 and set(calls[3][0]) > {"frames", "in.block2.embeddings"}


def test_the_states_of_a_block_that_rests_stay_where_they_are(tiny_bundle):
    """Block 0 rests in segment 2; segment 3 reads the state that segment 1 wrote."""
    route = {"route_cells": ((1, 0), (1, 1), (2, 1)), "heads": ("head0", "head1", "head1")}
    bundle = dataclasses.replace(tiny_bundle, manifest=dataclasses.replace(tiny_bundle.manifest, **route))
    first, second, third = watched(bundle)
    states = [port for port in third[0] if port.startswith("in.block0.state")]
    assert states
    for port in states:
        assert third[0][port] is first[1][port.replace("in.", "out.")]
        assert port.replace("in.", "out.") not in second[1]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_it_answers_as_the_cells_do(tiny_bundle, backend, clips, precision):
    found = answers(fused_on(tiny_bundle, backend, precision), clips[:1])
    cells = Executor(tiny_bundle, backend, precision)
    for segment, (logits, probabilities) in zip(cells.segments, found, strict=True):
        if segment.frames is not None:
            backend.write(segment.frames, clips[:1, segment.start : segment.stop])
        cells.run_spans(segment)
        cells.answer(segment)
        wanted = backend.read(segment.logits)
        assert logits.shape == wanted.shape == (1, 5)
        assert np.abs(logits - wanted).max() <= {"fp32": 1e-4, "fp16": 2e-2}[precision] * wanted.std()
        assert np.abs(probabilities - backend.read(segment.probabilities)).max() <= 1e-2


def test_full_is_one_segment_that_answers_as_the_last_checkpoint_does(tiny_bundle, backend, clips):
    full = fused_on(tiny_bundle, backend, route=tiny_bundle.manifest.route.full)
    assert len(full.segments) == 1 and full.route == tiny_bundle.manifest.route.full
    assert (full.segments[0].start, full.segments[0].stop) == (0, 8)
    assert answers(full, clips[:1])[0].tobytes() == answers(fused_on(tiny_bundle, backend), clips[:1])[-1].tobytes()


def test_without_heads_the_last_blocks_features_are_what_the_cells_compute(tiny_bundle, backend, clips):
    """What is measured as the cost of splitting does all the work but the heads'."""
    bare, cells = fused_on(tiny_bundle, backend, heads=False), Executor(tiny_bundle, backend, "fp32")
    compared = 0
    for index, (segment, of_cells) in enumerate(zip(bare.segments, cells.segments, strict=True), 1):
        assert not {"logits", "probabilities"} & set(segment.outputs)
        for executor, prepared in ((bare, segment), (cells, of_cells)):
            if prepared.frames is not None:
                executor.backend.write(prepared.frames, clips[:1, prepared.start : prepared.stop])
            executor.run_spans(prepared)
        wanted = cells.last_features(index)
        assert ("features" in segment.outputs) == (wanted is not None)
        if wanted is not None:
            assert backend.read(segment.outputs["features"])[0].tobytes() == wanted[2].tobytes()
            compared += 1
    assert compared > 0


def test_the_static_network_in_two_halves_answers_as_in_one_piece(tiny_bundle, backend, clips):
    grid, (last,) = tiny_bundle.manifest.grid, tiny_bundle.manifest.route.full.cells
    halves = fused_on(tiny_bundle, backend, route=Route(grid, (Cell(grid.input_sets // 2 - 1, last.block), last)))
    full = fused_on(tiny_bundle, backend, route=tiny_bundle.manifest.route.full)
    assert [s.stop - s.start for s in halves.segments] == [4, 4]
    found, wanted = answers(halves, clips[:1])[-1], answers(full, clips[:1])[-1]
    assert np.abs(found - wanted).max() <= 1e-4 * wanted.std()


@pytest.mark.parametrize("full", [False, True])
def test_videos_together_are_answered_as_each_alone_to_the_last_bit(tiny_bundle, backend, clips, full):
    route = tiny_bundle.manifest.route.full if full else None
    together = answers(fused_on(tiny_bundle, backend, batch=5, route=route), clips)
    alone = fused_on(tiny_bundle, backend, route=route)
    for row, clip in enumerate(clips):
        assert answers(alone, clip[None]).tobytes() == together[:, :, row : row + 1].tobytes()
    assert together.shape == (1 if full else 4, 2, 5, 5)


def test_a_segment_that_is_run_again_answers_the_same(tiny_bundle, backend, clips):
    executor = fused_on(tiny_bundle, backend)
    assert answers(executor, clips[:1], times=3).tobytes() == answers(executor, clips[:1]).tobytes()


def test_a_video_leaves_nothing_for_the_next(tiny_bundle, backend, clips):
    """Every tensor filled with NaN between two videos changes no bit: nothing is read before it is written."""
    executor = fused_on(tiny_bundle, backend)
    expected = answers(executor, clips[:1]).tobytes()
    answers(executor, clips[1:2])
    for segment in executor.segments:
        for value in segment.outputs.values():
            value.fill(np.nan)
    assert answers(executor, clips[:1]).tobytes() == expected


def test_one_launch_a_segment(tiny_bundle):
    backend = NullBackend()
    executor = FusedExecutor(tiny_bundle, backend, "fp32", lambda _: b"", batch=2)
    answers(executor, np.zeros((2, 8, 3, 32, 32), np.float32))
    # by name and by frames of the first port: new frames, or the features that wait
    assert backend.launches == Counter({("segment1", 4): 1, ("segment2", 4): 1, ("segment3", 2): 1, ("segment4", 2): 1})
    assert [s.frames is None for s in executor.segments] == [False, True, False, False]


def test_it_loads_what_it_is_given_the_last_segment_first(tiny_bundle, backend):
    asked = []

    def load(segment):
        asked.append(segment.name)
        return fuse(tiny_bundle, segment, "fp32")

    FusedExecutor(tiny_bundle, backend, "fp32", load)
    assert asked == [
        "segment4",
        "segment3",
        "segment2",
        "segment1",
    ]  # then the most memory is needed while little is held


def test_a_precision_that_the_bundle_lacks_is_refused(tiny_bundle):
    only = dataclasses.replace(tiny_bundle, manifest=dataclasses.replace(tiny_bundle.manifest, precisions=("fp32",)))
    with pytest.raises(UsageError, match="holds fp32. Export again with --precision fp16"):
        fused_on(only, NullBackend(), "fp16")


def test_no_video_at_a_time_is_refused(tiny_bundle):
    with pytest.raises(UsageError, match="batch 0: expected at least 1 video"):
        fused_on(tiny_bundle, NullBackend(), batch=0)
