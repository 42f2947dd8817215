"""Measure contestants side by side: in one process, clip by clip, in a new random order for each clip."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from ...grid.errors import UsageError
from ..report.report import Latency, Sample
from .estimates import Times, of_mean

LOG = logging.getLogger("dynvid")

MOST_ROUNDS = 50


@dataclass(frozen=True)
class Contestant:
    """Something that classifies clips.

    Attributes:
        name: for reports.
        run: classifies a clip, given its number, and returns its exit, 1-based.
    """

    name: str
    run: Callable[[int], int]


def interleave(
    contestants: Sequence[Contestant],
    clips: int,
    seconds: float,
    rounds: int | None,
    seed: int = 0,
) -> list[Sample]:
    """Return a sample for each contestant, clip and round.

    Any disturbance of the machine that lasts longer than a clip affects all contestants alike.

    Args:
        contestants: with distinct names.
        clips: number of clips.
        seconds: time for all rounds together, if ``rounds`` is None; at least one round is completed.
        rounds: passes over all clips; None: as many as fit.
        seed: of the orders.

    Raises:
        UsageError: If ``rounds`` is below 1.
    """
    if rounds is not None and rounds < 1:
        raise UsageError(f"{rounds} rounds: expected at least 1")
    for contestant in contestants:
        LOG.info(f"warming up: {contestant.name}")
        for clip in range(min(2, clips)):
            contestant.run(clip)
    rng, samples, begun = np.random.default_rng(seed), list[Sample](), time.perf_counter()
    done = 0
    while done < (rounds or MOST_ROUNDS):
        for step, clip in enumerate(rng.permutation(clips).tolist(), 1):
            for place in rng.permutation(len(contestants)).tolist():
                contestant = contestants[place]
                started = time.perf_counter()
                left = contestant.run(clip)
                ms = (time.perf_counter() - started) * 1e3
                samples.append(Sample(contestant.name, done, clip, left, ms))
            LOG.debug(f"round {done + 1}, clip {step}/{clips}")
        done += 1
        spent = time.perf_counter() - begun
        if rounds is None and spent * (done + 1) / done > seconds:
            break
    return samples


class Samples:
    """Samples by contestant."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.all = tuple(samples)
        self._of: dict[str, list[Sample]] = {}
        for sample in samples:
            self._of.setdefault(sample.contestant, []).append(sample)

    def __contains__(self, name: str) -> bool:
        return name in self._of

    def ms(self, name: str, left: int | None = None) -> list[float]:
        """Return the milliseconds of a contestant, for the clips that left at an exit or for all."""
        return [sample.ms for sample in self._of[name] if left in (None, sample.exit)]

    def times(self, *names: str) -> Times:
        """Return the times of equivalent contestants, with one stratum per exit."""
        found = [sample for name in names for sample in self._of[name]]
        exits = sorted({sample.exit for sample in found})
        strata = [[sample.ms for sample in found if sample.exit == left] for left in exits]
        return Times([(len(stratum) / len(found), stratum) for stratum in strata])

    def relative(self, name: str, *others: str) -> Times:
        """Return a contestant's times, each divided by the others' mean time for the same clip in the same round.

        So anything that slows the machine down for longer than a clip cancels out. One stratum per exit of the
        contestant.
        """
        beside: dict[tuple[int, int], list[float]] = {}
        for other in others:
            for sample in self._of[other]:
                beside.setdefault((sample.round, sample.clip), []).append(sample.ms)
        found = [s._replace(ms=s.ms / fmean(beside[s.round, s.clip])) for s in self._of[name]]
        return Samples(found).times(name)

    def latency(self, name: str, left: int | None = None) -> Latency | None:
        """Return the latency of a contestant, at one exit or overall; None without samples."""
        ms = self.ms(name, left)
        if not ms:
            return None
        p50, p90, p99 = np.percentile(ms, [50, 90, 99]).tolist()
        return Latency(len(ms), of_mean(ms) if left is not None else self.times(name).estimate(), p50, p90, p99)
