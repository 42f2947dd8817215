"""Describe a calibration in words and tables, for the command line and documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from .drift import Drift

_UNITS = {"gmacs": "GMACs", "ms": "ms", "exits": "exits"}


class Section(NamedTuple):
    """A line and the table below it; without rows, only the line."""

    line: str
    names: list[str]
    rows: list[list[str]]


def describe(report: dict[str, Any]) -> Iterator[Section]:
    """Yield the contents of ``calibrate``'s report."""
    split = report["split"]
    whose = "in sample" if split["in_sample"] else f"{split['evaluation']} held-out videos"
    figures_of = whose if split["in_sample"] else f"of {whose}"
    yield _line(
        f"{_rule_of(report)}, chosen on {split['calibration']} videos; figures {figures_of}, with 95 % intervals"
    )
    temperatures = report["temperatures"] or [1.0] * len(report["thresholds"])
    rows = [
        [
            str(k),
            "always" if t is None else "closed" if t == 1.0 else f"{t:.6f}",
            f"{tau:.3f}",
            f"{count / sum(report['chosen_on']['counts']):.1%}",
            f"{share:.1%}",
        ]
        for k, (t, tau, count, share) in enumerate(
            zip(report["thresholds"], temperatures, report["chosen_on"]["counts"], report["shares"], strict=True), 1
        )
    ]
    yield Section("", ["checkpoint", "threshold", "temperature", "share calibrating", f"share {whose}"], rows)
    figures = [
        f"mean {name} {_with(report, f'mean_{unit}', '.4g')}"
        for unit, name in _UNITS.items()
        if f"mean_{unit}_interval" in report
    ]
    figures.append(f"agreement with the last checkpoint {_with(report, 'agreement', '.2%')}")
    if report["accuracy"] is not None:
        figures.append(
            f"accuracy {_with(report, 'accuracy', '.2%')}, of the last checkpoint {report['accuracy_full']:.2%}"
        )
        asked = "" if report["max_drop"] is None else f", asked: at most {report['max_drop']:.2%}"
        figures.append(f"drop {_with(report, 'drop', '.2%')}{asked}")
    yield from map(_line, figures)
    if (budget := report["budget"]) is not None:
        yield from map(_line, _of_budget(budget))
    if (promise := report["promise"]) is not None:
        yield _line(
            f"promise: the loss of {'accuracy' if report['accuracy'] is not None else 'agreement'} stays at or "
            f"below {promise['bound']:g} with probability {promise['confidence']:g} (thresholds set on "
            f"{promise['family_videos']} videos, tested on {promise['test_videos']} others with a loss of "
            f"{promise['test_loss']:.2%}; p = {promise['p_value']:.2g})"
        )
    if all(report["rules"].values()):
        yield _rules(report)
    yield _curves(report)
    if "reliability" in report:
        yield _reliability(report["reliability"])


def describe_drift(drift: Drift) -> Iterator[Section]:
    """Yield the comparison of results with calibration."""
    rows = [
        [str(k), f"{then:.1%}", f"{now:.1%}", f"{now - then:+.1%}"]
        for k, (then, now) in enumerate(zip(drift.expected_shares, drift.shares, strict=True), 1)
    ]
    yield Section(
        f"{drift.videos} {'video' if drift.videos == 1 else 'videos'}, compared with {drift.expected_videos} at calibration",
        ["checkpoint", "then", "now", "change"],
        rows,
    )
    yield _line(f"exits: distance {drift.exit_distance:.3f}; chance explains {drift.exit_chance:.3f} (99 %)")
    yield _line(
        f"exits and confidences: distance {drift.confidence_distance:.3f}; chance explains "
        f"{drift.confidence_chance:.3f} (99 %)"
    )


def _rule_of(report: dict[str, Any]) -> str:
    if report["q"] is not None:
        return f"geometric rule, q = {report['q']:.6g}"
    closed = ", ".join(map(str, report["closed"]))
    return "thresholds optimised one by one" + (f" (closed, as they never pay: checkpoints {closed})" if closed else "")


def _rules(report: dict[str, Any]) -> Section:
    """Return what each rule chose, side by side."""
    unit, found = report["cost"], report["rules"]
    rows = [
        [rule, _with(one, f"mean_{unit}", ".4g"), *_quality(one), "chosen" if rule == report["rule"] else ""]
        for rule, one in found.items()
    ]
    saved = 1 - found["optimal"][f"mean_{unit}"] / found["geometric"][f"mean_{unit}"]
    line = f"both rules, for the same request: optimal spends {abs(saved):.0%} {'less' if saved >= 0 else 'more'}"
    quality = "agreement" if report["accuracy"] is None else "accuracy"
    return Section(line, ["rule", f"mean {_UNITS[unit]}", quality, "drop", ""], rows)


def _quality(of: dict[str, Any]) -> list[str]:
    name = "agreement" if of["accuracy"] is None else "accuracy"
    return [_with(of, name, ".2%"), "-" if of["drop"] is None else _with(of, "drop", ".2%")]


def _of_budget(budget: dict[str, Any]) -> Iterator[str]:
    unit = _UNITS[budget["unit"]]
    if budget["interval"] is not None:
        low, high = budget["interval"]
        yield (
            f"budget {budget['asked']:g} {unit}: {'kept' if budget['kept'] else 'exceeded'}; held-out mean, given "
            f"the chance of both draws: {low:.4g} to {high:.4g}"
        )
    if (other := budget.get("same_share_of_gmacs")) is not None:
        yield (
            f"the same share of GMACs ({other['gmacs']:.4g}) would spend {other['mean_ms']:.4g} ms "
            f"(q = {other['q']:.4g})"
        )


class _Point(NamedTuple):
    """One row of the curves, and whether it is printed wherever it lies."""

    cost: float
    name: str
    figures: dict[str, Any]
    kept: bool = False


def _curves(report: dict[str, Any]) -> Section:
    """Return the points of both rules that differ, from late exits to early ones."""
    in_sample, unit, critical = report["split"]["in_sample"], report["cost"], report["critical"]
    drop = ""
    if critical is not None:
        drop = f"; Q*: least cost of the geometric rule that loses at most {critical['max_drop']:g} in sample"
    rows = []
    for curve in (report["curve"], report["optimal_curve"]):
        points = []
        for one in curve:
            q, figures = one["q"], one["in_sample" if in_sample else "held_out"]
            kept = q is not None and critical is not None and q == critical["q"]
            name = "optimal" if q is None else f"q = {q:.2f}{' (Q*)' if kept else ''}"
            points.append(_Point(figures[f"mean_{unit}"], name, figures, kept))
        for point in _apart(_unbeaten(sorted(points, key=lambda point: -point.cost))):
            rows.append([point.name, _with(point.figures, f"mean_{unit}", ".4g"), *_quality(point.figures)])
    line = f"both rules{' (in sample)' if in_sample else ', held-out'}{drop}; points that a cheaper one equals are left out, --json has every point"
    quality = "agreement" if report["accuracy"] is None else "accuracy"
    return Section(line, ["thresholds", f"mean {_UNITS[unit]}", quality, "drop"], rows)


def _unbeaten(points: list[_Point]) -> list[_Point]:
    """Return the points, descending in cost, that no cheaper one equals in accuracy, and those to be kept."""
    best, found = -1.0, list[_Point]()
    for point in reversed(points):
        figures = point.figures
        quality = figures["agreement"] if figures["accuracy"] is None else figures["accuracy"]
        if quality > best or point.kept:
            best = max(best, quality)
            found.insert(0, point)
    return found


def _apart(points: list[_Point]) -> Iterator[_Point]:
    """Yield the points, descending in cost, that lie a tenth of the whole span apart, the last, and those to be kept."""
    step = (points[0].cost - points[-1].cost) / 10
    last = float("inf")
    for point in points:
        if point.kept or (point.cost < last and (point.cost <= last - step or point is points[-1])):
            last = point.cost
            yield point


def _reliability(reliability: dict[str, Any]) -> Section:
    rows = [
        [str(one["checkpoint"]), f"{one['ece']:.4f}", f"{other['ece']:.4f}"]
        for one, other in zip(reliability["before"], reliability["after"], strict=True)
    ]
    return Section("expected calibration error (15 bins)", ["checkpoint", "before", "after tempering"], rows)


def _with(figures: dict[str, Any], name: str, form: str) -> str:
    low, high = figures[f"{name}_interval"]
    return f"{figures[name]:{form}} [{low:{form}}, {high:{form}}]"


def _line(text: str) -> Section:
    return Section(text, [], [])
