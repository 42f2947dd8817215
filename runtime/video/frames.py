"""Frames of one video by temporal sample number: the interface of every source, and the source for arrays."""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol, Self

import av
import numpy as np
from numpy.typing import NDArray

from ...grid.errors import FramesError, InputRefusedError, UsageError, VideoError
from ...grid.preprocessing import Preprocessing, sample_frames
from ..closing import Closing
from .npy_header import ONE_HEADER
from .orientation import Orientation
from .view import AS_DEPLOYED, View

MAX_PIXELS = 4096 * 4096
MAX_FRAMES = 1_000_000


class FrameSource(Protocol):
    """Preprocessed frames of one video.

    Attributes:
        frames_total: number of frames in the video.
        frames_decoded: number of frames given to the decoder so far, including skipped and repeated ones.
        damaged: whether part of the video is missing or known to be wrong.
        warnings: every reason for doubt, in words.
        decode_ms: time spent so far on opening, decoding and preprocessing, in milliseconds.
    """

    frames_total: int
    frames_decoded: int
    damaged: bool
    warnings: list[str]
    decode_ms: float

    def read(self, samples: Sequence[int]) -> NDArray[np.float32]:
        """Return preprocessed frames [frames, 3, crop, crop] of temporal sample numbers, in the order requested."""
        ...

    def close(self) -> None:
        """Release the video."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


def normalise(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Return RGB ``pixels`` [frames, height, width, 3] normalised, as contiguous [frames, 3, height, width]."""
    scale = [1 / (255 * std) for std in preprocessing.std]
    offset = [-mean / std for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True)]
    frames = pixels.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    frames *= np.array(scale, np.float32)[:, None, None]
    frames += np.array(offset, np.float32)[:, None, None]
    return frames


def regular_file(path: str | os.PathLike[str], refusal: type[InputRefusedError] = VideoError) -> str:
    """Return the absolute path of a regular file.

    Raises:
        InputRefusedError: As ``refusal``, if it is missing, a URL, a folder, a pipe or a device.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as fault:
        reason = getattr(fault, "strerror", None) or str(fault)
        raise refusal(f"'{path}': {reason}. Expected a file, or a URI such as s3://bucket/a.mp4.") from None
    if not stat.S_ISREG(mode):
        raise refusal(f"'{path}' is a folder, a pipe or a device. Expected a regular file.")
    return os.path.abspath(os.fspath(path))


def fits(height: int, width: int, preprocessing: Preprocessing) -> bool:
    """Return whether a frame of this size is within ``MAX_PIXELS``, before and after resizing."""
    return min(height, width) > 0 and max(height * width, math.prod(preprocessing.resized(height, width))) <= MAX_PIXELS


def cropped(frame: av.VideoFrame, preprocessing: Preprocessing, view: View = AS_DEPLOYED) -> NDArray[np.uint8]:
    """Return the frame resized, oriented as it is to be shown, and cropped, as RGB [crop, crop, 3]."""
    height, width = preprocessing.resized(frame.height, frame.width)
    rgb = frame.to_ndarray(width=width, height=height, format="rgb24", interpolation="BILINEAR", threads=1)
    return view.cut(Orientation.of(frame).shown(rgb), preprocessing)


class SampledFrames(Closing):
    """Base class of the sources; each adds ``pixels``. See ``FrameSource`` for the other attributes.

    Attributes:
        passed: sample numbers of frames that the decoder was given on the way to others, and that were not requested yet.
        gives_pixels: whether ``pixels`` works; False for frames that are preprocessed already.
    """

    gives_pixels = True

    def __init__(self, preprocessing: Preprocessing, num_samples: int, view: View = AS_DEPLOYED) -> None:
        self.view = view
        self.frames_total = 0
        self.frames_decoded = 0
        self.damaged = False
        self.warnings: list[str] = []
        self.passed: list[int] = []
        self.decode_ms = 0.0
        self.preprocessing = preprocessing
        self.num_samples = num_samples
        self.closed = False

    def read(self, samples: Sequence[int]) -> NDArray[np.float32]:
        """Return preprocessed frames [frames, 3, crop, crop] of temporal sample numbers, in the order requested.

        Raises:
            UsageError: If no sample is requested, or one outside [0, num_samples).
            VideoError: If a wanted frame cannot be decoded.
        """
        started = time.perf_counter()
        try:
            return normalise(self.pixels(samples), self.preprocessing)
        finally:
            self.decode_ms += (time.perf_counter() - started) * 1e3

    def pixels(self, samples: Sequence[int]) -> NDArray[np.uint8]:
        """Return RGB frames [frames, crop, crop, 3] with these temporal sample numbers; raises as ``read`` does."""
        raise NotImplementedError

    def check(self, samples: Sequence[int]) -> None:
        """Raise ``UsageError`` unless the source is open and every sample number is valid."""
        if self.closed:
            raise UsageError("the video is closed: open it again")
        if not samples or not all(0 <= sample < self.num_samples for sample in samples):
            raise UsageError(f"samples {list(samples)}: expected one or more numbers in [0, {self.num_samples})")

    def doubt(self, warning: str, *, damaged: bool = True) -> None:
        """Record a warning, once."""
        self.damaged |= damaged
        if warning not in self.warnings:
            self.warnings.append(warning)

    def sampled(self, part: range | None = None) -> list[int]:
        """Return the frame number of every sample, within ``part`` of the video; warn if frames must repeat."""
        part = range(self.frames_total) if part is None else part
        if len(part) < self.num_samples:
            plural = "" if len(part) == 1 else "s"
            self.doubt(
                f"short: {len(part)} frame{plural} for {self.num_samples} samples, so frames repeat",
                damaged=False,
            )
        return [part[index] for index in sample_frames(len(part), self.num_samples, self.view.draws)]

    def close(self) -> None:
        """Release the video."""
        self.closed = True


class FrameArray(SampledFrames):
    """An array or ``.npy``: raw frames uint8 [L, H, W, 3], or float32 [num_samples, 3, crop, crop] used unchanged."""

    def __init__(
        self,
        frames: str | os.PathLike[str] | NDArray[Any],
        preprocessing: Preprocessing,
        num_samples: int,
        view: View = AS_DEPLOYED,
    ) -> None:
        """Take the array, or memory-map a file. Every value of a float32 array is checked.

        Raises:
            FramesError: If it is not such an array, or holds NaN or infinite values.
        """
        super().__init__(preprocessing, num_samples, view)
        started = time.perf_counter()
        prepared_shape = (num_samples, 3, preprocessing.crop, preprocessing.crop)
        wanted = f"Expected uint8 [frames, height, width, 3] or float32 {list(prepared_shape)}, not pickled."
        array, name = (
            (frames, "given") if isinstance(frames, np.ndarray) else (self._mapped(frames, wanted), f"'{frames}'")
        )
        self._array = array
        found = f"frames {name}: {array.dtype} {list(array.shape)}"
        self._raw = array.dtype == np.uint8 and array.ndim == 4 and array.shape[3] == 3
        if self._raw:
            if not 1 <= len(array) <= MAX_FRAMES or not fits(array.shape[1], array.shape[2], preprocessing):
                raise FramesError(
                    f"{found}. "
                    f"Expected 1 to {MAX_FRAMES} frames of 1 to {MAX_PIXELS} pixels, before and after resizing."
                )
        elif array.dtype != np.float32 or array.shape != prepared_shape:
            raise FramesError(f"{found}. {wanted}")
        elif not np.isfinite(array).all():
            raise FramesError(f"{found} holds NaN or infinite values. Expected finite values only.")
        self.gives_pixels = self._raw
        self.frames_total = len(array)
        self._indices = self.sampled()
        self.decode_ms = (time.perf_counter() - started) * 1e3

    @staticmethod
    def _mapped(path: str | os.PathLike[str], wanted: str) -> NDArray[np.generic]:
        try:
            file = regular_file(path, FramesError)
            with ONE_HEADER:
                array = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, SyntaxError, EOFError) as fault:  # SyntaxError: a malicious header
            raise FramesError(f"frames '{path}' cannot be read ({type(fault).__name__}). {wanted}") from None
        if isinstance(array, np.ndarray):
            return array
        array.close()
        raise FramesError(f"frames '{path}' is an archive. {wanted}")

    def read(self, samples: Sequence[int]) -> NDArray[np.float32]:
        """Return preprocessed frames [frames, 3, crop, crop] of temporal sample numbers, in the order requested.

        Raises:
            UsageError: If no sample is requested, or one outside [0, num_samples).
        """
        if self._raw:
            return super().read(samples)
        started = time.perf_counter()
        self.check(samples)
        frames = np.array(self._array[list(samples)], np.float32, order="C")
        self.frames_decoded += len(samples)
        self.decode_ms += (time.perf_counter() - started) * 1e3
        return frames

    def pixels(self, samples: Sequence[int]) -> NDArray[np.uint8]:
        """Return RGB frames [frames, crop, crop, 3] with these temporal sample numbers; raw frames only."""
        self.check(samples)
        self.frames_decoded += len(samples)
        raw = [np.array(self._array[self._indices[sample]], np.uint8, order="C") for sample in samples]
        return np.stack([cropped(av.VideoFrame.from_ndarray(f), self.preprocessing, self.view) for f in raw])
