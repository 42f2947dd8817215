"""Clips cut from one recording, told by their names."""

from __future__ import annotations

import re

_UCF101 = re.compile(r"(v_.+_g\d+)_c\d+")
_HMDB51 = re.compile(r"(.+)_[hulf]_(?:cm|nm)_np\d+_(?:fr|ba|le|ri)_(?:goo|med|bad)_\d+")
_KINETICS = re.compile(r"(.{11})_\d{6}_\d{6}")


def group_of(stem: str, label: str | None) -> str | None:
    """Return the recording of a clip named as in UCF101, HMDB51 or Kinetics, else None.

    UCF101: ``v_Archery_g08_c01`` is of group 8 of its class. HMDB51: the film comes before the class. Kinetics: the
    video's id.
    """
    for pattern in (_UCF101, _HMDB51, _KINETICS):
        if (match := pattern.fullmatch(stem)) is not None:
            return match[1].removesuffix(f"_{label}") if pattern is _HMDB51 else match[1]
    return None
