"""The process that holds the model of a service: videos come in, answers go out; the parent's end is ``model_process``.

Requests are JSON on stdin. Payloads stay in the parent's memory (memfd) and are read through ``/proc``, so frames are
not copied on the way, and nothing is left behind, whoever dies.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import mmap
import os
import signal
import sys
import threading
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...grid.errors import DeadlineError, DynvidError, InputRefusedError
from ...runtime.child_process import open_replies, requests, send
from ...runtime.model import Model
from ...runtime.open_model import open_model
from ...runtime.prediction import Answer
from ..answer import to_json

_PR_SET_PDEATHSIG = 1
MOST_IN_PROCESS = 256  # videos, so that requests never fill the pipe


def main() -> None:
    """Serve requests until stdin closes. Arguments: those of ``open_model``, as JSON; the parent's process id."""
    options, parent = json.loads(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # systemd sends it to all; this process ends with stdin or its parent
    _end_with(parent)
    worker = _Worker(parent)
    try:
        model = open_model(**options, max_pending=2 * MOST_IN_PROCESS)
        model.classify(_blank(model))  # loads what is loaded at the first call
    except DynvidError as error:
        worker.reply({"failed": [type(error).__name__, str(error)]})
        return
    gc.freeze()  # what is loaded now stays
    worker.serve(model, options["mode"] == "deadline")
    os._exit(0)  # the parent is gone or wants no more answers


class _Worker:
    """Answers requests with one model."""

    def __init__(self, parent: int) -> None:
        self._parent, self._replies, self._lock = parent, open_replies(), threading.Lock()
        self._futures: dict[int, Future[Answer]] = {}

    def reply(self, message: dict[str, Any]) -> None:
        """Send a message, from any thread."""
        with self._lock, suppress(OSError):  # the parent is gone: stdin closes, too
            send(self._replies, json.dumps(message).encode())

    def serve(self, model: Model, deadlines: bool) -> None:
        """Serve requests until stdin closes."""
        self.reply({"ready": _facts(model)})
        for text in requests():
            request = json.loads(text)
            number = request["number"]
            if request["do"] == "ping":
                self.reply({"number": number, "fills": model.fills})
            elif request["do"] == "cancel":
                if number in self._futures:
                    self._futures[number].cancel()
            else:
                self._classify(model, number, request, request["timeout_s"] if deadlines else None)

    def _classify(self, model: Model, number: int, request: dict[str, Any], deadline_s: float | None) -> None:
        path, shape = f"/proc/{self._parent}/fd/{request['fd']}", request["shape"]
        try:
            video = Path(path) if shape is None else _mapped(path, shape)
            future = model.submit(video, deadline_s=deadline_s)
        except InputRefusedError as error:
            self._refuse(number, path, error)
            return
        self._futures[number] = future
        future.add_done_callback(partial(self._done, number, path))

    def _done(self, number: int, path: str, future: Future[Answer]) -> None:
        self._futures.pop(number, None)
        if future.cancelled():
            self.reply({"number": number, "cancelled": True})
            return
        error = future.exception()
        if error is None:
            self.reply({"number": number, "answer": to_json(future.result())})
        elif isinstance(error, DynvidError):
            self._refuse(number, path, error)
        else:  # the stream is broken, and with it this process
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)

    def _refuse(self, number: int, path: str, error: DynvidError) -> None:
        kind = next((k for k in (DeadlineError, InputRefusedError) if isinstance(error, k)), DynvidError)
        self.reply({"number": number, "error": [kind.__name__, str(error).replace(path, "clip")]})


def _end_with(parent: int) -> None:
    """Have the kernel end this process with its parent, even while it is stopped (Linux)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _mapped(path: str, shape: list[int]) -> NDArray[np.uint8]:
    """Return frames in the parent's memory; what ``numpy.memmap`` does, in a third of its time."""
    with open(path, "rb", buffering=0) as file:
        memory = mmap.mmap(file.fileno(), math.prod(shape), mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ)
    return np.frombuffer(memory, np.uint8).reshape(shape)


def _blank(model: Model) -> NDArray[np.uint8]:
    manifest = model.bundle.manifest
    side = manifest.preprocessing.short_side
    return np.zeros((manifest.grid.num_frames, side, side, 3), np.uint8)


def _facts(model: Model) -> dict[str, Any]:
    chosen = model.thresholds
    return {
        "bundle_sha256": model.bundle.sha256,
        "runs": model.runs,
        "checkpoints": len(model.bundle.manifest.route_cells),
        "thresholds": None if chosen is None else chosen.thresholds,
        "expected": None if chosen is None else chosen.expected,
        "most_in_flight": min(model.most_in_flight, MOST_IN_PROCESS),
    }
