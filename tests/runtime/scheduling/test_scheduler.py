import itertools
import random
from collections import deque

import pytest

from dynvid.grid.errors import UsageError
from dynvid.runtime.scheduling.batch_cost import CallTimes
from dynvid.runtime.scheduling.policies import POLICIES, SchedulerView, most_efficient
from dynvid.runtime.scheduling.queues import Launch, Ticket, Wait
from dynvid.runtime.scheduling.scheduler import ScheduleError, Scheduler
from dynvid.runtime.scheduling.slots import SlotError, Slots

MODES = ("throughput", "latency", "deadline")


def gpu(segment, n):
    """Seconds that hardly grow with the batch."""
    return 4 + n


def line(segment, n):
    return float(n)


def scheduler(segments=3, cost=gpu, buckets=(1, 2, 4), slots=12, mode="throughput", **options):
    return Scheduler(cost, [list(buckets)] * segments, Slots(slots), mode, **options)


def offer(s, *videos, now=0.0, **options):
    assert all(s.offer(video, now, **options) for video in videos)


def names(launch):
    assert isinstance(launch, Launch), launch
    return launch.segment, [ticket.video for ticket in launch.tickets]


def step(s, now=0.0, exited=(), failed=()):
    """Run the next launch; return its segment and videos, and what ended."""
    launch = s.next(now)
    return *names(launch), s.update(launch, now, exited, failed)


# canaries: an executor that checks that each launch holds exactly what it should


class Canary:
    """Rows that say which video, under which generation, has come how far; and a record of who must still end.

    Args:
        exits: where each video leaves, 1-based.
        fails: whether a launch fails, by its segment and videos.
    """

    def __init__(self, exits, segments, buckets, slots, mode, cost=gpu, fails=lambda segment, videos: False, **options):
        self.slots = Slots(slots, lambda slot: self.rows.pop(slot.index, None))
        self.scheduler = Scheduler(cost, [list(buckets)] * segments, self.slots, mode, **options)
        self.exits, self.segments, self.buckets, self.fails = exits, segments, buckets, fails
        self.rows, self.ended, self.cancelled, self.offered = {}, {}, set(), set()
        self.guilty = set()
        self.now, self.launches, self.cost = 0.0, 0, cost
        self.before_a_choice = lambda view: None
        self.answers = lambda launch: {t.video for t in launch.tickets if exits[t.video] == launch.segment}
        self.write = self.rows.update

    @property
    def in_flight(self):
        return self.offered - self.ended.keys() - self.cancelled

    def offer(self, video, deadline=None):
        admitted = self.scheduler.offer(video, self.now, deadline)
        self.offered |= {video} if admitted else set()
        return admitted

    def cancel(self, video):
        if self.scheduler.cancel(video):
            self.cancelled.add(video)

    def check(self, launch):
        self.launches += 1
        videos = [ticket.video for ticket in launch.tickets]
        assert len(set(videos)) == len(videos), f"twice in one launch: {videos}"
        fitting = min(b for b in self.buckets if b >= len(videos))
        assert launch.rows == fitting, f"bucket {launch.rows} for {len(videos)} videos"
        for ticket in launch.tickets:
            assert ticket.video not in self.ended, f"{ticket.video} ended before"
            row = self.rows.get(self.slots.check(ticket.slot))
            expected = (ticket.video, ticket.slot.generation, launch.segment - 1) if launch.segment > 1 else None
            assert row == expected, f"row holds {row}, expected {expected}"

    def step(self, during=lambda: None):
        """Run one launch or wait; False once all is done."""
        launch = self.scheduler.next(self.now)
        if launch is None or isinstance(launch, Wait):
            self.note(self.scheduler.take_ended())
            if isinstance(launch, Wait) and launch.until is not None:
                self.now = max(self.now, launch.until)
            return launch is not None
        self.check(launch)
        self.now += self.cost(launch.segment, launch.rows)
        during()
        videos = {ticket.video for ticket in launch.tickets}
        failed = videos if self.fails(launch.segment, videos) else set()
        if failed and len(videos) == 1:
            self.guilty |= videos
        if not failed:
            self.write({t.slot.index: (t.video, t.slot.generation, launch.segment) for t in launch.tickets})
        self.note(self.scheduler.update(launch, self.now, self.answers(launch) - failed, failed))
        return True

    def note(self, ended):
        for end in ended:
            video = end.video
            assert video not in self.cancelled, f"cancelled {video} answered"
            assert video in self.offered and video not in self.ended, f"{video} ended twice"
            if end.status == "exited":
                assert end.checkpoint == self.exits[video], f"{video} left at {end.checkpoint}, not {self.exits[video]}"
            elif end.status == "failed":
                assert video in self.guilty, f"{video} failed without fault"
            else:
                assert end.checkpoint < self.exits[video] and (end.status == "late") == (end.checkpoint == 0)
            self.ended[video] = end

    def finish(self):
        """Run to the end; every video must have ended once and every row be free."""
        self.scheduler.flush()
        while self.step():
            pass
        assert self.ended.keys() == self.offered - self.cancelled, "a video never ended"
        assert self.slots.free == self.slots.count and not self.rows, "a slot was not freed"


def work(canary, videos, cancels=0.0, deadlines=0.0, seed=0):
    """Offer ``videos`` one after another at random moments, cancel some, give some a deadline, and finish."""
    rng = random.Random(seed)
    waiting = deque(videos)

    def meanwhile():
        while waiting and rng.random() < 0.7:
            deadline = canary.now + 60 * rng.random() if rng.random() < deadlines else None
            if not canary.offer(waiting[0], deadline):
                break
            waiting.popleft()
        if canary.offered and rng.random() < cancels:
            canary.cancel(rng.choice(sorted(canary.offered - canary.ended.keys()) or [None]))

    while waiting:
        meanwhile()
        canary.step(meanwhile)
    canary.finish()


def random_canary(seed, mode, videos=60, segments=4, **options):
    rng = random.Random(seed)
    exits = {f"v{i}": rng.randint(1, segments) for i in range(videos)}
    bad = {v: rng.randint(1, segments) for v in exits if rng.random() < 0.05}
    buckets = rng.choice([(1, 2, 3, 4), (1, 2, 4), (2, 4), (4,), (1,), (1, 8)])

    def fails(segment, held):
        return any(bad.get(v) == segment for v in held) or rng.random() < 0.02 * (len(held) > 1)

    cost = rng.choice([gpu, line, lambda k, n: 1 / k + 0.1 * n])
    launches = rng.choice([1, 1, 2])
    return Canary(exits, segments, buckets, rng.randint(4, 24), mode, cost, fails, max_launches=launches, **options)


@pytest.mark.parametrize("mode", MODES)
def test_every_video_ends_once_at_its_own_exit_whatever_is_cancelled_or_fails(mode):
    seen = set()
    for seed in range(60):
        canary = random_canary(seed, mode)
        work(canary, list(canary.exits), cancels=0.15, deadlines=0.5 * (mode == "deadline"), seed=seed)
        seen |= {end.status for end in canary.ended.values()}
    assert seen == {"exited", "failed"} | ({"cut", "late"} if mode == "deadline" else set())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("buckets", [(1, 2, 3, 4), (2,)])
def test_every_pattern_of_exits_of_up_to_four_videos_over_six_segments(mode, buckets):
    patterns = [p for videos in (1, 2, 3, 4) for p in itertools.product(range(1, 7), repeat=videos)]
    assert len(patterns) == 6 + 6**2 + 6**3 + 6**4
    for number, pattern in enumerate(patterns):
        canary = Canary(dict(enumerate(pattern)), 6, buckets, 2 + number % 3, mode)
        work(canary, range(len(pattern)), seed=number)
        assert {v: e.checkpoint for v, e in canary.ended.items()} == canary.exits
        assert {e.status for e in canary.ended.values()} == {"exited"}


@pytest.mark.parametrize("videos", [1, 2, 3, 4])
def test_a_static_route_ends_every_video_at_its_one_exit(videos):
    canary = Canary(dict.fromkeys(range(videos), 1), 1, (2,), 3, "static")
    work(canary, range(videos))
    assert canary.launches >= -(-videos // 2)


@pytest.mark.full
@pytest.mark.parametrize("mode", MODES)
def test_no_leak_in_a_million_steps(mode):
    steps = seed = 0
    while steps < 1_000_000 // len(MODES) + 1:
        canary = random_canary(seed, mode, videos=3000, segments=6)
        work(canary, list(canary.exits), cancels=0.02, deadlines=0.2 * (mode == "deadline"), seed=seed)
        steps, seed = steps + canary.launches, seed + 1


# ten planted faults, each of which the canaries must find


def swap_states(canary, patch):
    def write(rows):
        if len(rows) > 1:
            a, b = list(rows)[:2]
            rows = {**rows, a: rows[b], b: rows[a]}
        canary.rows.update(rows)

    canary.write = write


def release_twice(canary, patch):
    release = canary.slots.release
    patch.setattr(canary.slots, "release", lambda slot: (release(slot), release(slot)))


def keep_a_stale_slot(canary, patch):
    acquire, release, first, held = canary.slots.acquire, canary.slots.release, {}, {}

    def stale():
        slot = acquire()
        if slot is not None:
            held[slot.index] = slot
        return slot and first.setdefault(slot.index, slot)

    patch.setattr(canary.slots, "acquire", stale)
    patch.setattr(canary.slots, "release", lambda slot: release(held[slot.index]))


def lose_a_cancel(canary, patch):
    patch.setattr(canary.scheduler, "cancel", lambda video: video in canary.in_flight)


def duplicate_a_ticket(canary, patch):
    def twice(view):
        if view.queues[1]:
            view.queues[1].append(view.queues[1][0])

    canary.before_a_choice = twice


def skip_a_segment(canary, patch):
    def skip(view):
        if view.queues[1]:
            ticket = view.queues[1].popleft()
            ticket.segment = 3
            view.queues[2].append(ticket)

    canary.before_a_choice = skip


def take_the_wrong_bucket(canary, patch):
    def wrong(view):
        for times in view.times:
            times.rows[2:4] = [1, 2]

    canary.before_a_choice = wrong


def give_a_result_to_the_wrong_video(canary, patch):
    answers = canary.answers

    def shifted(launch):
        held, right = [t.video for t in launch.tickets], answers(launch)
        return {held[(held.index(v) + 1) % len(held)] for v in right}

    canary.answers = shifted


def never_flush(canary, patch):
    following, flush, flushed = canary.scheduler.next, canary.scheduler.flush, []
    patch.setattr(canary.scheduler, "flush", lambda: flushed.append(flush()))
    patch.setattr(
        canary.scheduler, "next", lambda now: None if flushed and 0 < len(canary.in_flight) <= 4 else following(now)
    )


def keep_the_slot_of_a_failure(canary, patch):
    update = canary.scheduler.update

    def keep(launch, now, exited, failed):
        if failed and len(launch.tickets) == 1:
            (ticket,) = launch.tickets
            ticket.slot = canary.slots.acquire() or ticket.slot
        return update(launch, now, exited, failed)

    patch.setattr(canary.scheduler, "update", keep)


FAULTS = {
    swap_states: "row holds",
    release_twice: "its row is free, expected held by it",
    keep_a_stale_slot: "of generation 1: its row is held under generation",
    lose_a_cancel: "cancelled v[0-9]+ answered",
    duplicate_a_ticket: "twice in one launch",
    skip_a_segment: "row holds",
    take_the_wrong_bucket: "bucket [12] for [23] videos",
    give_a_result_to_the_wrong_video: "left at [0-9], not",
    never_flush: "a video never ended",
    keep_the_slot_of_a_failure: "a slot was not freed",
}


def faulty_run(plant, patch):
    def policy(view, now):
        canary.before_a_choice(view)
        return most_efficient(view, now)

    patch.setitem(POLICIES, "faulty", policy)
    exits = {f"v{i}": 1 + i % 4 for i in range(41)}
    bad = {v for v in exits if exits[v] == 3}
    canary = Canary(exits, 4, (1, 2, 3, 4), 16, "faulty", fails=lambda segment, held: segment == 2 and bad & held)
    plant(canary, patch)
    work(canary, list(exits), cancels=0.2)
    assert canary.cancelled and canary.guilty


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_each_planted_fault_is_found(plant, monkeypatch):
    assert len(FAULTS) == 10
    with pytest.raises((AssertionError, SlotError), match=FAULTS[plant]):
        faulty_run(plant, monkeypatch)


def test_the_run_of_the_planted_faults_is_clean_without_any(monkeypatch):
    faulty_run(lambda canary, patch: None, monkeypatch)


# failures and cancelling


def test_a_failed_batch_is_run_again_video_by_video_and_only_the_guilty_one_fails():
    videos = [f"v{i}" for i in range(64)]
    exits = {v: 1 + i % 3 for i, v in enumerate(videos)}

    def run(call):
        """Fail the launch number ``call``, and from then on whatever holds its first video."""
        state = {"calls": 0, "bad": None}

        def fails(segment, held):
            state["calls"] += 1
            if state["calls"] == call:
                state["bad"] = min(held)
            return state["bad"] in held

        canary = Canary(exits, 3, (1, 2, 4, 8), 64, "throughput", fails=fails)
        for video in videos:
            canary.offer(video)
        canary.finish()
        return canary, state

    clean, _ = run(0)
    for call in range(1, clean.launches + 1):
        canary, state = run(call)
        failed = {v for v, e in canary.ended.items() if e.status == "failed"}
        assert failed == {state["bad"]} and len(canary.ended) == 64


def test_a_failed_video_that_runs_well_alone_goes_on_in_company():
    s = scheduler(2)
    offer(s, "a", "b")
    s.flush()
    assert step(s, failed={"a", "b"}) == (1, ["a", "b"], [])
    assert s.stats.retried == 2
    assert step(s)[:2] == (1, ["a"])
    assert step(s)[:2] == (1, ["b"])
    segment, videos, ended = step(s)
    assert (segment, videos) == (2, ["a", "b"]) and {e.status for e in ended} == {"exited"}


def test_a_video_that_fails_alone_keeps_the_checkpoint_it_passed_and_frees_its_slot():
    s = scheduler(2)
    offer(s, "a")
    s.flush()
    step(s)
    *_, (end,) = step(s, now=3.0, failed={"a"})
    assert (end.video, end.status, end.checkpoint, end.at) == ("a", "failed", 1, 3.0)
    assert s.slots.free == 12 and s.next(3.0) is None and s.stats.ended["failed"] == 1


def test_cancelling_at_any_moment_frees_the_slot_and_leaves_the_neighbours():
    for moment in range(12):
        s = scheduler(3, slots=4)
        offer(s, *"abcd")
        s.flush()
        ended, moments = [], itertools.count()

        def now(s=s, moment=moment, moments=moments):
            if next(moments) == moment:
                before = s.slots.free
                held = s.cancel("b")
                assert not s.cancel("b")
                return held, before
            return None

        seen = [now()]
        failing = True
        while (launch := s.next(0.0)) is not None:
            seen.append(now())
            if failing and launch.segment == 2:  # so that one moment lies between failure and retry
                ended += s.update(launch, 0.0, failed={t.video for t in launch.tickets})
                failing = False
            else:
                ended += s.update(launch, 0.0)
            seen.append(now())
        held = [answer for answer in seen if answer]
        gone = bool(held) and held[0][0]
        assert sorted(e.video for e in ended) == (list("acd") if gone else list("abcd"))
        assert s.slots.free == 4
        assert all(e.checkpoint == 3 for e in ended)
    assert not s.cancel("nobody")


def test_a_video_cancelled_in_flight_holds_its_slot_until_the_launch_is_back():
    s = scheduler(2, slots=2)
    offer(s, "a", "b")
    launch = s.next(0.0)
    assert s.cancel("a") and s.slots.free == 0
    assert s.update(launch, 1.0, exited={"a"}) == [] and s.slots.free == 1
    assert s.stats.cancelled == 1


# the choice


def test_the_deepest_full_queue_goes_first():
    s = scheduler(3, slots=16)
    offer(s, *"abcdefgh")
    assert step(s)[:2] == (1, list("abcd"))
    assert step(s)[:2] == (2, list("abcd"))
    assert step(s)[:2] == (3, list("abcd"))
    assert step(s)[:2] == (1, list("efgh"))


def test_survivors_of_different_batches_run_together():
    s = scheduler(2, slots=16)
    offer(s, *"abcdefgh")
    assert step(s, exited={"a", "b"})[:2] == (1, list("abcd"))
    assert step(s, exited={"e", "f"})[:2] == (1, list("efgh"))
    assert step(s)[:2] == (2, list("cdgh"))


def test_without_full_queues_the_nearest_to_its_best_efficiency_goes_first():
    for videos, first in ((5, 1), (2, 2)):
        s = scheduler(2, buckets=range(1, 9), slots=16, patience_s=1e9)
        for number in range(8):
            offer(s, number, now=10.0 * number)
        step(s, 80.0, exited=set(range(5)))  # three wait for segment 2: 7/3 s each
        for number in range(8, 8 + videos):
            offer(s, number, now=10.0 * number)  # segment 1: five take 9/5 s each, two 6/2 s
        assert s.next(200.0).segment == first


def test_of_nearly_equal_efficiencies_the_deepest_is_taken_as_long_as_slots_are_free():
    for slots, first in ((17, 2), (15, 1)):
        s = scheduler(2, buckets=range(1, 9), slots=slots)
        offer(s, *range(8))
        step(s, exited={0})  # seven wait for segment 2: efficiency 0.955
        offer(s, *range(8, 16))  # a full batch for segment 1
        assert s.next(0.0).segment == first


def test_the_end_of_the_stream_is_flushed_from_the_shallowest_so_that_survivors_merge():
    s = scheduler(3, slots=16)
    offer(s, *"abcdef")
    step(s, exited={"d"})
    s.flush()
    assert step(s)[:2] == (1, list("ef"))
    assert step(s, exited={"c"})[:2] == (2, list("abce"))
    assert step(s)[:2] == (2, ["f"])
    assert step(s)[:2] == (3, list("abef"))
    assert s.next(0.0) is None


def test_a_batch_is_padded_to_its_bucket_or_cut_to_one_whichever_costs_less_a_video():
    for cost, taken, rows in ((line, 4, 4), (lambda k, n: 10 + 0.1 * n, 5, 8)):
        s = scheduler(1, cost, buckets=(4, 8), slots=8)
        offer(s, *range(5))
        s.flush()
        launch = s.next(0.0)
        assert (len(launch.tickets), launch.rows) == (taken, rows)


def test_a_batch_that_costs_more_a_video_than_a_smaller_one_is_never_formed():
    s = scheduler(1, lambda k, n: {1: 2.0, 2: 3.0, 4: 9.0}[n], slots=8)
    offer(s, *range(4))
    assert len(s.next(0.0).tickets) == 2


def test_rounding_does_not_hide_that_all_batches_cost_the_same_a_video():
    times = CallTimes(1, lambda k, n: 0.1 * n, range(1, 8))
    assert (
        times.full == 7 and times.cheapest_batch == list(range(8)) and times.efficiency == pytest.approx([0] + [1] * 7)
    )


def test_the_next_video_is_waited_for_only_while_it_is_expected_sooner_than_it_saves():
    def waiting(gap, cost=gpu, **options):
        s = scheduler(1, cost, **options)
        offer(s, "a", now=0.0)
        step(s, exited={"a"})
        offer(s, "b", now=gap)
        return s, s.next(gap)

    s, wait = waiting(3.9)  # a second video would save 5 + 5 - 6 = 4 s
    assert wait == Wait(3.9 + 4)
    assert names(s.next(wait.until)) == (1, ["b"])
    s, _ = waiting(3.9)
    offer(s, "c", now=5.0)
    assert names(s.next(5.0)) == (1, ["b", "c"])  # a third one is padded to four rows, and saves 6 + 5 - 8 = 3 s
    s, _ = waiting(3.9, buckets=(1, 2, 3, 4))
    offer(s, "c", now=5.0)
    assert s.next(5.0) == Wait(5.0 + 4)
    assert names(waiting(4.1)[1]) == (1, ["b"])
    assert names(waiting(0.1, line)[1]) == (1, ["b"])
    assert names(waiting(3.9, slots=1)[1]) == (1, ["b"])
    assert waiting(3.9, patience_s=1.5)[1] == Wait(3.9 + 1.5)
    s, _ = waiting(3.9)
    s.flush()
    assert names(s.next(3.9)) == (1, ["b"])


def test_videos_that_seldom_come_so_deep_are_not_waited_for():
    for share, waits in ((2, True), (20, False)):
        s = scheduler(2, lambda k, n: n if k == 1 else 4 + n, patience_s=1e9)
        for video in range(21):
            offer(s, video, now=1.5 * video)
            step(s, 1.5 * video, {video} if video % share else ())
            if video < 20:
                s.cancel(video)
        assert isinstance(s.next(1.5 * 20), Wait) == waits  # one in two: 4 s saved count for 2; one in twenty: for 0.2


def test_few_slots_shorten_batches_but_never_stop_the_work():
    s = scheduler(2, slots=3)
    offer(s, *"abc")
    assert not s.offer("d", 0.0) and s.stats.refused == 1
    assert step(s, exited={"a"})[:2] == (1, list("abc"))
    offer(s, "d")
    assert step(s)[:2] == (1, ["d"])
    assert step(s)[:2] == (2, list("bcd"))


def test_a_second_launch_goes_out_beside_the_first_only_when_full_or_due():
    s = scheduler(2, slots=16, max_launches=2, patience_s=500.0)
    for number, video in enumerate("abcdef"):
        offer(s, video, now=100.0 * number)  # so seldom that none would be waited for on an idle device
    first = s.next(500.0)
    assert s.next(500.0) == Wait(400.0 + 500.0)
    offer(s, "g", "h", now=500.0)
    second = s.next(500.0)
    assert names(second) == (1, list("efgh")) and s.next(500.0) == Wait(None)
    s.update(second, 501.0, exited=set("fgh"))
    s.update(first, 502.0, exited={"a"})
    assert names(s.next(502.0)) == (2, list("ebcd"))


def test_a_queue_that_a_launch_in_flight_may_feed_is_not_flushed():
    s = scheduler(2, slots=16, max_launches=2)
    offer(s, *"abcdefgh")
    step(s, exited={"c", "d"})
    s.flush()
    launch = s.next(0.0)
    assert names(launch) == (1, list("efgh"))
    assert isinstance(s.next(0.0), Wait)
    s.update(launch, 8.0, exited={"h"})
    assert names(s.next(8.0)) == (2, list("abef"))
    assert names(s.next(8.0)) == (2, ["g"])
    assert s.next(8.0) == Wait(None)


@pytest.mark.parametrize(("queued", "first"), [((5.0, 6.0), 1), ((6.0, 5.0), 2), ((5.0, 60.0), 1), ((60.0, 5.0), 2)])
def test_what_waited_longest_behind_segment_1_goes_first_once_it_is_due(queued, first):
    times = tuple(CallTimes(k, gpu, (1, 2, 3, 4)) for k in (1, 2, 3))
    slots = Slots(16)
    waiting = [(0.0,) * 4, queued[:1], queued[1:]]  # the first segment's queue is full, and older
    queues = [deque(Ticket("v", slots.acquire(), at, 1e9) for at in queue) for queue in waiting]
    assert most_efficient(SchedulerView(queues, times, slots, patience_s=50.0), 56.0) == (first, 1)


@pytest.mark.parametrize("launches", [1, 2])
def test_no_deep_video_starves_under_a_stream_that_keeps_segment_1_full(launches):
    def longest_wait(patience_s):
        s = scheduler(3, slots=64, patience_s=patience_s, max_launches=launches)
        now, number, in_flight = 0.0, 0, deque()
        offer(s, "deep")
        while number < 4000:
            while s.slots.free:
                offer(s, number, now=now)
                number += 1
            while isinstance(launch := s.next(now), Launch):
                in_flight.append(launch)
            launch = in_flight.popleft()
            now += gpu(1, launch.rows)
            s.update(launch, now, {t.video for t in launch.tickets} - {"deep"})
        return s.stats.longest_wait_s

    assert longest_wait(1e9)[1:] == [0, 0]  # it never ran
    waits = longest_wait(40.0)
    assert all(40 <= wait <= 40 + launches * gpu(1, 4) for wait in waits[1:])


@pytest.mark.parametrize("mode", MODES)
def test_the_wait_of_deep_videos_is_bounded_under_random_adversaries(mode):
    patience, segments, slots, full = 30.0, 4, 40, 4
    longest = max(gpu(k, 4) for k in range(1, 5))
    behind = (slots - 1) // full + segments - 1  # full batches, and a rest a queue
    late = 0
    for seed in range(40):
        rng = random.Random(seed)
        s = scheduler(segments, buckets=(1, 2, 3, 4), slots=slots, mode=mode, patience_s=patience)
        exit_of = {}
        now, deepness = 0.0, rng.choice([0.02, 0.1, 0.3])
        while len(exit_of) < 1500:
            while s.slots.free and rng.random() < 0.95:
                video = len(exit_of)
                exit_of[video] = rng.randint(2, 4) if rng.random() < deepness else 1
                offer(s, video, now=now)
            launch = s.next(now)
            if isinstance(launch, Wait):
                now = now + 1 if launch.until is None else launch.until
                continue
            now += gpu(launch.segment, launch.rows)
            s.update(launch, now, {t.video for t in launch.tickets if exit_of[t.video] == launch.segment})
        for wait in s.stats.longest_wait_s[1:]:
            assert wait <= patience + (1 + behind) * longest
            late += wait > patience
    assert late or mode != "throughput"  # the bound is put to the test


# modes


def test_latency_never_waits_and_finishes_what_it_has_begun():
    s = scheduler(3, mode="latency", slots=16)
    offer(s, "a", now=0.0)
    offer(s, "b", now=0.001)
    launch = s.next(0.001)
    assert names(launch) == (1, ["a", "b"])
    offer(s, *"cdef", now=0.002)
    s.update(launch, 1.0, exited={"a"})
    assert step(s, 1.0)[:2] == (2, ["b"])
    assert step(s, 1.0)[:2] == (3, ["b"])
    assert step(s, 1.0)[:2] == (1, list("cdef"))


def test_latency_batches_only_what_batching_makes_faster():
    for cost, taken in ((line, 1), (gpu, 4)):
        s = scheduler(1, cost, mode="latency")
        offer(s, *range(4))
        assert len(s.next(0.0).tickets) == taken


def urgent(**options):
    return scheduler(3, line, buckets=(1, 2, 3, 4), mode="deadline", **options)


def test_the_earliest_deadline_goes_first_and_then_the_first_come():
    s = urgent()
    offer(s, "later", deadline=50.0)
    offer(s, "never")
    offer(s, "soon", deadline=20.0)
    offer(s, "soon too", deadline=20.0)
    order = []
    while len(order) < 12:
        launch = s.next(0.0)
        order += [(launch.segment, t.video) for t in launch.tickets]
        s.update(launch, 0.0)
    assert order == [(k, v) for v in ("soon", "soon too", "later", "never") for k in (1, 2, 3)]


def test_cancelling_leaves_the_others_in_the_order_of_their_deadlines():
    for seed in range(20):
        rng = random.Random(seed)
        s = urgent(slots=16)
        deadlines = rng.sample(range(100, 200), 16)
        for video, deadline in enumerate(deadlines):
            offer(s, video, deadline=float(deadline))
        cancelled = rng.randrange(16)
        s.cancel(cancelled)
        order = []
        while s.slots.free < 16:
            order += step(s)[1]
        assert list(dict.fromkeys(order)) == [v for v in sorted(range(16), key=deadlines.__getitem__) if v != cancelled]


def test_a_video_without_time_for_its_next_segment_answers_from_the_last_it_passed():
    s = urgent()
    offer(s, "a", deadline=1.5)
    launch = s.next(0.0)
    assert s.update(launch, 1.0) == []
    assert s.next(1.0) == Wait(None)
    (end,) = s.take_ended()
    assert (end.status, end.checkpoint, end.at) == ("cut", 1, 1.0) and s.slots.free == 12
    assert s.take_ended() == []


def test_a_video_that_cannot_even_pass_the_first_checkpoint_in_time_is_late():
    s = urgent()
    offer(s, "a", deadline=0.9)
    offer(s, "b", deadline=1.0)
    assert names(s.next(0.0)) == (1, ["b"])
    (end,) = s.take_ended()
    assert (end.video, end.status, end.checkpoint) == ("a", "late", 0)


def test_a_video_whose_time_a_launch_uses_up_answers_before_it():
    s = scheduler(2, lambda k, n: [1.0, 10.0][k - 1], buckets=(1,), mode="deadline")
    offer(s, "a", deadline=14.0)
    step(s)
    offer(s, "b", now=1.0, deadline=12.0)
    step(s, 1.0)
    launch = s.next(2.0)
    assert names(launch) == (2, ["b"])
    ended = s.update(launch, 12.0)
    assert [(e.video, e.status, e.at) for e in ended] == [("a", "cut", 2.0), ("b", "exited", 12.0)]


def test_a_batch_takes_no_more_videos_than_its_most_urgent_one_has_time_for():
    s = scheduler(1, gpu, buckets=(1, 2, 3, 4), mode="deadline")
    offer(s, "a", deadline=7.0)  # t(3) = 7
    offer(s, *"bcd")
    assert names(s.next(0.0)) == (1, list("abc"))


def test_static_waits_for_full_batches_until_patience_or_the_stream_ends():
    s = scheduler(1, buckets=(4,), mode="static", patience_s=9.0)
    assert s.next(0.0) == Wait(None)
    offer(s, *"abc")
    assert s.next(0.0) == Wait(9.0)
    offer(s, *"de", now=1.0)
    assert step(s, 1.0)[:2] == (1, list("abcd"))
    assert s.next(2.0) == Wait(10.0)
    launch = s.next(10.0)
    assert names(launch) == (1, ["e"]) and launch.rows == 4
    offer(s, "f", now=10.0)
    s.update(launch, 18.0)
    s.flush()
    assert step(s, 18.0)[:2] == (1, ["f"])
    assert s.next(18.0) is None


def test_patience_is_two_sweeps_of_the_route_unless_said():
    s = scheduler(1, buckets=(4,), mode="static")
    offer(s, "a", now=1.0)
    assert s.next(1.0) == Wait(1.0 + 2 * 8)


# what it is driven with


def test_counts_say_what_was_done():
    s = scheduler(2, slots=3)
    offer(s, *"abc")
    s.offer("d", 0.0)
    launch = s.next(2.0)
    ended = s.update(launch, 9.0, {"a"})
    assert [(e.video, e.arrived, e.at, e.waited) for e in ended] == [("a", 0.0, 9.0, 2.0)]
    s.flush()
    step(s, 10.0)
    assert s.stats.offered == 3 and s.stats.refused == 1
    assert s.stats.ended == {"exited": 3, "cut": 0, "late": 0, "failed": 0}
    assert s.stats.fills == [[0, 0, 0, 1, 0], [0, 0, 1, 0, 0]]
    assert s.stats.waited_s == [6.0, 2.0] and s.stats.longest_wait_s == [2.0, 1.0]


def test_driving_it_against_its_rules_is_refused():
    s = scheduler(2)
    offer(s, "a")
    with pytest.raises(ScheduleError, match="video 'a' is offered while it is in flight"):
        s.offer("a", 0.0)
    launch = s.next(0.0)
    for named in ({"exited": {"b"}}, {"failed": {"b"}}):
        with pytest.raises(ScheduleError, match=r"expected a launch in flight and only its videos \['a'\]"):
            s.update(launch, 0.0, **named)
    s.update(launch, 0.0)
    with pytest.raises(ScheduleError, match="expected a launch in flight"):
        s.update(launch, 0.0)
    s.flush()
    with pytest.raises(ScheduleError, match="video 'b' is offered after the end of the stream"):
        s.offer("b", 0.0)


def test_unusable_arguments_are_refused():
    for options, message in [
        ({"mode": "fast"}, "mode 'fast': expected one of throughput, latency, deadline, static"),
        ({"segments": 0}, "0 segments, 1 launches in flight: expected at least 1 of each"),
        ({"max_launches": 0}, "3 segments, 0 launches"),
        ({"mode": "static"}, "mode 'static' with 3 segments and 12 slots: expected one segment and at least 4 slots"),
        ({"mode": "static", "segments": 1, "slots": 3}, "with 1 segments and 3 slots"),
        ({"patience_s": -1}, "a patience of -1 s"),
        ({"patience_s": float("nan")}, "a patience of nan s"),
        ({"buckets": (2, 1)}, r"buckets \[2, 1\] of segment 1: expected ascending"),
        ({"buckets": ()}, r"buckets \[\] of segment 1"),
        ({"buckets": (0, 1)}, r"buckets \[0, 1\] of segment 1"),
        ({"cost": lambda k, n: 0.0}, "segment 1 takes 0.0 s for 1 rows: expected a time above 0"),
        ({"cost": lambda k, n: float("nan")}, "segment 1 takes nan s"),
        ({"cost": lambda k, n: float("inf")}, "segment 1 takes inf s"),
    ]:
        with pytest.raises(UsageError, match=message):
            scheduler(**options)
    with pytest.raises(UsageError, match="a deadline in mode 'throughput': use mode 'deadline'"):
        scheduler().offer("a", 0.0, deadline=1.0)
