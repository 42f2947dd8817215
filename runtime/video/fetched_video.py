"""The frames of a video behind a URI."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from ...grid.errors import InputRefusedError
from ..closing import Closing
from .frames import FrameSource
from .remote import fetch


class FetchedVideo(Closing):
    """The frames of a video behind a URI: fetched to a temporary file, which goes when it is closed. See ``FrameSource``.

    Args:
        uri: of the video.
        open_file: returns the frames of a local file.

    Raises:
        VideoError: If it cannot be fetched, or cannot be read.
        MissingPackageError: As ``fetch``.
    """

    def __init__(self, uri: str, open_file: Callable[[str], FrameSource]) -> None:
        started = time.perf_counter()
        self._uri, self._file = uri, fetch(uri)
        self._fetch_ms = (time.perf_counter() - started) * 1e3
        try:
            with self._by_uri():
                self._source = open_file(self._file.name)
        except BaseException:
            self._file.close()
            raise
        self._note()

    def read(self, samples: Sequence[int]) -> NDArray[np.float32]:
        """Return preprocessed frames; see ``FrameSource``."""
        with self._by_uri():
            frames = self._source.read(samples)
        self._note()
        return frames

    def _note(self) -> None:
        source = self._source
        self.frames_total, self.frames_decoded = source.frames_total, source.frames_decoded
        self.damaged, self.warnings = source.damaged, source.warnings
        self.decode_ms = self._fetch_ms + source.decode_ms  # fetching is a part of reading

    def close(self) -> None:
        """Close the video and delete the file."""
        self._source.close()
        self._file.close()

    @contextmanager
    def _by_uri(self) -> Iterator[None]:
        """Let errors name the URI instead of the temporary file."""
        try:
            yield
        except InputRefusedError as error:
            raise type(error)(str(error).replace(self._file.name, self._uri)) from None
