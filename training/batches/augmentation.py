"""How a clip is looked at in training: which frames, which window, whether mirrored (TSN, Wang et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from ...runtime.video.view import View, Window

SCALES = (1.0, 0.875, 0.75, 0.66)
"""TSN's sizes of a window, as shares of the short side."""

PLACES = (
    (0, 0), (0, 4), (4, 0), (4, 4), (2, 2),  # corners and centre
    (2, 0), (2, 4), (4, 2), (0, 2),  # middles of the edges
    (1, 1), (1, 3), (3, 1), (3, 3),
)  # fmt: skip
"""TSN's 13 places of a window: quarters of the room (above, left of it)."""

Frames = Literal["segments", "centres"]
Crops = Literal["tsn", "centre"]
Flip = Literal["off", "on", "swap"]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What varies from one look at a clip to the next. All frames of a clip share one window.

    Attributes:
        frames: ``segments``: a random frame of each segment; ``centres``: the frames of deployment.
        crops: ``tsn``: a window of one of TSN's sizes and places; ``centre``: the crop of deployment.
        scales: sizes of the window; its height and width are at most one step apart.
        flip: whether half of the clips are mirrored; ``swap`` also exchanges the classes that are mirror images.
    """

    frames: Frames = "segments"
    crops: Crops = "tsn"
    scales: tuple[float, ...] = SCALES
    flip: Flip = "on"

    def view(self, rng: np.random.Generator, num_samples: int) -> View:
        """Return one look at a clip, from the same number of random draws whatever is switched on."""
        draws = tuple(float(draw) for draw in rng.random(num_samples))
        steps = range(len(self.scales))
        sizes = [(self.scales[i], self.scales[j]) for i, j in product(steps, steps) if abs(i - j) <= 1]
        (height, width), (down, right) = sizes[rng.integers(len(sizes))], PLACES[rng.integers(len(PLACES))]
        mirrored = bool(rng.random() < 0.5)
        return View(
            draws=draws if self.frames == "segments" else None,
            window=Window(height, width, down, right) if self.crops == "tsn" else None,
            mirrored=mirrored and self.flip != "off",
        )
