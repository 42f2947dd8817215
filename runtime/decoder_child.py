"""The child process in which videos are decoded; ``decoder`` starts it and explains why.

Requests come on stdin, replies go to stdout: a little-endian uint32, so many bytes of JSON, then, in a reply
to ``read``, the RGB bytes [frames, crop, crop, 3]. The process ends when stdin does.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import sys
from io import RawIOBase
from typing import Any

from ..grid.errors import VideoError
from ..grid.preprocessing import Preprocessing
from .video import VideoFile

LENGTH = struct.Struct("<I")


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
    while header := requests.read(LENGTH.size):
        request = json.loads(requests.read(LENGTH.unpack(header)[0]))
        signal.alarm(alarm_s)  # ends this process even if the parent is gone
        try:
            _send(replies, *_answer(videos, request))
        except VideoError as error:
            _send(replies, {"error": str(error)})
        signal.alarm(0)


def _answer(videos: dict[int, VideoFile], request: dict[str, Any]) -> tuple[dict[str, Any], memoryview]:
    number, pixels = request["video"], memoryview(b"")
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


def _send(replies: RawIOBase, reply: dict[str, Any], pixels: memoryview = memoryview(b"")) -> None:
    header = json.dumps(reply).encode()
    for part in (memoryview(LENGTH.pack(len(header)) + header), pixels):
        while part:
            part = part[replies.write(part) :]
