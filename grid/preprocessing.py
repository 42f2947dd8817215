"""How frames are chosen and prepared; stored in the training checkpoint and in the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import UsageError


def sample_frames(num_frames: int, num_samples: int, draws: Sequence[float] | None = None) -> list[int]:
    """Return the indices of ``num_samples`` frames of a video, one from each of as many equal parts, in temporal order.

    Without ``draws`` it is the centre of the part, ``((2i + 1) * num_frames) // (2 * num_samples)`` (paper, section
    4.2: "evenly sampled"; TSN's test-time sampling). Training draws uniformly within the part (TSN, Wang et al. 2016),
    the last frames of the video included. A video shorter than ``num_samples`` repeats frames.

    Args:
        num_frames: of the video.
        num_samples: number of parts.
        draws: where in its part each frame lies, in [0, 1); 0.5 is the centre.

    Raises:
        UsageError: If either number is below 1, or there is not one draw a part.
    """
    if num_frames < 1 or num_samples < 1:
        raise UsageError(f"cannot sample {num_samples} frames from a video of {num_frames}: both must be at least 1")
    if draws is None:
        return [((2 * i + 1) * num_frames) // (2 * num_samples) for i in range(num_samples)]
    if len(draws) != num_samples or not all(0 <= draw < 1 for draw in draws):
        raise UsageError(f"draws {list(draws)}: expected {num_samples} numbers in [0, 1)")
    return [min(int((i + draw) * num_frames / num_samples), num_frames - 1) for i, draw in enumerate(draws)]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Resize, crop and normalisation of one frame.

    The frame is rotated as its file says, resized so that its short side is ``short_side`` (bilinear, the long side
    rounded), cropped to ``crop`` x ``crop`` at offset ``(size - crop) // 2``, scaled to [0, 1], then normalised per
    RGB channel with ``mean`` and ``std``.
    """

    short_side: int = 256
    crop: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        """Reject sizes and scales that no frame can have."""
        if not 1 <= self.crop <= self.short_side <= 4096:
            raise UsageError(
                f"crop {self.crop} and short_side {self.short_side}: expected 1 <= crop <= short_side <= 4096"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or not all(s > 0 for s in self.std):
            raise UsageError(f"mean {self.mean} and std {self.std}: expected three values each, every std above 0")

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) in pixels of a frame of ``height`` x ``width`` pixels after resizing.

        Uses integers only, with halves rounded up, so that every machine agrees.
        """
        short = min(height, width)
        return (
            (2 * height * self.short_side + short) // (2 * short),
            (2 * width * self.short_side + short) // (2 * short),
        )
