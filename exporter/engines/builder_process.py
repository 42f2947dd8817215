"""The process that builds one engine, so that a crash loses nothing else; implements both ends of its pipes.

The parent sends an ``Order``. The child sends progress lines, then either (plan, census, seconds) or an error, each
pickled.
"""

from __future__ import annotations

import logging
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
from .tensorrt_builder import build

LOG = logging.getLogger("dynvid")
_Built = tuple[bytes, Census, float]


@dataclass(frozen=True)
class Order:
    """What a child process is asked to build.

    Attributes:
        name: of the engine, for errors.
        flavour: of TensorRT.
        content: the ONNX model.
        ports: the ports that it must have.
        profiles: shapes to build for.
        targets: compute capabilities; empty: TensorRT-RTX's default, or the present GPU.
    """

    name: str
    flavour: str
    content: bytes
    ports: Ports
    profiles: tuple[Profile, ...]
    targets: tuple[str, ...]


class Children:
    """The processes that are currently building."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[ChildProcess] = set()
        self._ended = False

    def build(self, order: Order) -> _Built:
        """Return the plan, its census, and the seconds that a new process took.

        Raises:
            EngineBuildError: If the process died.
            DynvidError: The error that the process reported.
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
                LOG.debug(f"{order.name}: {reply}")
                reply = pickle.loads(child.receive())
        except ChildFailure as failure:
            raise EngineBuildError(
                f"{order.name}: the process that built it {failure}. Run the command again, with fewer workers if "
                "memory is short; finished engines are kept."
            ) from None
        finally:
            child.stop(at_once=True)
            with self._lock:
                self._running.discard(child)
        if isinstance(reply, DynvidError):
            raise reply
        return reply

    def kill(self) -> None:
        """End all processes, including any that start later."""
        with self._lock:
            self._ended = True
            for child in self._running:
                child.process.kill()


def main() -> None:
    """Build the order from stdin."""
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
