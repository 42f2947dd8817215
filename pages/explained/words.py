"""What a picture shows, in words: for who reads rather than looks, and for who cannot see it."""

from __future__ import annotations

from ..fitting import fitted
from ..grid_shown import below, grid_about, grid_title
from ..numbers import NONE, counted, saving, significant
from .explanation import Explanation

__all__ = [
    "LEGEND", "MARKS", "at_exit", "below", "confidence_about", "correctness", "cost_about", "decoded", "frames_about",
    "grid_about", "grid_title", "passed_heads", "passed_through", "saved", "used", "verdict",
]  # fmt: skip

MARKS = {True: "✓ right", False: "✗ wrong"}

LEGEND = (
    "Frames: bright used, dim only decoded, hatched not decoded. Blue: computed for the answer. Dashed: for this "
    "figure only.",
    "Savings are counted against the static network, which reads all frames and has one head. Times are of one run of "
    "a warm model.",
)
"""What a figure shows that stands alone, in lines."""

_LABEL = 300  # pixels of a label in a sentence


def verdict(one: Explanation) -> str:
    """Return when a video was sure and of what, whether that was right, what it used and saved, and its time."""
    if one.answer.label is None:
        return " ".join([_no_answer(one), *_label(one), f"Until then it used {used(one)}.", _time(one)])
    return " ".join([_answer(one), *_label(one), f"It used {used(one)}.", *_end(one), _time(one)])


def _no_answer(one: Explanation) -> str:
    count = len(one.checkpoints)
    who = "the network" if one.static else f"checkpoint {one.exit.index} of {count}"
    return f"No answer: {who} gave NaN or infinity, which names no class."


def _answer(one: Explanation) -> str:
    at, count = one.exit, len(one.checkpoints)
    said = f"{fitted(at.label or '', _LABEL)}, with a confidence of {at.confidence:.3f}"
    if at.threshold is not None:
        return f"Sure at checkpoint {at.index} of {count}: {said}, above the threshold of {at.threshold:.3f}."
    if any(point.threshold is not None for point in one.checkpoints):
        return f"Not sure before the last of {counted(count, 'checkpoint')}, which always answers: {said}."
    if one.static:
        return f"The network is static, so it answers once: {said}."
    return f"Without thresholds a video runs to the end, checkpoint {at.index}: {said}."


def at_exit(one: Explanation) -> str:
    """Return why the checkpoint answered, in a few words."""
    at = one.exit
    if at.confidence is None:
        return "it gave NaN or infinity"
    said = f"confidence {at.confidence:.3f}"
    if at.threshold is not None:
        return f"{said}, above the threshold of {at.threshold:.3f}"
    return f"{said}; the last checkpoint always answers" if len(one.checkpoints) > 1 else said


def used(one: Explanation) -> str:
    """Return the frames and multiply-adds that the answer used, and what that saved, if there is an answer."""
    frames = f"{one.used} of {counted(len(one.frames), 'frame')}"
    if one.static or one.answer.label is None:
        return f"{frames} and {significant(one.answer.gmacs)} GMACs"
    return f"{frames} and {saving(one.answer.gmacs, one.static_gmacs)}"


def saved(one: Explanation) -> tuple[str, str]:
    """Return the saving as one number, and of what; no number where nothing can be saved."""
    if one.static or one.answer.label is None:
        why = "a static network has no exits" if one.static else "there is no answer"
        return NONE, f"{significant(one.answer.gmacs)} GMACs used; {why}"
    figures, share = saving(one.answer.gmacs, one.static_gmacs).split(": ")
    return share.removesuffix(" saved"), f"used {figures}"


def passed_heads(one: Explanation) -> str | None:
    """Return how a video can take more than the static network; None if it did not."""
    if one.static or one.answer.gmacs <= one.static_gmacs:
        return None
    return "It took more than the static network, for a video passes the head of every checkpoint on its way."


def _time(one: Explanation) -> str:
    """Say the time in a sentence of its own, so that the others are the same each time."""
    return f"Computing took {significant(one.exit.ms)} ms."


def _end(one: Explanation) -> list[str]:
    if one.exit is one.last:
        return []
    if one.last.label is None:
        return ["The end of the route would have given NaN or infinity."]
    said = "the same" if one.last.label == one.exit.label else fitted(one.last.label, _LABEL)
    return [f"The end of the route would have said {said}."]


def _label(one: Explanation) -> list[str]:
    if one.listed_label is None:
        return ["Whether that is right is not known: no label was given."] if one.answer.label is not None else []
    label = fitted(one.listed_label, _LABEL)
    return [f"The label is {label}." if one.right is None else f"{_mark(one.right)}: the label is {label}."]


def _mark(right: bool) -> str:
    return MARKS[right].replace("right", "Right").replace("wrong", "Wrong")


def correctness(one: Explanation) -> str:
    """Return whether the answer is right, in a few words."""
    if one.listed_label is None:
        return "no label was given"
    return (
        f"the label is {one.listed_label}"
        if one.right is None
        else f"{MARKS[one.right]}: the label is {one.listed_label}"
    )


def decoded(one: Explanation) -> str:
    """Return how many frames of the video were decoded."""
    return f"{one.answer.frames_decoded} of the video's {one.answer.frames_total} were decoded"


def passed_through(one: Explanation) -> str | None:
    """Return why more frames were decoded than used; None if no more were."""
    if one.answer.frames_decoded <= one.used:
        return None
    return (
        f"To use {one.used}, the decoder read {one.answer.frames_decoded}: it reaches a frame from the key frame before "
        "it, which is stored whole, through all between."
    )


def confidence_about(one: Explanation) -> str:
    """Return every confidence with its class and threshold."""
    rows = []
    for point in one.checkpoints:
        limit = "" if point.threshold is None else f", threshold {point.threshold:.3f}"
        sure = "NaN or infinity" if point.confidence is None else f"{point.label} {point.confidence:.3f}"
        rows.append(f"{point.index}: {sure}{limit}{', answered' if point is one.exit else ''}")
    return "; ".join(rows) + "."


def cost_about(one: Explanation) -> str:
    """Return the multiply-adds of every segment before the answer, and of the static network."""
    spent = [f"segment {p.index}: {significant(p.segment_gmacs)} GMACs" for p in one.checkpoints if p.passed]
    return "; ".join([*spent, f"the static network: {significant(one.static_gmacs)} GMACs"]) + "."


def frames_about(one: Explanation) -> str:
    """Return which frames were used."""
    parts = []
    for state, said in (("used", "used"), ("passed", "decoded but not used"), ("unread", "not decoded")):
        numbers = [str(frame.frame) for frame in one.frames if frame.state == state]
        parts.append(f"{said}: {' '.join(numbers) or 'none'}")
    return "; ".join(parts) + "."
