"""A child process of our own Python in which something may crash or hang: both ends of its pipes.

Messages go to its stdin and come from its stdout: a little-endian uint64, then so many bytes. It ends when its stdin does. What
comes on its stderr is listened to while a message is awaited, and the end of it is kept: it says why the process ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO, cast

_LENGTH = struct.Struct("<Q")
_FOR_EVER_S = 1e6  # poll takes no more than 24 days
_END_S = 5.0  # that a process whose pipes are closed gets to end by itself
_PIPE_BYTES = 1 << 20
_MOST_HEARD = 1 << 16  # bytes kept of stderr
_MOST_SAID = 300  # characters of its last line that go into a message


class ChildFailure(Exception):
    """What a child process did instead of answering, in words that go after "the process".

    Attributes:
        code: its exit code; negative: the signal that ended it.
    """

    def __init__(self, what: str, code: int) -> None:
        super().__init__(what)
        self.code = code


class ChildProcess:
    """The parent's end: one child process and the pipes to it.

    Where it is dropped, its pipes close, and the process ends. A process that was forked off can only let go of it.

    Attributes:
        process: the process.
        heard: the end of what it said on stderr, bytes.
    """

    def __init__(self, code: str, *arguments: str, **environment: str) -> None:
        """Start Python on ``code``, with this process's ``sys.path`` and in a session of its own: Ctrl-C is for the parent."""
        paths = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
        self.process = subprocess.Popen(
            # -P: not the current folder's numpy.py, if there is one
            [sys.executable, "-P", "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            # its last words are quoted: in no colours
            env=os.environ | {"PYTHONPATH": paths, "PYTHON_COLORS": "0"} | environment,
        )
        pipes = [self.process.stdin, self.process.stdout, self.process.stderr]
        self._requests, self._replies, self._errors = cast("list[IO[bytes]]", pipes)
        self.heard = b""
        os.set_blocking(self._errors.fileno(), False)
        with contextlib.suppress(OSError, AttributeError):  # AttributeError: not Linux
            fcntl.fcntl(self._replies, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._poll = select.poll()
        self._poll.register(self._replies, select.POLLIN)
        self._poll.register(self._errors, select.POLLIN)

    def alive(self) -> bool:
        """Return whether messages can be sent from this process; never from one that was forked off it."""
        return self.process.poll() is None  # 0 there: no child of it

    def send(self, message: bytes) -> None:
        """Send a message.

        Raises:
            ChildFailure: If the process has died.
        """
        try:
            send(self._requests, message)
        except OSError:  # it has closed its end
            raise self._death() from None

    def receive(self, timeout_s: float = _FOR_EVER_S, most: int = 1 << 40) -> bytearray:
        """Return the next message, of at most so many bytes.

        Raises:
            ChildFailure: If none comes in time, or the process has died; it is gone then.
        """
        self._timeout_s, self._deadline = timeout_s, time.monotonic() + timeout_s
        length = bytearray(_LENGTH.size)
        self.fill(memoryview(length))
        (size,) = _LENGTH.unpack(length)
        if size > most:
            raise self.refused("gave no valid answer")
        message = bytearray(size)
        self.fill(memoryview(message))
        return message

    def fill(self, view: memoryview) -> None:
        """Fill ``view`` with bytes that follow a message, in what is left of its time; errors as ``receive``."""
        while view:
            left_ms = (self._deadline - time.monotonic()) * 1e3
            ready = [file for file, _ in self._poll.poll(left_ms)] if left_ms > 0 else []
            if not ready:
                raise self.refused(f"did not answer within {self._timeout_s:g} s")
            if self._errors.fileno() in ready and not self._listen():
                self._poll.unregister(self._errors)
            if self._replies.fileno() in ready:
                got = os.readv(self._replies.fileno(), [view])
                if not got:
                    raise self._death()
                view = view[got:]

    def refused(self, what: str) -> ChildFailure:
        """Kill the process for what it did; return that as a failure."""
        self.stop(at_once=True)
        return ChildFailure(f"{what} and was killed", self.process.returncode)

    def stop(self, *, at_once: bool = False) -> None:
        """End the process, after it was left a few seconds to end by itself or ``at_once``; may be called again."""
        if at_once:
            self.process.kill()
        with contextlib.suppress(OSError):  # what it did not read
            self._requests.close()
        self._replies.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_END_S)
        self.process.kill()
        self.process.wait()
        if not self._errors.closed:
            self._listen()
        self._errors.close()

    def _listen(self) -> bool:
        """Keep the end of what is on stderr; return whether more may come."""
        try:
            heard = os.read(self._errors.fileno(), _PIPE_BYTES)
        except BlockingIOError:
            return True
        self.heard = (self.heard + heard)[-_MOST_HEARD:]
        return bool(heard)

    def _death(self) -> ChildFailure:
        self.stop()
        code = self.process.returncode
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        last = self.heard.decode(errors="replace").rstrip().rpartition("\n")[2].strip()[:_MOST_SAID]
        said = "".join(c if c.isprintable() else "?" for c in last)
        return ChildFailure(f"died ({how})" + (f": {said}" if said else ""), code)


def send(pipe: IO[bytes], message: bytes, more: bytes | memoryview = b"") -> None:
    """Write a message to a pipe, and bytes that follow it.

    Raises:
        OSError: If nobody reads it any more.
    """
    pipe.writelines([_LENGTH.pack(len(message)), message, more])
    pipe.flush()


def open_replies() -> IO[bytes]:
    """Return, in a child, the pipe for its replies; what is printed goes to stderr from here on."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return replies


def requests() -> Iterator[bytes]:
    """Yield, in a child, the messages on its stdin until that ends."""
    while length := sys.stdin.buffer.read(_LENGTH.size):
        yield sys.stdin.buffer.read(*_LENGTH.unpack(length))


def end_with_the_parent() -> None:
    """Have a child that expects no more messages die when its stdin ends."""

    def watch() -> None:
        os.read(0, 1)  # not through sys.stdin, whose lock the interpreter wants at its end
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
