"""Calibration as a whole: from scores to thresholds and a report on them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..grid.errors import UsageError
from ..grid.manifest import Precision
from ..grid.thresholds import Rule, Tally, Thresholds
from ..runtime.exit_histogram import ExitHistogram
from .choosing.request import DROP, Request
from .choosing.risk import FAMILY_SHARE, Promise
from .choosing.rules import Asked, optimal, optimised, promises
from .choosing.sweep import Costs, Outcome, Point, critical_point, outcome, points, spend, sweep
from .choosing.thresholds import ChosenExits, RankedConfidences, exits
from .report import budget_kept, choice_of, reference_of, row_of, warnings_of
from .scores.answers import Answers, answers_of
from .scores.scores import Scores
from .scores.temperature import fit_temperatures, reliability


@dataclass(frozen=True)
class Calibration:
    """Thresholds, and what they do.

    Attributes:
        exits: q, thresholds, and the quotas and counts of the videos they were chosen on.
        temperatures: one per checkpoint; None if confidences are not scaled.
        expected: tally of the held-out videos, or else of all, for detecting drift.
        judged: their effect on the held-out videos, or else on all.
        curve: of the geometric rule, one point for each q; ``optimal_curve``: of optimised thresholds, from late exits
            to early ones.
        report: everything, under the names of ``calibrate --json``.
        bundle_sha256: of the bundle that they are for; None for scores from elsewhere.
        precision: of the subgraphs whose answers they were chosen on.
    """

    exits: ChosenExits
    temperatures: tuple[float, ...] | None
    expected: Tally
    judged: Outcome
    curve: list[Point]
    optimal_curve: list[Point]
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
    judged_on = chosen_on if held_out is None else held_out
    along = optimised(chosen_on, costs[request.unit])
    curve, optimal_curve = sweep(chosen_on, held_out, costs), points(along, chosen_on, held_out, costs)
    asked = Asked(request.budget, DROP if request.max_drop is None else request.max_drop, request.unit)
    critical = critical_point(curve, asked.loss, request.unit)
    kept: Promise | None = None
    by_rule: dict[Rule, ChosenExits | None]
    paper: ChosenExits | None
    if promised:
        parts = answers.take(family), answers.take(calibrating[len(family) :])
        kept, by_rule = promises(request, *parts, costs, asked, answers.videos)
    else:
        if request.q is not None:
            paper = RankedConfidences(chosen_on.confidences).choose(request.q)
            asked = asked._replace(budget=outcome(chosen_on, paper.thresholds, costs).means[request.unit])
        elif request.budget is not None:
            paper = spend(chosen_on, request.budget, costs[request.unit], request.unit)
        else:
            paper = None if critical is None else critical.exits
        by_rule = {"geometric": paper, "optimal": optimal(chosen_on, costs, asked, paper, along)}
    chosen = by_rule[request.wanted] or by_rule["geometric"]
    if chosen is None:
        raise UsageError(
            f"no thresholds lose at most {asked.loss:g} on {chosen_on.videos} calibration videos: allow a larger "
            "--max-drop, or give --budget or --q"
        )
    seen = outcome(chosen_on, chosen.thresholds, costs)
    later = None if held_out is None else outcome(held_out, chosen.thresholds, costs)
    spent = None if request.budget is None else budget_kept(request, chosen_on, held_out, chosen, costs)
    report: dict[str, Any] = {
        "rule": chosen.rule,
        "q": chosen.q,
        "thresholds": list(chosen.thresholds),
        "closed": chosen.closed,
        "temperatures": None if temperatures is None else list(temperatures),
        "mean_gmacs": None,
        **(later or seen).to_json(),
        "cost": request.unit,
        "reference": reference_of(scores),
        "split": {
            "calibration": len(calibrating),
            "evaluation": len(evaluating),
            "in_sample": later is None,
            "share": request.share,
            "seed": request.seed,
        },
        "chosen_on": {"quotas": chosen.quotas and list(chosen.quotas), "counts": list(chosen.counts), **seen.to_json()},
        "rules": {rule: choice_of(one, judged_on, costs) for rule, one in by_rule.items()},
        "max_drop": asked.loss if asked.budget is None else None,
        "budget": spent,
        "promise": None if kept is None else {k: v for k, v in asdict(kept).items() if k != "exits"},
        "critical": None if critical is None else {"q": critical.exits.q, "max_drop": asked.loss},
        "curve": [row_of(point) for point in curve],
        "optimal_curve": [row_of(point) for point in optimal_curve],
        "failed": len(scores.failed),
        "warnings": warnings_of(scores, chosen, later, spent, request),
    }
    if temperatures is not None:
        tempered = {"before": plain, "after": answers}
        of = evaluating if len(evaluating) else calibrating
        report["reliability"] = {name: reliability(part.take(of)) for name, part in tempered.items()}
        before, after = (sum(one["ece"] for one in rows) for rows in report["reliability"].values())
        if after > before:
            report["warnings"].append(
                "temperatures make confidences less like the share of right answers: leave --temperature out, or give "
                "more videos"
            )
    expected = tally(judged_on, chosen)
    return Calibration(chosen, temperatures, expected, later or seen, curve, optimal_curve, report)


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
