"""Videos decoded in a child process, so that one that crashes, hangs or bloats the decoder hurts itself only."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..grid.errors import EnvironmentFaultError, UsageError, VideoError
from ..grid.preprocessing import Preprocessing
from .decoder_child import LENGTH
from .frames import FrameArray, FrameSource, SampledFrames, regular_file

_START_S = 60.0  # for Python, numpy and PyAV to load, from a cold disk
_MAX_REPLY_BYTES = 1 << 20
_PIPE_BYTES = 1 << 20


class Decoder:
    """A long-lived child process that decodes video files; started when first needed, and after each death.

    Several videos may be open at once, and threads may share a decoder: requests take turns. A video during
    whose request the child dies or hangs gets a ``VideoError``; the others go on in the next child.
    A process that was forked off starts a child of its own.
    """

    def __init__(
        self, *, timeout_s: float = 30.0, memory_bytes: int = 4 << 30, files_per_child: int = 1000
    ) -> None:
        """Configure the children.

        Args:
            timeout_s: Longest time that one read, or opening one video, may take.
            memory_bytes: Address space of a child.
            files_per_child: Videos after which a child is replaced, against leaks.

        Raises:
            UsageError: If one of them is not positive.
        """
        if min(timeout_s, memory_bytes, files_per_child) <= 0:
            raise UsageError(
                f"timeout {timeout_s} s, memory {memory_bytes} bytes, {files_per_child} files a decoder process: "
                "expected numbers above 0"
            )
        self.timeout_s, self.memory_bytes, self.files_per_child = timeout_s, memory_bytes, files_per_child
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Process id of the child, None before the first video."""
        return None if self._child is None else self._child.process.pid

    def open(
        self, path: str | os.PathLike[str], preprocessing: Preprocessing, num_samples: int
    ) -> FrameSource:
        """Return the frames of a video file, or of a ``.npy``, which is read in this process.

        Raises:
            VideoError: If the video cannot be read, or opening it kills or hangs the child.
            FramesError: If a ``.npy`` holds something else.
            EnvironmentFaultError: If no child can be started.
        """
        if os.fspath(path).lower().endswith(".npy"):
            return FrameArray(path, preprocessing, num_samples)
        return _ChildVideo(self, path, preprocessing, num_samples)

    def close(self) -> None:
        """End the child; the videos that are open cannot be read any more."""
        with self._lock:
            self._closed = True
            if self._child is not None:
                self._child.stop()
                self._child = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def _living_child(self, *, recycle: bool) -> _Child:
        if self._closed:
            raise UsageError("the decoder is closed: open the video with another one")
        child = self._child
        if child is not None and child.alive() and not (recycle and child.files >= self.files_per_child):
            return child
        if child is not None:
            child.stop()
        self._child = None
        self._child = _Child(self.memory_bytes, self.timeout_s)
        return self._child


class _Child:
    """One child process and the pipes to it."""

    def __init__(self, memory_bytes: int, timeout_s: float) -> None:
        self.files = 0
        self._owner = os.getpid()
        self._timeout_s = timeout_s
        # -P: a file av.py in the current folder must not be imported. Its own session: Ctrl-C is the parent's.
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-c",
                f"from {__package__}.decoder_child import main; main()",
                str(memory_bytes),
                str(int(timeout_s) + 5),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(os.path.abspath(folder) for folder in sys.path),
                "OPENBLAS_NUM_THREADS": "1",  # else every core reserves address space
                "OMP_NUM_THREADS": "1",
            },
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._requests, self._replies = self.process.stdin, self.process.stdout
        with contextlib.suppress(OSError, AttributeError):  # AttributeError: not Linux
            fcntl.fcntl(self._replies, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        try:
            self._reply(time.monotonic() + _START_S)
        except _ChildFailure as failure:
            raise EnvironmentFaultError(
                f"the decoder process {failure} while it started. Expected '{sys.executable}' to load av and numpy "
                "there; run 'dynvid doctor'."
            ) from None

    def alive(self) -> bool:
        """Return whether requests can be sent from this process."""
        return self._owner == os.getpid() and self.process.poll() is None

    def call(self, request: dict[str, Any], pixels: NDArray[np.uint8] | None = None) -> dict[str, Any]:
        """Return the reply to a request, and fill ``pixels`` with the bytes that follow it.

        Raises:
            VideoError: As the child found it.
            _ChildFailure: If the child died, hung, or answered nonsense; it is gone then.
        """
        deadline = time.monotonic() + self._timeout_s
        try:
            body = json.dumps(request).encode()
            self._requests.write(LENGTH.pack(len(body)) + body)
            reply = self._reply(deadline)
            if "error" not in reply and pixels is not None:
                self._fill(memoryview(pixels).cast("B"), deadline)
        except OSError:
            raise self._failure() from None
        except BaseException:  # Ctrl-C too: what is still in the pipe would be taken for the next reply
            self.stop(at_once=True)
            raise
        if "error" in reply:
            raise VideoError(str(reply["error"]))
        return reply
