"""A run of ``classify`` over a list: what decides which videos have a line in its results, and what it says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..grid.manifest import Precision


@dataclass(frozen=True)
class Run:
    """The run that a results file belongs to: everything that decides which videos have a line and what it says.

    Attributes:
        bundle_sha256: of the bundle's manifest.
        thresholds, temperatures: those of the session.
        precision, backend, trace: as given.
        videos: number of videos before sharding; ``videos_sha256``: hash of their paths, in any order.
        shard: (i, n), 1-based.
        fused: whether fused segments answered; the cells' answers differ in the last bits.
    """

    bundle_sha256: str
    thresholds: tuple[float | None, ...] | None
    temperatures: tuple[float, ...] | None
    precision: Precision
    backend: str
    trace: bool
    videos: int
    videos_sha256: str
    shard: tuple[int, int] = (1, 1)
    fused: bool = False

    def differences(self, other: Run) -> list[str]:
        """Return the fields in which ``other`` differs, each as 'field its value, here own value'."""
        own, others = asdict(self), asdict(other)
        return [f"{k} {_shown(others[k])}, here {_shown(own[k])}" for k in own if own[k] != others[k]]

    def remedy(self, other: Run) -> str:
        """Return how to go on with the results of ``other``, up to "another" file."""
        if other != replace(self, fused=not self.fused, backend=other.backend):
            return "Give"
        if not self.fused:
            return "Go on with the engines that it began with. Else give"
        backend = "" if self.backend == other.backend else f" --backend {other.backend}"
        return f"Engines were built since: go on with --engines none{backend}. Else give"


def sha256_of_videos(videos: Iterable[str]) -> str:
    """Return the sha256 of a set of paths."""
    return hashlib.sha256(json.dumps(sorted(videos)).encode()).hexdigest()


def _shown(value: Any) -> str:
    return f"{value[:8]}…" if isinstance(value, str) and len(value) == 64 else str(value)
