"""Encoded videos: decoded lazily, seeking both ways, and frame i is exactly the i-th of linear decoding."""

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
from .packet_index import Packet, index_packets

__all__ = ["FrameArray", "FrameSource", "VideoFile", "normalise"]

# Left out: what names other files or URLs (playlists, image patterns, sdp) and what draws text.
_CONTAINERS = "mov,mp4,matroska,webm,avi,flv,mpegts,mpeg,asf,ogg,ivf"
# Of metadata that is no UTF-8 PyAV 18 makes an error unless told otherwise; 19 reads it, and knows no such option.
_READ_ANY_METADATA: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
_FORWARD_FRAMES = 3  # a keyframe so near ahead is decoded up to, not sought: a seek restarts the decoder
_FAULTS = (av.FFmpegError, MemoryError, UnicodeError)  # what PyAV raises about a file


class VideoFile(SampledFrames):
    """An encoded video, decoded in this process (``Decoder`` does the same in a child process).

    One pass over the packets, decoding nothing, gives the sorted presentation times: frame i has the i-th.
    A seek goes to the keyframe before the wanted frame, frames are told apart by their times, and wanted
    frames that are passed by are kept. Where a seek does not hold what it promised, reading starts again
    from the beginning, without seeking.
    """

    def __init__(self, path: str | os.PathLike[str], preprocessing: Preprocessing, num_samples: int) -> None:
        """Open and index the video.

        Raises:
            VideoError: If the file is no video, holds no frames, or exceeds the caps.
        """
        super().__init__(preprocessing, num_samples)
        started = time.perf_counter()
        self._name, self._path = f"video '{path}'", regular_file(path)
        self._times: list[int] = []  # pts of the frames, in order; none where frames are counted
        self._keys: list[tuple[int, int]] = []  # pts and dts of the keyframes, in order; none: no seeking
        self._images: dict[int, NDArray[np.uint8]] = {}  # by frame number: [crop, crop, 3]
        self._passed: dict[int, av.VideoFrame] = {}  # by frame number: wanted, decoded, not yet asked for
        self._wanted_times: frozenset[int] = frozenset()  # pts; if any, other frames may be skipped
        self._output: Iterator[av.VideoFrame] = iter(())
        av.logging.set_level(av.logging.PANIC)
        try:
            self._open()
            self._index()
            if not self._times:
                self._count()
            if not self._keys:
                self._restart()
        except _FAULTS as fault:
            raise self._refusal(fault) from None
        if not self.frames_total:
            raise VideoError(f"{self._name} holds no frame that can be decoded. Expected at least one.")
        self._indices = self.sampled()
        self._wanted = frozenset(self._indices)
        # H.264 says which frames no other refers to: passed by, they need no decoding.
        if self._keys and self._stream.codec_context.codec.canonical_name == "h264":
            self._wanted_times = frozenset(self._times[index] for index in self._wanted)
        self.decode_ms = (time.perf_counter() - started) * 1e3

    def pixels(self, samples: Sequence[int]) -> NDArray[np.uint8]:
        """Return RGB frames [frames, crop, crop, 3] of temporal sample numbers, in the order asked.

        Raises:
            UsageError: If no sample is asked for, or one outside [0, num_samples).
            VideoError: If a wanted frame cannot be decoded.
        """
        self.check(samples)
        indices = [self._indices[sample] for sample in samples]
        try:
            for index in sorted(set(indices) - self._images.keys()):
                if index not in self._passed:
                    self._fetch(index)
                frame = self._passed.pop(index)
                self._check_size(frame.height, frame.width)  # it may change on the way
                self._images[index] = cropped(frame, self.preprocessing)
        except _FAULTS as fault:
            raise self._refusal(fault) from None
        return np.stack([self._images[index] for index in indices])

    def close(self) -> None:
        """Close the file and forget its frames."""
        super().close()
        self._container.close()
        self._passed.clear()
        self._images.clear()

    # What the file holds

    def _open(self) -> None:
        """Open the container, at its first packet."""
        options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
        self._container = av.open(self._path, options=options, **_READ_ANY_METADATA)
        streams = self._container.streams.video
        films = [s for s in streams if not s.disposition & av.stream.Disposition.attached_pic]
        if not films:
            raise VideoError(f"{self._name} has no video stream. Expected one.")
        self._stream = films[0]
        context = self._stream.codec_context
        if context is None:
            raise VideoError(f"{self._name} has a video stream of an unknown codec. Convert it, e.g. to H.264.")
        self._check_size(context.height, context.width)
        context.thread_type, context.thread_count = "NONE", 1
        context.options = {"max_pixels": str(MAX_PIXELS)}

    def _demux(self, *streams: av.VideoStream) -> Iterator[Packet]:
        """Yield the whole packets of ``streams``, of all if none is named, as far as the file goes."""
        try:
            for packet in self._container.demux(*streams):
                if packet.is_corrupt:
                    self.doubt("truncated: a packet is not whole")
                elif packet.size:  # PyAV's last packets are empty
                    yield packet
        except av.FFmpegError as fault:
            if isinstance(fault, MemoryError):
                raise
            self.doubt(f"truncated: the file breaks off ({fault.strerror})")
        except IndexError:  # PyAV's way to say so
            raise VideoError(f"{self._name}: a new stream begins amid the file. Convert it to MP4.") from None

    def _index(self) -> None:
        """List the times and keyframes, decoding nothing."""
        index = index_packets(self._container, self._stream, self._demux(), MAX_FRAMES)
        self._check_count(index.count)
        if index.lost:
            self.doubt(index.lost)
        self._times, self._keys, self.frames_total = index.times, index.keys, len(index.times)
        self._cursor = self.frames_total  # at the end: the first read seeks

    def _count(self) -> None:
        """Count the frames by decoding them all."""
        self._restart()
        try:
            for frame in self._output:
                self._look_at(frame)
                self.frames_total += 1
                self._check_count(self.frames_total)
        except av.InvalidDataError as fault:
            self.doubt(f"corrupt: decoding breaks off after {self.frames_total} frames ({fault.strerror})")

    # How a frame is reached

    def _decode(self, packets: Iterable[Packet]) -> Iterator[av.VideoFrame]:
        """Yield the frames that come out of the decoder."""
        context = self._stream.codec_context
        for packet in itertools.chain(packets, [None]):
            self.frames_decoded += packet is not None
            if self._wanted_times and packet is not None:
                context.skip_frame = "DEFAULT" if packet.pts in self._wanted_times else "NONREF"
            yield from context.decode(packet)

    def _restart(self) -> None:
        """Go back to the first frame, to decode everything from there on: no seeks, nothing skipped."""
        self._container.close()
        self._open()
        self._keys, self._wanted_times = [], frozenset()
        self._cursor, self._sought = -1, False
        self._output = self._decode(self._demux(self._stream))

    def _seek(self, pts: int, dts: int) -> bool:
        """Go to the keyframe with these times, or to one before; return whether it could be found."""
        for time_wanted in (pts, dts):  # containers differ in the one that they search by
            self._container.seek(time_wanted, stream=self._stream)
            packets = self._demux(self._stream)
            first = next(packets, None)
            if first is not None and first.is_keyframe and first.pts is not None and first.pts <= pts:
                self._cursor, self._sought = bisect_left(self._times, first.pts) - 1, True
                self._output = self._decode(itertools.chain([first], packets))
                return True
        return False

    def _fetch(self, index: int) -> None:
        """Put frame number ``index`` among the passed ones."""
        if self._keys:
            key = bisect_right(self._keys, (self._times[index], math.inf)) - 1
            start = bisect_left(self._times, self._keys[key][0]) if key >= 0 else 0
            near = self._cursor < index and start <= self._cursor + _FORWARD_FRAMES
            if not near and not (key >= 0 and self._seek(*self._keys[key])):
                self._restart()
        try:
            self._advance(index)
        except av.FFmpegError:
            if not self._keys:
                raise
        if index in self._passed:
            return
        if not self._keys:
            raise VideoError(f"{self._name}: frame {index} does not come out of the decoder. Repair the file.")
        self._restart()
        self._fetch(index)

    def _advance(self, index: int) -> None:
        """Decode up to frame number ``index`` and keep the wanted frames; give up if a seek was not exact."""
        for frame in self._output:
            number = self._number(frame)
            if number <= self._cursor:
                continue  # of no known time, or shown before the keyframe that was sought (open GOP)
            if self._sought and not frame.key_frame:
                return
            self._look_at(frame)
            self._cursor, self._sought = number, False
            if number in self._wanted and number not in self._images:
                self._passed.setdefault(number, frame)
            if number >= index:
                return

    def _number(self, frame: av.VideoFrame) -> int:
        """Return the number of the frame that has just come out; -1 if it has no time of the index."""
        if not self._times:
            return self._cursor + 1
        if frame.pts is None:
            return -1
        number = bisect_left(self._times, frame.pts)
        return number if number < len(self._times) and self._times[number] == frame.pts else -1

    # Doubts and refusals

    def _look_at(self, frame: av.VideoFrame) -> None:
        if frame.is_corrupt:
            self.doubt("corrupt: the decoder had to make up parts of frames")

    def _check_size(self, height: int, width: int) -> None:
        if not fits(height, width, self.preprocessing):
            raise VideoError(
                f"{self._name}: frames of {width} x {height} pixels. "
                f"Expected 1 to {MAX_PIXELS} pixels, also once resized; convert it."
            )

    def _check_count(self, frames: int) -> None:
        if frames > MAX_FRAMES:
            raise VideoError(f"{self._name} holds more than {MAX_FRAMES} frames. Expected fewer; cut it.")

    def _refusal(self, fault: Exception) -> VideoError:
        reason = getattr(fault, "strerror", None) or type(fault).__name__
        return VideoError(f"{self._name} cannot be decoded: {reason}. Expected an intact video file; repair it.")
