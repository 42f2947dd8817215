"""The queue in front of a model process: bounded, most urgent first, and honest about what it cannot do in time."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from ...grid.errors import DeadlineError, InputRefusedError, LateError, OverloadedError, RefusedError, UnavailableError
from ..request import Request
from .model_process import Facts, ModelProcess
from .supervisor import Supervisor

_SMOOTHING = 0.1
_CAUTION = 2.0  # times the expected wait that a request must allow: videos differ, and it had better be refused at once
_MARGIN_S = 0.01  # to hand over an answer before its time is up

Outcome = Literal["answered", "invalid", "overloaded", "unavailable", "late", "cancelled"]


@dataclass(order=True)
class _Waiting:
    """A request in the queue; ``turn`` is the process that takes it."""

    deadline: float
    number: int
    turn: asyncio.Future[ModelProcess] = field(compare=False)


@dataclass(frozen=True)
class Reply:
    """What a request got: the answer as ``answer.to_json``, and the bundle that computed it."""

    answer: dict[str, Any]
    bundle_sha256: str


class Service:
    """Answers requests; every method is for the event loop's thread.

    Args:
        supervisor: keeps the model process.
        most_waiting: how many requests may wait beside those that the process has.
        longest_s: how long a request may take that does not say so itself.
        by_deadline: whether the model is told the deadlines that requests ask, and may cut their videos short.
        on_outcome: called with what became of each request, its seconds, and its reply, if any.

    Attributes:
        stopping: whether new requests are refused.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        *,
        most_waiting: int = 32,
        longest_s: float = 60.0,
        by_deadline: bool = True,
        on_outcome: Callable[[Outcome, float, Reply | None], None] = lambda outcome, seconds, reply: None,
    ) -> None:
        self.stopping = False
        self._loop = asyncio.get_running_loop()
        self._supervisor, self._most, self._longest_s = supervisor, most_waiting, longest_s
        self._by_deadline, self._on_outcome = by_deadline, on_outcome
        self._queue: list[_Waiting] = []
        self._numbers = itertools.count()
        self._at_work = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._each_s = 0.0  # between two answers while there is work
        self._last = -math.inf
        supervisor.changed = self._dispatch

    @property
    def waiting(self) -> int:
        """Number of requests in the queue."""
        return len(self._queue)

    @property
    def facts(self) -> Facts | None:
        """About the model that takes requests now; None while there is none."""
        process = self._supervisor.current
        return None if process is None else process.facts.result()

    def require_room(self, timeout_s: float | None = None) -> None:
        """Check, before a request is read, that it could be taken.

        Raises:
            OverloadedError: If the queue is full, or too long for the request's time.
            UnavailableError: If there is no model process, or the service is stopping.
        """
        process = self._supervisor.current
        if self.stopping or process is None:
            why = "the service is stopping" if self.stopping else "the model process is being started again"
            raise UnavailableError(f"{why}: try again")
        waiting = self.waiting
        # the pace so far, or slower if the next answer is overdue
        each_s = max(self._each_s, self._loop.time() - max(self._last, process.answered)) if process.in_flight else 0.0
        expected_s = (waiting + process.in_flight + 1) * each_s
        if waiting >= self._most:
            raise OverloadedError(
                f"{waiting} requests are waiting, as many as may: try again after the time in Retry-After", expected_s
            )
        if timeout_s is not None and _CAUTION * expected_s > timeout_s:
            raise OverloadedError(
                f"an answer takes up to {_CAUTION * expected_s:.1f} s now, and the request allows {timeout_s:g} s: try "
                "again later, or allow more time",
                expected_s,
            )

    async def classify(self, request: Request) -> Reply:
        """Return the reply to a request; a caller that is cancelled takes its video with it.

        Raises:
            InputRefusedError: If the video cannot be used.
            OverloadedError, UnavailableError: As ``require_room``, and if the process ends before it answers.
            LateError: If there is no answer in time.
        """
        began = self._loop.time()
        reply: Reply | None = None
        outcome: Outcome = "cancelled"
        self._at_work += 1
        self._idle.clear()
        try:
            reply = await self._in_time(request, began)
            outcome = "answered"
            return reply
        except InputRefusedError:
            outcome = "invalid"
            raise
        except (DeadlineError, TimeoutError):
            outcome = "late"
            raise LateError("no answer in the time that the request allows: allow more, or try again") from None
        except RefusedError as error:
            outcome = "overloaded" if isinstance(error, OverloadedError) else "unavailable"
            raise
        finally:
            self._at_work -= 1
            if not self._at_work:
                self._idle.set()
            # the reply is on its way before it is counted: nothing between here and there waits for the loop
            self._loop.call_soon(self._on_outcome, outcome, self._loop.time() - began, reply)
            self._dispatch()

    def count(self, outcome: Outcome) -> None:
        """Count a request that was refused before it came here."""
        self._on_outcome(outcome, 0.0, None)

    async def drain(self, within_s: float) -> None:
        """Refuse new requests, and return once the others are answered, or after ``within_s``.

        If the model process ends meanwhile, it is not started again, and those that wait for it are refused.
        """
        self.stopping = self._supervisor.stopping = True
        self._dispatch()
        await asyncio.wait([asyncio.ensure_future(self._idle.wait())], timeout=within_s)

    async def _in_time(self, request: Request, began: float) -> Reply:
        asked = request.timeout_s
        deadline = began + (self._longest_s if asked is None else max(asked - _MARGIN_S, asked / 2))
        self.require_room(asked)
        async with asyncio.timeout_at(deadline):
            # requests that name no time go after those that do
            process = await self._turn(math.inf if asked is None else deadline)
            try:
                taken = self._loop.time()
                tell = self._by_deadline and asked is not None
                answer = await process.classify(request, deadline - taken if tell else None)
            finally:
                process.held -= 1
        now = self._loop.time()
        gap = now - max(taken, self._last)
        self._each_s += _SMOOTHING * (gap - self._each_s) if self._each_s else gap
        self._last = now
        answer["queue_ms"] += (taken - began) * 1e3
        return Reply(answer, process.facts.result().bundle_sha256)

    async def _turn(self, deadline: float) -> ModelProcess:
        """Wait in the queue; return the process, which holds a place for the video."""
        place = _Waiting(deadline, next(self._numbers), self._loop.create_future())
        heapq.heappush(self._queue, place)
        self._dispatch()
        try:
            return await place.turn
        except asyncio.CancelledError:
            if place in self._queue:
                self._queue.remove(place)
                heapq.heapify(self._queue)
            elif not place.turn.cancelled() and place.turn.exception() is None:
                place.turn.result().held -= 1
            raise

    def _dispatch(self) -> None:
        """Give the process the most urgent requests, as many as it can use."""
        process = self._supervisor.current
        if process is None:
            if self.stopping:
                while self._queue:
                    if not (turn := heapq.heappop(self._queue).turn).done():
                        turn.set_exception(UnavailableError("the service is stopping: try again"))
            return
        most = process.facts.result().most_in_flight
        while self._queue and max(process.held, process.in_flight) < most:
            place = heapq.heappop(self._queue)
            if not place.turn.done():  # its caller may be gone, and not have said so yet
                process.held += 1
                place.turn.set_result(process)
