"""Encoded videos, decoded lazily with seeks both ways; frame i is exactly the i-th frame of linear decoding."""

from __future__ import annotations

import itertools
import math
import os
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from ...grid.errors import VideoError
from ...grid.preprocessing import Preprocessing
from .frames import (
    MAX_FRAMES,
    MAX_PIXELS,
    FrameArray,
    FrameSource,
    SampledFrames,
    cropped,
    fits,
    normalise,
    regular_file,
)
from .orientation import Orientation
from .packet_index import Key, Packet, index_packets
from .view import AS_DEPLOYED, View

__all__ = ["FrameArray", "FrameSource", "VideoFile", "normalise"]

# Excluded: formats that refer to other files or URLs (playlists, image patterns, sdp) or draw text.
_CONTAINERS = "mov,mp4,matroska,webm,avi,flv,mpegts,mpeg,asf,ogg,ivf,gif"
# PyAV 18 raises an error on metadata that is not UTF-8 unless this is set; PyAV 19 reads it and lacks the option.
_READ_ANY_METADATA: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
_HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics of ITU-T H.273
_FORWARD_FRAMES = 3  # decode ahead to a keyframe this near instead of seeking, which restarts the decoder
_FAULTS = (av.FFmpegError, MemoryError, UnicodeError)  # what PyAV raises on a bad file


class _MiscountError(Exception):
    """The packets told another number of frames than the decoder returns."""


class _FieldsError(_MiscountError):
    """Frames are interlaced, so a packet may be half of one."""


class VideoFile(SampledFrames):
    """An encoded video, decoded in this process. ``Decoder`` does the same in a child process.

    One pass over the packets, without decoding, gives the sorted presentation times; frame i has the i-th. A seek
    goes to the keyframe before the wanted frame. Frames are identified by their times, and wanted frames that are
    passed on the way are kept. If a seek is inexact, reading restarts from the beginning without seeking.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        preprocessing: Preprocessing,
        num_samples: int,
        view: View = AS_DEPLOYED,
    ) -> None:
        """Open and index the video.

        Raises:
            VideoError: If the file is not a video, holds no frames, or exceeds the limits.
        """
        super().__init__(preprocessing, num_samples, view)
        started = time.perf_counter()
        self._name, self._path = f"video '{path}'", regular_file(path)
        self._times: list[int] = []  # pts of the frames, in order; empty if frames are counted
        self._keys: list[Key] = []  # in order of pts; empty: no seeking
        self._trusted = False  # whether the number of frames is certain
        self._images: dict[int, NDArray[np.uint8]] = {}  # by frame number: [crop, crop, 3]
        self._passed: dict[int, av.VideoFrame] = {}  # by frame number: wanted and decoded, but not yet requested
        self._wanted: frozenset[int] = frozenset()  # by frame number
        self._given: set[int] = set()  # of these, what the decoder was given, also if it returned nothing yet
        self._wanted_times: frozenset[int] = frozenset()  # pts; if not empty, other frames may be skipped
        self._output: Iterator[av.VideoFrame] = iter(())
        av.logging.set_level(av.logging.PANIC)
        try:
            self._open()
            self._index()
            if counted := not self.frames_total:
                self._count()
            if not self._keys:
                self._restart()
        except _FAULTS as fault:
            raise self._refusal(fault) from None
        if not self.frames_total:
            raise VideoError(f"{self._name} holds no frame that can be decoded. Expected at least one; repair it.")
        self._indices = self.sampled(self._part())
        self._wanted = frozenset(self._indices)
        self._given = set(self._wanted) if counted else set()  # counting decodes them all
        # H.264 marks the frames that no other frame refers to: these can be skipped without decoding.
        if self._keys and self._stream.codec_context.codec.canonical_name == "h264":
            self._wanted_times = frozenset(self._times[index] for index in self._wanted)
        self.decode_ms = (time.perf_counter() - started) * 1e3

    def pixels(self, samples: Sequence[int]) -> NDArray[np.uint8]:
        """Return RGB frames [frames, crop, crop, 3] with these temporal sample numbers, in the order requested.

        Raises:
            UsageError: If no sample is requested, or one outside [0, num_samples).
            VideoError: If a wanted frame cannot be decoded.
        """
        self.check(samples)
        try:
            return self._sampled_pixels(samples)
        except _MiscountError as fault:
            self._recount(fields=isinstance(fault, _FieldsError) and not self._images)
            return self._sampled_pixels(samples)

    def _sampled_pixels(self, samples: Sequence[int]) -> NDArray[np.uint8]:
        indices = [self._indices[sample] for sample in samples]
        try:
            for index in sorted(set(indices) - self._images.keys()):
                if index not in self._passed:
                    self._fetch(index)
                frame = self._passed.pop(index)
                self._check_size(frame.height, frame.width)  # the size may change within a video
                if frame.color_trc in _HDR:
                    self.doubt(f"HDR ({_HDR[frame.color_trc]}): colours are not mapped to SDR", damaged=False)
                if off_deg := Orientation.of(frame).off_deg:
                    self.doubt(f"turned: shown to the nearest quarter turn, {off_deg:.0f} degrees off", damaged=False)
                self._images[index] = cropped(frame, self.preprocessing, self.view)
        except _FAULTS as fault:
            raise self._refusal(fault) from None
        given = self._given - self._images.keys()
        self.passed = [sample for sample, index in enumerate(self._indices) if index in given]
        return np.stack([self._images[index] for index in indices])

    def close(self) -> None:
        """Close the file and forget its frames."""
        super().close()
        self._container.close()
        self._passed.clear()
        self._images.clear()

    # What the file holds

    def _open(self) -> None:
        """Open the container at its first packet."""
        options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
        self._container = av.open(self._path, options=options, **_READ_ANY_METADATA)
        streams = self._container.streams.video
        films = [s for s in streams if not s.disposition & av.stream.Disposition.attached_pic]
        if not films:
            raise VideoError(f"{self._name} has no video stream. Expected a video file.")
        if any(film.codec_context is None for film in films):
            raise VideoError(f"{self._name} has a video stream of an unknown codec. Convert it, e.g. to H.264.")
        # as FFmpeg chooses; the first of equal ones
        self._stream = max(films, key=lambda film: film.codec_context.width * film.codec_context.height)
        context = self._stream.codec_context
        if len(films) > 1:
            self.doubt(
                f"{len(films)} video streams: stream {self._stream.index} was taken, the largest "
                f"({context.width} x {context.height})",
                damaged=False,
            )
        self._check_size(context.height, context.width)
        self._fields = context.codec.canonical_name in ("h264", "hevc")
        context.thread_type, context.thread_count = "NONE", 1
        context.options = {"max_pixels": str(MAX_PIXELS)}

    def _demux(self, *streams: av.VideoStream) -> Iterator[Packet]:
        """Yield the complete packets of ``streams``, or of all streams if none is named, until the file ends."""
        try:
            for packet in self._container.demux(*streams):
                if packet.is_corrupt:
                    self.doubt("truncated: a packet is incomplete")
                elif packet.size:  # PyAV ends with empty packets
                    yield packet
        except av.FFmpegError as fault:
            if isinstance(fault, MemoryError):
                raise
            self.doubt(f"truncated: the file breaks off ({fault.strerror})")
        except IndexError:  # how PyAV reports a new stream
            raise VideoError(f"{self._name}: a new stream begins within the file. Convert it to MP4.") from None

    def _index(self) -> None:
        """List the times and keyframes without decoding."""
        index = index_packets(self._container, self._stream, self._demux(), MAX_FRAMES)
        self._check_count(index.count)
        if index.encrypted:
            raise VideoError(f"{self._name} is encrypted. Expected a decrypted copy.")
        if index.lost:
            self.doubt(index.lost)
        self._times, self._keys, self.frames_total = index.times, index.keys, index.frames
        self._trusted = bool(index.times) and self._container.format.name != "mpegts"
        self._cursor = self.frames_total  # at the end: the first read seeks

    def _count(self) -> None:
        """Count the frames by decoding them all, whatever the packets say."""
        self._restart()
        self._times, self._trusted, self.frames_total = [], True, 0
        try:
            for frame in self._output:
                self._look_at(frame)
                self.frames_total += 1
                self._check_count(self.frames_total)
        except av.InvalidDataError as fault:
            self.doubt(f"corrupt: decoding breaks off after {self.frames_total} frames ({fault.strerror})")

    def _recount(self, *, fields: bool) -> None:
        """Take the decoder's number of frames where the packets were wrong, and sample anew.

        Where packets were ``fields`` and no frame was given yet, nothing is amiss with the video.
        """
        told = self.frames_total
        self._count()
        if self.frames_total != told and not fields:
            self.doubt(f"corrupt: {self.frames_total} of {told} frames can be decoded")
        self._passed.clear()
        self._restart()
        self._indices = self.sampled(self._part())
        self._wanted = frozenset(self._indices)
        self._given = set(self._wanted)

    def _part(self) -> range:
        """Return the numbers of the frames that belong to the clip."""
        start_s, end_s = self.view.start_s, self.view.end_s
        if start_s is None and end_s is None:
            return range(self.frames_total)
        rate = self._stream.guessed_rate or self._stream.average_rate or 25
        base = self._stream.time_base or 1 / rate
        times = [float((time - self._times[0]) * base) for time in self._times]
        times = times or [float(index / rate) for index in range(self.frames_total)]
        part = range(
            0 if start_s is None else bisect_left(times, start_s),
            self.frames_total if end_s is None else bisect_left(times, end_s),
        )
        if not part:
            raise VideoError(
                f"{self._name} holds no frame from {start_s or 0:g} s to "
                f"{times[-1] if end_s is None else end_s:g} s: it ends after {times[-1]:g} s. Correct the list."
            )
        return part

    # How a frame is reached

    def _decode(self, packets: Iterable[Packet]) -> Iterator[av.VideoFrame]:
        """Yield the frames that the decoder returns for these packets."""
        context = self._stream.codec_context
        for place, packet in enumerate(itertools.chain(packets, [None])):
            if packet is not None:
                self.frames_decoded += 1
                # without times, frames are taken to be in the order of their packets
                number = self._number_at(packet.pts) if self._times else place
                if number in self._wanted:
                    self._given.add(number)
            if self._wanted_times and packet is not None:
                context.skip_frame = "DEFAULT" if packet.pts in self._wanted_times else "NONREF"
            yield from context.decode(packet)

    def _restart(self) -> None:
        """Go back to the first frame and decode everything from there: no seeks, no skipped frames."""
        self._container.close()
        self._open()
        self._keys, self._wanted_times = [], frozenset()
        self._cursor, self._sought = -1, False
        self._output = self._decode(self._demux(self._stream))

    def _seek(self, key: Key) -> bool:
        """Go to this keyframe or to an earlier one; return whether one was found."""
        if self._container.format.name == "mpegts":  # it has no index: a search by time may end anywhere
            return key.position is not None and self._arrives(key, key.position, unsupported_byte_offset=True)
        # containers differ in which time they search by
        return any(self._arrives(key, offset, stream=self._stream) for offset in (key.pts, key.dts))

    def _arrives(self, key: Key, offset: int, **how: Any) -> bool:
        """Seek in the container; return whether it is now at this keyframe or at an earlier one."""
        self._container.seek(offset, **how)
        packets = self._demux(self._stream)
        first = next(packets, None)
        if first is None or not first.is_keyframe or first.pts is None or first.pts > key.pts:
            return False
        self._cursor, self._sought = bisect_left(self._times, first.pts) - 1, True
        self._output = self._decode(itertools.chain([first], packets))
        return True

    def _fetch(self, index: int) -> None:
        """Add frame number ``index`` to the passed frames."""
        if self._keys:
            key = bisect_right(self._keys, (self._times[index], math.inf)) - 1
            start = bisect_left(self._times, self._keys[key].pts) if key >= 0 else 0
            near = self._cursor < index and start <= self._cursor + _FORWARD_FRAMES
            if not near and not (key >= 0 and self._seek(self._keys[key])):
                self._restart()
        try:
            self._advance(index)
        except av.FFmpegError:
            if not self._keys and not self._trusted:
                raise _MiscountError from None
            if not self._keys:
                raise
        if index in self._passed:
            return
        if not self._keys:
            if not self._trusted:
                raise _MiscountError
            raise VideoError(f"{self._name}: the decoder does not return frame {index}. Repair the file.")
        self._restart()
        self._fetch(index)

    def _advance(self, index: int) -> None:
        """Decode up to frame number ``index`` and keep the wanted frames; stop if a seek was inexact."""
        for frame in self._output:
            number = self._number(frame)
            if number <= self._cursor:
                continue  # its time is unknown, or it is shown before the target keyframe (open GOP)
            if self._sought and not frame.key_frame:
                return
            self._look_at(frame)
            self._cursor, self._sought = number, False
            if number in self._wanted and number not in self._images:
                self._passed.setdefault(number, frame)
            if number >= index:
                return

    def _number(self, frame: av.VideoFrame) -> int:
        """Return the number of a decoded frame; -1 if its time is not in the index."""
        if not self._times:
            return self._cursor + 1
        return self._number_at(frame.pts)

    def _number_at(self, pts: int | None) -> int:
        """Return the number of the frame of this time; -1 if the index has none."""
        if pts is None:
            return -1
        number = bisect_left(self._times, pts)
        return number if number < len(self._times) and self._times[number] == pts else -1

    # Doubts and refusals

    def _look_at(self, frame: av.VideoFrame) -> None:
        if self._fields and not self._trusted and frame.interlaced_frame:
            raise _FieldsError
        if frame.is_corrupt:
            self.doubt("corrupt: the decoder had to conceal parts of frames")

    def _check_size(self, height: int, width: int) -> None:
        if not fits(height, width, self.preprocessing):
            raise VideoError(
                f"{self._name}: frames of {width} x {height} pixels. "
                f"Expected 1 to {MAX_PIXELS} pixels, before and after resizing. Make it smaller: "
                "ffmpeg -i IN -vf scale=-2:1080 OUT.mp4"
            )

    def _check_count(self, frames: int) -> None:
        if frames > MAX_FRAMES:
            raise VideoError(
                f"{self._name} holds more than {MAX_FRAMES} frames. Expected at most that. Cut it into files of an "
                "hour: ffmpeg -i IN -c copy -f segment -segment_time 3600 OUT%03d.mp4"
            )

    def _refusal(self, fault: Exception) -> VideoError:
        reason = getattr(fault, "strerror", None) or type(fault).__name__
        return VideoError(f"{self._name} cannot be decoded: {reason}. Expected an intact video file; repair it.")
