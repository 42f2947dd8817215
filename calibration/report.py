"""Parts of the report that ``calibrate --json`` prints."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from .choosing.interval import of_mean
from .choosing.request import DROP, Request
from .choosing.sweep import Costs, Outcome, Point, outcome, spend
from .choosing.thresholds import ChosenExits, exits
from .scores.answers import Answers
from .scores.scores import Scores

_FEW = 5  # videos that may be lost, below which the loss on other videos was seen to exceed the bound on average
_FEW_VIDEOS = 10


def budget_kept(
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


def reference_of(scores: Scores) -> str:
    """Return what accuracy and agreement are compared with."""
    precision = scores.belongs_to.get("precision")
    if precision in ("int8", "int8-bf16"):
        return "last checkpoint of the bundle's INT8 set"
    return "last checkpoint of the proved fp32 bundle" if scores.belongs_to else "last exit of the scores"


def choice_of(chosen: ChosenExits | None, judged: Answers, costs: Costs) -> dict[str, Any] | None:
    """Return what a rule chose and what it does; None if it chose nothing."""
    if chosen is None:
        return None
    found = outcome(judged, chosen.thresholds, costs).to_json()
    return {"q": chosen.q, "thresholds": list(chosen.thresholds), **found}


def warnings_of(
    scores: Scores, chosen: ChosenExits, held_out: Outcome | None, spent: dict[str, Any] | None, request: Request
) -> list[str]:
    """Return what the user should know, a sentence each."""
    warnings = []
    if chosen.rule != request.wanted:
        warnings.append(
            f"it could not be shown on {sum(chosen.counts)} calibration videos, by cross-fitting, that thresholds "
            "optimised one by one do better: the geometric rule chose. More videos may save more"
        )
    if len(chosen.closed) == len(chosen.thresholds) - 1 > 0:
        why = "earlier answers would lose more than asked for"
        if request.q is not None or request.budget is not None:
            why = "what was asked for is enough to run every video to the end"
        warnings.append(f"no video leaves before the last checkpoint: {why}")
    if request.q is None and request.budget is None and request.confidence is None:
        most, number = request.max_drop or DROP, sum(chosen.counts)
        allowed = most * number
        low = 0.0 if held_out is None or held_out.drop_interval is None else held_out.drop_interval[0]
        if held_out is not None and low > most:
            warnings.append(
                f"the evaluation videos lose {held_out.loss:.2%}, more than the {most:.2%} asked for by more than chance "
                "explains: ask for less, or for a promise (--confidence)"
            )
        if allowed < _FEW:
            warnings.append(
                f"a loss of {most:g} is only {allowed:.2g} of {number} calibration videos, so chance "
                "decides: other videos may lose more. Give more videos, or --confidence"
            )
    total = scores.probabilities.shape[1]
    if scores.labels is not None and total >= _FEW:
        right = float((scores.probabilities[-1].argmax(axis=1) == scores.labels).mean())
        if right <= 1 / scores.probabilities.shape[2]:
            warnings.append(
                f"the last checkpoint is right for {right:.1%} of the videos, no more than chance: are the labels those of "
                "these classes, counted from 0?"
            )
    if scores.failed:
        warnings.append(f"{len(scores.failed)} of {total + len(scores.failed)} videos gave no answer and were left out")
    if not scores.videos:
        rows = np.ascontiguousarray(scores.probabilities.transpose(1, 0, 2)).reshape(total, -1)
        twice = total - len({hashlib.sha256(row.tobytes()).digest() for row in rows})
        if twice:
            warnings.append(
                f"{twice} videos have exactly the scores of another: duplicates count double and may cross the split"
            )
    if held_out is None:
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
    if total < _FEW_VIDEOS:
        warnings.append(f"only {total} videos: thresholds chosen on so few say little about others. Give hundreds")
    if scores.labels is not None and total > 1 and len(set(scores.labels.tolist())) == 1:
        warnings.append(
            f"all {total} videos have class {scores.labels[0]}: thresholds chosen on one class may not fit the others. "
            "Give videos of every class"
        )
    return warnings


def row_of(point: Point) -> dict[str, Any]:
    """Return one point of a curve."""
    held_out = None if point.held_out is None else point.held_out.to_json()
    return {
        "q": point.exits.q,
        "thresholds": list(point.exits.thresholds),
        "in_sample": point.in_sample.to_json(),
        "held_out": held_out,
    }
