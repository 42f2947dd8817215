"""What a picture shows, in words: for who reads rather than looks, and for who cannot see it."""

from __future__ import annotations

from ..grid_shown import grid_about, grid_title
from ..numbers import NONE, counted, share, significant
from .explanation import Explanation

__all__ = [
    "LEGEND", "confidence_about", "correctness", "cost_about", "decoded", "frames_about", "grid_about", "grid_title",
    "saving", "verdict",
]  # fmt: skip

LEGEND = (
    "Frames: bright used, dim only decoded, hatched neither. Cells: filled computed. Red: the route; its filled circle "
    "answered. Times: one run."
)
"""What a figure shows that stands alone."""


def verdict(one: Explanation) -> str:
    """Return when a video was sure and of what, what it looked at and saved, and whether it was right."""
    end = [] if one.static else [_end(one)]
    return " ".join([_answer(one), _cost(one), *end, f"{_label(one)}.", _time(one)])


def _answer(one: Explanation) -> str:
    at, count = one.exit, len(one.checkpoints)
    if at.confidence is None:
        who = "The network" if one.static else f"Checkpoint {at.index} of {count}"
        return f"{who} gave NaN or infinity, so no class is named."
    said = f"{at.label}, with a confidence of {at.confidence:.3f}"
    if at.threshold is not None:
        return f"Sure at checkpoint {at.index} of {count}: {said}, above the threshold of {at.threshold:.3f}."
    if any(point.threshold is not None for point in one.checkpoints):
        return f"Not sure before the last of {counted(count, 'checkpoint')}, which always answers: {said}."
    if one.static:
        return f"The network is static, so it answers once: {said}."
    return f"Without thresholds a video runs to the end, checkpoint {at.index}: {said}."


def _cost(one: Explanation) -> str:
    spent = (
        f"It looked at {one.used} of {counted(len(one.frames), 'frame')} and spent {significant(one.exit.gmacs)} GMACs"
    )
    if one.static:
        return f"{spent}."
    spent = f"{spent}, {share(one.answer.fraction)} of the static network's"
    if one.exit is one.last:
        return f"{spent}."
    return f"{spent}, where the end of the route takes {significant(one.last.gmacs)}."


def _time(one: Explanation) -> str:
    """Say the times in a sentence of their own, so that the others are the same each time."""
    instead = "" if one.exit is one.last else f" instead of {significant(one.last.ms)} ms"
    return f"In this run it took {significant(one.exit.ms)} ms{instead}."


def _end(one: Explanation) -> str:
    if one.exit is one.last:
        return "Nothing was saved."
    if one.last.label is None:
        return "The end of the route would have given NaN or infinity."
    same = one.last.label == one.exit.label
    return f"The end of the route would have said {'the same' if same else one.last.label}."


def _label(one: Explanation) -> str:
    if one.listed_label is None:
        return "Whether it was right is not known: no label was given"
    right = {True: "right", False: "wrong", None: "no answer"}[one.right]
    return f"The label is {one.listed_label}: {right}"


def correctness(one: Explanation) -> str:
    """Return whether the answer is right, in a few words."""
    if one.listed_label is None:
        return "no label was given"
    return "right" if one.right else f"wrong: the label is {one.listed_label}"


def saving(one: Explanation) -> str:
    """Return what the video spent beside the end of its route and the static network."""
    if one.static:
        return f"{_cost(one)} {_time(one)} A static network has no exits, so nothing can be saved."
    static = f"The static network, all frames with one head, takes {significant(one.static_gmacs)} GMACs."
    more = " A video on the route passes the head of every checkpoint on its way, so it can take more."
    return f"{_cost(one)} {_time(one)} {_end(one)} {static}{more if one.answer.fraction > 1 else ''}"


def decoded(one: Explanation) -> str:
    """Return how many frames the decoder read, and why they are more than those used."""
    read = one.answer.frames_decoded
    said = f"the video has {one.answer.frames_total}; the decoder read {read}"
    used = {frame.frame for frame in one.frames if frame.state == "used"}
    return f"{said}: it must pass through the frames between" if read > len(used) else said


def confidence_about(one: Explanation) -> str:
    """Return every confidence with its threshold."""
    rows = []
    for point in one.checkpoints:
        limit = "" if point.threshold is None else f", threshold {point.threshold:.3f}"
        sure = NONE if point.confidence is None else f"{point.confidence:.3f}"
        rows.append(f"{point.index}: {sure}{limit}{', answered' if point is one.exit else ''}")
    return "; ".join(rows) + "."


def cost_about(one: Explanation) -> str:
    """Return the time and multiply-adds of every segment."""
    return (
        "; ".join(
            f"segment {point.index}: {significant(point.segment_ms)} ms, {significant(point.segment_gmacs)} GMACs"
            f"{'' if point.passed else ', not needed'}"
            for point in one.checkpoints
        )
        + "."
    )


def frames_about(one: Explanation) -> str:
    """Return which frames were used."""
    parts = []
    for state, said in (("used", "looked at"), ("passed", "decoded but not used"), ("unread", "never decoded")):
        numbers = [str(frame.frame) for frame in one.frames if frame.state == state]
        parts.append(f"{said}: {' '.join(numbers) or 'none'}")
    return "; ".join(parts) + "."
