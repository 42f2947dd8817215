"""The process in which one engine is built, so that one that crashes loses nothing else: both ends of its pipes.

An ``Order`` comes on its stdin; on its stdout go ``("progress", line)`` as often as there is any, then either ``("built",
plan, census, seconds)`` or ``("failed", error)``, each pickled. It ends when its stdin does.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from ..grid.engine_key import Profile
from ..grid.errors import DynvidError, EngineBuildError
from ..grid.tensors import Ports
from ..runtime.backends.tensorrt_api import open_api
from .census import Census
from .engine_builder import Report, build

_END_S = 5.0


@dataclass(frozen=True)
class Order:
    """What a child process is asked to build.

    Attributes:
        name: of the engine, for errors.
        flavour: of TensorRT.
        content: the ONNX model.
        ports: that it must have.
        profiles: shapes to build for.
        targets: compute capabilities; none: TensorRT-RTX's default, or the present GPU.
    """

    name: str
    flavour: str
    content: bytes
    ports: Ports
    profiles: tuple[Profile, ...]
    targets: tuple[str, ...]


class Children:
    """The processes that build at this moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False

    def build(self, order: Order, report: Report) -> tuple[bytes, Census, float]:
        """Return the plan, its census, and the seconds that a new process needed.

        Raises:
            EngineBuildError: If it died.
            DynvidError: As it found.
        """
        with tempfile.TemporaryFile() as complaints:
            child = self._start(complaints)
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                pickle.dump(order, child.stdin)
                child.stdin.flush()
                while True:
                    kind, *content = pickle.load(child.stdout)
                    if kind == "progress":
                        report(*content)
                    elif kind == "failed":
                        raise content[0]
                    else:
                        plan, census, seconds = content
                        return plan, census, seconds
            except (EOFError, OSError, pickle.UnpicklingError):
                with suppress(subprocess.TimeoutExpired):
                    child.wait(_END_S)
                child.kill()
                raise _death(order.name, child.wait(), complaints) from None
            finally:
                child.kill()
                child.wait()
                child.stdout.close()
                with suppress(BrokenPipeError):
                    child.stdin.close()
                with self._lock:
                    self._running.discard(child)

    def kill(self) -> None:
        """End all of them, and every one that starts later."""
        with self._lock:
            self._ended = True
            for child in self._running:
                child.kill()

    def _start(self, complaints: IO[bytes]) -> subprocess.Popen[bytes]:
        # -P: not the current folder's onnx.py, if there is one
        command = [sys.executable, "-P", "-c", f"from {__name__} import main; main()"]
        paths = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=os.environ | {"PYTHONPATH": paths},
        )
        with self._lock:
            self._running.add(child)
            if self._ended:
                child.kill()
        return child


def _death(name: str, code: int, complaints: IO[bytes]) -> EngineBuildError:
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    complaints.seek(0)
    lines = complaints.read().decode(errors="replace").strip().splitlines()
    said = f", saying {lines[-1][:200]!r}" if lines else ""
    return EngineBuildError(
        f"{name}: the process that built it died ({how}){said}. Run the command again, with fewer builds at once where memory "
        "is short: what is built is kept."
    )


def main() -> None:
    """Build what the order on stdin asks for."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # TensorRT prints some of its errors
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent ends this process
    order = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()

    def send(*reply: object) -> None:
        pickle.dump(reply, replies)
        replies.flush()

    try:
        api = open_api(order.flavour)
        started = time.perf_counter()
        plan, census = build(
            api,
            order.content,
            order.ports,
            order.name,
            order.profiles,
            order.targets,
            lambda line: send("progress", line),
        )
    except DynvidError as error:
        send("failed", error)
    else:
        send("built", plan, census, round(time.perf_counter() - started, 3))


def _end_with_the_parent() -> None:
    """Die when stdin ends: the parent holds it open for as long as it waits."""
    os.read(0, 1)  # not through sys.stdin, whose lock the interpreter wants at its end
    os._exit(1)
