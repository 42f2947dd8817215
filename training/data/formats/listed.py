"""Lists of paths: ``path label`` as of mmaction2, ``folder frames label`` as of TSN and TSM, and CSV with a header."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from ....grid.errors import ListError, UsageError
from ..annotations import Annotations, Entry, Request
from ..clip_list import read_clip_list
from ..disk import VIDEO_SUFFIXES, stem_of
from ..groups import group_of
from ..splits import SPLITS, Split, split_of
from ..text_file import Row, first_lines, read_lines, read_rows, text_files

_VIDEO_COLUMNS = ("video", "path", "file", "filename", "file_name", "video_path", "video_file", "video_name", "clip", "name")  # fmt: skip
_LABEL_COLUMNS = ("label", "class", "class_name", "label_name", "category", "action", "target", "class_id", "label_id")
_SPLIT_COLUMNS = ("split", "subset", "set", "partition")
_OWN_COLUMNS = {"pattern", "start_s", "end_s"}  # of a list of clips that 'dynvid data' wrote
_CLASSES = ("classes.txt", "label_map.txt", "labels.txt", "classInd.txt", "labels.json")
_SUFFIX = "|".join(suffix[1:] for suffix in sorted(VIDEO_SUFFIXES))
_VIDEO = re.compile(rf"(.*\S\.(?:{_SUFFIX}))((?:\s+-?\d+)*)", re.IGNORECASE)
_NUMBERS = re.compile(r"(?:\s+-?\d+)+$")
_SPLIT_NUMBER = re.compile(r"split_?0*(\d+)", re.IGNORECASE)


def recognise(source: Path) -> bool:
    """Return whether the source is a list, or a folder with lists named after splits."""
    if source.is_file():
        return _is_list(source)
    return any(split_of(path.stem) and _is_list(path) for path in text_files(source))


def read(request: Request) -> Annotations:
    """Return the clips of a list, or of the lists in a folder; paths are relative to that folder.

    Raises:
        UsageError: If a split is asked for, but a single list is given.
        ListError: If there are no lists, several for one split, or a row is malformed.
    """
    source = request.source
    if source.is_file():
        if request.split is not None:
            raise UsageError(f"--split {request.split} of the list '{source.name}': leave it out, or give the folder")
        lists: dict[Path, Split] = {source: split_of(source.stem) or "train"}
    else:
        lists = _lists(source, request.split)
    entries = [entry for path, split in lists.items() for entry in _entries(path, split)]
    beside = [path for name in _CLASSES if (path := request.root / name).is_file() and path not in lists]
    published = beside[0] if beside else None
    what = (
        f"lists ({', '.join(path.name for path in lists)})" if len(lists) > 1 else f"a list ({next(iter(lists)).name})"
    )
    said = {entry.label for entry in entries if isinstance(entry.label, str)}
    if request.labels or published:
        classes, classes_from = request.classes(published, ())
        entries = entries if said <= set(classes) else _numbered(entries, said)
        return Annotations(what, classes, classes_from, entries, request.root)
    entries = _numbered(entries, said)
    if any(isinstance(entry.label, int) for entry in entries):
        return Annotations(what, None, "known by their numbers only; --labels names them", entries, request.root)
    classes, classes_from = request.classes(None, sorted(said))
    return Annotations(what, classes, classes_from, entries, request.root)


def _lists(source: Path, number: int | None) -> dict[Path, Split]:
    found: dict[Split, list[Path]] = {split: [] for split in SPLITS}
    for path in text_files(source):
        split, said = split_of(path.stem), _SPLIT_NUMBER.search(path.stem)
        if split is not None and (said is None or int(said[1]) == (number or 1)) and _is_list(path):
            found[split].append(path)
    for split, paths in found.items():
        if len(paths) > 1:
            raise ListError(
                f"'{source}' has {len(paths)} lists for {split}: {', '.join(path.name for path in paths[:5])}. Give one of "
                "them as SOURCE, or leave one for each split."
            )
    if number is not None and not any(_SPLIT_NUMBER.search(path.stem) for paths in found.values() for path in paths):
        raise ListError(
            f"'{source}' has no list with split_{number} in its name: leave --split out, or rename the list"
        )
    if not any(found.values()):
        raise ListError(
            f"'{source}' holds no list named after a split: expected train.txt or train.csv, and so on; rows 'path label', "
            "'folder frames label', or a CSV with a header"
        )
    return {paths[0]: split for split, paths in found.items() if paths}


def _is_list(path: Path) -> bool:
    lines = first_lines(path)
    if not lines or lines[0][0] in "{[":  # JSON
        return False
    return _delimiter(path, lines) is not None or all(_VIDEO.fullmatch(line) or _numbers(line) for line in lines)


def _delimiter(path: Path, lines: Sequence[str]) -> str | None:
    """Return what separates the fields of a CSV with a header, or of rows 'video,label' without; None: it is none."""
    for mark in ",;\t":
        fields = [field.strip().strip('"') for field in lines[0].split(mark)]
        if {field.lower() for field in fields} & set(_VIDEO_COLUMNS) and (len(fields) > 1 or path.suffix == ".csv"):
            return mark
        if len(fields) == 2 and stem_of(fields[0]) != fields[0]:
            return mark
    return None


def _entries(path: Path, split: Split) -> Iterator[Entry]:
    lines = first_lines(path)
    if not lines:
        raise ListError(f"'{path}' is empty. Expected a row a clip.")
    mark = _delimiter(path, lines)
    if mark is None:
        return _spaced(path, split)
    columns = {name.strip().strip('"') for name in lines[0].split(mark)}
    return _own(path, split) if "video" in columns and columns & _OWN_COLUMNS else _separated(path, split, mark)


def _own(path: Path, split: Split) -> Iterator[Entry]:
    """Yield the clips of a list with frame folders or parts of videos."""
    for record in read_clip_list(path):
        clip = record.path.relative_to(path.parent) if record.path.is_relative_to(path.parent) else record.path
        first, count, pattern = None, None, None
        if record.frames is not None:
            first, count, pattern = record.frames.first, record.frames.count, record.frames.pattern
        yield Entry(
            split, str(clip), record.label, (), record.group, first, count, pattern, record.start_s, record.end_s
        )


def _separated(path: Path, split: Split, mark: str) -> Iterator[Entry]:
    rows = read_rows(path, mark)
    first = next(rows)
    header = [name.lower() for name in first[1]]
    video = next((name for name in _VIDEO_COLUMNS if name in header), None)
    if video is None:
        header, video, rows = ["video", "label"], "video", chain([first], rows)
    label, part = (next((name for name in names if name in header), None) for names in (_LABEL_COLUMNS, _SPLIT_COLUMNS))
    row = None
    for row in rows:
        yield _row(path, split, header, row, video, label, part)
    if row is None:
        raise ListError(f"'{path}' has a header but no rows. Expected a row a clip.")


def _row(
    path: Path, split: Split, header: Sequence[str], row: Row, video: str, label: str | None, part: str | None
) -> Entry:
    line, fields = row
    if len(fields) != len(header):
        raise ListError(
            f"'{path}', line {line}: {len(fields)} fields, expected {len(header)}. Quote those with a comma."
        )
    found = dict(zip(header, fields, strict=True))
    if not found[video]:
        raise ListError(f"'{path}', line {line}: no {video}. Name one, or remove the row.")
    said = found[part] if part else ""
    known = split_of(said) if said else split
    if known is None:
        raise ListError(f"'{path}', line {line}: {part} {said!r}, expected train, val or test")
    name = (found[label] if label else "") or None
    return Entry(known, found[video], name, (), found.get("group") or _group(found[video]))


def _spaced(path: Path, split: Split) -> Iterator[Entry]:
    """Yield rows whose last fields are numbers; what is before them is a path, spaces and all."""
    lines = read_lines(path)
    if all(_VIDEO.fullmatch(text) for _, text in lines):
        for line, text in lines:
            match = _VIDEO.fullmatch(text)
            assert match is not None
            labels = match[2].split()
            if len(labels) > 1:
                raise _several_labels(path, line, f"{len(labels)} labels")
            label = None if not labels or labels[0] == "-1" else int(labels[0])
            yield Entry(split, match[1], label, (), _group(match[1]))
        return
    width = min(len(_numbers(text)) for _, text in lines)
    if width == 0:
        line, text = next((line, text) for line, text in lines if not _numbers(text))
        raise ListError(f"'{path}', line {line}: {text!r} has no number at its end, expected the label after the path")
    for line, text in lines:
        numbers = _numbers(text)
        if len(numbers) != width or width > 3:
            raise _several_labels(path, line, f"{len(numbers)} numbers, elsewhere {width}")
        folder = text[: _start_of_numbers(text)].strip()
        label = None if numbers[-1] == -1 else numbers[-1]
        count = numbers[-2] if width > 1 else None
        if count is not None and count < 1:
            raise ListError(f"'{path}', line {line}: {count} frames, expected at least 1. Remove the row.")
        yield Entry(split, folder, label, (), _group(folder), numbers[0] if width == 3 else None, count)


def _several_labels(path: Path, line: int, found: str) -> ListError:
    return ListError(
        f"'{path}', line {line}: {found}. Expected 'path label', 'folder frames label' or 'folder first frames label' in "
        "all rows: a clip has one class. A CSV with a header can hold names that end in numbers."
    )


def _start_of_numbers(text: str) -> int:
    match = _NUMBERS.search(text)
    return len(text) if match is None else match.start()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text[_start_of_numbers(text) :].split()]


def _numbered(entries: list[Entry], said: set[str]) -> list[Entry]:
    """Return the entries with numbers for labels if all these texts are numbers, such as 3 or 3.0; -1 is none."""
    if not all(re.fullmatch(r"-?\d+(\.0*)?", label) for label in said):
        return entries
    numbers = {label: int(float(label)) for label in said}
    return [
        replace(entry, label=None if numbers[entry.label] == -1 else numbers[entry.label])
        if isinstance(entry.label, str)
        else entry
        for entry in entries
    ]


def _group(path: str) -> str | None:
    folder, _, name = path.rpartition("/")
    return group_of(stem_of(name), folder.rpartition("/")[2])
