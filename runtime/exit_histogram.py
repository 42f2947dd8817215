"""Counts of exits and confidences, which show whether videos still behave as they did at calibration."""

from __future__ import annotations

from ..grid.thresholds import CONFIDENCE_BINS, Tally


class ExitHistogram:
    """Counts videos by the checkpoint that answered and by its confidence."""

    def __init__(self, checkpoints: int) -> None:
        self._counts = [[0] * CONFIDENCE_BINS for _ in range(checkpoints)]

    def add(self, checkpoint: int, confidence: float) -> None:
        """Count a video that left at ``checkpoint`` (1-based) with ``confidence`` in [0, 1]."""
        self._counts[checkpoint - 1][min(int(confidence * CONFIDENCE_BINS), CONFIDENCE_BINS - 1)] += 1

    @property
    def counts(self) -> Tally:
        """The counts so far."""
        return tuple(map(tuple, self._counts))
