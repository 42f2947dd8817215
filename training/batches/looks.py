"""What is seen of the clips: in training augmented and endless, in evaluation once and as deployed."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...grid.errors import DecodeTimeoutError, FramesError, VideoError
from ...grid.preprocessing import Preprocessing
from ...runtime.video.decoder import Decoder
from ...runtime.video.view import AS_DEPLOYED, View
from .augmentation import Augmentation
from .clips import Clips
from .mirrored_classes import mirrored_classes
from .order import Drawn, Order

LOG = logging.getLogger("dynvid")

_MOST_BROKEN = 100  # clips in a row that cannot be read


@dataclass(frozen=True)
class Look:
    """One clip as it was seen.

    Attributes:
        pixels: RGB, uint8 [l, crop, crop, 3] in temporal order; None if the clip cannot be read.
        label: its class; that of its mirror image if it was mirrored.
        drawn: which clip it is.
        broken: why clips cannot be read, by their number: those that it stands in for, or itself.
    """

    pixels: NDArray[np.uint8] | None
    label: int
    drawn: Drawn
    broken: dict[int, str]


class Looks(Protocol):
    """A sequence of looks, by position, on any thread."""

    def at(self, position: int, decoder: Decoder) -> Look:
        """Return the look at a position, read by ``decoder``."""
        ...


class _Reader:
    """Reads the frames of clips by number."""

    def __init__(self, clips: Clips, preprocessing: Preprocessing, num_samples: int) -> None:
        self.clips = clips
        self.preprocessing, self.num_samples = preprocessing, num_samples

    def read(self, clip: int, view: View, decoder: Decoder) -> NDArray[np.uint8]:
        """Return the frames of a clip, [l, crop, crop, 3]; a decoder that runs out of time is asked once more."""
        try:
            return self._read(clip, view, decoder)
        except DecodeTimeoutError as error:
            LOG.warning(f"{error} It is tried once more.")
            return self._read(clip, view, decoder)

    def _read(self, clip: int, view: View, decoder: Decoder) -> NDArray[np.uint8]:
        record, samples = self.clips[clip], self.num_samples
        view = replace(view, start_s=record.start_s, end_s=record.end_s)
        with decoder.open(record.path, self.preprocessing, samples, view, record.frames) as source:
            return source.pixels(range(samples))


class TrainingLooks:
    """Augmented looks at clips in the order of ``Order``.

    The next clip of the epoch that can be read stands in for a broken one. A decoder that runs out of time says
    nothing about the clip: no other stands in for it, so a slow disk never changes what is trained on.
    """

    def __init__(
        self,
        clips: Clips,
        preprocessing: Preprocessing,
        num_samples: int,
        augmentation: Augmentation,
        classes: tuple[str, ...],
        seed: int,
    ) -> None:
        self._reader, self._augmentation = _Reader(clips, preprocessing, num_samples), augmentation
        self._order = Order(len(clips), seed)
        swaps = augmentation.flip == "swap"
        self._mirrored = mirrored_classes(classes) if swaps else list(range(len(classes)))

    def at(self, position: int, decoder: Decoder) -> Look:
        """Return the look at a position of the endless sequence.

        Raises:
            DecodeTimeoutError: If a clip was twice not decoded in time.
            VideoError: If too many clips in a row are broken.
        """
        clips, broken = self._reader.clips, dict[int, str]()
        for later in range(min(_MOST_BROKEN, len(clips))):
            drawn = self._order.at(position, later)
            view = self._augmentation.view(self._order.generator(drawn), self._reader.num_samples)
            try:
                pixels = self._reader.read(drawn.clip, view, decoder)
            except DecodeTimeoutError:
                raise
            except (VideoError, FramesError) as error:
                broken[drawn.clip] = str(error)
                continue
            label = int(clips.labels[drawn.clip])
            return Look(pixels, self._mirrored[label] if view.mirrored else label, drawn, broken)
        raise VideoError(f"{len(broken)} clips in a row cannot be read, such as: {next(iter(broken.values()))}")


class EvaluationLooks:
    """Every clip once, as deployment sees it."""

    def __init__(self, clips: Clips, preprocessing: Preprocessing, num_samples: int) -> None:
        self._reader = _Reader(clips, preprocessing, num_samples)

    def at(self, position: int, decoder: Decoder) -> Look:
        """Return clip number ``position``; without pixels if it cannot be read.

        Raises:
            DecodeTimeoutError: If it was twice not decoded in time.
        """
        label, drawn = int(self._reader.clips.labels[position]), Drawn(0, position)
        try:
            return Look(self._reader.read(position, AS_DEPLOYED, decoder), label, drawn, {})
        except DecodeTimeoutError:
            raise
        except (VideoError, FramesError) as error:
            return Look(None, label, drawn, {position: str(error)})
