"""Frames as small pictures inside a page."""

from __future__ import annotations

import base64
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

SIDE = 96
"""Pixels of a side at most."""


def thumbnail(pixels: NDArray[np.uint8], side: int = SIDE) -> str:
    """Return RGB ``pixels`` [height, width, 3] as a JPEG in a ``data:`` address, at most ``side`` pixels wide and high."""
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    # JPEG halves the resolution of colours, so a side is even
    width, height = (max(2, round(length * scale) // 2 * 2) for length in (width, height))
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    frame = frame.reformat(width, height, format="yuvj420p", interpolation="AREA")
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
    encoder.time_base, encoder.options = Fraction(1, 25), {"qmin": "4", "qmax": "4"}
    content = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
