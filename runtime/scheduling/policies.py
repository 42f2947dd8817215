"""Which queue to serve next, and with how many videos: one function per scheduler mode."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from .batch_cost import CallTimes
from .queues import Launch, Queue, Wait
from .slots import Slots

Mode = Literal["throughput", "latency", "deadline", "static"]

CLOSE = 0.95
"""Launches with at least this share of the best efficiency tie. The deepest goes first: it answers and frees slots."""


@dataclass
class SchedulerView:
    """The state that a policy sees; only the scheduler changes it. Lists have one entry per segment.

    Attributes:
        queues: the segments' queues.
        times: the times of their calls.
        slots: the slot ledger.
        patience_s: see ``Scheduler``.
        in_flight: each launch in flight and when it should be back.
        running: number of launches in flight.
        reached: number of videos that have joined the queue since the start.
        open: whether more videos may be offered.
        last_offer, gap_s: time of the last offer, and the mean time between offers.
    """

    queues: list[Queue]
    times: tuple[CallTimes, ...]
    slots: Slots
    patience_s: float
    in_flight: dict[Launch, float] = field(default_factory=dict)
    running: list[int] = field(init=False)
    reached: list[int] = field(init=False)
    open: bool = True
    last_offer: float = -math.inf
    gap_s: float = math.inf

    def __post_init__(self) -> None:
        """Start all counts at 0."""
        self.running = [0] * len(self.queues)
        self.reached = [0] * len(self.queues)

    @property
    def admits(self) -> bool:
        """Whether a video may still join segment 1."""
        return self.open and self.slots.free > 0

    @property
    def waiting(self) -> int:
        """The number of videos in queues."""
        return sum(map(len, self.queues))

    def free_at(self, now: float) -> float:
        """Return when the device should have finished what is in flight."""
        return max([now, *self.in_flight.values()])

    def arrived(self, now: float) -> None:
        """Record the time of an offer."""
        gap = now - self.last_offer
        self.gap_s = gap if self.gap_s == math.inf else self.gap_s + (gap - self.gap_s) / 16
        self.last_offer = now


Choice = tuple[int, int] | Wait
"""Either a queue, counted from 0, and how many videos to take from it, or how long to wait."""

Policy = Callable[[SchedulerView, float], Choice]


def most_efficient(s: SchedulerView, now: float) -> Choice:
    """Return the choice of mode ``throughput`` at ``now``."""
    joinable = s.admits
    found: list[tuple[float, int]] = []
    due, since = None, math.inf
    for place, queue in enumerate(s.queues):
        waiting = len(queue)
        if waiting:
            times = s.times[place]
            found.append((times.efficiency[min(waiting, times.largest)] if joinable else 1.0, place))
            queued = queue[0].queued
            if place and queued < since and queued + s.patience_s <= now:
                due, since = place, queued
        joinable = joinable or waiting > 0 or s.running[place] > 0
    if not found:
        return Wait(None)
    if due is not None:
        return due, min(len(s.queues[due]), s.times[due].full)
    best = max(found)[0]
    # without a free slot, more videos wait outside or none will come: then only efficiency counts
    enough = best * CLOSE if s.admits else best
    place = next(place for efficiency, place in reversed(found) if efficiency >= enough)
    if best < 1:
        until = _worth_waiting(s, place, now)
        if until > now:
            return Wait(until)
    times = s.times[place]
    return place, times.cheapest_batch[min(len(s.queues[place]), times.largest)]


def _worth_waiting(s: SchedulerView, place: int, now: float) -> float:
    """Return until when a partial batch should wait to fill up; a time not after ``now`` if it should run."""
    queue, seconds = s.queues[place], s.times[place].seconds
    due = queue[0].queued + s.patience_s
    if s.in_flight:  # the device is busy, so waiting costs nothing
        return due
    share = s.reached[place] / s.reached[0]  # share of the videos that get this far
    saved_s = share * (seconds[len(queue)] + seconds[1] - seconds[len(queue) + 1])
    return min(due, s.last_offer + saved_s) if s.gap_s < saved_s else now


def deepest(s: SchedulerView, now: float) -> Choice:
    """Return the choice of mode ``latency``."""
    place = max((place for place, queue in enumerate(s.queues) if queue), default=None)
    if place is None:
        return Wait(None)
    return place, min(len(s.queues[place]), s.times[place].shortest_wait(s.waiting))


def most_urgent(s: SchedulerView, now: float) -> Choice:
    """Return the choice of mode ``deadline`` at ``now``; the queues hold no videos that are too late."""
    heads = [(queue[0].deadline, -place) for place, queue in enumerate(s.queues) if queue]
    if not heads:
        return Wait(None)
    deadline, place = min(heads)[0], -min(heads)[1]
    times, start = s.times[place], s.free_at(now)
    videos = min(len(s.queues[place]), times.shortest_wait(s.waiting))
    while videos > 1 and start + times.seconds[videos] > deadline:
        videos -= 1
    return place, videos


def full_batch(s: SchedulerView, now: float) -> Choice:
    """Return the choice of mode ``static`` at ``now``."""
    queue, full = s.queues[0], s.times[0].full
    if not queue:
        return Wait(None)
    due = queue[0].queued + s.patience_s
    if len(queue) < full and s.open and due > now:
        return Wait(due)
    return 0, min(len(queue), full)


POLICIES: dict[Mode, Policy] = {
    "throughput": most_efficient,
    "latency": deepest,
    "deadline": most_urgent,
    "static": full_batch,
}
