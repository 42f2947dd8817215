"""A data set on disk: its format is recognised, its lists are read, and its clips are looked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ...grid.errors import ListError, UsageError
from .annotations import Annotations, Request
from .disk import Disk
from .formats import class_folders, hmdb51, kinetics, listed, something_something, ucf101
from .problem import KINDS, Problem
from .record import Record
from .search import Search
from .splits import SPLITS, Split


class Format(NamedTuple):
    """How a format is recognised and read.

    Attributes:
        recognise: whether a source is of this format.
        read: what the lists say.
        is_published: whether it is that of a published data set.
        has_splits: whether there may be several splits, by number.
        has_numbers: whether labels may be numbers that begin at 0 or 1.
    """

    recognise: Callable[[Path], bool]
    read: Callable[[Request], Annotations]
    is_published: bool = False
    has_splits: bool = False
    has_numbers: bool = False


FORMATS: dict[str, Format] = {
    "ucf101": Format(ucf101.recognise, ucf101.read, is_published=True, has_splits=True),
    "hmdb51": Format(hmdb51.recognise, hmdb51.read, is_published=True, has_splits=True),
    "kinetics": Format(kinetics.recognise, kinetics.read, is_published=True),
    "something-v2": Format(something_something.recognise_v2, something_something.read_v2, is_published=True),
    "something-v1": Format(something_something.recognise_v1, something_something.read_v1, is_published=True),
    "list": Format(listed.recognise, listed.read, has_splits=True, has_numbers=True),
    "class-folders": Format(class_folders.recognise, class_folders.read),
}
"""By name, published data sets before the others, which would recognise these too."""


@dataclass(frozen=True)
class Source:
    """A data set as it was found.

    Attributes:
        format: a key of ``FORMATS``.
        annotations: what its lists say.
        videos: the folder where its clips were looked for.
        classes: names in order of number.
        splits: the usable clips; a split that is not listed is missing.
        listed: number of clips that the lists name, by split.
        problems: all that is wrong.
        scanned: whether every clip was opened.
    """

    format: str
    annotations: Annotations
    videos: Path
    classes: tuple[str, ...]
    splits: dict[Split, list[Record]]
    listed: dict[Split, int]
    problems: list[Problem]
    scanned: bool = False


def read_annotations(
    source: Path, *, format: str = "auto", labels: Path | None = None, split: int | None = None, first_label: int = 0
) -> tuple[str, Annotations]:
    """Return the format of a source and what its lists say; only folders of classes are looked into for clips.

    Args:
        source: a file of annotations, a folder of such, or a folder of classes.
        format: a key of ``FORMATS``, or auto.
        labels: file of class names in order of number; None: the data set's own order.
        split: which of the splits of UCF101, HMDB51 or numbered lists; None: that of the file, else 1.
        first_label: number of the first class in lists of numbers, 0 or 1.

    Raises:
        UsageError: If the format is unknown, or has no use for an argument.
        ListError, LabelsError: If a file cannot be used, or no format is recognised.
    """
    if format == "auto":
        found = [name for name, one in FORMATS.items() if one.is_published and one.recognise(source)]
        found = found or [name for name, one in FORMATS.items() if not one.is_published and one.recognise(source)][:1]
        if len(found) > 1:
            raise ListError(
                f"'{source}' holds annotations of {' and '.join(found)}: choose one by --format, or give a file"
            )
        if not found:
            raise ListError(
                f"source '{source}' is of no known format. Expected annotations of Kinetics, Something-Something, UCF101 "
                "or HMDB51, a list 'path label', a CSV with the columns video and label, or a folder of class folders "
                "with videos. --format says why one of them does not fit."
            )
        (format,) = found
    if format not in FORMATS:
        raise UsageError(f"format {format!r}: expected auto, {', '.join(FORMATS)}")
    if split is not None and not FORMATS[format].has_splits:
        raise UsageError(f"--split {split}: the format {format} has no numbered splits. Leave it out.")
    if first_label not in (0, 1) or (first_label and not FORMATS[format].has_numbers):
        raise UsageError(f"--first-label {first_label}: expected 0 or 1, and only of lists that number their classes")
    return format, FORMATS[format].read(Request(source, labels, split))


def read_source(
    source: Path,
    *,
    format: str = "auto",
    videos: Path | None = None,
    labels: Path | None = None,
    split: int | None = None,
    first_label: int = 0,
) -> Source:
    """Return a data set with the clips that are on disk.

    Args:
        source: as of ``read_annotations``.
        format: likewise.
        videos: folder of the clips; None: the source, or the folder of the file.
        labels: as of ``read_annotations``.
        split: likewise.
        first_label: likewise.

    Raises:
        UsageError: As ``read_annotations``.
        ListError: If a list cannot be read, a label is out of range, or no clip is usable.
    """
    name, annotations = read_annotations(source, format=format, labels=labels, split=split, first_label=first_label)
    if videos is not None and annotations.disk is not None:
        raise UsageError("--videos of class folders: leave it out, since these are the source")
    if videos is not None and not videos.is_dir():
        raise ListError(f"--videos '{videos}' is not a folder. Expected the one with the clips.")
    root = videos or annotations.root
    search = Search(annotations, annotations.disk or Disk(root), first_label)
    for entry in annotations.entries:
        search.take(entry)
    search.compare_splits()
    used = [split for split in SPLITS if search.listed[split]]
    found = Source(
        name, replace(annotations, entries=[], disk=None), root, search.classes.names,
        {split: search.records[split] for split in used}, {split: search.listed[split] for split in used}, search.problems,
    )  # fmt: skip
    if not any(found.splits.values()):
        raise ListError(f"'{source}', read as {annotations.recognised}, {_why_nothing(found)}")
    return with_empty_classes(found)


def with_empty_classes(source: Source) -> Source:
    """Return the data set with a problem for each class that has no usable clip in a split."""
    problems = [problem for problem in source.problems if problem.kind != "empty class"]
    for split, records in source.splits.items():
        there = {record.label for record in records} - {None}
        if there or split != "test":  # a test set may have no labels at all
            problems += [Problem(split, "empty class", name, "") for name in source.classes if name not in there]
    return replace(source, problems=problems)


def _why_nothing(source: Source) -> str:
    """Return why no clip is usable, and what to do about the most common cause."""
    left_out = [problem for problem in source.problems if KINDS[problem.kind].left_out]
    if not left_out:
        return "lists no clip. Give the files of the data set, or another --format."
    ((kind, count),) = Counter(problem.kind for problem in left_out).most_common(1)
    first = next(problem for problem in left_out if problem.kind == kind)
    advice = "name the folder of the videos (--videos)" if kind == "missing" else KINDS[kind].advice
    return (
        f"has no usable clip in '{source.videos}'; {kind}: {count} of {sum(source.listed.values())}, first '{first.clip}'. "
        f"{advice[0].upper()}{advice[1:]}."
    )
