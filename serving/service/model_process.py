"""One life of the model process, as the event loop of a service sees it. ``model_worker`` is what runs in it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from ...grid import errors
from ...grid.errors import BackendError, DynvidError, UnavailableError
from ...grid.thresholds import Tally
from ...runtime.child_process import ChildFailure, ChildProcess, send
from ..request import Request

_START_S = 600.0  # to load engines from a cold disk


@dataclass(frozen=True)
class Facts:
    """What the process says about its model.

    Attributes:
        bundle_sha256: of the bundle's manifest.
        runs: what computes, in words.
        checkpoints: number of checkpoints of the route.
        thresholds: exit thresholds; None: every video runs to the end.
        expected: exits at calibration, if the thresholds say them.
        most_in_flight: how many videos to keep in it so that it never runs short.
    """

    bundle_sha256: str
    runs: str
    checkpoints: int
    thresholds: tuple[float | None, ...] | None
    expected: Tally | None
    most_in_flight: int


class ModelProcess:
    """Starts the process; every method is for the event loop's thread.

    Args:
        options: of ``open_model``, as JSON types.
        silent_s: after this long without any message, the process counts as stuck and is killed.
        freed: called when the process lets go of a video that nobody waits for any more.

    Attributes:
        facts: what it says about its model once it is ready; otherwise why it is not.
        gone: why the process ended, once it has.
        held: how many places are taken or promised; the service counts them.
        answered: when the last answer came, or the first video after an idle time was sent; seconds of the loop.
        fills: as ``Model.fills``, at the last ping.
    """

    def __init__(self, options: Mapping[str, Any], silent_s: float, freed: Callable[[], None] = lambda: None) -> None:
        self._freed = freed
        self._loop = asyncio.get_running_loop()
        self.facts: asyncio.Future[Facts] = self._loop.create_future()
        self.gone: asyncio.Future[str] = self._loop.create_future()
        self.answered, self.held, self.fills = self._loop.time(), 0, list[list[int]]()
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._payloads: dict[int, int] = {}
        self._ping: asyncio.Future[dict[str, Any]] | None = None
        self._silent_s = silent_s
        self._child: ChildProcess | None = None
        threading.Thread(target=self._listen, args=(json.dumps(options),), name="model process", daemon=True).start()

    @property
    def in_flight(self) -> int:
        """Number of videos without an answer."""
        return len(self._payloads)

    @property
    def pid(self) -> int | None:
        """Process id, once it is started."""
        return None if self._child is None else self._child.process.pid

    async def classify(self, request: Request, timeout_s: float | None) -> dict[str, Any]:
        """Return the answer to a request, as ``answer.to_json``.

        If the caller is cancelled, so is the video.

        Args:
            request: the video.
            timeout_s: if the model serves by deadlines, its deadline in seconds from now.

        Raises:
            InputRefusedError: If the video cannot be read.
            DeadlineError: If it passed no checkpoint in time.
            UnavailableError: If the process ends before it answers, or computing fails.
        """
        if self.gone.done():
            raise UnavailableError("the model process ended: try again")
        number, payload = next(self._numbers), os.memfd_create("dynvid")
        reply: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        try:
            _write(payload, request.payload)
        except BaseException:
            os.close(payload)
            raise
        if not self._payloads:
            self.answered = self._loop.time()
        self._payloads[number], self._waiting[number] = payload, reply
        self._send(do="classify", number=number, fd=payload, shape=request.shape, timeout_s=timeout_s)
        try:
            found = await reply
        except asyncio.CancelledError:
            if self._waiting.pop(number, None) is not None:
                self._send(do="cancel", number=number)
            raise
        if "error" in found:
            kind, message = found["error"]
            error: type[DynvidError] = getattr(errors, kind)
            raise UnavailableError("the video could not be computed") if error is DynvidError else error(message)
        return cast("dict[str, Any]", found["answer"])

    async def ping(self) -> None:
        """Return after a round trip through the process.

        Raises:
            UnavailableError: If the process ends before it answers.
        """
        if self.gone.done():
            raise UnavailableError("the model process ended")
        if self._ping is None or self._ping.done():  # pings under way are shared, so that they never fill the pipe
            number, self._ping = next(self._numbers), self._loop.create_future()
            self._waiting[number] = self._ping
            self._ping.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may have no reader
            self._send(do="ping", number=number)
        self.fills = (await asyncio.shield(self._ping))["fills"]

    def stop(self) -> None:
        """Have the process exit; videos without an answer get none."""
        if self._child is not None and self._child.process.stdin is not None:
            with suppress(OSError):
                self._child.process.stdin.close()

    def kill(self) -> None:
        """End the process at once."""
        if self._child is not None:
            self._child.process.kill()

    def _send(self, **message: Any) -> None:
        if self._child is not None and self._child.process.stdin is not None:
            with suppress(OSError, ValueError):  # it is gone, which the listening thread tells
                send(self._child.process.stdin, json.dumps(message).encode())

    def _listen(self, options: str) -> None:
        """Pass on what the process says until it ends; the only method of another thread."""
        try:
            self._child = ChildProcess(f"from {_WORKER} import main; main()", options, str(os.getpid()))
            self._tell(self._child.receive(_START_S))
            while True:
                self._tell(self._child.receive(self._silent_s))
        except (ChildFailure, DynvidError) as failure:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._end, failure)

    def _tell(self, message: bytearray) -> None:
        self._loop.call_soon_threadsafe(self._take, json.loads(message))

    def _take(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self.facts.set_result(Facts(**message["ready"]))
        elif "failed" in message:
            kind, text = message["failed"]
            self.facts.set_exception(getattr(errors, kind)(text))
        else:
            number = message["number"]
            if (payload := self._payloads.pop(number, None)) is not None:
                os.close(payload)
                self.answered = self._loop.time()
            reply = self._waiting.pop(number, None)
            if reply is not None and not reply.done():
                reply.set_result(message)
            elif payload is not None:
                self._freed()

    def _end(self, failure: ChildFailure | DynvidError) -> None:
        if not self.facts.done():
            what = failure if isinstance(failure, DynvidError) else BackendError(f"the model process {failure}")
            self.facts.set_exception(what)
        self.gone.set_result(str(failure))
        for payload in self._payloads.values():
            os.close(payload)
        self._payloads.clear()
        for reply in self._waiting.values():
            if not reply.done():
                reply.set_exception(UnavailableError("the model process ended before it answered: try again"))
        self._waiting.clear()


_WORKER = ModelProcess.__module__.replace("model_process", "model_worker")


def _write(file: int, payload: bytes | memoryview) -> None:
    view = memoryview(payload).cast("B")
    while view:
        view = view[os.write(file, view) :]
