"""Keeps one model process running: starts it again when it dies or sticks, and exchanges it for another bundle."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...grid.engines.request import engines_folder
from ...grid.errors import DynvidError, HashError, RefusedError
from .model_process import ModelProcess

LOG = logging.getLogger("dynvid")

_PING_S = 1.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 4.0
_STEADY_S = 10.0  # a process that ran this long is started again without waiting


class Supervisor:
    """Every method is for the event loop's thread.

    Args:
        options: of ``open_model``, as JSON types.
        silent_s: seconds without any message after which a process counts as stuck.
        stuck_s: seconds without an answer after which a process that has videos counts as stuck.
        changed: called when there is another process, or none, or it has room for a video again.

    Attributes:
        current: the process that takes videos; None while there is none.
        restarts: how often a process was started again.
        swaps: how often the bundle was exchanged.
        stopping: whether a process that ends is not started again, as systemd may end all processes of a service.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        *,
        silent_s: float = 10.0,
        stuck_s: float = 60.0,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.current: ModelProcess | None = None
        self.restarts, self.swaps, self.stopping = 0, 0, False
        self._options, self._silent_s, self._stuck_s, self.changed = options, silent_s, stuck_s, changed
        self._served: Mapping[str, Any] = options  # what ``current`` was opened with, links resolved
        self._sha256: str | None = None
        self._watching: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._retired: set[ModelProcess] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start the first process.

        Raises:
            DynvidError: As ``open_model``.
        """
        async with self._opening:  # an exchange that is asked for meanwhile comes afterwards
            self.current = await self._opened_now()
            self._watch_current()
        self._keep(asyncio.create_task(self._beat()))

    async def swap(self) -> bool:
        """Open the bundle and thresholds as they are on disk now, in a new process; return whether it serves.

        Videos that the old process has are answered by it. If the new one cannot be opened, the old one goes on.
        """
        async with self._opening:
            try:
                new = await self._opened_now()
            except DynvidError as error:
                LOG.warning(f"the bundle was not exchanged, and the old one still serves: {error}")
                return False
            old, self.current = self.current, new
            self.swaps += 1
            self._watch_current()
        self.changed()
        if old is not None:
            self._retired.add(old)
            self._keep(asyncio.create_task(self._retire(old)))
        LOG.info(f"the bundle was exchanged: {str(self._sha256)[:12]} serves")
        return True

    async def ready(self, within_s: float = 1.0) -> bool:
        """Return whether a round trip through the process succeeds in time."""
        if self.current is None:
            return False
        try:
            async with asyncio.timeout(within_s):
                await self.current.ping()
        except (RefusedError, TimeoutError):
            return False
        return True

    async def close(self) -> None:
        """Stop all processes, whatever they are doing."""
        for task in self._tasks:
            task.cancel()
        left = [process for process in (self.current, *self._retired) if process is not None]
        self.current = None
        for process in left:
            process.stop()
            await asyncio.wait([process.gone], timeout=5)
            process.kill()
            await asyncio.wait([process.gone], timeout=5)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _watch_current(self) -> None:
        """Watch the process that serves now, and no longer the one before."""
        if self._watching is not None:
            self._watching.cancel()
        self._watching = asyncio.create_task(self._watch())
        self._keep(self._watching)

    async def _opened_now(self) -> ModelProcess:
        """Return a process with what is on disk now, and remember what that is."""
        options = _resolved(self._options)
        process = await self._opened(options)
        self._served, self._sha256 = options, process.facts.result().bundle_sha256
        return process

    async def _opened_again(self) -> ModelProcess:
        """Return a process with the bundle that was served.

        Raises:
            HashError: If there is another bundle at its path.
        """
        process = await self._opened(self._served)
        found = process.facts.result().bundle_sha256
        if found != self._sha256:
            process.kill()
            raise HashError(
                f"{self._served['bundle']!r} holds the bundle {found[:12]} now, and {str(self._sha256)[:12]} was served: "
                "put that back, or send SIGHUP to serve the new one"
            )
        return process

    async def _opened(self, options: Mapping[str, Any]) -> ModelProcess:
        process = ModelProcess(options, self._silent_s, lambda: self.changed())
        try:
            facts = await process.facts
        except BaseException:
            process.kill()
            raise
        LOG.info(f"process {process.pid} serves bundle {facts.bundle_sha256[:12]}: {facts.runs}")
        return process

    async def _watch(self) -> None:
        """Start the process again whenever it ends, until it is exchanged."""
        loop, wait_s = asyncio.get_running_loop(), _FIRST_WAIT_S
        while True:
            process, since = self.current, loop.time()
            assert process is not None
            why = await asyncio.shield(process.gone)
            self.current = None
            self.changed()
            LOG.warning(f"the model process {why}" + ("" if self.stopping else "; it is started again"))
            if loop.time() - since > _STEADY_S:
                wait_s = _FIRST_WAIT_S
            while self.current is None:
                await asyncio.sleep(wait_s)
                if self.stopping:
                    return
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
                async with self._opening:
                    if self.current is None:  # no exchange was faster
                        try:
                            self.current = await self._opened_again()
                        except DynvidError as error:
                            LOG.warning(f"the model process cannot be started again: {error}")
            self.restarts += 1
            self.changed()

    async def _beat(self) -> None:
        """Make every process say something, and end one that answers no videos."""
        loop = asyncio.get_running_loop()
        while True:
            for process in (self.current, *self._retired):
                if process is None or process.gone.done():
                    continue
                if process.in_flight and loop.time() - process.answered > self._stuck_s:
                    LOG.warning(f"the model process gave no answer for {self._stuck_s:g} s and is ended")
                    process.kill()
                await self._pinged(process)
            await asyncio.sleep(_PING_S)

    async def _pinged(self, process: ModelProcess) -> None:
        try:
            async with asyncio.timeout(_PING_S):
                await process.ping()
        except (RefusedError, TimeoutError):
            pass  # the process's thread ends it after ``silent_s``

    async def _retire(self, process: ModelProcess) -> None:
        while process.in_flight and not process.gone.done():
            await asyncio.sleep(0.05)
        process.stop()
        await asyncio.shield(process.gone)
        self._retired.discard(process)


def _resolved(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options that open the same bundle, thresholds and engines after a link on the way was moved."""
    found = dict(options)
    if (
        options.get("engines") is None and os.path.realpath(options["bundle"]) != options["bundle"]
    ):  # those beside the path as it was given
        beside = engines_folder(Path(options["bundle"]))
        found["engines"] = str(beside) if beside.is_dir() else "none"
    for name in ("bundle", "thresholds", "engines"):
        if found.get(name) not in (None, "none"):
            found[name] = os.path.realpath(found[name])
    return found
