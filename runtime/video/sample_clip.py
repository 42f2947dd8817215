"""A freshly made clip with known pixels: it tells a decoder that always fails from a video that is odd."""

from __future__ import annotations

import io

import av
import numpy as np
from numpy.typing import NDArray

from ...grid.preprocessing import Preprocessing

FRAMES = 4
SIZE = 32  # height and width, pixels
AS_IT_IS = Preprocessing(short_side=SIZE, crop=SIZE)


def sample_pixels() -> NDArray[np.uint8]:
    """Return the clip's RGB frames [FRAMES, SIZE, SIZE, 3]; each differs from the others."""
    t, y, x = np.mgrid[:FRAMES, :SIZE, :SIZE]
    return np.stack([x * 7 + t * 50, y * 7 + t * 20, (x + y) * 3 + t * 30], -1).astype(np.uint8)


def sample_clip() -> bytes:
    """Return the clip as a file: lossless FFV1 in Matroska."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as out:
        stream = out.add_stream("ffv1", rate=25, options={"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "bgr0"
        for pixels in sample_pixels():
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode(None))
    return file.getvalue()
