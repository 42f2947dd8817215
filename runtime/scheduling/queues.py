"""What the scheduler hands out and takes back: tickets of videos in flight, launches, waits, and videos that ended."""

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
        video: whose.
        slot: the row of its state.
        segment: that it runs or waits for, 1-based.
        arrived, deadline, queued: seconds; when it was offered, must be answered (inf: never), joined its queue.
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
    """Nothing to run before ``until`` (None: ever), an offer, an update or the end of the stream."""

    until: float | None


class Ended(NamedTuple):
    """A video that ended; its slot is free.

    Attributes:
        video: which.
        status: ``exited``: its checkpoint answered; ``cut``: it answers from the last checkpoint passed, because its
            deadline leaves no time for the next; ``late``: it had passed none by then; ``failed``: it failed alone.
        checkpoint: the last one passed, 0 for none.
        arrived, at: seconds; offered, ended.
        waited: seconds in queues.
    """

    video: Hashable
    status: Status
    checkpoint: int
    arrived: float
    at: float
    waited: float


class UrgentFirst:
    """A queue by deadline; of equal deadlines the first come leaves first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Ticket]] = []
        self._joined = 0

    def append(self, ticket: Ticket) -> None:
        """Add a ticket."""
        self._joined += 1
        heappush(self._heap, (ticket.deadline, self._joined, ticket))

    def popleft(self) -> Ticket:
        """Take the most urgent ticket out."""
        return heappop(self._heap)[2]

    def remove(self, ticket: Ticket) -> None:
        """Take ``ticket`` out."""
        self._heap = [entry for entry in self._heap if entry[2] is not ticket]
        heapify(self._heap)

    def __len__(self) -> int:
        return len(self._heap)

    def __getitem__(self, place: int) -> Ticket:
        return self._heap[place][2]


Queue = deque[Ticket] | UrgentFirst
"""Tickets that wait for one segment; ``queue[0]`` is the next to leave."""
