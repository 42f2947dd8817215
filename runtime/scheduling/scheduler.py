"""The scheduler: which videos run which segment next. It holds no arrays, no clock and no executor.

Drive it from one thread, with times in seconds from any monotonic clock::

    scheduler.offer(video, now)                  # False: no slot is free, offer it again later
    step = scheduler.next(now)                   # a Launch, a Wait, or None: the stream and all its videos have ended
    scheduler.update(step, now, exited={...})    # how a launch went; returns the videos that ended

A video waits in the queue of its segment, runs in a batch with others from that queue, and then leaves or joins the
next queue. Survivors of different batches are thus rebatched at every checkpoint. Only segment 1 admits videos.
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
    """The caller broke the scheduler's rules: a programming error, not a user error."""


class Stats:
    """Counts since the start.

    Attributes:
        offered, refused, cancelled, retried: numbers of videos; refused for lack of a slot, retried alone.
        ended: numbers of videos by status.
        fills: [segment - 1][n]: number of launches of n videos.
        waited_s: [segment - 1]: seconds in its queue, all videos together.
        longest_wait_s: [segment - 1]: longest wait of one video in its queue.
    """

    def __init__(self, times: Sequence[CallTimes]) -> None:
        self.offered = self.refused = self.cancelled = self.retried = 0
        self.ended: dict[Status, int] = dict.fromkeys(get_args(Status), 0)
        self.fills = [[0] * (t.largest + 1) for t in times]
        self.waited_s = [0.0] * len(times)
        self.longest_wait_s = [0.0] * len(times)


class Scheduler:
    """One queue per segment, and the choice among them.

    Modes:
        throughput: runs the launch with the best efficiency: time per video of a full batch divided by its own. Among
            launches within ``CLOSE`` of the best, the deepest runs, so a full deepest queue goes first. A queue that
            no more videos can join counts as full, so at the end of the stream the shallowest is flushed first and
            survivors merge. Nothing runs while the next video is expected sooner than the seconds that batching it
            would save.
        latency: never waits; serves the deepest queue first, in batches that give the least mean time.
        deadline: like latency, but the earliest deadline first. A video that cannot finish its next segment in time
            answers from the last checkpoint it passed. If it passed none, it ends as ``late`` without computing: its
            answer would come too late and delay others past their deadlines.
        static: a route of one segment; runs full batches only, except at the end of the stream and after
            ``patience_s``.

    If a launch of several videos fails, each video is retried alone. A video that fails alone ends as ``failed``.

    Args:
        cost: t_k(n), seconds.
        buckets: of each segment, ascending batch sizes; the last is the most that one call takes.
        slots: one per video in flight. With fewer than segments x (full batch - 1) + 1, batches may stay short.
        mode: see above.
        patience_s: after this long in a queue behind segment 1, a video goes first, the longest wait before all.
            Worst wait behind segment 1: patience_s, plus launches in flight, retries, and one launch per full or
            partial batch waiting behind segment 1. None: twice the seconds of a full batch through the whole route.
        max_launches: launches in flight at once. In throughput mode another one goes out only when full or due.

    Attributes:
        stats: counts.
        mode: see above.
        slots: the slot ledger.

    Raises:
        UsageError: If an argument is invalid.
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
                f"mode 'static' with {len(buckets)} segments and {slots.count} slots: "
                f"expected one segment and at least {times[0].full} slots, a full batch"
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
        """Admit ``video`` to segment 1; return False if no slot is free.

        Args:
            video: a name that no other video in flight has.
            now: seconds.
            deadline: seconds, on the same clock; only in mode ``deadline``. None: no deadline.

        Raises:
            ScheduleError: If the video is already in flight, or the stream has ended.
            UsageError: If a deadline is given in another mode.
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
        """End the stream: no more videos will be offered."""
        self._standing.open = False

    def next(self, now: float) -> Launch | Wait | None:
        """Return what to run now, or how long to wait, or None once the stream and all its videos have ended."""
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
        """Take a launch back; return the videos that ended and have not been returned yet.

        Args:
            launch: a launch in flight.
            now: seconds.
            exited: its videos that have their answer, including numeric errors; at the last segment all have.
            failed: its videos whose state is the same as before the launch.

        Raises:
            ScheduleError: If the launch is not in flight, or a named video is not part of it.
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
        """Return the videos that ended and were not returned yet; in mode ``deadline``, ``next`` also ends videos."""
        ended, self._ended = self._ended, []
        return ended

    def cancel(self, video: Hashable) -> bool:
        """Drop a video without a result. Its slot becomes free now, or when its current launch comes back.

        Returns:
            False if it is not in flight: unknown, ended, or already cancelled.
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
            self._cut(now)  # a video that this launch leaves no time for can answer now; after it, it would be late
        return launch

    def _cut(self, now: float) -> None:
        """End the videos that could not finish their next segment in time, even alone."""
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
