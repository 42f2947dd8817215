"""Detect drift: compare exits and confidences of later videos with those at calibration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..grid.errors import ResultsError, ThresholdsError
from ..grid.thresholds import Tally, Thresholds
from ..runtime.exit_histogram import ExitHistogram
from ..runtime.results.lines import latest, numbered_records
from ..runtime.results.run import run_beside

_DRAWS = 2000
_CHANCE = 0.99  # quantile of the distances that chance explains


@dataclass(frozen=True)
class Drift:
    """How far later videos are from those at calibration.

    Attributes:
        expected_videos, videos: numbers of videos at calibration, and now.
        expected_shares, shares: of the videos at each exit.
        exit_distance: half the summed difference of the shares (total variation): the share of videos that would have
            to leave elsewhere; ``exit_chance``: what 99 % of equal draws stay below.
        confidence_distance, confidence_chance: the same over exits and confidence in bins of 0.1.
    """

    expected_videos: int
    videos: int
    expected_shares: tuple[float, ...]
    shares: tuple[float, ...]
    exit_distance: float
    exit_chance: float
    confidence_distance: float
    confidence_chance: float

    @property
    def drifted(self) -> bool:
        """Whether either distance is larger than chance explains."""
        return self.exit_distance > self.exit_chance or self.confidence_distance > self.confidence_chance

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON types."""
        return {**asdict(self), "drifted": self.drifted}


def compare(expected: Tally, now: Tally) -> Drift:
    """Return how far the tally ``now`` is from the ``expected`` one, each [checkpoints][confidence bins].

    What chance explains is simulated: both tallies are drawn from the pooled ones, 2,000 times, with a fixed seed.

    Raises:
        ResultsError: If one of them counts no video.
    """
    before, after = (np.array(tally, np.int64) for tally in (expected, now))
    if before.shape != after.shape or not (before.sum() and after.sum()):
        raise ResultsError(
            f"{int(after.sum())} videos at {len(after)} checkpoints against {int(before.sum())} at {len(before)}: "
            "expected some videos in each, on the same route"
        )
    figures: list[float] = []
    for one, other in ((before.sum(1), after.sum(1)), (before.ravel(), after.ravel())):
        figures += [_distance(one / one.sum(), other / other.sum()).item(), _by_chance(one, other)]
    expected_shares, shares = (tuple((tally.sum(1) / tally.sum()).tolist()) for tally in (before, after))
    return Drift(int(before.sum()), int(after.sum()), expected_shares, shares, *figures)


def check_results(results: Path, thresholds: Thresholds, where: str) -> Drift:
    """Return the drift of the videos in a JSON Lines file of ``dynvid classify`` from those at calibration.

    Raises:
        ThresholdsError: If the thresholds, read from ``where``, do not say what is expected.
        StaleThresholdsError, StaleResultsError: If what lies beside the results names another bundle, or says that they
            left by other thresholds.
        ResultsError: If the file cannot be read, a line is not a record, or no record has an answer.
    """
    run = run_beside(results)
    if run is not None:
        run.require_bundle(thresholds.bundle_sha256, str(results))
        run.require_thresholds(thresholds, where, str(results))
    if thresholds.expected is None:
        raise ThresholdsError(
            f"thresholds {where!r} do not say how videos left at calibration: choose them with 'dynvid calibrate'"
        )
    return compare(thresholds.expected, tally_of(results, len(thresholds.thresholds)))


def tally_of(results: Path, checkpoints: int) -> Tally:
    """Return the exits and confidences of the answered videos in a JSON Lines file of ``dynvid classify``.

    Raises:
        ResultsError: If the file cannot be read, a line is not a record, or no record has an answer.
    """
    return tally_of_records(latest(numbered_records(results), str(results)), str(results), checkpoints)


def tally_of_records(records: Iterable[tuple[int, Mapping[str, Any]]], where: str, checkpoints: int) -> Tally:
    """Return the same of records with their numbers; ``where`` names their file. It raises the same, too."""
    tally = ExitHistogram(checkpoints)
    for number, record in records:
        if record.get("status") in ("damaged", "numeric_error"):
            continue
        checkpoint, confidence = record.get("checkpoint"), record.get("confidence")
        if not (type(checkpoint) is int and 1 <= checkpoint <= checkpoints):
            raise ResultsError(
                f"results {where!r}, line {number}: checkpoint {checkpoint!r}, expected a number from 1 to "
                f"{checkpoints}: give results of this bundle"
            )
        if not (isinstance(confidence, int | float) and 0 <= confidence <= 1.0001):
            raise ResultsError(
                f"results {where!r}, line {number}: confidence {confidence!r}, expected a number in [0, 1]"
            )
        tally.add(checkpoint, confidence)
    if not any(map(sum, tally.counts)):
        raise ResultsError(f"results {where!r}: no video has an answer, so there is nothing to compare")
    return tally.counts


def _distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    distance: NDArray[np.float64] = np.abs(one - other).sum(-1) / 2
    return distance


def _by_chance(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    pooled = (one + other) / (one.sum() + other.sum())
    rng = np.random.default_rng(0)
    draws = [rng.multinomial(int(tally.sum()), pooled, _DRAWS) / tally.sum() for tally in (one, other)]
    return float(np.quantile(_distance(*draws), _CHANCE))
