"""The first bytes of a TensorRT plan: which TensorRT wrote it and how long it is, readable without a GPU.

All numbers are little-endian. Bytes 0-3 are the tag and 4-7 the layout of the rest; 24-27 are the version, one byte per
number. In plans of TensorRT-RTX, bytes 16-23 are the plan's length; in TensorRT's their meaning is unknown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

HEADER_BYTES = 28
_TAGS: dict[bytes, Literal["tensorrt", "tensorrt-rtx"]] = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}
_LAYOUT = 0


@dataclass(frozen=True, slots=True)
class PlanHeader:
    """What a plan's header says.

    Attributes:
        flavour: which TensorRT wrote it.
        version: of that TensorRT, four numbers, each modulo 256.
        bytes: length of the whole plan; None if the header does not give it.
    """

    flavour: Literal["tensorrt", "tensorrt-rtx"]
    version: tuple[int, ...]
    bytes: int | None


def read_header(plan: bytes) -> PlanHeader | None:
    """Return the header of a plan; None if ``plan`` does not begin with one of a known layout."""
    flavour = _TAGS.get(plan[:4])
    if flavour is None or len(plan) < HEADER_BYTES or int.from_bytes(plan[4:8], "little") != _LAYOUT:
        return None
    length = int.from_bytes(plan[16:24], "little") if flavour == "tensorrt-rtx" else None
    return PlanHeader(flavour, tuple(plan[24:28]), length)


def header_fault(plan: bytes, flavour: str, version: str) -> str | None:
    """Return how a plan's header contradicts its flavour, version or length; None if it does not.

    Other flavours have no such header; for them only a TensorRT plan is refused.
    """
    header = read_header(plan)
    if header is None:
        if flavour in _TAGS.values():
            return f"it begins with {plan[:8].hex(' ') or 'nothing'}, expected the header of a {flavour} plan"
        return None
    if header.flavour != flavour:
        return f"it is a plan of {header.flavour}, expected {flavour}"
    expected = tuple(int(number) % 256 for number in re.findall(r"\d+", version)[:4])
    if header.version[: len(expected)] != expected:
        return f"it was written by {flavour} {'.'.join(map(str, header.version))}, expected {version}"
    if header.bytes not in (None, len(plan)):
        return f"it has {len(plan)} bytes, but its header says {header.bytes}"
    return None
