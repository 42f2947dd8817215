"""Videos decoded in a child process, so that one that crashes, hangs or bloats it hurts itself only."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..grid.errors import UsageError, VideoError
from ..grid.preprocessing import Preprocessing
from .closing import Closing
from .decoder_child import Child, ChildFailure
from .frames import FrameArray, FrameSource, SampledFrames, regular_file


class Decoder(Closing):
    """A long-lived child process that decodes video files; started when first needed, and after each death.

    Several videos may be open at once, and threads may share a decoder: requests take turns. A video during
    whose request the child dies or hangs gets a ``VideoError``; the others go on in the next child.
    A process that was forked off starts a child of its own.
    """

    def __init__(self, *, timeout_s: float = 30.0, memory_bytes: int = 4 << 30, files_per_child: int = 1000) -> None:
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
                f"timeout {timeout_s} s, memory {memory_bytes} bytes, {files_per_child} files a child: "
                "expected numbers above 0"
            )
        self.timeout_s, self.memory_bytes, self.files_per_child = timeout_s, memory_bytes, files_per_child
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Process id of the child, None before the first video."""
        return None if self._child is None else self._child.process.pid

    def open(self, path: str | os.PathLike[str], preprocessing: Preprocessing, num_samples: int) -> FrameSource:
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

    def _living_child(self, *, recycle: bool) -> Child:
        if self._closed:
            raise UsageError("the decoder is closed: open the video with another one")
        child = self._child
        if child is not None and child.alive() and not (recycle and child.files >= self.files_per_child):
            return child
        if child is not None:
            child.stop()
        self._child = None
        self._child = Child(self.memory_bytes, self.timeout_s)
        return self._child


class _ChildVideo(SampledFrames):
    """A video that is open in a child."""

    _numbers = itertools.count()

    def __init__(
        self, decoder: Decoder, path: str | os.PathLike[str], preprocessing: Preprocessing, num_samples: int
    ) -> None:
        super().__init__(preprocessing, num_samples)
        started = time.perf_counter()
        self._decoder = decoder
        self._name, self._path = f"video '{path}'", regular_file(path)
        self._number = next(self._numbers)
        self._child: Child | None = None
        self._earlier = 0  # frames decoded for it in children that are gone
        self._refused = ""
        self._ask(None, recycle=True)
        self.decode_ms = (time.perf_counter() - started) * 1e3

    def pixels(self, samples: Sequence[int]) -> NDArray[np.uint8]:
        """Return RGB frames [frames, crop, crop, 3] of temporal sample numbers; errors as ``read``."""
        self.check(samples)
        crop = self.preprocessing.crop
        pixels = np.empty((len(samples), crop, crop, 3), np.uint8)
        request = {"do": "read", "video": self._number, "samples": [int(sample) for sample in samples]}
        self._ask(request, pixels)
        return pixels

    def close(self) -> None:
        """Let the child close the file."""
        super().close()
        with self._decoder._lock:
            child, self._child = self._child, None
            if child is not None and child.alive():
                with contextlib.suppress(ChildFailure):  # the next video starts another child
                    child.call({"do": "close", "video": self._number})

    def _ask(
        self,
        request: dict[str, Any] | None,
        pixels: NDArray[np.uint8] | None = None,
        *,
        recycle: bool = False,
    ) -> None:
        """Open the video where the child does not know it yet, then send a request, if there is one."""
        if self._refused:
            raise VideoError(f"{self._name} {self._refused}")
        with self._decoder._lock:
            child = self._decoder._living_child(recycle=recycle)
            try:
                if child is not self._child:
                    self._open(child)
                if request is not None:
                    self._note(child.call(request, pixels))
            except ChildFailure as failure:
                self._refused = f"cannot be decoded: the decoder process {failure}. Leave it out, or repair it."
                raise VideoError(f"{self._name} {self._refused}") from None

    def _open(self, child: Child) -> None:
        self._child, self._earlier, known = child, self.frames_decoded, self.frames_total
        child.files += 1
        self._note(
            child.call(
                {
                    "do": "open",
                    "video": self._number,
                    "path": self._path,
                    "preprocessing": asdict(self.preprocessing),
                    "num_samples": self.num_samples,
                }
            )
        )
        if known and known != self.frames_total:
            raise VideoError(f"{self._name} changed from {known} to {self.frames_total} frames while it was open.")

    def _note(self, reply: dict[str, Any]) -> None:
        self.frames_total = int(reply["frames_total"])
        self.frames_decoded = self._earlier + int(reply["frames_decoded"])
        for warning in reply["warnings"]:
            self.doubt(str(warning), damaged=bool(reply["damaged"]))
