"""How a frame is to be shown: turned by quarters, and mirrored, as its display matrix says."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple, Self, cast

import av
from av.sidedata.sidedata import SideData, Type
from numpy.typing import NDArray

_MATRIX = struct.Struct("=9i")
_ANGLE_DEG = 1.0  # FFmpeg, too, takes an angle this near to a quarter turn for one


class Orientation(NamedTuple):
    """Which axes are exchanged, and then reversed.

    Attributes:
        transposed: rows and columns are exchanged, before anything is mirrored.
        mirrored: left and right are exchanged; ``flipped``: top and bottom.
        off_deg: angle that remains, in degrees; 0 if the frame is shown exactly as its matrix says.
    """

    transposed: bool = False
    mirrored: bool = False
    flipped: bool = False
    off_deg: float = 0.0

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Self:
        """Return the orientation of a frame; other angles than quarter turns go to the nearest.

        A pixel at (x, y) is shown at (a x + c y, b x + d y) (libavutil/display.h).
        """
        found = cast("Iterable[SideData]", frame.side_data)
        data = next((bytes(one) for one in found if one.type == Type.DISPLAYMATRIX), b"")
        if len(data) < _MATRIX.size:
            return cls()
        a, b, _, c, d, *_ = _MATRIX.unpack_from(data)
        transposed = abs(b) + abs(c) > abs(a) + abs(d)
        (right, down), across = ((c, b), (a, d)) if transposed else ((a, d), (b, c))
        off_deg = math.degrees(math.atan2(max(map(abs, across)), max(abs(right), abs(down))))
        return cls(transposed, right < 0, down < 0, off_deg if off_deg > _ANGLE_DEG else 0.0)

    def shown(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return a view of ``image`` [height, width, 3] as it is to be shown."""
        image = image.swapaxes(0, 1) if self.transposed else image
        image = image[:, ::-1] if self.mirrored else image
        return image[::-1] if self.flipped else image
