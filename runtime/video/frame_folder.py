"""A clip whose frames are image files of one folder, as extracted for TSN, TSM and mmaction2."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from ...grid.errors import VideoError
from ...grid.preprocessing import Preprocessing
from .frames import MAX_PIXELS, SampledFrames, cropped, fits, regular_file
from .view import AS_DEPLOYED, View

_FORMATS = {".jpg": "jpeg_pipe", ".jpeg": "jpeg_pipe", ".png": "png_pipe", ".webp": "webp_pipe", ".bmp": "bmp_pipe"}


@dataclass(frozen=True, slots=True)
class FrameFiles:
    """The frames of a clip as image files of one folder.

    Attributes:
        pattern: name of the file of a frame by its number, such as ``img_{:05d}.jpg``.
        first: number of the first frame.
        count: number of frames.
    """

    pattern: str
    first: int
    count: int

    def name(self, index: int) -> str:
        """Return the file name of frame ``index``, in [0, count)."""
        return self.pattern.format(self.first + index)


class FrameFolder(SampledFrames):
    """The sampled frames of a folder; only those files are opened."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        files: FrameFiles,
        preprocessing: Preprocessing,
        num_samples: int,
        view: View = AS_DEPLOYED,
    ) -> None:
        """Take note of the folder; a missing file is found when it is wanted.

        Raises:
            VideoError: If the folder is missing.
        """
        super().__init__(preprocessing, num_samples, view)
        if not os.path.isdir(folder):
            raise VideoError(f"'{folder}' is not a folder. Expected one with frames such as {files.name(0)}.")
        self._folder, self._files = Path(folder), files
        self.frames_total = files.count
        self._indices = self.sampled()

    def pixels(self, samples: Sequence[int]) -> NDArray[np.uint8]:
        """Return RGB frames [frames, crop, crop, 3] with these temporal sample numbers; raises as ``read`` does."""
        self.check(samples)
        started = time.perf_counter()
        indices = [self._indices[sample] for sample in samples]
        images = {index: self._image(self._folder / self._files.name(index)) for index in set(indices)}
        self.frames_decoded += len(images)
        self.decode_ms += (time.perf_counter() - started) * 1e3
        return np.stack([images[index] for index in indices])

    def _image(self, path: Path) -> NDArray[np.uint8]:
        name = regular_file(path)
        known = _FORMATS.get(path.suffix.lower())
        if known is None:
            raise VideoError(f"frame '{path}' is no image of a known kind: expected {', '.join(_FORMATS)}.")
        try:
            with av.open(name, format=known) as file:
                frame = next(file.decode(video=0))
                if not fits(frame.height, frame.width, self.preprocessing):
                    raise VideoError(
                        f"frame '{path}' has {frame.width} x {frame.height} pixels: expected 1 to {MAX_PIXELS}, before "
                        "and after resizing. Make it smaller."
                    )
                return cropped(frame, self.preprocessing, self.view)
        except (av.FFmpegError, StopIteration, IndexError) as fault:
            reason = getattr(fault, "strerror", None) or "no image"
            raise VideoError(f"frame '{path}' cannot be decoded: {reason}. Extract it again.") from None
