"""The process in which one engine is built, so that one that crashes loses nothing else: both ends of its pipes.

An ``Order`` goes to it; lines of progress come back, then either (plan, census, seconds) or an error, each pickled.
"""

from __future__ import annotations

import pickle
import threading
import time
from dataclasses import dataclass

from ...grid.engines.key import Profile
from ...grid.errors import DynvidError, EngineBuildError
from ...grid.tensors import Ports
from ...runtime.backends.tensorrt_api import open_api
from ...runtime.child_process import ChildFailure, ChildProcess, end_with_the_parent, open_replies, requests, send
from .dtype_census import Census
from .tensorrt_builder import Report, build

_Built = tuple[bytes, Census, float]


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
        self._running: set[ChildProcess] = set()
        self._ended = False

    def build(self, order: Order, report: Report) -> _Built:
        """Return the plan, its census, and the seconds that a new process needed.

        Raises:
            EngineBuildError: If it died.
            DynvidError: As it found.
        """
        child = ChildProcess(f"from {__name__} import main; main()")
        with self._lock:
            self._running.add(child)
            if self._ended:
                child.process.kill()
        try:
            child.send(pickle.dumps(order))
            reply: str | DynvidError | _Built = pickle.loads(child.receive())
            while isinstance(reply, str):
                report(reply)
                reply = pickle.loads(child.receive())
        except ChildFailure as failure:
            raise EngineBuildError(
                f"{order.name}: the process that built it {failure}. Run the command again, with fewer builds at once where "
                "memory is short: what is built is kept."
            ) from None
        finally:
            child.stop(at_once=True)
            with self._lock:
                self._running.discard(child)
        if isinstance(reply, DynvidError):
            raise reply
        return reply

    def kill(self) -> None:
        """End all of them, and every one that starts later."""
        with self._lock:
            self._ended = True
            for child in self._running:
                child.process.kill()


def main() -> None:
    """Build what the order on stdin asks for."""
    replies = open_replies()
    order = pickle.loads(next(requests()))
    end_with_the_parent()

    def reply(what: str | DynvidError | _Built) -> None:
        send(replies, pickle.dumps(what))

    try:
        api = open_api(order.flavour)
        started = time.perf_counter()
        plan, census = build(api, order.content, order.ports, order.name, order.profiles, order.targets, reply)
    except DynvidError as error:
        reply(error)
    else:
        reply((plan, census, round(time.perf_counter() - started, 3)))
