"""The child process in which videos are decoded: both ends of its pipes. ``decoder`` says why.

Requests come on its stdin, replies go to its stdout: a little-endian uint32, so many bytes of JSON, then, in
a reply to ``read``, the RGB bytes [frames, crop, crop, 3]. It ends when its stdin does. What comes on its stderr
is listened to while a reply is awaited, and the end of it is kept: it says why the process ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import time
from io import RawIOBase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..grid.errors import VideoError
from ..grid.preprocessing import Preprocessing
from .sample_clip import sample_clip
from .video import VideoFile

_LENGTH = struct.Struct("<I")
_START_S = 60.0  # for Python, numpy and PyAV to load, from a cold disk
_MAX_REPLY_BYTES = 1 << 20
_PIPE_BYTES = 1 << 20
_MOST_HEARD = 1 << 16  # bytes kept of stderr
_MOST_SAID = 300  # characters of its last line that go into a message
_NO_MEMORY = 12  # exit code
_NO_PIXELS = memoryview(b"")


class ChildFailure(Exception):
    """What a child did instead of answering.

    Attributes:
        ended_itself: whether the process ended by its own doing, as with a Python exception that nobody foresaw: no
            signal, no lack of memory. Then nothing says yet that the video is to blame.
    """

    def __init__(self, what: str, *, ended_itself: bool = False) -> None:
        super().__init__(what)
        self.ended_itself = ended_itself


class StartFailure(ChildFailure):
    """What a child did instead of getting ready."""


class Child:
    """The parent's end: one child process and the pipes to it."""

    def __init__(self, memory_bytes: int, timeout_s: float) -> None:
        """Start the process and wait until it is ready.

        Raises:
            StartFailure: If it does not start.
        """
        self.files = 0
        self._owner = os.getpid()
        self._timeout_s = timeout_s
        # -P: not the current folder's av.py, if there is one. Its own session: Ctrl-C is for the parent.
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-c",
                f"from {__name__} import main; main()",
                str(memory_bytes),
                str(int(timeout_s) + 5),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(os.path.abspath(folder) for folder in sys.path),
                "OPENBLAS_NUM_THREADS": "1",  # else every core reserves address space
                "OMP_NUM_THREADS": "1",
                "PYTHON_COLORS": "0",  # its last words are quoted
            },
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._requests, self._replies, self._errors = self.process.stdin, self.process.stdout, self.process.stderr
        self._heard = b""
        os.set_blocking(self._errors.fileno(), False)
        with contextlib.suppress(OSError, AttributeError):  # AttributeError: not Linux
            fcntl.fcntl(self._replies, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        try:
            self._reply(time.monotonic() + _START_S)
        except ChildFailure as failure:
            raise StartFailure(str(failure)) from None

    def alive(self) -> bool:
        """Return whether requests can be sent from this process."""
        return self._owner == os.getpid() and self.process.poll() is None

    def call(self, request: dict[str, Any], pixels: NDArray[np.uint8] | None = None) -> dict[str, Any]:
        """Return the reply to a request, and fill ``pixels`` with the bytes that follow it.

        Raises:
            VideoError: As the child found it.
            ChildFailure: If the child died, hung, or answered nonsense; it is gone then.
        """
        deadline = time.monotonic() + self._timeout_s
        try:
            body = json.dumps(request).encode()
            self._requests.write(_LENGTH.pack(len(body)) + body)
            reply = self._reply(deadline)
            if "error" not in reply and pixels is not None:
                self._fill(pixels.data.cast("B"), deadline)
        except OSError:  # it has closed its end
            raise self._death() from None
        except BaseException:  # Ctrl-C too: what is still in the pipe would be taken for the next reply
            self.stop(at_once=True)
            raise
        if "error" in reply:
            raise VideoError(str(reply["error"]))
        return reply

    def stop(self, *, at_once: bool = False) -> None:
        """End the process; where it was forked from elsewhere, only let go of the pipes."""
        own = self._owner == os.getpid()
        if own and at_once:
            self.process.kill()
        self._requests.close()  # it ends when its stdin does
        self._replies.close()
        if own:
            try:
                self.process.wait(1.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            if not self._errors.closed:
                self._listen()
        else:
            self.process.returncode = 0  # the process that started it waits for it
        self._errors.close()

    def _reply(self, deadline: float) -> dict[str, Any]:
        length = bytearray(_LENGTH.size)
        self._fill(memoryview(length), deadline)
        size = _LENGTH.unpack(length)[0]
        header = bytearray(min(size, _MAX_REPLY_BYTES))
        self._fill(memoryview(header), deadline)
        try:
            reply = json.loads(header)
        except ValueError:  # also where the reply is over the cap
            reply = None
        if not isinstance(reply, dict):
            self.stop(at_once=True)
            raise ChildFailure("gave no valid answer and was killed")
        return reply

    def _fill(self, view: memoryview, deadline: float) -> None:
        """Read until ``view`` is full."""
        poll = select.poll()
        poll.register(self._replies, select.POLLIN)
        poll.register(self._errors, select.POLLIN)
        while view:
            left_ms = (deadline - time.monotonic()) * 1e3
            ready = [file for file, _ in poll.poll(left_ms)] if left_ms > 0 else []
            if not ready:
                self.stop(at_once=True)
                raise ChildFailure(f"did not answer within {self._timeout_s:g} s and was killed")
            if self._errors.fileno() in ready and not self._listen():
                poll.unregister(self._errors)
            if self._replies.fileno() not in ready:
                continue
            got = os.readv(self._replies.fileno(), [view])
            if not got:
                raise self._death()
            view = view[got:]

    def _listen(self) -> bool:
        """Keep the end of what is on stderr; return whether more may come."""
        try:
            heard = os.read(self._errors.fileno(), _PIPE_BYTES)
        except BlockingIOError:
            return True
        self._heard = (self._heard + heard)[-_MOST_HEARD:]
        return bool(heard)

    def _death(self) -> ChildFailure:
        self.stop()
        code = self.process.returncode
        if code < 0:
            return ChildFailure(f"died ({signal.Signals(-code).name})")
        if code == _NO_MEMORY:
            return ChildFailure("ran out of the memory that it may use")
        lines = self._heard.decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing on stderr")
        last = "".join(c if c.isprintable() else "?" for c in last[:_MOST_SAID])
        return ChildFailure(f"died (exit code {code}): {last}", ended_itself=True)


def main() -> None:
    """Serve requests until stdin ends; arguments: address space in bytes, seconds that a request may take."""
    memory_bytes, alarm_s = int(sys.argv[1]), int(sys.argv[2])
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb", 0)
    os.dup2(2, 1)  # what a library prints must not land among the replies
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),  # nothing is written here
    ):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
    _send(replies, {"ready": True})
    videos: dict[int, VideoFile] = {}
    while header := requests.read(_LENGTH.size):
        request = json.loads(requests.read(_LENGTH.unpack(header)[0]))
        signal.alarm(alarm_s)  # ends this process even if the parent is gone
        try:
            _send(replies, *_answer(videos, request))
        except VideoError as error:
            _send(replies, {"error": str(error)})
        except MemoryError:
            os._exit(_NO_MEMORY)
        signal.alarm(0)


def _answer(videos: dict[int, VideoFile], request: dict[str, Any]) -> tuple[dict[str, Any], memoryview]:
    if request["do"] == "make":
        return {"clip": sample_clip().hex()}, _NO_PIXELS
    number, pixels = request["video"], _NO_PIXELS
    if request["do"] == "close":
        if number in videos:
            videos.pop(number).close()
        return {}, pixels
    if request["do"] == "open":
        preprocessing = Preprocessing(**request["preprocessing"])
        videos[number] = VideoFile(request["path"], preprocessing, request["num_samples"])
    else:
        pixels = videos[number].pixels(request["samples"]).data.cast("B")
    known = ("frames_total", "frames_decoded", "damaged", "warnings")
    return {name: getattr(videos[number], name) for name in known}, pixels


def _send(replies: RawIOBase, reply: dict[str, Any], pixels: memoryview = _NO_PIXELS) -> None:
    header = json.dumps(reply).encode()
    for part in (memoryview(_LENGTH.pack(len(header)) + header), pixels):
        while part:
            part = part[replies.write(part) :]
