"""UCF101: ``trainlist01.txt`` with numbers from 1, ``testlist01.txt`` without, ``classInd.txt``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ....grid.errors import ListError, UsageError
from ..annotations import Annotations, Entry, Request
from ..groups import group_of
from ..names import ClassNames
from ..splits import Split
from ..text_file import read_lines, text_files

_FILE = re.compile(r"(train|test)list0?(\d+)\.txt", re.IGNORECASE)
_LINE = re.compile(r"([^/]+)/(\S.*\.\w+)(?:\s+(\d+))?")


def recognise(source: Path) -> bool:
    """Return whether there are split files of UCF101."""
    return any(map(_split_file, text_files(source)))


def read(request: Request) -> Annotations:
    """Return the clips of one split; one of its files stands for both.

    Clips are looked for by name, whatever the case: ``v_HandStandPushups`` lies in ``HandstandPushups``.

    Raises:
        UsageError: If another split is asked for than that of the file.
        ListError: If a file is missing, a line is malformed, or a number is not that of the class.
    """
    source = request.source
    named = _split_file(source)
    number = request.split or (1 if named is None else named[1])
    if named is not None and named[1] != number:
        raise UsageError(f"--split {number} of '{source.name}': leave --split out, or give the folder")
    files = text_files(request.root)
    lists = {found: path for path in files if (found := _split_file(path)) is not None}
    if ("train", number) not in lists:
        there = ", ".join(sorted(path.name for path in lists.values())) or "none"
        raise ListError(f"'{source}' has no trainlist{number:02d}.txt of UCF101; lists there: {there}")
    published = next((path for path in files if path.name.lower() == "classind.txt"), None)
    used = [lists[key] for key in (("train", number), ("test", number)) if key in lists]
    entries: list[Entry] = []
    numbers: dict[str, tuple[int, int]] = {}  # number of a class, and the line that says so
    for path in used:
        split: Split = "train" if path is used[0] else "test"
        for line, label, clip, shown in _lines(path):
            if shown is not None and numbers.setdefault(label, (shown, line))[0] != shown:
                raise ListError(f"'{path}', line {line}: class {label} is {shown}, but {numbers[label][0]} before")
            stem = PurePosixPath(clip).stem
            entries.append(Entry(split, f"{label}/{clip}", label, (stem,), group_of(stem, label)))
    if published is None and request.labels is None:
        classes, classes_from = tuple(sorted(numbers, key=lambda name: numbers[name])), f"as in {used[0].name}"
    else:
        classes, classes_from = request.classes(published, ())
    if request.labels is None:
        _require_numbers(used[0], classes, numbers)
    what = f"split {number} of UCF101 ({', '.join(path.name for path in used)})"
    return Annotations(what, classes, classes_from, entries, request.root, any_case=True)


def _split_file(path: Path) -> tuple[str, int] | None:
    match = _FILE.fullmatch(path.name)
    return None if match is None else (match[1].lower(), int(match[2]))


def _lines(path: Path) -> Iterator[tuple[int, str, str, int | None]]:
    """Yield the number of each line, class, file name, and number of the class if there is one."""
    for line, text in read_lines(path):
        match = _LINE.fullmatch(text)
        if match is None:
            raise ListError(f"'{path}', line {line}: {text!r}, expected Class/v_name.avi, and in trainlist its number")
        yield line, match[1], match[2], None if match[3] is None else int(match[3])


def _require_numbers(path: Path, classes: tuple[str, ...], numbers: dict[str, tuple[int, int]]) -> None:
    known = ClassNames(classes)
    for label, (number, line) in numbers.items():
        name = known.find(label)
        if name is not None and classes.index(name) + 1 != number:
            raise ListError(
                f"'{path}', line {line}: class {label} has number {number}, expected {classes.index(name) + 1}, counted "
                "from 1. Download the lists again, or read your own by --format list."
            )
