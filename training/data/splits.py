"""The parts of a data set, by the words that folders, files and columns use for them."""

from __future__ import annotations

import re
from typing import Literal, get_args

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

_WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "trainlist"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "vallist"), "validation"),
    **dict.fromkeys(("test", "testing", "testlist"), "test"),
}  # fmt: skip
_BESIDE = {
    "clips",
    "data",
    "frames",
    "images",
    "jpg",
    "k",
    "rawframes",
    "resized",
    "rgb",
    "set",
    "split",
    "video",
    "videos",
}


def split_of(name: str) -> Split | None:
    """Return the split that a name says, such as ``rawframes_train``; None if it says none, or several."""
    said = {_WORDS[word] for word in re.findall(r"[a-z]+", name.lower()) if word in _WORDS}
    return said.pop() if len(said) == 1 else None


def split_of_folder(name: str) -> Split | None:
    """Return the split that the name of a folder says and no more: ``videos_train_256``, but not ``training dog``."""
    others = {word for word in re.findall(r"[^\W\d_]+", name.lower()) if word not in _WORDS}
    return split_of(name) if others <= _BESIDE else None
