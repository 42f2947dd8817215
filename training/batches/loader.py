"""Batches of looks, decoded ahead by the decoder processes of deployment."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ...runtime.closing import Closing
from ...runtime.video.decoder import DECODE_TIMEOUT_S, Decoder
from .looks import Look, Looks
from .order import Drawn

_BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Batch:
    """Looks of one step; those without pixels are left out.

    Attributes:
        pixels: RGB, uint8 [looks, l, crop, crop, 3] in temporal order.
        labels: int64 [looks].
        drawn: which clips these are.
        broken: why clips cannot be read, by their number.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    drawn: tuple[Drawn, ...]
    broken: dict[int, str]

    @classmethod
    def of(cls, looks: Sequence[Look]) -> Self:
        """Return the batch of these looks, of which one has pixels at least."""
        seen = [look for look in looks if look.pixels is not None]
        return cls(
            np.stack([look.pixels for look in seen if look.pixels is not None]) if seen else np.empty(0, np.uint8),
            np.array([look.label for look in seen], np.int64),
            tuple(look.drawn for look in seen),
            {clip: why for look in looks for clip, why in look.broken.items()},
        )


class Loader(Closing):
    """Threads that each wait for a decoder process of their own; what they read depends on the positions alone."""

    def __init__(self, workers: int, timeout_s: float = DECODE_TIMEOUT_S) -> None:
        """Start no process yet.

        Args:
            workers: number of decoders that read ahead; 0: one, which reads only what is asked for.
            timeout_s: most CPU time of a decoder for one clip.
        """
        self._timeout_s = timeout_s
        self._decoders: list[Decoder] = []
        self._own = threading.local()
        self._pool = ThreadPoolExecutor(workers, "decoder") if workers else None

    def batches(self, looks: Looks, batches: Iterable[Sequence[int]]) -> Iterator[Batch]:
        """Yield the batches of looks at these positions, in order.

        Raises:
            DecodeTimeoutError, DecoderFaultError, VideoError: If a look cannot be had; in its batch's turn.
        """
        if self._pool is None:
            for positions in batches:
                yield Batch.of([self._look(looks, position) for position in positions])
            return
        queue: deque[list[Future[Look]]] = deque()
        try:
            for positions in batches:
                queue.append([self._pool.submit(self._look, looks, position) for position in positions])
                if len(queue) > _BATCHES_AHEAD:
                    yield Batch.of([future.result() for future in queue.popleft()])
            while queue:
                yield Batch.of([future.result() for future in queue.popleft()])
        finally:  # the consumer has stopped, or a look failed
            for futures in queue:
                for future in futures:
                    future.cancel()

    def close(self) -> None:
        """End the threads and their decoders."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        for decoder in self._decoders:
            decoder.close()

    def _look(self, looks: Looks, position: int) -> Look:
        decoder: Decoder | None = getattr(self._own, "decoder", None)
        if decoder is None:
            decoder = self._own.decoder = Decoder(timeout_s=self._timeout_s)
            self._decoders.append(decoder)
        return looks.at(position, decoder)
