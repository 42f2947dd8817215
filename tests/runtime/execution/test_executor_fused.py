"""Fused segments on the executor: the whole network, the cells, and parts of the route answer alike."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from dynvid.exporter.graphs.fuse import fuse
from dynvid.exporter.proof.clips import proof_clips
from dynvid.grid.errors import UsageError
from dynvid.grid.route import Route
from dynvid.grid.segments import fused_segments, head_at
from dynvid.grid.topology import Cell
from dynvid.runtime.backends.null import NullBackend
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.execution.composed import CELLS
from dynvid.runtime.execution.executor import Executor
from dynvid.runtime.execution.state_store import ports
from dynvid.runtime.scheduling.slots import SlotError
from dynvid.runtime.session import ArraySource


@pytest.fixture(scope="module")
def backend():
    return open_backend("onnxruntime")


@pytest.fixture(scope="module")
def clip(tiny_bundle):
    (clip,) = proof_clips(1, tiny_bundle.manifest.grid.num_frames, tiny_bundle.manifest.preprocessing)
    return clip


def fused_on(bundle, backend, precision="fp32", **options):
    return Executor(bundle, backend, precision, lambda s: fuse(bundle, s, precision), **options)


def answers(executor, clip):
    """Return logits and probabilities of every checkpoint, [checkpoints, 2, classes]."""
    return np.stack([np.concatenate([at.logits, at.probabilities]) for at in executor.walk([ArraySource(clip)])])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_it_answers_as_the_cells_do(tiny_bundle, backend, clip, precision):
    found = answers(fused_on(tiny_bundle, backend, precision), clip)
    wanted = answers(Executor(tiny_bundle, backend, precision), clip)
    assert found.shape == wanted.shape == (4, 2, 5)
    bound = {"fp32": 1e-4, "fp16": 2e-2}[precision]
    assert (np.abs(found - wanted)[:, 0].max(-1) <= bound * wanted[:, 0].std(-1)).all()
    assert np.abs(found - wanted)[:, 1].max() <= 1e-2


def test_full_is_one_segment_that_answers_as_the_last_checkpoint_does(tiny_bundle, backend, clip):
    full = fused_on(tiny_bundle, backend, route=tiny_bundle.manifest.route.full)
    assert [(s.name, s.start, s.stop) for s in full.segments] == [("full", 0, 8)]
    assert answers(full, clip)[0].tobytes() == answers(fused_on(tiny_bundle, backend), clip)[-1].tobytes()


@pytest.mark.parametrize("of_cells", [False, True])
def test_without_heads_the_last_blocks_features_are_what_the_cells_compute(tiny_bundle, backend, clip, of_cells):
    """What is measured as the cost of splitting does all the work but the heads'."""
    bare = Executor(tiny_bundle, backend, heads=False) if of_cells else fused_on(tiny_bundle, backend, heads=False)
    cells, compared = Executor(tiny_bundle, backend), 0
    feature = head_at(tiny_bundle.manifest, cells.route, 4).variant("fp32").inputs[0].name
    for one, other in zip(bare.walk([ArraySource(clip)]), cells.walk([ArraySource(clip)]), strict=True):
        assert one.logits.shape == one.probabilities.shape == (1, 0) and other.logits.shape == (1, 5)
        wanted = cells.tap(other.index, feature)
        shown = bare._on_row[one.index, 0].answers
        assert len(shown) == (wanted is not None)
        if wanted is not None:
            assert backend.read(shown[0]).tobytes() == wanted.tobytes()
            compared += 1
    assert compared > 0


def test_inside_a_fused_segment_nothing_can_be_tapped(tiny_bundle, backend, clip):
    executor = fused_on(tiny_bundle, backend)
    with pytest.raises(UsageError, match="port 'block0.feature0' lies inside a fused segment"):
        executor.tap(1, "block0.feature0")


def test_the_static_network_in_two_halves_answers_as_in_one_piece(tiny_bundle, backend, clip):
    grid, (last,) = tiny_bundle.manifest.grid, tiny_bundle.manifest.route.full.cells
    halves = fused_on(tiny_bundle, backend, route=Route(grid, (Cell(grid.input_sets // 2 - 1, last.block), last)))
    full = fused_on(tiny_bundle, backend, route=tiny_bundle.manifest.route.full)
    assert [s.stop - s.start for s in halves.segments] == [4, 4]
    found, wanted = answers(halves, clip)[-1], answers(full, clip)[-1]
    assert np.abs(found - wanted).max() <= 1e-4 * wanted.std()


def test_the_state_of_a_block_that_rests_stays_where_it_is(tiny_bundle):
    """Block 0 rests in segment 2; segment 3 reads the state that segment 1 wrote."""
    route = {"route_cells": ((1, 0), (1, 1), (2, 1)), "heads": ("head0", "head1", "head1")}
    manifest = dataclasses.replace(tiny_bundle.manifest, **route)
    reads, writes = ports(fused_segments(manifest, "fp32"))
    states = [port for port in reads[2] if port.startswith("in.block0.state")]
    assert states
    for port in states:
        assert reads[2][port] == writes[0][port.replace("in.", "out.")]
        assert reads[2][port] not in writes[1].values()


def test_one_launch_a_segment(tiny_bundle):
    backend = NullBackend()
    executor = Executor(tiny_bundle, backend, "fp32", lambda _: b"", 2, [[2]] * 4)
    walked = list(executor.walk([ArraySource(np.zeros((8, 3, 32, 32), np.float32))] * 2))
    # by name and by frames of the first port: new frames, or the features that wait
    assert backend.launches == Counter({("segment1", 4): 1, ("segment2", 4): 1, ("segment3", 2): 1, ("segment4", 2): 1})
    assert [len(at.frames) for at in walked] == [2, 0, 2, 2]


def test_a_walk_gives_its_slots_back_also_when_it_is_left_early(tiny_bundle, backend, clip):
    executor = Executor(tiny_bundle, backend, "fp32", CELLS, 2, [[1, 2]] * 4)
    walk = executor.walk([ArraySource(clip)] * 2)
    next(walk)
    assert executor.store.slots.free == 0
    with pytest.raises(SlotError, match="1 videos: expected at most 2"):
        next(executor.walk([ArraySource(clip)]))
    walk.close()
    assert executor.store.slots.free == 2


def test_it_loads_what_it_is_given_the_last_segment_first(tiny_bundle, backend):
    """Then the most memory is needed while the least is held."""
    asked = []

    def load(segment):
        asked.append(segment.name)
        return fuse(tiny_bundle, segment, "fp32")

    Executor(tiny_bundle, backend, "fp32", load)
    assert asked == ["segment4", "segment3", "segment2", "segment1"]
