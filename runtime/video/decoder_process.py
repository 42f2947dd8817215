"""The child process that decodes videos, and both ends of its pipes. ``decoder`` explains why it is separate.

Requests and replies are JSON. The reply to ``read`` is followed by the RGB bytes [frames, crop, crop, 3].
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...grid.errors import VideoError
from ...grid.preprocessing import Preprocessing
from ..child_process import ChildFailure, ChildProcess, open_replies, requests, send
from .file import VideoFile
from .frame_folder import FrameFiles, FrameFolder
from .frames import SampledFrames
from .sample_clip import sample_clip
from .view import View

NO_MEMORY = 12
"""Exit code of a child that ran out of memory."""

OUT_OF_TIME = -signal.SIGPROF
"""Exit code of a child that used more CPU time for a video than it may."""

_START_S = 60.0  # to load Python, numpy and PyAV from a cold disk
_MAX_REPLY_BYTES = 1 << 20


class StartFailure(ChildFailure):
    """What a child did instead of becoming ready."""


class Child(ChildProcess):
    """The parent's end.

    Attributes:
        files: number of videos that were opened in it.
    """

    def __init__(self, memory_bytes: int, timeout_s: float, stall_s: float) -> None:
        """Start the process and wait until it is ready.

        Raises:
            StartFailure: If it does not start.
        """
        super().__init__(
            f"from {__name__} import main; main()",
            str(memory_bytes),
            str(timeout_s),
            str(int(stall_s) + 5),
            OPENBLAS_NUM_THREADS="1",  # otherwise every core reserves address space
            OMP_NUM_THREADS="1",
        )
        self.files, self._call_s = 0, stall_s
        try:
            self.receive(_START_S, 0)
        except ChildFailure as failure:
            raise StartFailure(str(failure), failure.code) from None

    def call(self, request: dict[str, Any], pixels: NDArray[np.uint8] | None = None) -> dict[str, Any]:
        """Return the reply to a request; fill ``pixels`` with the bytes that follow it.

        Raises:
            VideoError: If the child reports one.
            ChildFailure: If the child died, hung or sent an invalid reply. The child is gone by then.
        """
        self.heard = b""  # stderr about other videos
        try:
            self.send(json.dumps(request).encode())
            reply: dict[str, Any] = dict(json.loads(self.receive(self._call_s, _MAX_REPLY_BYTES)))
            if "error" not in reply and pixels is not None:
                self.fill(pixels.data.cast("B"))
        except (TypeError, ValueError):
            raise self.refused("gave no valid answer") from None
        except BaseException:  # Ctrl-C too: the rest in the pipe would be taken for the next reply
            self.stop(at_once=True)
            raise
        if "error" in reply:
            raise VideoError(str(reply["error"]))
        return reply


def main() -> None:
    """Serve requests until stdin closes.

    Arguments: address space in bytes, CPU seconds for a request that does not say ``work_s``, seconds per request.
    """
    memory_bytes, work_s, alarm_s = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    replies = open_replies()
    for one in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(one, signal.SIG_DFL)
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),  # the child writes no files
    ):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
    send(replies, b"")  # ready
    videos: dict[int, SampledFrames] = {}
    for text in requests():
        request = json.loads(text)
        began_s = time.process_time()
        signal.alarm(alarm_s)  # end this process even if the parent is gone
        signal.setitimer(signal.ITIMER_PROF, request.get("work_s", work_s))
        try:
            reply, pixels = _answer(videos, request)
            reply["worked_s"] = time.process_time() - began_s
            send(replies, json.dumps(reply).encode(), pixels)
        except VideoError as error:
            send(replies, json.dumps({"error": str(error)}).encode())
        except MemoryError:
            os.write(2, b"ran out of the memory that it may use")
            os._exit(NO_MEMORY)
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)


def _answer(videos: dict[int, SampledFrames], request: dict[str, Any]) -> tuple[dict[str, Any], bytes | memoryview]:
    if request["do"] == "make":
        return {"clip": sample_clip().hex()}, b""
    number = request["video"]
    pixels: bytes | memoryview = b""
    if request["do"] == "close":
        if number in videos:
            videos.pop(number).close()
        return {}, b""
    if request["do"] == "open":
        preprocessing = Preprocessing(**request["preprocessing"])
        view = View.from_json(request["view"])
        path, num_samples = request["path"], request["num_samples"]
        if request["files"] is None:
            videos[number] = VideoFile(path, preprocessing, num_samples, view)
        else:
            videos[number] = FrameFolder(path, FrameFiles(**request["files"]), preprocessing, num_samples, view)
    else:
        pixels = videos[number].pixels(request["samples"]).data.cast("B")
    known = ("frames_total", "frames_decoded", "passed", "damaged", "warnings")
    return {name: getattr(videos[number], name) for name in known}, pixels
