"""The clips that an export is proved on: synthetic, deterministic, all different, with motion at every scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...grid.preprocessing import Preprocessing
from ...runtime.video.frames import normalise


def proof_clips(count: int, num_frames: int, preprocessing: Preprocessing, seed: int = 0) -> NDArray[np.float32]:
    """Return preprocessed clips in temporal order, [count, num_frames, 3, crop, crop].

    Textures of several scales pan over one another at different speeds, under noise that differs in every frame.
    """
    size = preprocessing.crop
    clips = []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        frames = np.zeros((num_frames, size, size, 3), np.float32)
        for cells in (3, 8, 24):
            texture = rng.random((cells, cells, 3), np.float32) - 0.5
            speed = rng.uniform(-1, 1, 2) * cells / num_frames * 2
            start = rng.uniform(0, cells, 2)
            for t in range(num_frames):
                rows, columns = (start[axis] + speed[axis] * t + np.arange(size) * cells / size for axis in (0, 1))
                frames[t] += _bilinear(texture, rows, columns)
        frames += rng.normal(0, 0.05, frames.shape).astype(np.float32)
        contrast = rng.uniform(0.5, 1.0)
        pixels = np.clip((0.5 + contrast * frames) * 255, 0, 255).astype(np.uint8)
        clips.append(normalise(pixels, preprocessing))
    return np.stack(clips)


def _bilinear(
    texture: NDArray[np.float32], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return the periodic texture at the given rows and columns: [rows, columns, 3]."""
    cells = len(texture)
    r, c = np.floor(rows).astype(int), np.floor(columns).astype(int)
    fr = (rows - r).astype(np.float32)[:, None, None]
    fc = (columns - c).astype(np.float32)[None, :, None]
    r0, r1, c0, c1 = r % cells, (r + 1) % cells, c % cells, (c + 1) % cells
    top = texture[np.ix_(r0, c0)] * (1 - fc) + texture[np.ix_(r0, c1)] * fc
    bottom = texture[np.ix_(r1, c0)] * (1 - fc) + texture[np.ix_(r1, c1)] * fc
    result: NDArray[np.float32] = top * (1 - fr) + bottom * fr
    return result
