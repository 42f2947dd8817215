"""The clips of a run: trained on, measured with, and held out to choose thresholds."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...grid.errors import ListError, UsageError
from ...models.labels import read_labels
from ..data.clip_list import read_clip_list
from ..data.record import Record
from .tables import Data

LOG = logging.getLogger("dynvid")


@dataclass(frozen=True)
class Splits:
    """The clips of a run.

    Attributes:
        classes: their names, in the order of their numbers.
        train: clips to train on.
        held_out: of the training list, but not trained on: thresholds chosen on trained clips would be too sure.
        validation: clips to measure the accuracy with; the held-out ones if there are no others.
        names: of the lists, for messages, by split.
    """

    classes: tuple[str, ...]
    train: list[Record]
    held_out: list[Record]
    validation: list[Record]
    names: dict[str, str]


def read_splits(data: Data, labels: Sequence[str] | None, seed: int) -> Splits:
    """Return the clips that ``data`` names.

    Args:
        data: with absolute paths.
        labels: classes of the network's configuration, if it has any.
        seed: of the choice of the held-out clips.

    Raises:
        ListError: If a list is missing or malformed, or has clips without a class.
        LabelsError: If the file of classes cannot be used.
        UsageError: If the classes contradict each other, or nothing is left to validate with.
    """
    train_list = _list(data, data.train, "train")
    listed = _without_repeats(read_clip_list(train_list), train_list)
    classes = _classes(data, labels, listed)
    held_out = hold_out(listed, data.held_out, seed)
    held = {id(record) for record in held_out}
    train = [record for record in listed if id(record) not in held]
    if data.held_out and not held_out:
        LOG.warning(
            f"no clip is held out for choosing thresholds: a data.held_out of {data.held_out:g} is less than half a group of "
            "any class. Raise it, or give calibrate clips of their own."
        )
    names = {"train": str(train_list), "held_out": f"the held-out part of {train_list}"}
    if data.validation is None and not any((Path(data.folder or "") / f).exists() for f in _VALIDATION):
        if not held_out:
            raise UsageError(
                f"nothing to measure the accuracy with: a data.held_out of {data.held_out:g} holds out no clip of these "
                f"{len(listed)}. Give data.validation, a list of clips, or raise data.held_out, to 0.3 say"
            )
        return Splits(classes, train, held_out, held_out, {**names, "validation": names["held_out"]})
    validation_list = _list(data, data.validation, "validation")
    validation = _without_repeats(read_clip_list(validation_list), validation_list)
    _warn_of_shared(train, validation, validation_list)
    return Splits(classes, train, held_out, validation, {**names, "validation": str(validation_list)})


def hold_out(records: Sequence[Record], share: float, seed: int) -> list[Record]:
    """Return about ``share`` of the clips of every class, in whole groups; at least one group of a class stays.

    A clip without a group is one by itself. Which groups are taken depends on their names and the seed alone.
    """
    by_class: dict[str, dict[str, int]] = {}
    for record in records:
        groups = by_class.setdefault(str(record.label), {})
        groups[_group(record)] = groups.get(_group(record), 0) + 1
    taken: set[str] = set()
    for label in sorted(by_class):
        groups = by_class[label]
        wanted = share * sum(groups.values())
        held = sum(count for group, count in groups.items() if group in taken)
        left = len(groups) - sum(group in taken for group in groups)
        for group in sorted(groups.keys() - taken, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest()):
            # the group that comes nearest to the share is the last
            if left <= 1 or held + groups[group] / 2 > wanted:
                break
            taken.add(group)
            held, left = held + groups[group], left - 1
    return [record for record in records if _group(record) in taken]


_VALIDATION = ("validation.csv", "test.csv")


def _list(data: Data, given: str | None, split: str) -> Path:
    if given is not None:
        return Path(given)
    if data.folder is None:
        raise UsageError(f"[data] names no list of clips for {split}: give {split} or folder")
    folder = Path(data.folder)
    found = [folder / name for name in (_VALIDATION if split == "validation" else (f"{split}.csv",))]
    return next((path for path in found if path.exists()), found[0])


def _without_repeats(records: Sequence[Record], path: Path) -> list[Record]:
    """Return every clip once.

    Raises:
        ListError: If a clip has two labels.
    """
    labels: dict[object, str | None] = {}
    kept = []
    for record in records:
        key = _clip(record)
        if key in labels and labels[key] != record.label:
            raise ListError(f"list '{path}' has '{record.path}' as {labels[key]!r} and as {record.label!r}: remove one")
        if key not in labels:
            kept.append(record)
        labels[key] = record.label
    if len(kept) < len(records):
        LOG.warning(f"list '{path}' names {len(records) - len(kept)} clips again: each counts once")
    return kept


def _clip(record: Record) -> object:
    return os.path.abspath(record.path), record.frames, record.start_s, record.end_s


def _classes(data: Data, labels: Sequence[str] | None, train: Sequence[Record]) -> tuple[str, ...]:
    known = sorted({record.label for record in train if record.label is not None})
    path = data.classes
    if path is None and data.folder is not None and (Path(data.folder) / "classes.txt").exists():
        path = str(Path(data.folder) / "classes.txt")
    named = None if path is None else read_labels(Path(path))
    if named is not None and labels is not None and tuple(labels) != named:
        raise UsageError(
            f"network.labels begin with {', '.join(map(repr, labels[:3]))}, but '{path}' with "
            f"{', '.join(map(repr, named[:3]))}: leave one of them out"
        )
    classes = tuple(labels) if labels is not None else named or tuple(known)
    if len(classes) < 2:
        raise ListError(f"the training clips have {len(classes)} classes: expected at least 2")
    if missing := [label for label in classes if label not in set(known)]:
        LOG.warning(f"{len(missing)} classes have no training clip, such as {missing[0]!r}: they cannot be learnt")
    return classes


def _group(record: Record) -> str:
    return record.group or f"{record.path} {record.start_s}"


def _warn_of_shared(train: Sequence[Record], validation: Sequence[Record], path: Path) -> None:
    known = {_clip(record) for record in train}
    both = [record for record in validation if _clip(record) in known]
    if both:
        LOG.warning(
            f"{len(both)} of {len(validation)} clips of '{path}' are trained on, such as '{both[0].path}': the measured "
            "accuracy will be too high"
        )
    groups = Counter(record.group for record in validation if record.group is not None)
    if shared := groups.keys() & {record.group for record in train}:
        LOG.warning(
            f"{len(shared)} groups of clips are in both '{path}' and the training list, such as {min(shared)!r}: the "
            "measured accuracy will be too high"
        )
