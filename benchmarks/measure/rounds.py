"""Contestants measured side by side: in one process, clip by clip, in an order drawn anew for each clip."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from ...grid.errors import UsageError
from ..report.report import Latency, Sample
from .estimates import Times, of_mean

MOST_ROUNDS = 50


@dataclass(frozen=True)
class Contestant:
    """Something that classifies clips.

    Attributes:
        name: in reports.
        run: classifies a clip, by its number, and returns its exit, 1-based.
    """

    name: str
    run: Callable[[int], int]


def interleave(
    contestants: Sequence[Contestant],
    clips: int,
    seconds: float,
    rounds: int | None,
    report: Callable[[str], None],
    seed: int = 0,
) -> list[Sample]:
    """Return a sample for each contestant, clip and round.

    Whatever disturbs the machine for longer than a clip takes disturbs all contestants alike.

    Args:
        contestants: all different in name.
        clips: how many there are.
        seconds: that all rounds together should take, where ``rounds`` is None; one round is always made whole.
        rounds: passes over all clips; None: as many as fit.
        report: gets a line about each step.
        seed: of the orders.

    Raises:
        UsageError: If ``rounds`` is not at least 1.
    """
    if rounds is not None and rounds < 1:
        raise UsageError(f"{rounds} rounds: expected at least 1")
    for contestant in contestants:
        report(f"warming up: {contestant.name}")
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
            report(f"round {done + 1}, clip {step}/{clips}")
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
        """Return the milliseconds of a contestant, of the clips that left at an exit, or of all."""
        return [sample.ms for sample in self._of[name] if left in (None, sample.exit)]

    def times(self, *names: str) -> Times:
        """Return the times of contestants that do the same, one stratum an exit."""
        found = [sample for name in names for sample in self._of[name]]
        exits = sorted({sample.exit for sample in found})
        strata = [[sample.ms for sample in found if sample.exit == left] for left in exits]
        return Times([(len(stratum) / len(found), stratum) for stratum in strata])

    def relative(self, name: str, *others: str) -> Times:
        """Return the times of a contestant, each over the mean of what the others took for the same clip in the same round.

        So what slows the machine down for longer than a clip takes cancels out. One stratum an exit of the contestant.
        """
        beside: dict[tuple[int, int], list[float]] = {}
        for other in others:
            for sample in self._of[other]:
                beside.setdefault((sample.round, sample.clip), []).append(sample.ms)
        found = [s._replace(ms=s.ms / fmean(beside[s.round, s.clip])) for s in self._of[name]]
        return Samples(found).times(name)

    def latency(self, name: str, left: int | None = None) -> Latency | None:
        """Return the latency of a contestant, at one exit or overall; None where there is no sample."""
        ms = self.ms(name, left)
        if not ms:
            return None
        p50, p90, p99 = np.percentile(ms, [50, 90, 99]).tolist()
        return Latency(len(ms), of_mean(ms) if left is not None else self.times(name).estimate(), p50, p90, p99)
