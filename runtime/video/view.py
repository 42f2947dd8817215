"""How a video is looked at: which frames, and which part of them. In deployment always the same; training varies it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import av
import numpy as np
from numpy.typing import NDArray

from ...grid.preprocessing import Preprocessing

QUARTERS = 4
"""A window lies at one of the places that divide the room beside it into so many parts."""

_NEAR = 3  # pixels: a window this near to the crop's size is exactly as large (TSN)


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a resized frame, which is then resized to the crop (TSN, Wang et al. 2016, section 3.2).

    Attributes:
        height: as a share of the frame's short side; ``width`` likewise.
        down: quarters of the room above and below that lie above, 0 to 4.
        right: quarters of the room left and right that lie left, 0 to 4.
    """

    height: float
    width: float
    down: int
    right: int

    def box(self, height: int, width: int, crop: int) -> tuple[int, int, int, int]:
        """Return (top, left, height, width) in pixels, for a frame of this size."""
        sizes = (int(min(height, width) * share) for share in (self.height, self.width))
        tall, wide = (crop if abs(size - crop) < _NEAR else size for size in sizes)
        tall, wide = min(max(tall, 1), height), min(max(wide, 1), width)
        return (height - tall) // QUARTERS * self.down, (width - wide) // QUARTERS * self.right, tall, wide


@dataclass(frozen=True, slots=True)
class View:
    """What is seen of a video; ``AS_DEPLOYED`` is what every answer is computed from.

    Attributes:
        draws: one number in [0, 1) a sample: where in its segment the frame lies; None: in the middle.
        window: the part of every frame; None: the centre crop.
        mirrored: whether left and right are exchanged, after the crop.
        start_s: where the clip begins, in seconds after the first frame; None: there.
        end_s: where it ends; None: at the video's end.
    """

    draws: tuple[float, ...] | None = None
    window: Window | None = None
    mirrored: bool = False
    start_s: float | None = None
    end_s: float | None = None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Return the view of ``dataclasses.asdict``."""
        draws, window = data["draws"], data["window"]
        return cls(**{
            **data,
            "draws": None if draws is None else tuple(draws),
            "window": None if window is None else Window(**window),
        })  # fmt: skip

    def cut(self, image: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
        """Return the part of ``image`` [height, width, 3] that is seen, [crop, crop, 3]."""
        crop, (height, width) = preprocessing.crop, image.shape[:2]
        top, left, tall, wide = (height - crop) // 2, (width - crop) // 2, crop, crop
        if self.window is not None:
            top, left, tall, wide = self.window.box(height, width, crop)
        part = image[top : top + tall, left : left + wide]
        if (tall, wide) != (crop, crop):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(part))
            resized = frame.to_ndarray(width=crop, height=crop, format="rgb24", interpolation="BILINEAR", threads=1)
            part = resized.astype(np.uint8, copy=False)
        return (part[:, ::-1] if self.mirrored else part).astype(np.uint8, order="C")


AS_DEPLOYED = View()
