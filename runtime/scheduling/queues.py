"""What the scheduler hands out and takes back: tickets of videos in flight, launches, waits, and ended videos."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Literal, NamedTuple

from .slots import Slot

Status = Literal["exited", "cut", "late", "failed"]


class Ticket:
    """A video in flight; only the scheduler changes it.

    Attributes:
        video: the video.
        slot: the row of its state.
        segment: the segment that it runs or waits for, 1-based.
        arrived, deadline, queued: seconds; when it was offered, when its answer is due (inf: never), when it joined
            its queue.
        waited: seconds in queues so far.
        place: where it is.
    """

    __slots__ = ("arrived", "deadline", "place", "queued", "segment", "slot", "video", "waited")

    def __init__(self, video: Hashable, slot: Slot, now: float, deadline: float) -> None:
        self.video, self.slot, self.segment = video, slot, 1
        self.arrived = self.queued = now
        self.deadline, self.waited = deadline, 0.0
        self.place: Literal["queue", "retry", "launch", "cancelled"] = "queue"


@dataclass(frozen=True, slots=True, eq=False)
class Launch:
    """One call to run: ``segment`` (1-based) for the videos of ``tickets``, padded to ``rows``."""

    segment: int
    tickets: tuple[Ticket, ...]
    rows: int


class Wait(NamedTuple):
    """Nothing to run until ``until`` (None: indefinitely), the next offer or update, or the end of the stream."""

    until: float | None


class Ended(NamedTuple):
    """A video that has ended; its slot is free.

    Attributes:
        video: the video.
        status: ``exited``: its checkpoint answered. ``cut``: it answers from the last checkpoint passed, because its
            deadline leaves no time for the next. ``late``: the deadline came before it passed any. ``failed``: it
            failed alone.
        checkpoint: the last checkpoint passed, 0 for none.
        arrived, at: seconds; when it was offered, when it ended.
        waited: seconds in queues.
    """

    video: Hashable
    status: Status
    checkpoint: int
    arrived: float
    at: float
    waited: float


class UrgentFirst:
    """A queue ordered by deadline; among equal deadlines, first in, first out."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Ticket]] = []
        self._joined = 0

    def append(self, ticket: Ticket) -> None:
        """Add a ticket."""
        self._joined += 1
        heappush(self._heap, (ticket.deadline, self._joined, ticket))

    def popleft(self) -> Ticket:
        """Remove and return the most urgent ticket."""
        return heappop(self._heap)[2]

    def remove(self, ticket: Ticket) -> None:
        """Remove ``ticket``."""
        self._heap = [entry for entry in self._heap if entry[2] is not ticket]
        heapify(self._heap)

    def __len__(self) -> int:
        return len(self._heap)

    def __getitem__(self, place: int) -> Ticket:
        return self._heap[place][2]


Queue = deque[Ticket] | UrgentFirst
"""The tickets waiting for one segment; ``queue[0]`` leaves next."""
