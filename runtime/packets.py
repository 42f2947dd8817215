"""What the packets of a video say, not decoded: the time of every frame, and whether some are lost."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import av
import av.container

Packet: TypeAlias = "av.Packet[av.stream.Stream]"

# Here one packet is one shown frame with a true pts. Everything else is decoded once, to count.
_INDEXED_CONTAINERS = frozenset({"mov", "matroska", "avi"})
_INDEXED_CODECS = frozenset({"h264", "hevc", "vp9", "av1", "mpeg4", "mjpeg", "ffv1", "prores"})
_INDEXED_IN_AVI = frozenset({"mpeg4", "mjpeg", "ffv1"})  # AVI has no pts: H.264's are made up
_PLACEHOLDER_BYTES = 20  # a packed AVI puts two frames into one packet, then one so small
_REORDERED_FRAMES = 16  # where a file breaks off, so many last frames may have gaps between them
_DEFAULT_RATE = Fraction(25)  # frames per second, of a video with one frame that says nothing


@dataclass(frozen=True, slots=True)
class PacketIndex:
    """The packets of one video stream.

    Attributes:
        count: Packets, one frame each where ``times`` is not empty.
        times: pts of the shown frames, in order; empty where packets and frames may not correspond.
        keys: pts and dts of the keyframes, in order of pts.
        lost: What the file declares and does not hold, in words; empty if nothing is missing.
    """

    count: int
    times: list[int]
    keys: list[tuple[int, int]]
    lost: str


def index_packets(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    packets: Iterable[Packet],
    max_frames: int,
) -> PacketIndex:
    """Return the index of ``stream``; ``packets`` are those of all streams, from the start.

    Reading stops after ``max_frames + 1`` packets of the stream.
    """
    kind, codec = container.format.name.split(",")[0], stream.codec_context.codec.canonical_name
    exact = kind in _INDEXED_CONTAINERS and codec in (_INDEXED_IN_AVI if kind == "avi" else _INDEXED_CODECS)
    declared = len(stream.index_entries) if kind == "mov" else 0  # without those that an edit list cuts off
    times: list[int] = []
    keys: list[tuple[int, int]] = []
    last_times: dict[int, int] = {}  # by stream
    count = 0
    for packet in packets:
        pts = packet.pts
        if pts is not None:
            last_times[packet.stream_index] = max(pts, last_times.get(packet.stream_index, pts))
        if packet.stream_index != stream.index:
            continue
        count += 1
        exact &= pts is not None and (kind != "avi" or packet.size > _PLACEHOLDER_BYTES)
        if pts is not None:
            if packet.is_keyframe:
                keys.append((pts, pts if packet.dts is None else packet.dts))
            if not packet.is_discard:  # decoded, but not shown: an edit list says so
                times.append(pts)
        if count > max_frames:
            break
    times.sort()
    keys.sort()
    lost = ""
    if declared > count:
        lost = f"truncated: {count} of {declared} declared frames are there"
    elif kind in ("matroska", "avi", "flv") and times:
        lost = _lost(container, stream, times, last_times, from_zero=kind == "avi")
    if not exact or any(before == after for before, after in itertools.pairwise(times)):
        times, keys = [], []
    return PacketIndex(count, times, keys, lost)


def _lost(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    times: list[int],
    last_times: dict[int, int],
    *,
    from_zero: bool,
) -> str:
    """Compare the duration in a container's header with what is there.

    At a constant rate every lost frame shows, also where frames are stored in another order. Else the file
    must go on to within 1.5 of the longest frame durations of its declared end.
    """
    tick = stream.time_base or Fraction(1)
    end = _declared_end(container, stream, alone=len(last_times) == 1)
    intervals = [after - before for before, after in itertools.pairwise(times)]
    steady = (
        intervals[:-_REORDERED_FRAMES]
        or intervals
        or [round(1 / (stream.average_rate or _DEFAULT_RATE) / tick)]
    )
    if end is not None and max(steady) <= 1.25 * min(steady) + 1:
        start = 0 if from_zero else times[0]
        expected = round((end / tick - start) * len(steady) / max(1, sum(steady)))
        return (
            f"truncated: {len(times)} of about {expected} frames are there" if expected > len(times) else ""
        )
    ticks = [one.time_base or Fraction(0) for one in container.streams]
    missing_s = Fraction(container.duration or 0, av.time_base) - max(
        pts * ticks[index] for index, pts in last_times.items()
    )
    if missing_s > Fraction(3, 2) * max(intervals or steady) * tick:
        return f"truncated: the last {float(missing_s):.3g} s of the declared duration are missing"
    return ""


def _declared_end(
    container: av.container.InputContainer, stream: av.VideoStream, *, alone: bool
) -> Fraction | None:
    """Return when the video stream ends in seconds, if the container says so."""
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")
    minutes, _, seconds = rest.partition(":")
    try:
        return (int(hours) * 60 + int(minutes)) * 60 + Fraction(seconds)
    except ValueError:
        return Fraction(container.duration, av.time_base) if alone and container.duration else None
