"""Which clip comes when: a function of the seed alone, whatever the workers, ranks and interruptions."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_ORDER_STREAM, _VIEW_STREAM = 0, 1  # independent streams of random numbers


class Drawn(NamedTuple):
    """A clip that is looked at: its number, and how often the whole data set was seen before."""

    epoch: int
    clip: int


class Order:
    """An endless sequence of clips: one permutation of all clips after the other.

    A batch is a piece of the sequence, so every batch is full, and every clip comes exactly once an epoch.
    """

    def __init__(self, clips: int, seed: int) -> None:
        """Take the number of clips, at least 1, and the seed."""
        self.clips, self.seed = clips, seed
        self._permutation = lru_cache(maxsize=2)(self._drawn_permutation)

    def at(self, position: int, later: int = 0) -> Drawn:
        """Return the clip at a position of the sequence, or the one ``later`` places after it in its epoch.

        After the last place of an epoch comes its first: what stands in for a broken clip is of the same epoch.
        """
        epoch, place = divmod(position, self.clips)
        return Drawn(epoch, int(self._permutation(epoch)[(place + later) % self.clips]))

    def generator(self, drawn: Drawn) -> np.random.Generator:
        """Return the random numbers of one look at a clip."""
        return np.random.default_rng((self.seed, _VIEW_STREAM, *drawn))

    def _drawn_permutation(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng((self.seed, _ORDER_STREAM, epoch)).permutation(self.clips)
