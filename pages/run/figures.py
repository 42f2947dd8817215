"""The figures of a run of ``dynvid classify``: exits, accuracy, confusion, costs, failures. Counted from its records."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from ...calibration.choosing.interval import Interval, of_share
from ...calibration.drift import Drift
from .lines import VideoLine

PERCENTILES = (5, 50, 90, 99)


class Group(NamedTuple):
    """Answered videos of one checkpoint or class, and what they have in common.

    Attributes:
        name: of the group.
        videos: their number; ``labelled``, ``right``: of those, with a label, and whose answer it is.
        exits: how many left at each checkpoint.
        confidence, gmacs, latency_ms: means; None without figures.
    """

    name: str
    videos: int
    labelled: int
    right: int
    exits: tuple[int, ...]
    confidence: float | None
    gmacs: float | None
    latency_ms: float | None

    @property
    def accuracy(self) -> float | None:
        """The share of right answers; None without labels."""
        return self.right / self.labelled if self.labelled else None

    @property
    def accuracy_interval(self) -> Interval | None:
        """The 95 % interval of the accuracy."""
        return of_share(self.right, self.labelled) if self.labelled else None


class Spread(NamedTuple):
    """Mean and percentiles (``PERCENTILES``) of a figure, and a histogram: counts between ``edges``."""

    mean: float
    percentiles: tuple[float, ...]
    counts: tuple[int, ...]
    edges: tuple[float, ...]


class Failure(NamedTuple):
    """A cause of failures, in the words of the first, how many videos have it, and some of them."""

    cause: str
    videos: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class RunFigures:
    """A run.

    Attributes:
        lines: a line a video.
        checkpoints: how many the route has, as far as is known.
        drift: from calibration; None where nothing was compared.
        listed: how many videos should have a line: those of the list, or of its shard; None: not known.
        list_read: whether the run read its list to the end; if not, nothing says how many videos have no line.
        shard: (i, n): the lines are shard i of n; (1, 1): of the whole list.
    """

    lines: tuple[VideoLine, ...]
    checkpoints: int
    drift: Drift | None = None
    listed: int | None = None
    list_read: bool = True
    shard: tuple[int, int] = (1, 1)

    @property
    def missing(self) -> int | None:
        """How many videos have no line; None: not known."""
        return None if self.listed is None else max(0, self.listed - len(self.lines))

    @cached_property
    def answered(self) -> tuple[VideoLine, ...]:
        """The videos with an answer."""
        return tuple(line for line in self.lines if line.status == "ok")

    @cached_property
    def total(self) -> Group:
        """All answered videos."""
        return self._group("all", self.answered)

    @cached_property
    def by_exit(self) -> tuple[Group, ...]:
        """The videos of each checkpoint."""
        return tuple(
            self._group(str(k), [line for line in self.answered if line.checkpoint == k])
            for k in range(1, self.checkpoints + 1)
        )

    @cached_property
    def by_class(self) -> tuple[Group, ...]:
        """The videos of each label of the list; of each answer, where no video has a label."""
        of: dict[str, list[VideoLine]] = {}
        for line in self.answered:
            name = line.listed_label if self.total.labelled else line.label
            if name is not None:
                of.setdefault(name, []).append(line)
        return tuple(self._group(name, of[name]) for name in sorted(of))

    @cached_property
    def confusion(self) -> Counter[tuple[str, str]]:
        """How many videos of a label (first) got an answer (second)."""
        return Counter(
            (line.listed_label, line.label)
            for line in self.answered
            if line.listed_label is not None and line.label is not None
        )

    @cached_property
    def failures(self) -> tuple[Failure, ...]:
        """Why videos have no answer, the most frequent cause first."""
        of: dict[str, tuple[str, list[str]]] = {}
        for line in self.lines:
            if line.status == "ok":
                continue
            said = "a checkpoint gave NaN or infinity" if line.error is None else line.error.replace(line.video, "…")
            of.setdefault(re.sub(r"\d+", "#", said), (said, []))[1].append(line.video)
        found = [Failure(said, len(videos), tuple(videos[:3])) for said, videos in of.values()]
        return tuple(sorted(found, key=lambda failure: -failure.videos))

    @cached_property
    def static_gmacs(self) -> float | None:
        """The multiply-adds of the static network, as the lines imply; None if they do not agree, or do not say."""
        known = [line.gmacs / line.fraction for line in self.answered if line.gmacs is not None and line.fraction]
        if not known or len(known) < len(self.answered) or max(known) > 1.001 * min(known):
            return None
        return sum(known) / len(known)

    def spread(self, name: Literal["latency_ms", "decode_ms", "gmacs", "fraction"]) -> Spread | None:
        """Return how a figure spreads over the answered videos; None where no line has it."""
        values = np.array([value for line in self.answered if (value := getattr(line, name)) is not None])
        if not len(values):
            return None
        # the last bin also holds the few beyond the 99th percentile, so that they do not flatten the rest
        top = float(np.percentile(values, 99)) or 1.0
        counts, edges = np.histogram(values.clip(max=top), bins=24, range=(0.0, top))
        percentiles = tuple(np.percentile(values, PERCENTILES).tolist())
        return Spread(float(values.mean()), percentiles, tuple(counts.tolist()), tuple(edges.tolist()))

    def earliest(self, most: int) -> list[VideoLine]:
        """Return those that left first, the most confident before others."""
        return sorted(self.answered, key=lambda line: (line.checkpoint or 0, -(line.confidence or 0)))[:most]

    def latest(self, most: int) -> list[VideoLine]:
        """Return those that left last, the least confident before others."""
        return sorted(self.answered, key=lambda line: (-(line.checkpoint or 0), line.confidence or 0))[:most]

    def wrong(self, most: int) -> list[VideoLine]:
        """Return those whose answer is not their label, the most confident before others."""
        wrong = [line for line in self.answered if line.right is False]
        return sorted(wrong, key=lambda line: -(line.confidence or 0))[:most]

    def to_json(self) -> dict[str, Any]:
        """Return the figures as ``dynvid report --json`` prints them."""
        spreads = {name: self.spread(name) for name in ("latency_ms", "decode_ms", "gmacs", "fraction")}
        total = _json(self.total)
        del total["name"], total["videos"]
        return {
            "videos": len(self.lines),
            "listed": self.listed,
            "missing": self.missing,
            "list_read": self.list_read,
            "shard": list(self.shard),
            "answered": len(self.answered),
            "static_gmacs": self.static_gmacs,
            **total,
            "by_exit": list(map(_json, self.by_exit)),
            "by_class": list(map(_json, self.by_class)),
            "confusion": [[label, answer, count] for (label, answer), count in sorted(self.confusion.items())],
            "spread": {
                name: spread and {"mean": spread.mean, **_percentiles(spread)} for name, spread in spreads.items()
            },
            "failures": [failure._asdict() for failure in self.failures],
            "drift": None if self.drift is None else self.drift.to_json(),
        }

    def _group(self, name: str, lines: Sequence[VideoLine]) -> Group:
        exits = Counter(line.checkpoint for line in lines)
        return Group(
            name,
            len(lines),
            sum(line.right is not None for line in lines),
            sum(line.right is True for line in lines),
            tuple(exits[k] for k in range(1, self.checkpoints + 1)),
            *(_mean(getattr(line, of) for line in lines) for of in ("confidence", "gmacs", "latency_ms")),
        )


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None


def _json(group: Group) -> dict[str, Any]:
    return {**group._asdict(), "accuracy": group.accuracy, "accuracy_interval": group.accuracy_interval}


def _percentiles(spread: Spread) -> dict[str, float]:
    return {f"p{percent}": value for percent, value in zip(PERCENTILES, spread.percentiles, strict=True)}
