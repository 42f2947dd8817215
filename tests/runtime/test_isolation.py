"""Isolation: no video's answer depends on who shared its batches, in what order exits came, or who held its row before.

The scheduler and the executor run real graphs; exits are forced, so that every pattern of them comes up.
"""

import itertools
import random

import numpy as np
import pytest
from samples import FIVE_BLOCKS

from dynvid.exporter.graphs.fuse import fuse
from dynvid.exporter.proof.clips import proof_clips
from dynvid.grid.segments import fused_segments
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.execution.executor import Executor
from dynvid.runtime.scheduling.queues import Launch
from dynvid.runtime.scheduling.scheduler import Scheduler
from dynvid.runtime.session import ArraySource, Session

COSTS = {"steep": lambda k, n: 1.0 + 0.1 * n, "flat": lambda k, n: float(n), "deep": lambda k, n: n / k + 0.3}


class Bench:
    """A bundle's real graphs, and what a session answers for some clips.

    Attributes:
        expected: logits, [clips][checkpoints] as bytes.
    """

    def __init__(self, bundle, clips):
        self.bundle, self.clips = bundle, clips
        self.graphs = {s.name: fuse(bundle, s, "fp32") for s in fused_segments(bundle.manifest, "fp32")}
        self.segments = len(self.graphs)
        session = Session.open(bundle, open_backend("onnxruntime"))
        self.expected = [
            [z.tobytes() for z in session.classify(ArraySource(clip), trace=True).logits] for clip in clips
        ]
        assert len({e[-1] for e in self.expected}) == len(clips)

    def executor(self, slots, buckets):
        sizes = [list(buckets)] * self.segments
        return Executor(self.bundle, open_backend("onnxruntime"), "fp32", lambda s: self.graphs[s.name], slots, sizes)

    def frames(self, executor, clips, index):
        segment = executor.segments[index - 1]
        order = list(self.bundle.manifest.grid.frame_order[segment.start : segment.stop])
        return np.stack([self.clips[clip][order] for clip in clips]) if order else None

    def run(self, executor, index, slots, clips):
        """Run a segment and check every bit of what it answers."""
        logits, _ = executor.run(index, slots, self.frames(executor, clips, index))
        for clip, row in zip(clips, logits, strict=True):
            assert row.tobytes() == self.expected[clip][index - 1], f"clip {clip} at checkpoint {index}"

    def serve(self, executor, exits, mode="throughput", cost=COSTS["steep"], failing=lambda videos: False):
        """Serve one video a clip along a scheduler, each to its own exit; return what ended, by video."""
        scheduler = Scheduler(cost, executor.buckets, executor.store.slots, mode)
        waiting, ended, now = list(range(len(exits))), {}, 0.0
        while True:
            while waiting and scheduler.slots.free:
                assert scheduler.offer(waiting.pop(0), now)
            if not waiting:
                scheduler.flush()
            step = scheduler.next(now)
            if step is None:
                assert executor.store.slots.free == executor.store.slots.count
                return ended
            if not isinstance(step, Launch):
                now = max(now, step.until)
                continue
            videos = [ticket.video for ticket in step.tickets]
            failed = ()
            if failing(videos):
                failed = videos
            else:
                self.run(executor, step.segment, [ticket.slot for ticket in step.tickets], videos)
            now += 1.0
            leaving = {v for v in videos if exits[v] == step.segment and v not in failed}
            for end in scheduler.update(step, now, leaving, failed):
                assert end.video not in ended
                ended[end.video] = (end.status, end.checkpoint)


@pytest.fixture(scope="module")
def tiny(tiny_bundle):
    manifest = tiny_bundle.manifest
    return Bench(tiny_bundle, proof_clips(12, manifest.grid.num_frames, manifest.preprocessing))


@pytest.fixture(scope="module")
def six(exports):
    bundle = exports.bundle(FIVE_BLOCKS)
    manifest = bundle.manifest
    return Bench(bundle, proof_clips(4, manifest.grid.num_frames, manifest.preprocessing))


def every_pattern(bench, buckets, slots):
    """Serve every exit pattern of one to four videos; return their number."""
    executor, patterns = bench.executor(slots, buckets), 0
    for videos in range(1, 5):
        for exits in itertools.product(range(1, bench.segments + 1), repeat=videos):
            mode, cost = ("throughput", "latency")[patterns % 2], list(COSTS.values())[patterns % 3]
            ended = bench.serve(executor, exits, mode, cost)
            assert ended == {video: ("exited", checkpoint) for video, checkpoint in enumerate(exits)}
            patterns += 1
    return patterns


def test_every_exit_pattern_of_four_videos(tiny):
    assert every_pattern(tiny, (1, 2, 3, 4), 4) == 4 + 4**2 + 4**3 + 4**4


def test_every_exit_pattern_with_padding_and_rows_that_change_hands(tiny):
    assert every_pattern(tiny, (2, 3), 3) == 340


@pytest.mark.full
@pytest.mark.parametrize("buckets", [(1, 2, 3, 4), (3,)])
def test_every_exit_pattern_on_a_route_of_six_checkpoints(six, buckets):
    assert every_pattern(six, buckets, 4) == 6 + 6**2 + 6**3 + 6**4


def needle_runs(bench, runs):
    """Check the needle, and everyone else, in random company; return how many calls held the needle and others.

    Each run draws the needle, its partners, where each is when they meet, the buckets, the order of everything and where
    each leaves; rows change hands all the time.
    """
    rng = random.Random(0)
    executors = [bench.executor(6, sizes) for sizes in ((1, 2, 3, 4, 5, 6), (2, 4), (1, 6), (3,))]
    met = 0
    for _ in range(runs):
        executor = rng.choice(executors)
        ledger = executor.store.slots
        clips = rng.sample(range(len(bench.clips)), rng.randint(1, 6))
        needle, absent = clips[0], list(clips)
        exits = {clip: rng.randint(1, bench.segments) for clip in clips} | {needle: bench.segments}
        there = {}  # clip -> slot, and the segment it runs next
        while absent or there:
            if absent and (not there or rng.random() < 0.5):
                there[absent.pop(rng.randrange(len(absent)))] = (ledger.acquire(), 1)
                continue
            index = rng.choice([index for _, index in there.values()])
            group = [clip for clip in there if there[clip][1] == index]
            rng.shuffle(group)
            group = group[: rng.randint(1, executor.buckets[0][-1])]
            bench.run(executor, index, [there[clip][0] for clip in group], group)
            met += needle in group and len(group) > 1
            for clip in group:
                slot, _ = there[clip]
                there[clip] = (slot, index + 1)
                if exits[clip] == index:
                    ledger.release(there.pop(clip)[0])
    assert all(executor.store.slots.free == 6 for executor in executors)
    return met


def test_needles_in_random_company(tiny):
    assert needle_runs(tiny, 200) > 200


@pytest.mark.full
def test_5000_needles_in_random_company(tiny):
    assert needle_runs(tiny, 5000) > 5000


def test_a_row_of_nan_reaches_no_other(tiny):
    executor = tiny.executor(5, (1, 2, 3, 4, 5))
    slots = [executor.store.slots.acquire() for _ in range(5)]
    for guilty in range(1, 4):
        for index in range(1, 5):
            frames = tiny.frames(executor, range(5), index)
            if index == guilty:
                if frames is None:  # its state instead
                    for array in executor.store.arrays.values():
                        array[slots[2].index] = np.nan
                else:
                    frames[2] = np.nan
            logits, probabilities = executor.run(index, slots, frames)
            for row in (0, 1, 3, 4):
                assert logits[row].tobytes() == tiny.expected[row][index - 1]
            assert np.isnan(logits[2]).all() == np.isnan(probabilities[2]).all() == (index >= guilty)


def test_a_video_whose_calls_fail_costs_no_other_a_bit(tiny):
    """The executor fails whenever the guilty video is in the call; alone it fails for good."""
    executor, exits = tiny.executor(12, (1, 2, 4)), [1, 2, 3, 4] * 3
    for guilty in range(12):
        ended = tiny.serve(executor, exits, failing=lambda videos, guilty=guilty: guilty in videos)
        assert ended.pop(guilty) == ("failed", 0)
        assert ended == {video: ("exited", exits[video]) for video in range(12) if video != guilty}


def test_the_graphs_are_deaf_to_a_planted_leak(tiny):
    """The bench sees a swap of two rows: what it checks can be wrong."""
    executor = tiny.executor(2, (1, 2))
    slots = [executor.store.slots.acquire() for _ in range(2)]
    tiny.run(executor, 1, slots, [0, 1])
    for array in executor.store.arrays.values():
        array[[0, 1]] = array[[1, 0]]
    with pytest.raises(AssertionError, match="clip 0 at checkpoint 2"):
        tiny.run(executor, 2, slots, [0, 1])
