"""The scheduler: which videos run which segment next. It holds no arrays, no clock and no executor.

StreamLoop it from one thread, with the seconds of any clock that does not go back::

    scheduler.offer(video, now)                  # False: no slot is free, offer it again later
    step = scheduler.next(now)                   # a Launch; a Wait; or None: the stream ended and so did every video
    scheduler.update(step, now, exited={...})    # how a launch went; returns the videos that ended

A video waits in the queue of its segment, runs in a batch with whoever waits beside it, and then leaves or joins the next
queue: survivors of different batches are batched anew at every checkpoint. Only segment 1 admits.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Hashable, Sequence
from typing import Literal, get_args

from ...grid.errors import UsageError
from .batch_cost import CallTimes, Cost
from .policies import POLICIES, Mode, SchedulerView
from .queues import Ended, Launch, Queue, Status, Ticket, UrgentFirst, Wait
from .slots import Slots


class ScheduleError(RuntimeError):
    """The scheduler is driven against its rules: a fault of the program, not of its user."""


class Stats:
    """Counts since the start.

    Attributes:
        offered, refused, cancelled, retried: videos; refused for want of a slot, retried alone.
        ended: videos by status.
        fills: [segment - 1][n], launches of n videos.
        waited_s: [segment - 1], in its queue, all videos together.
        longest_wait_s: [segment - 1], of one video in its queue.
    """

    def __init__(self, times: Sequence[CallTimes]) -> None:
        self.offered = self.refused = self.cancelled = self.retried = 0
        self.ended: dict[Status, int] = dict.fromkeys(get_args(Status), 0)
        self.fills = [[0] * (t.largest + 1) for t in times]
        self.waited_s = [0.0] * len(times)
        self.longest_wait_s = [0.0] * len(times)


class Scheduler:
    """One queue a segment, and the choice among them.

    Modes:
        throughput: the launch of the best efficiency, that is time per video of a full batch over its own; of those within
            ``CLOSE`` of it the deepest, so a full deepest queue goes first. A queue that no video can join any more counts
            as full: at the end of the stream the shallowest is flushed first, and survivors merge. Nothing runs as long
            as the next video is expected sooner than the seconds that its company would save.
        latency: never waits; the deepest queue first, in batches for the least mean time.
        deadline: as latency, but the earliest deadline first. A video that cannot finish its next segment in time answers
            from the last checkpoint it passed; one that passed none ends as ``late`` and computes nothing: its answer
            would come too late, and cost others theirs.
        static: a route of one segment; full batches, but at the end of the stream and after ``patience_s``.

    A launch of several videos that fails is run again, each video alone; a video that fails alone ends as ``failed``.

    Args:
        cost: t_k(n), seconds.
        buckets: of each segment, ascending batch sizes; the last is the most that one call takes.
        slots: one a video in flight. Fewer than segments x (full batch - 1) + 1 may keep batches short.
        mode: see above.
        patience_s: what waited this long in a queue behind segment 1 goes first, the longest waiting before all. So a
            video waits in such a queue at most this long, plus the launches in flight, those of failed videos, and one
            for each full batch, or rest of one, that waits behind segment 1. None: twice the seconds of a full batch
            through the whole route.
        max_launches: in flight at once. In throughput mode a further one goes out only when full or due.

    Attributes:
        stats: counts.
        mode: see above.
        slots: the ledger.

    Raises:
        UsageError: If an argument is not usable.
    """

    def __init__(
        self,
        cost: Cost,
        buckets: Sequence[Sequence[int]],
        slots: Slots,
        mode: Mode = "throughput",
        *,
        patience_s: float | None = None,
        max_launches: int = 1,
    ) -> None:
        if mode not in POLICIES:
            raise UsageError(f"mode {mode!r}: expected one of {', '.join(POLICIES)}")
        if not buckets or max_launches < 1:
            raise UsageError(f"{len(buckets)} segments, {max_launches} launches in flight: expected at least 1 of each")
        times = tuple(CallTimes(k, cost, sizes) for k, sizes in enumerate(buckets, 1))
        if mode == "static" and (len(buckets) > 1 or slots.count < times[0].full):
            raise UsageError(
                f"mode 'static' with {len(buckets)} segments and {slots.count} slots: expected one segment and at least "
                f"{times[0].full} slots, a full batch"
            )
        if patience_s is not None and not patience_s >= 0:
            raise UsageError(f"a patience of {patience_s} s: expected at least 0")
        if patience_s is None:
            patience_s = 2 * sum(t.seconds[t.full] for t in times)
        self.mode, self.slots, self.stats = mode, slots, Stats(times)
        queues: list[Queue] = [UrgentFirst() if mode == "deadline" else deque() for _ in buckets]
        self._standing = SchedulerView(queues, times, slots, patience_s)
        self._choose = POLICIES[mode]
        self._retries: deque[Ticket] = deque()
        self._tickets: dict[Hashable, Ticket] = {}
        self._max_launches = max_launches
        self._ended: list[Ended] = []

    def offer(self, video: Hashable, now: float, deadline: float | None = None) -> bool:
        """Admit ``video`` to segment 1; False where no slot is free.

        Args:
            video: a name that no other video in flight has.
            now: seconds.
            deadline: seconds, of the same clock; only in mode ``deadline``. None: none.

        Raises:
            ScheduleError: If the video is in flight already, or the stream has ended.
            UsageError: If another mode is given a deadline.
        """
        if video in self._tickets or not self._standing.open:
            fault = "while it is in flight" if video in self._tickets else "after the end of the stream"
            raise ScheduleError(f"video {video!r} is offered {fault}")
        if deadline is not None and self.mode != "deadline":
            raise UsageError(f"a deadline in mode {self.mode!r}: use mode 'deadline'")
        slot = self.slots.acquire()
        if slot is None:
            self.stats.refused += 1
            return False
        self._standing.arrived(now)
        ticket = self._tickets[video] = Ticket(video, slot, now, math.inf if deadline is None else deadline)
        self._standing.queues[0].append(ticket)
        self._standing.reached[0] += 1
        self.stats.offered += 1
        return True

    def flush(self) -> None:
        """End the stream: nothing more will be offered."""
        self._standing.open = False

    def next(self, now: float) -> Launch | Wait | None:
        """Return what to run now, or how long to wait, or None once the stream and every video have ended."""
        if len(self._standing.in_flight) >= self._max_launches:
            return Wait(None)
        if self._retries:
            return self._launch(self._retries, 1, now)
        if self.mode == "deadline":
            self._cut(now)
        choice = self._choose(self._standing, now)
        if not isinstance(choice, Wait):
            place, videos = choice
            return self._launch(self._standing.queues[place], videos, now)
        return choice if self._tickets or self._standing.open else None

    def update(
        self, launch: Launch, now: float, exited: Collection[Hashable] = (), failed: Collection[Hashable] = ()
    ) -> list[Ended]:
        """Take a launch back and return the videos that ended since the last time anything was returned.

        Args:
            launch: in flight.
            now: seconds.
            exited: its videos that have their answer, a numeric error included; at the last segment all have.
            failed: its videos whose state is as it was before the launch.

        Raises:
            ScheduleError: If the launch is not in flight, or other videos are named than it holds.
        """
        held = {ticket.video for ticket in launch.tickets}
        if launch not in self._standing.in_flight or not held.issuperset(exited) or not held.issuperset(failed):
            raise ScheduleError(
                f"update of {launch}: expected a launch in flight and only its videos {sorted(map(str, held))}"
            )
        del self._standing.in_flight[launch]
        segment = launch.segment
        self._standing.running[segment - 1] -= 1
        last = segment == len(self._standing.queues)
        for ticket in launch.tickets:
            video = ticket.video
            if ticket.place == "cancelled":
                self._release(ticket)
            elif video in failed:
                if len(launch.tickets) == 1:
                    self._end(ticket, "failed", segment - 1, now)
                else:
                    self.stats.retried += 1
                    self._wait(ticket, "retry", self._retries, now)
            elif last or video in exited:
                self._end(ticket, "exited", segment, now)
            else:
                ticket.segment = segment + 1
                self._standing.reached[segment] += 1
                self._wait(ticket, "queue", self._standing.queues[segment], now)
        return self.take_ended()

    def take_ended(self) -> list[Ended]:
        """Return the videos that ended and were not returned yet: ``next`` ends some in mode ``deadline``."""
        ended, self._ended = self._ended, []
        return ended

    def cancel(self, video: Hashable) -> bool:
        """Drop a video: no result will be returned. Its slot is free now, or when the launch that it is in comes back.

        Returns:
            False where it is not in flight: unknown, ended or cancelled before.
        """
        ticket = self._tickets.get(video)
        if ticket is None or ticket.place == "cancelled":
            return False
        self.stats.cancelled += 1
        if ticket.place == "launch":
            ticket.place = "cancelled"
        else:
            (self._retries if ticket.place == "retry" else self._standing.queues[ticket.segment - 1]).remove(ticket)
            self._release(ticket)
        return True

    def _launch(self, queue: Queue, videos: int, now: float) -> Launch:
        tickets = tuple(queue.popleft() for _ in range(videos))
        place = tickets[0].segment - 1
        for ticket in tickets:
            ticket.place = "launch"
            waited = now - ticket.queued
            ticket.waited += waited
            self.stats.waited_s[place] += waited
            self.stats.longest_wait_s[place] = max(self.stats.longest_wait_s[place], waited)
        self.stats.fills[place][videos] += 1
        launch = Launch(place + 1, tickets, self._standing.times[place].rows[videos])
        self._standing.in_flight[launch] = self._standing.free_at(now) + self._standing.times[place].seconds[videos]
        self._standing.running[place] += 1
        if self.mode == "deadline" and len(self._standing.in_flight) == self._max_launches:
            self._cut(now)  # what this launch leaves no time for can answer now, and would be late after it
        return launch

    def _cut(self, now: float) -> None:
        """End the videos that cannot finish their next segment in time, even alone."""
        start = self._standing.free_at(now)
        for place, queue in enumerate(self._standing.queues):
            while queue and start + self._standing.times[place].seconds[1] > queue[0].deadline:
                self._end(queue.popleft(), "cut" if place else "late", place, now)

    def _wait(self, ticket: Ticket, place: Literal["queue", "retry"], queue: Queue, now: float) -> None:
        ticket.place, ticket.queued = place, now
        queue.append(ticket)

    def _end(self, ticket: Ticket, status: Status, checkpoint: int, now: float) -> None:
        self._release(ticket)
        self.stats.ended[status] += 1
        self._ended.append(Ended(ticket.video, status, checkpoint, ticket.arrived, now, ticket.waited))

    def _release(self, ticket: Ticket) -> None:
        del self._tickets[ticket.video]
        self.slots.release(ticket.slot)
