"""What engines a bundle needs, and the shapes that its route asks of each."""

import dataclasses

import pytest
from engine_samples import graph_of

from dynvid.exporter.engines.jobs import jobs, survivors
from dynvid.grid.bundle import Bundle
from dynvid.grid.errors import CensusError, LintError, UsageError
from dynvid.grid.segments import FUSION
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.execution.executor import Executor

# TINY: four sets of two frames, three blocks, checkpoints (1,0) (1,1) (2,2) (3,2)
NAMES = [
    "block0", "head0", "block1", "head1", "block2", "head2",
    "segment1", "segment2", "segment3", "segment4", "full",
]  # fmt: skip


def by_name(bundle, *arguments):
    return {job.name: job for job in jobs(bundle, *arguments)}


def test_one_job_for_each_subgraph_each_segment_and_full(tiny_bundle):
    found = jobs(tiny_bundle, "fp32")
    assert [job.name for job in found] == NAMES
    assert [job.fusion for job in found] == [0] * 6 + [FUSION] * 5


def test_survivors_follow_the_papers_exit_distribution():
    # q = 1.2 over 6 exits: shares .10 .12 .15 .17 .21 .25 (Table 2)
    assert survivors(6, 1000) == (1000, 900, 779, 634, 460, 251)
    assert survivors(6, 8) == (8, 8, 7, 6, 4, 3)
    assert survivors(6, 1) == (1,) * 6


def test_frames_reach_from_the_smallest_span_over_the_largest_to_full(tiny_bundle):
    frames = {name: job.profiles[0].frames for name, job in by_name(tiny_bundle, "fp32").items()}
    assert frames == {
        "block0": (2, 4, 8), "block1": (2, 4, 8), "block2": (2, 6, 8),
        "head0": (4, 4, 4), "head1": (4, 4, 4), "head2": (2, 6, 8),
        "segment1": None, "segment2": None, "segment3": None, "segment4": None, "full": None,
    }  # fmt: skip


def test_every_call_of_the_executor_lies_in_the_profiles(tiny_bundle):
    """The null backend counts the frames of every call along the route, and along ``full``."""
    profiles = {name: job.profiles[0] for name, job in by_name(tiny_bundle, "fp32").items()}
    for route in (tiny_bundle.manifest.route, tiny_bundle.manifest.route.full):
        backend = open_backend("null")
        executor = Executor(tiny_bundle, backend, route=route)
        for index in range(1, len(executor.segments) + 1):
            executor.time_once(index, 1)
        assert backend.launches
        for name, frames in backend.launches:
            assert profiles[name].holds(1, (frames,)), (name, frames)


def test_batches_have_a_profile_for_one_video_and_one_for_many(tiny_bundle):
    one = by_name(tiny_bundle, "fp32", 1)
    assert {tuple(p.batch for p in job.profiles) for job in one.values()} == {((1, 1, 1),)}
    many = {name: job.profiles[1].batch for name, job in by_name(tiny_bundle, "fp32", 32).items()}
    assert all(job.profiles[0].batch == (1, 1, 1) for job in by_name(tiny_bundle, "fp32", 32).values())
    entering = survivors(4, 32)
    assert entering == (32, 27, 19, 11)
    assert [many[f"segment{k}"] for k in (1, 2, 3, 4)] == [(1, n, 32) for n in entering]
    assert many["full"] == (1, 32, 32)
    # a plain subgraph expects as many as enter the segment of its largest call
    assert [many[f"block{m}"][1] for m in (0, 1, 2)] == [32, 27, 19]
    assert [many[f"head{m}"][1] for m in (0, 1, 2)] == [32, 27, 19]


def test_expected_videos_can_be_given(tiny_bundle):
    many = {j.name: j.profiles[1].batch for j in jobs(tiny_bundle, "fp32", 16, expected=(16, 5, 4, 3))}
    assert [many[f"segment{k}"][1] for k in (1, 2, 3, 4)] == [16, 5, 4, 3]


@pytest.mark.parametrize("expected", [(16, 5, 4), (16, 5, 4, 0), (17, 5, 4, 3)])
def test_expected_videos_out_of_range_are_refused(tiny_bundle, expected):
    with pytest.raises(UsageError, match="expected 4 numbers from 1 to 16"):
        jobs(tiny_bundle, "fp32", 16, expected)


@pytest.mark.parametrize("most", [0, 4097])
def test_a_batch_out_of_range_is_refused(tiny_bundle, most):
    with pytest.raises(UsageError, match=f"at most {most} videos: expected 1 to 4096"):
        jobs(tiny_bundle, "fp32", most)


def test_a_precision_that_the_bundle_lacks_is_refused(tiny_bundle):
    only = dataclasses.replace(tiny_bundle, manifest=dataclasses.replace(tiny_bundle.manifest, precisions=("fp32",)))
    with pytest.raises(UsageError, match="precision fp16: bundle .* holds fp32. Export again"):
        jobs(only, "fp16")


def test_parts_say_what_each_subgraph_computes_in(tiny_bundle):
    kept = dataclasses.replace(tiny_bundle.manifest, fp32_only=("block1",))
    mixed = dataclasses.replace(tiny_bundle, manifest=kept)
    expected = (("block0", "float16"), ("block1", "float32"), ("block2", "float16"), ("head2", "float16"))
    assert by_name(mixed, "fp16")["segment3"].parts == expected
    assert by_name(mixed, "fp16")["block1"].parts == (("block1", "float32"),)
    assert {dtype for job in jobs(mixed, "fp32") for _, dtype in job.parts} == {"float32"}


@pytest.mark.parametrize(("subgraph", "port"), [("block1", "block0.feature1"), ("block0", "state_in.0.layer1")])
def test_a_tensor_of_two_dtypes_is_refused(tiny_bundle, subgraph, port):
    def spoil(part):
        if part.name != subgraph:
            return part
        variant = part.variants["fp16"]
        inputs = tuple(dataclasses.replace(s, dtype="float32") if s.name == port else s for s in variant.inputs)
        return dataclasses.replace(part, variants=part.variants | {"fp16": dataclasses.replace(variant, inputs=inputs)})

    subgraphs = tuple(map(spoil, tiny_bundle.manifest.subgraphs))
    spoilt = dataclasses.replace(tiny_bundle, manifest=dataclasses.replace(tiny_bundle.manifest, subgraphs=subgraphs))
    with pytest.raises(CensusError, match=rf"{port}: block0 writes it in float16 but {subgraph} reads it in float32"):
        jobs(spoilt, "fp16")
    jobs(spoilt, "fp32")


def test_a_segment_over_a_graph_that_is_no_onnx_is_refused(tiny_bundle, monkeypatch):
    monkeypatch.setattr(Bundle, "read", lambda bundle, variant: b"no graph")
    with pytest.raises(LintError, match="segment1: a graph of bundle .* is not valid ONNX"):
        graph_of(by_name(tiny_bundle, "fp32")["segment1"], tiny_bundle, "fp32")
