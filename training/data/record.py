"""One clip of a data set, whatever format the data set has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...runtime.video.frame_folder import FrameFiles

__all__ = ["FrameFiles", "Record"]


@dataclass(frozen=True, slots=True)
class Record:
    """One clip and its class.

    Attributes:
        path: the video file, or the folder of ``frames``.
        label: name of the class; None where the data set withholds it.
        frames: the frames, if they are image files; None for a video file.
        start_s: where the clip begins in the file, in seconds; None: at its start.
        end_s: where it ends; None: at the file's end.
        group: clips of one group, such as those cut from one recording, must not be torn apart by a split.
    """

    path: Path
    label: str | None
    frames: FrameFiles | None = None
    start_s: float | None = None
    end_s: float | None = None
    group: str | None = None

    @property
    def whole_file(self) -> bool:
        """Whether the clip is one whole video file, so that a LIST of ``calibrate`` and ``classify`` can name it."""
        return self.frames is None and self.start_s is None and self.end_s is None
