"""What a video's packets tell without decoding: the time of every frame, and whether some are lost."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple, TypeAlias

import av
import av.container
from av.bitstream import BitStreamFilterContext

Packet: TypeAlias = "av.Packet[av.stream.Stream]"

# In these, one packet is one shown frame with a true pts.
_INDEXED_CONTAINERS = frozenset({"mov", "matroska", "avi", "mpegts", "flv", "gif"})
_INDEXED_CODECS = frozenset({"h264", "hevc", "vp9", "av1", "mpeg4", "mjpeg", "ffv1", "prores", "gif"})
# AVI has no pts, so those of H.264 are made up; its frames are counted, but read in order.
_INDEXED_IN = {"avi": frozenset({"mpeg4", "mjpeg", "ffv1"}), "mpegts": frozenset({"h264", "hevc", "mpeg2video"})}
_COUNTED_IN_AVI = frozenset({"h264", "mpeg4"})
_PLACEHOLDER_BYTES = 20  # a packed AVI puts two frames into one packet, followed by a packet this small
_REORDERED_FRAMES = 16  # if a file breaks off, this many of the last frames may have gaps
_DEFAULT_RATE = Fraction(25)  # frames per second, for a one-frame video that does not say

_DURATION = re.compile(r"(\d{1,9}):(\d\d):(\d\d(?:\.\d{1,9})?)")  # a stream's tag in Matroska


class Key(NamedTuple):
    """A keyframe: its times, and where its packet begins in the file, bytes; None if unknown."""

    pts: int
    dts: int
    position: int | None


@dataclass(frozen=True, slots=True)
class PacketIndex:
    """The packets of one video stream.

    Attributes:
        count: number of packets.
        frames: number of shown frames; 0 if the packets do not tell.
        times: pts of the shown frames, in order; empty if they are unknown.
        keys: the keyframes, in order of pts.
        encrypted: whether some packets are.
        lost: what the file declares but does not hold, in words; empty if nothing is missing.
    """

    count: int
    frames: int
    times: list[int]
    keys: list[Key]
    encrypted: bool
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
    exact = kind in _INDEXED_CONTAINERS and codec in _INDEXED_IN.get(kind, _INDEXED_CODECS)
    counter = _AviFrames(stream, codec) if kind == "avi" and codec in _COUNTED_IN_AVI else None
    # In MP4 the index omits what an edit list cuts off. For AVI, libavformat makes up an index if it is lost.
    declared = {"mov": len(stream.index_entries), "avi": stream.frames}.get(kind, 0)
    times: list[int] = []
    keys: list[Key] = []
    others_end: dict[int, int] = {}  # by stream
    count, encrypted = 0, False
    for packet in packets:
        pts = packet.pts
        if packet.stream_index != stream.index:
            if pts is not None:
                end = pts + 2 * (packet.duration or 0)  # the header may include an encoder's padding
                others_end[packet.stream_index] = max(end, others_end.get(packet.stream_index, end))
            continue
        count += 1
        encrypted |= packet.has_sidedata("encryption_info")
        exact &= pts is not None and (kind != "avi" or packet.size > _PLACEHOLDER_BYTES)
        if pts is not None:
            if packet.is_keyframe:
                keys.append(Key(pts, pts if packet.dts is None else packet.dts, packet.pos))
            if not packet.is_discard:  # an edit list may have frames decoded but not shown
                times.append(pts)
        if counter is not None:
            counter.add(packet)
        if count > max_frames:
            break
    times.sort()
    keys.sort()
    settled = times[:-_REORDERED_FRAMES]
    if kind == "avi" and settled:  # in AVI, times are frame numbers and dropped frames have no packets
        declared -= settled[-1] - settled[0] + 1 - len(settled)
    lost = ""
    if declared > count:
        lost = f"truncated: {count} of {declared} declared frames are present"
    elif kind in ("matroska", "flv") and times:
        lost = _lost(container, stream, times, others_end)
    if not exact or any(before == after for before, after in itertools.pairwise(times)):
        times, keys = [], []
    frames = len(times) or (0 if counter is None else counter.total())
    return PacketIndex(count, frames, times, keys, encrypted, lost)


class _AviFrames:
    """Counts the frames of an AVI. Packets that hold two frames are taken apart by FFmpeg's filter for them."""

    def __init__(self, stream: av.VideoStream, codec: str) -> None:
        self._filter = BitStreamFilterContext("mpeg4_unpack_bframes", stream) if codec == "mpeg4" else None
        self._frames, self._certain = 0, True

    def add(self, packet: Packet | None) -> None:
        """Count the frames of the next packet, which is empty afterwards; after the last one, add None."""
        if self._filter is None:
            self._frames += packet is not None
            return
        for one in self._filter.filter(packet):
            # What is left of size 1 stands for no frame. Other small packets may be frames or not: the decoder knows.
            self._certain &= one.size == 1 or one.size > _PLACEHOLDER_BYTES
            self._frames += one.size > 1

    def total(self) -> int:
        """Return the number of frames; 0 if only decoding can tell."""
        self.add(None)
        return self._frames if self._certain else 0


def _lost(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    times: list[int],
    others_end: dict[int, int],
) -> str:
    """Compare the end that a container's header declares with the packets.

    At a constant rate every lost frame is noticed, even if frames are stored out of order. Otherwise the streams must
    reach to within 1.5 times the longest frame duration of the declared end.
    """
    tick = stream.time_base or Fraction(1)
    intervals = [after - before for before, after in itertools.pairwise(times)]
    intervals = intervals or [round(1 / (stream.average_rate or _DEFAULT_RATE) / tick)]
    steady = intervals[:-_REORDERED_FRAMES] or intervals
    declared_s = _declared_end(container, stream, alone=not others_end)
    if declared_s is not None and max(steady) <= 1.25 * min(steady) + 1:
        expected = round((declared_s / tick - times[0]) * len(steady) / max(1, sum(steady)))
        return f"truncated: {len(times)} of about {expected} frames are present" if expected > len(times) else ""
    if declared_s is None:
        declared_s = Fraction(container.duration or 0, av.time_base)
        ticks = [one.time_base or Fraction(0) for one in container.streams]
        end_s = max([times[-1] * tick, *(end * ticks[index] for index, end in others_end.items())])
    else:
        end_s = times[-1] * tick
    missing_s = declared_s - end_s
    if missing_s > Fraction(3, 2) * max(intervals) * tick:
        return f"truncated: the last {float(missing_s):.3g} s of the declared duration are missing"
    return ""


def _declared_end(container: av.container.InputContainer, stream: av.VideoStream, *, alone: bool) -> Fraction | None:
    """Return the end of the video stream in seconds, if the container declares it."""
    tag = _DURATION.fullmatch(stream.metadata.get("DURATION", ""))
    if tag:
        return (int(tag[1]) * 60 + int(tag[2])) * 60 + Fraction(tag[3])
    return Fraction(container.duration, av.time_base) if alone and container.duration else None
