"""Decode videos in a child process, so that a video that crashes, hangs or bloats it harms only itself."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...grid.errors import DecoderFaultError, DecodeTimeoutError, DynvidError, UsageError, VideoError
from ...grid.preprocessing import Preprocessing
from ..child_process import ChildFailure
from ..closing import Closing
from .decoder_process import NO_MEMORY, OUT_OF_TIME, Child, StartFailure
from .frame_folder import FrameFiles
from .frames import FrameArray, SampledFrames, regular_file
from .sample_clip import AS_IT_IS, FRAMES, sample_pixels
from .view import AS_DEPLOYED, View

DECODE_TIMEOUT_S = 60.0
"""Default limit of the CPU time for a video: opening it, and all reads of it."""


class Decoder(Closing):
    """A long-lived child process that decodes video files. It starts on first use, and again after each death.

    Several videos may be open at once. Threads may share a decoder; requests take turns. If the child dies or hangs
    during a request, that video gets a ``VideoError`` and the others continue in the next child. If the child ends
    with an unexpected exception, ``check`` tells whether the video is to blame. A forked process starts its own
    child.
    """

    def __init__(
        self,
        *,
        timeout_s: float = DECODE_TIMEOUT_S,
        stall_s: float = 300.0,
        memory_bytes: int = 4 << 30,
        files_per_child: int = 1000,
    ) -> None:
        """Configure the children.

        Args:
            timeout_s: most CPU time for one video: opening it, and all reads of it. It counts work, so a busy machine
                does not shorten it.
            stall_s: longest wait for one of them, as when a disk does not answer.
            memory_bytes: address space of a child.
            files_per_child: number of videos after which a child is replaced, to contain leaks.

        Raises:
            UsageError: If one of them is not positive.
        """
        if min(timeout_s, stall_s, memory_bytes, files_per_child) <= 0:
            raise UsageError(
                f"timeout {timeout_s} s, stall {stall_s} s, memory {memory_bytes} bytes, {files_per_child} files per child: "
                "expected numbers above 0"
            )
        self.timeout_s, self.stall_s = timeout_s, max(timeout_s, stall_s)
        self.memory_bytes, self.files_per_child = memory_bytes, files_per_child
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Process id of the child; None before the first video."""
        return None if self._child is None else self._child.process.pid

    def open(
        self,
        path: str | os.PathLike[str],
        preprocessing: Preprocessing,
        num_samples: int,
        view: View = AS_DEPLOYED,
        files: FrameFiles | None = None,
    ) -> SampledFrames:
        """Return the frames of a video file, of a folder of image ``files``, or of a ``.npy``, read in this process.

        Raises:
            VideoError: If the video cannot be read, or opening it kills the child; ``DecodeTimeoutError`` if it hangs it.
            FramesError: If a ``.npy`` does not hold frames.
            DecoderFaultError: If no child can be started, or none can decode even a freshly made clip.
        """
        if os.fspath(path).lower().endswith(".npy"):
            return FrameArray(path, preprocessing, num_samples, view)
        return _ChildVideo(self, path, preprocessing, num_samples, view, files)

    def check(self) -> None:
        """Have a new child make a clip and decode it, and compare every pixel.

        Raises:
            DecoderFaultError: If it cannot decode the clip, or the pixels differ: then no video is to blame.
        """
        expected = sample_pixels()
        found = np.empty_like(expected)
        try:
            with contextlib.ExitStack() as stack:
                child = Child(self.memory_bytes, self.timeout_s, self.stall_s)
                stack.callback(child.stop)
                file = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".mkv"))
                file.write(bytes.fromhex(child.call({"do": "make"})["clip"]))
                file.flush()
                child.call(_opening(0, file.name, AS_IT_IS, FRAMES))
                child.call({"do": "read", "video": 0, "samples": [*range(FRAMES)]}, found)
        except ChildFailure as failure:
            raise DecoderFaultError(f"a freshly made clip cannot be decoded: the decoder process {failure}") from None
        except VideoError as error:
            raise DecoderFaultError(f"a freshly made clip is refused: {error}") from None
        if not np.array_equal(found, expected):
            raise DecoderFaultError("a freshly made clip comes out of the decoder with wrong pixels")

    def close(self) -> None:
        """End the child; open videos cannot be read any more."""
        with self._lock:
            self._closed = True
            if self._child is not None:
                self._child.stop()
                self._child = None

    def _living_child(self, *, recycle: bool) -> Child:
        if self._closed:
            raise UsageError("the decoder is closed: open the video with another decoder")
        child = self._child
        if child is not None and child.alive() and not (recycle and child.files >= self.files_per_child):
            return child
        if child is not None:
            child.stop()
        self._child = None
        self._child = Child(self.memory_bytes, self.timeout_s, self.stall_s)
        return self._child


def _opening(
    number: int,
    path: str,
    preprocessing: Preprocessing,
    num_samples: int,
    view: View = AS_DEPLOYED,
    files: FrameFiles | None = None,
) -> dict[str, Any]:
    """Return the request that opens a video file as the child's video ``number``."""
    return {
        "do": "open",
        "video": number,
        "path": path,
        "preprocessing": asdict(preprocessing),
        "num_samples": num_samples,
        "view": asdict(view),
        "files": None if files is None else asdict(files),
    }


class _ChildVideo(SampledFrames):
    """A video that is open in a child process."""

    _numbers = itertools.count()

    def __init__(
        self,
        decoder: Decoder,
        path: str | os.PathLike[str],
        preprocessing: Preprocessing,
        num_samples: int,
        view: View,
        files: FrameFiles | None,
    ) -> None:
        super().__init__(preprocessing, num_samples, view)
        started = time.perf_counter()
        self._decoder = decoder
        self._name, self._files = f"video '{path}'", files
        self._path = regular_file(path) if files is None else os.path.abspath(path)
        self._number = next(self._numbers)
        self._child: Child | None = None
        self._earlier = 0  # frames that earlier children decoded for it
        self._left_s = decoder.timeout_s  # CPU time
        self._refused = ""
        self._ask(None, recycle=True)
        self.decode_ms = (time.perf_counter() - started) * 1e3

    def pixels(self, samples: Sequence[int]) -> NDArray[np.uint8]:
        """Return RGB frames [frames, crop, crop, 3] with these temporal sample numbers; raises as ``read`` does."""
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
                with contextlib.suppress(ChildFailure):  # the next video starts a new child
                    child.call({"do": "close", "video": self._number})

    def _ask(
        self,
        request: dict[str, Any] | None,
        pixels: NDArray[np.uint8] | None = None,
        *,
        recycle: bool = False,
    ) -> None:
        """Open the video if the child does not have it open, then send the request, if any."""
        if self._refused:
            raise VideoError(f"{self._name} {self._refused}")
        if self._left_s <= 0:  # reads shorter than the kernel's clock tick come to more, too
            raise self._too_long()
        with self._decoder._lock:
            try:
                child = self._decoder._living_child(recycle=recycle)
                if child is not self._child:
                    self._open(child)
                if request is not None:
                    self._note(self._call(child, request, pixels))
            except ChildFailure as failure:
                raise self._blame(failure) from None

    def _blame(self, failure: ChildFailure) -> DynvidError:
        """Turn a child's failure into an error: the video's own, unless a freshly made clip fails too."""
        if isinstance(failure, StartFailure):
            return DecoderFaultError(
                f"{self._name} cannot be decoded: while it started, the decoder process {failure}. "
                f"Expected '{sys.executable}' to load av and numpy; run 'dynvid doctor'."
            )
        if failure.code == OUT_OF_TIME:
            return self._too_long()
        reason, advice = f"cannot be decoded: the decoder process {failure}", "Leave it out, or repair it."
        if failure.code >= 0 and failure.code != NO_MEMORY:  # an unexpected exception
            try:
                self._decoder.check()
            except DecoderFaultError:
                return DecoderFaultError(
                    f"{self._name} {reason}. The video is not to blame, since a freshly made clip cannot be decoded "
                    "either; run 'dynvid doctor'."
                )
            advice = "Other videos can be decoded here: leave this one out, and report it."
        self._refused = f"{reason}. {advice}"
        return (DecodeTimeoutError if failure.late else VideoError)(f"{self._name} {self._refused}")

    def _too_long(self) -> DecodeTimeoutError:
        self._refused = (
            f"takes more than {self._decoder.timeout_s:g} s of CPU time to decode. Give --decode-timeout "
            "(decode_timeout_s) more, or make the video smaller."
        )
        return DecodeTimeoutError(f"{self._name} {self._refused}")

    def _open(self, child: Child) -> None:
        self._child, self._earlier, known = child, self.frames_decoded, self.frames_total
        child.files += 1
        opening = _opening(self._number, self._path, self.preprocessing, self.num_samples, self.view, self._files)
        self._note(self._call(child, opening))
        if known and known != self.frames_total:
            raise VideoError(f"{self._name} changed from {known} to {self.frames_total} frames while it was open.")

    def _call(self, child: Child, request: dict[str, Any], pixels: NDArray[np.uint8] | None = None) -> dict[str, Any]:
        """Have the child answer within the CPU time that is left to this video."""
        reply = child.call({**request, "work_s": self._left_s}, pixels)
        self._left_s -= float(reply["worked_s"])
        return reply

    def _note(self, reply: dict[str, Any]) -> None:
        self.frames_total = int(reply["frames_total"])
        self.frames_decoded = self._earlier + int(reply["frames_decoded"])
        self.passed = [int(sample) for sample in reply["passed"]]
        for warning in reply["warnings"]:
            self.doubt(str(warning), damaged=bool(reply["damaged"]))
