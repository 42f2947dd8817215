"""Which class a clip has after left and right were exchanged, from the names of the classes."""

from __future__ import annotations

import re
from collections.abc import Sequence

_PAIRS = (("left", "right"), ("clockwise", "counterclockwise"))
_OTHER = {word: other for pair in _PAIRS for word, other in (pair, pair[::-1])}
_WORDS = re.compile(rf"(?<![a-z])({'|'.join(sorted(_OTHER, key=len, reverse=True))})(?![a-z])", re.IGNORECASE)


def mirrored_classes(labels: Sequence[str]) -> list[int]:
    """Return for every class the class of its mirror image, usually itself.

    Two classes exchange if their names do once left and right, or clockwise and counterclockwise, are exchanged as
    whole words: "Pushing something from left to right", "Turning Hand Clockwise". Where the other name is no class,
    as for "Pulling it right out", the class is its own mirror image.
    """
    numbers = {label.lower(): number for number, label in enumerate(labels)}
    return [numbers.get(_mirrored(label), number) for number, label in enumerate(labels)]


def _mirrored(label: str) -> str:
    return _WORDS.sub(lambda word: _OTHER[word[0].lower()], label.lower())
