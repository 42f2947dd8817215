"""Both ends of the pipes to a child Python process, which runs code that may crash or hang.

A message is a little-endian uint64 length followed by that many bytes. Requests go to the child's stdin and replies
come from its stdout. The child exits when its stdin closes. While the parent waits for a message it also reads the
child's stderr and keeps the end of it, which says why the child died.
"""

from __future__ import annotations

import contextlib
import errno
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

from ..grid.errors import EnvironmentFaultError, ResourceError
from ..grid.storage.files import remedy_for

_LENGTH = struct.Struct("<Q")
_NOT_A_PROGRAM = (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR)
_FOR_EVER_S = 1e6  # poll accepts at most 24 days
_END_S = 5.0  # grace period for a child whose pipes are closed
_PIPE_BYTES = 1 << 20
_MOST_HEARD = 1 << 16  # bytes of stderr to keep
_MOST_SAID = 300  # characters of its last line to quote in a message


class ChildFailure(Exception):
    """What a child process did instead of answering, phrased to follow "the process".

    Attributes:
        code: the exit code; if negative, the signal that ended the process.
        late: whether it did not answer in time.
    """

    def __init__(self, what: str, code: int, *, late: bool = False) -> None:
        super().__init__(what)
        self.code = code
        self.late = late


class ChildProcess:
    """The parent's end: one child process and the pipes to it.

    Dropping the object closes the pipes, and the process exits. In a forked process the object can only be dropped.

    Attributes:
        process: the child.
        heard: the last bytes of its stderr.
    """

    def __init__(self, code: str, *arguments: str, **environment: str) -> None:
        """Start Python on ``code`` with this process's ``sys.path``.

        The child gets its own session, so that Ctrl-C reaches only the parent.

        Raises:
            EnvironmentFaultError: If Python's own program is unknown or missing.
            ResourceError: If the system starts no more processes.
        """
        if not sys.executable:
            raise EnvironmentFaultError(
                f"sys.executable is {sys.executable!r}, so no Python process can be started: expected the path of the "
                "interpreter. Start Python by its path, or set sys.executable to it."
            )
        paths = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
        try:
            self.process = subprocess.Popen(
                # -P: do not import a numpy.py from the current folder
                [sys.executable, "-P", "-c", code, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                # no colours, because error messages quote its last line
                env=os.environ | {"PYTHONPATH": paths, "PYTHON_COLORS": "0"} | environment,
            )
        except OSError as error:
            if error.errno in _NOT_A_PROGRAM:
                raise EnvironmentFaultError(
                    f"{sys.executable!r} (sys.executable) cannot be started ({error.strerror}): expected the path of "
                    "the interpreter. Start Python by its path, or set sys.executable to it."
                ) from None
            remedy = remedy_for(error, "close other programs")
            raise ResourceError(f"a process cannot be started ({error.strerror}): {remedy}") from None
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
        """Return whether this process can send messages; always False in a forked process."""
        return self.process.poll() is None  # 0 after a fork: not a child of that process

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
        """Return the next message, of at most ``most`` bytes.

        Raises:
            ChildFailure: If none arrives in time or the process has died. The child is gone by then.
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
        """Fill ``view`` with the bytes after a message, within the same deadline; raises as ``receive`` does."""
        while view:
            left_ms = (self._deadline - time.monotonic()) * 1e3
            ready = [file for file, _ in self._poll.poll(left_ms)] if left_ms > 0 else []
            if not ready:
                raise self.refused(f"did not answer within {self._timeout_s:g} s", late=True)
            if self._errors.fileno() in ready and not self._listen():
                self._poll.unregister(self._errors)
            if self._replies.fileno() in ready:
                got = os.readv(self._replies.fileno(), [view])
                if not got:
                    raise self._death()
                view = view[got:]

    def refused(self, what: str, *, late: bool = False) -> ChildFailure:
        """Kill the process for what it did, and return that as a failure."""
        self.stop(at_once=True)
        return ChildFailure(f"{what} and was killed", self.process.returncode, late=late)

    def stop(self, *, at_once: bool = False) -> None:
        """End the process: ``at_once``, or after a few seconds to exit by itself. May be called again."""
        if at_once:
            self.process.kill()
        with contextlib.suppress(OSError):  # unread requests
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
        """Keep the end of stderr; return whether more may come."""
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
    """Write a message to a pipe, then the bytes ``more``.

    Raises:
        OSError: If nobody reads the pipe any more.
    """
    pipe.writelines([_LENGTH.pack(len(message)), message, more])
    pipe.flush()


def open_replies() -> IO[bytes]:
    """In a child, return the pipe for replies and redirect stdout to stderr."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return replies


def requests() -> Iterator[bytes]:
    """In a child, yield the messages from stdin until it closes."""
    while length := sys.stdin.buffer.read(_LENGTH.size):
        yield sys.stdin.buffer.read(*_LENGTH.unpack(length))


def end_with_the_parent() -> None:
    """Make a child that expects no more messages exit when its stdin closes."""

    def watch() -> None:
        os.read(0, 1)  # sys.stdin has a lock that the interpreter needs at exit
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
