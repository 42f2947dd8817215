"""What can be wrong with a data set: counted, named and written to a file, never passed over."""

from __future__ import annotations

from typing import NamedTuple


class Problem(NamedTuple):
    """One thing that is wrong; ``kind`` is a key of ``KINDS``, ``split`` is empty if it concerns none."""

    split: str
    kind: str
    clip: str
    detail: str


class Kind(NamedTuple):
    """Whether such a clip is left out, None if it is no matter of one clip; and what to do about it."""

    left_out: bool | None
    advice: str


KINDS: dict[str, Kind] = {
    "missing": Kind(True, "download them, or go on without; every copy of a public data set lacks some"),
    "unreadable": Kind(True, "download or convert them again, or go on without"),
    "frames missing": Kind(True, "extract them again"),
    "several sequences": Kind(True, "keep one sequence of images in each folder"),
    "name not in UTF-8": Kind(True, "rename them"),
    "no label": Kind(True, "label them, or go on without; only a test set may have none"),
    "class not among the labels": Kind(True, "correct the label, or add it to the labels"),
    "listed twice": Kind(True, "each counts once"),
    "two labels": Kind(True, "the first one counts; remove the other"),
    "several files": Kind(False, "the one named first is taken; remove the others"),
    "damaged": Kind(False, "the sampled frames can be decoded"),
    "in two splits": Kind(False, "what is tested was trained on; remove them from one"),
    "group in two splits": Kind(None, "their clips are kept, but look alike: move each group to one split"),
    "empty class": Kind(None, "the network never sees it there; find clips, or remove it from the labels"),
    "labels begin at 1": Kind(None, "give --first-label 1, unless class 0 is meant to be empty"),
}
"""In the order in which they are shown."""
