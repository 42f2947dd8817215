"""What segments hand on: all that a later one reads, and nothing else."""

import dataclasses
import re
from collections import defaultdict

import pytest
from samples import FIVE_BLOCKS, every_monotone_route

from dynvid.grid.segments import fused_full, fused_segments


def on_route(manifest, cells, linked=True):
    """Return the manifest with another route and another border; its subgraphs fit them all."""
    grid = dataclasses.replace(manifest.grid, groups_linked=linked)
    heads = tuple(f"head{block}" for _, block in cells)
    return dataclasses.replace(manifest, grid=grid, route_cells=tuple(map(tuple, cells)), heads=heads)


def handed_on(specs):
    """Return {kind: {block: frames}}: of the features that wait, of states and of embeddings."""
    found = defaultdict(dict)
    for spec in specs:
        port = re.fullmatch(r"(?:in|out)\.block(\d)\.(feature|state|embeddings).*", spec.name)
        if port:
            found[port[2]].setdefault(int(port[1]), set()).add(spec.shape[1])
    return {
        kind: {block: frames.pop() for block, frames in blocks.items() if len(frames) == 1}
        for kind, blocks in found.items()
    }


def features(**frames):
    return {"feature": {int(name[1:]): count for name, count in frames.items()}}


def states(*blocks):
    return {"state": dict.fromkeys(blocks, 1)}


# by hand, from Fig. 2(d): (1,0) (2,1) (3,2) (3,3) (3,4) (7,4), two frames a set; each row: new frames, read, handed on
JOINT = [
    ((0, 4), {}, features(b0=4) | states(0)),
    ((4, 6), features(b0=4) | states(0), features(b1=6) | states(0, 1)),
    ((6, 8), features(b1=6) | states(0, 1), features(b2=8) | states(0, 1, 2)),
    ((8, 8), features(b2=8), features(b3=8) | states(3)),
    ((8, 8), features(b3=8), states(4) | {"embeddings": {4: 16}}),
    ((8, 16), states(0, 1, 2, 3, 4) | {"embeddings": {4: 16}}, {}),
]


def test_the_joint_route_hands_on_what_was_worked_out_by_hand(exports):
    segments = fused_segments(exports.bundle(FIVE_BLOCKS).manifest, "fp32")
    assert [s.name for s in segments] == [f"segment{k}" for k in range(1, 7)]
    found = [((s.start, s.stop), handed_on(s.inputs), handed_on(s.outputs)) for s in segments]
    assert found == JOINT
    assert [s.head for s in segments] == [f"head{m}" for m in (0, 1, 2, 3, 4, 4)]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_is_handed_on_has_the_dtype_of_the_cells(tiny_bundle, precision):
    segments = fused_segments(tiny_bundle.manifest, precision)
    dtypes = defaultdict(set)
    for spec in (spec for s in segments for spec in (*s.inputs, *s.outputs)):
        dtypes[re.search("feature|state|embeddings|frames|logits|probabilities", spec.name)[0]].add(spec.dtype)
    half = {"float32" if precision == "fp32" else "float16"}
    assert dtypes["frames"] == dtypes["feature"] == dtypes["state"] == half
    assert dtypes["embeddings"] == dtypes["logits"] == dtypes["probabilities"] == {"float32"}


def test_full_reads_frames_and_answers(exports):
    manifest = exports.bundle(FIVE_BLOCKS).manifest
    full = fused_full(manifest, "fp32")
    assert [(s.name, s.shape) for s in full.inputs] == [("frames", ("batch", 16, 3, 32, 32))]
    assert [(s.name, s.shape) for s in full.outputs] == [("logits", ("batch", 5)), ("probabilities", ("batch", 5))]
    assert (full.name, full.start, full.stop, full.head) == ("full", 0, 16, "head4")
    assert full.spans == manifest.route.full.segments[0].spans


def test_where_the_groups_part_no_state_crosses(tiny_bundle):
    # sets 0 and 3 | 1 and 2 of four: the border is 2
    manifest = on_route(tiny_bundle.manifest, [(0, 2), (1, 2), (3, 2)], linked=False)
    one, two, three = fused_segments(manifest, "fp32")
    assert handed_on(one.outputs) == states(0, 1, 2) | {"embeddings": {2: 8}} == handed_on(two.inputs)
    assert handed_on(two.outputs) == {"embeddings": {2: 8}} == handed_on(three.inputs)


@pytest.mark.parametrize("linked", [True, False])
def test_on_every_route_all_that_is_read_was_handed_on_and_all_that_is_handed_on_is_read(tiny_bundle, linked):
    routes = every_monotone_route(tiny_bundle.manifest.grid)
    assert len(routes) > 300
    for route in routes:
        segments = fused_segments(on_route(tiny_bundle.manifest, route.cells, linked), "fp32")
        waiting, unread = {}, set()
        for segment in segments:
            reads = {s.name.removeprefix("in."): s for s in segment.inputs if s.name != "frames"}
            assert all((waiting[name].dtype, waiting[name].shape) == (s.dtype, s.shape) for name, s in reads.items())
            unread -= set(reads)
            writes = {s.name.removeprefix("out."): s for s in segment.outputs if s.name.startswith("out.")}
            assert not unread & set(writes), "overwritten before it was read"
            waiting |= writes
            unread |= set(writes)
            everything = [*segment.inputs, *segment.outputs]
            assert len({s.name for s in everything}) == len(everything)
            assert {d for s in everything for d in s.shape if isinstance(d, str)} == {"batch"}
        assert not unread
