"""Calibration as a whole: from scores to thresholds and a report on them."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..grid.errors import GuaranteeError, TooFewVideosError, UsageError
from ..grid.manifest import Precision
from ..grid.thresholds import Rule, Tally, Thresholds
from ..runtime.exit_histogram import ExitHistogram
from .answers import Answers, answers_of
from .interval import of_mean
from .risk import FAMILY_SHARE, Promise, promise
from .rules import Asked, candidates, closed_exits, geometric, optimal
from .scores import Scores
from .sweep import Costs, Outcome, Point, critical_point, outcome, spend, sweep
from .temperature import fit_temperatures, reliability
from .thresholds import ChosenExits, RankedConfidences, exits

DROP = 0.01  # default limit on the drop of accuracy, for the critical point


@dataclass(frozen=True)
class Request:
    """What is requested: at most one of ``q``, ``budget`` and ``max_drop``, else the critical point within 0.01.

    Attributes:
        q: the ratio itself.
        budget: mean cost per video, in ``unit``.
        max_drop: of accuracy, or of agreement without labels; a promise with ``confidence``, otherwise in sample.
        confidence: probability of the promise.
        unit: ``gmacs``, ``ms`` or ``exits``: the unit of costs.
        temperature: whether confidences are temperature-scaled.
        share: share of the videos that calibrate; the others evaluate. 1: none evaluate, and all figures are in sample.
        seed: of the split.
        rule: ``geometric`` (the paper's shares q^k) or ``optimal`` (each threshold optimised, where the videos carry it).
    """

    q: float | None = None
    budget: float | None = None
    max_drop: float | None = None
    confidence: float | None = None
    unit: str = "gmacs"
    temperature: bool = False
    share: float = 0.5
    seed: int = 0
    rule: Rule = "geometric"

    def __post_init__(self) -> None:
        """Reject contradictory values."""
        if sum(value is not None for value in (self.q, self.budget, self.max_drop)) > 1:
            raise UsageError("give one of --q, --budget and --max-drop, not several")
        if self.q is not None and self.rule == "optimal":
            raise UsageError("--q with --rule optimal: q is the ratio of the geometric rule, leave one of the two out")
        if self.confidence is not None and self.max_drop is None:
            raise UsageError("--confidence belongs to --max-drop: say which drop is promised")
        if self.max_drop is not None and not 0 < self.max_drop < 1:
            raise UsageError(f"--max-drop {self.max_drop}: expected a number between 0 and 1")
        if not 0 < self.share <= 1:
            raise UsageError(f"--split {self.share}: expected the share of calibration videos, above 0 and at most 1")


@dataclass(frozen=True)
class Calibration:
    """Thresholds, and what they do.

    Attributes:
        exits: q, thresholds, and the quotas and counts of the videos they were chosen on.
        temperatures: one per checkpoint; None if confidences are not scaled.
        expected: tally of the held-out videos, or else of all, for detecting drift.
        judged: their effect on the held-out videos, or else on all; ``curve``: one point for each q of the sweep.
        report: everything, under the names of ``calibrate --json``.
        bundle_sha256: of the bundle that they are for; None for scores from elsewhere.
        precision: of the subgraphs whose answers they were chosen on.
    """

    exits: ChosenExits
    temperatures: tuple[float, ...] | None
    expected: Tally
    judged: Outcome
    curve: list[Point]
    report: dict[str, Any]
    bundle_sha256: str | None = None
    precision: Precision = "fp32"

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds, as ``dynvid.load`` takes them.

        Raises:
            UsageError: If they come from scores without a bundle.
        """
        if self.bundle_sha256 is None:
            raise UsageError(
                "these thresholds come from scores without a bundle: give BUNDLE as well, since they belong to one"
            )
        chosen = self.exits
        return Thresholds(
            self.bundle_sha256,
            chosen.thresholds,
            chosen.q,
            self.temperatures,
            self.expected,
            self.precision,
            chosen.rule,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the thresholds as the T.json that ``classify`` reads.

        Raises:
            UsageError: As ``thresholds``.
            ResourceError: If the file cannot be written.
        """
        self.thresholds.write(Path(path))


def calibrate(scores: Scores, costs: Costs, request: Request) -> Calibration:
    """Choose thresholds as ``request`` says.

    Args:
        scores: checked (``check_scores``).
        costs: cost up to the answer of each exit, by unit, including the request's unit.
        request: what is requested.

    Raises:
        UsageError: If the budget cannot be kept, or the request needs labels and there are none.
        TooFewVideosError, GuaranteeError: If a promise cannot be given.
    """
    if request.temperature and scores.labels is None:
        raise UsageError("--temperature needs labels: add the column 'label' to the list, or 'labels' to the scores")
    calibrating, evaluating = split(scores, request)
    promised = request.confidence is not None
    family = calibrating[: max(1, round(len(calibrating) * FAMILY_SHARE))] if promised else calibrating
    plain, temperatures = answers_of(scores), None
    answers = plain
    if request.temperature:
        assert scores.labels is not None
        temperatures = fit_temperatures(scores.probabilities[:, family], scores.labels[family])
        answers = answers_of(scores, temperatures)
    chosen_on, held_out = answers.take(calibrating), answers.take(evaluating) if len(evaluating) else None
    curve = sweep(chosen_on, held_out, costs)
    asked = Asked(request.budget, DROP if request.max_drop is None else request.max_drop, request.unit)
    critical = critical_point(curve, asked.loss, request.unit)
    kept: Promise | None = None
    by_rule: dict[Rule, ChosenExits | None]
    if request.max_drop is not None and request.confidence is not None:
        parts = answers.take(family), answers.take(calibrating[len(family) :])
        kept, by_rule = _promised(request, *parts, costs, asked, answers.videos)
    elif request.q is not None:
        by_rule = {"geometric": RankedConfidences(chosen_on.confidences).choose(request.q)}
    else:
        by_rule = {"geometric": geometric(chosen_on, costs, asked, curve)}
        if request.rule == "optimal":
            by_rule["optimal"] = optimal(chosen_on, costs, asked, by_rule["geometric"])
    chosen = by_rule.get("optimal") or by_rule["geometric"]
    if chosen is None:
        raise UsageError(
            f"no thresholds lose at most {asked.loss:g} on {chosen_on.videos} calibration videos: allow a larger --max-drop, or "
            "give --budget or --q"
        )
    seen = outcome(chosen_on, chosen.thresholds, costs)
    later = None if held_out is None else outcome(held_out, chosen.thresholds, costs)
    spent = None if request.budget is None else _budget(request, chosen_on, held_out, chosen, costs)
    report: dict[str, Any] = {
        "rule": chosen.rule,
        "q": chosen.q,
        "thresholds": list(chosen.thresholds),
        "closed": closed_exits(chosen),
        "temperatures": None if temperatures is None else list(temperatures),
        "mean_gmacs": None,
        **(later or seen).to_json(),
        "cost": request.unit,
        "reference": _reference(scores),
        "split": {
            "calibration": len(calibrating),
            "evaluation": len(evaluating),
            "in_sample": later is None,
            "share": request.share,
            "seed": request.seed,
        },
        "chosen_on": {"quotas": chosen.quotas and list(chosen.quotas), "counts": list(chosen.counts), **seen.to_json()},
        "rules": {
            rule: _rule(one, chosen_on if held_out is None else held_out, costs) for rule, one in by_rule.items()
        },
        "budget": spent,
        "promise": None if kept is None else {k: v for k, v in asdict(kept).items() if k != "exits"},
        "critical": None if critical is None else {"q": critical.exits.q, "max_drop": asked.loss},
        "curve": [_row(point) for point in curve],
        "failed": len(scores.failed),
        "warnings": _warnings(scores, chosen, later is None, spent, request),
    }
    if temperatures is not None:
        tempered = {"before": plain, "after": answers}
        of = evaluating if len(evaluating) else calibrating
        report["reliability"] = {name: reliability(part.take(of)) for name, part in tempered.items()}
    expected = tally(chosen_on if held_out is None else held_out, chosen)
    return Calibration(chosen, temperatures, expected, later or seen, curve, report)


def split(scores: Scores, request: Request) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the videos that calibrate, in the order in which the family is cut off, and those that evaluate.

    The order is by the sha256 of the seed and the video's file (its index, for scores from elsewhere). So neither the
    order of a list nor more videos move a video to the other side, except near the border.
    """
    count = scores.probabilities.shape[1]
    names = scores.videos or tuple(map(str, range(count)))
    keys = [hashlib.sha256(f"{request.seed} {name}".encode()).digest() for name in names]
    order = np.array(sorted(range(count), key=keys.__getitem__), np.int64)
    border = max(1, round(count * request.share))
    return order[:border], order[border:]


def tally(answers: Answers, chosen: ChosenExits) -> Tally:
    """Return how videos leave under these thresholds, as the runtime would count them."""
    counter, exit_of = ExitHistogram(len(answers.confidences)), exits(answers.confidences, chosen.thresholds)
    for k, confidence in zip(exit_of.tolist(), answers.confidences[exit_of, np.arange(answers.videos)], strict=True):
        counter.add(k + 1, float(confidence))
    return counter.counts


def _promised(
    request: Request, family: Answers, test: Answers, costs: Costs, asked: Asked, videos: int
) -> tuple[Promise, dict[Rule, ChosenExits | None]]:
    """Return the promise, and what each rule chose; ``videos`` is the number of all."""
    assert request.max_drop is not None
    assert request.confidence is not None
    rule, family_of = ("geometric", None) if request.rule == "geometric" else candidates(family, costs, asked)
    promised = partial(promise, family, test, request.max_drop, request.confidence, of_all=test.videos / videos)
    kept = promised(candidates=family_of)
    by_rule: dict[Rule, ChosenExits | None] = {rule: kept.exits}
    if rule == "optimal":
        with suppress(TooFewVideosError, GuaranteeError):  # told beside it; it decides nothing
            by_rule["geometric"] = promised().exits
    return kept, by_rule


def _budget(
    request: Request, chosen_on: Answers, held_out: Answers | None, chosen: ChosenExits, costs: Costs
) -> dict[str, Any]:
    """Return the budget, whether the held-out videos keep it, and what the same share of MACs would have spent."""
    assert request.budget is not None
    cost, unit = costs[request.unit], request.unit
    found: dict[str, Any] = {"asked": request.budget, "unit": unit, "interval": None, "kept": None}
    judged = chosen_on if held_out is None else held_out
    if held_out is not None:
        low, high = of_mean(cost[exits(held_out.confidences, chosen.thresholds)], chosen_on.videos)
        found |= {"interval": [low, high], "kept": bool(low <= request.budget)}
    if unit == "ms" and "gmacs" in costs:
        share = request.budget / cost[-1] * costs["gmacs"][-1]
        if share >= costs["gmacs"][0]:
            other = spend(chosen_on, float(share), costs["gmacs"], "gmacs")
            ms = outcome(judged, other.thresholds, costs).means["ms"]
            found["same_share_of_gmacs"] = {"gmacs": float(share), "q": other.q, "mean_ms": ms}
    return found


def _reference(scores: Scores) -> str:
    precision = scores.belongs_to.get("precision")
    if precision in ("int8", "int8-bf16"):
        return "last checkpoint of the bundle's INT8 set"
    return "last checkpoint of the proved fp32 bundle" if scores.belongs_to else "last exit of the scores"


def _rule(chosen: ChosenExits | None, judged: Answers, costs: Costs) -> dict[str, Any] | None:
    if chosen is None:
        return None
    found = outcome(judged, chosen.thresholds, costs).to_json()
    return {"q": chosen.q, "thresholds": list(chosen.thresholds), **found}


def _warnings(
    scores: Scores, chosen: ChosenExits, in_sample: bool, spent: dict[str, Any] | None, request: Request
) -> list[str]:
    warnings = []
    if chosen.rule != request.rule:
        warnings.append(
            f"the {sum(chosen.counts)} calibration videos cannot carry a threshold optimised for each checkpoint: the geometric rule "
            "chose. More videos may save more"
        )
    total = scores.probabilities.shape[1]
    if scores.failed:
        warnings.append(f"{len(scores.failed)} of {total + len(scores.failed)} videos gave no answer and were left out")
    if not scores.videos:
        rows = np.ascontiguousarray(scores.probabilities.transpose(1, 0, 2)).reshape(total, -1)
        twice = total - len({hashlib.sha256(row.tobytes()).digest() for row in rows})
        if twice:
            warnings.append(
                f"{twice} videos have exactly the scores of another: duplicates count double and may cross the split"
            )
    if in_sample:
        warnings.append("no evaluation videos: all figures are in sample, on the videos the thresholds were chosen on")
    quotas, number = chosen.quotas or chosen.counts, sum(chosen.counts)
    off = [abs(c - quota) for c, quota in zip(chosen.counts[:-1], quotas[:-1], strict=True)]
    if off and max(off) > max(1, 0.005 * number):
        k = int(np.argmax(off))
        warnings.append(
            f"confidences tie: checkpoint {k + 1} answers {chosen.counts[k] / number:.1%} of the calibration videos, "
            f"but q asks for {quotas[k] / number:.1%}"
        )
    if spent is not None and spent["kept"] is False:
        warnings.append(
            f"the evaluation videos cost more than the budget of {spent['asked']:g} {spent['unit']} by more than "
            f"chance explains (95 % interval {spent['interval'][0]:.4g} to {spent['interval'][1]:.4g}): they differ "
            "from the calibration videos"
        )
    return warnings


def _row(point: Point) -> dict[str, Any]:
    held_out = None if point.held_out is None else point.held_out.to_json()
    return {
        "q": point.exits.q,
        "thresholds": list(point.exits.thresholds),
        "in_sample": point.in_sample.to_json(),
        "held_out": held_out,
    }
