"""HMDB51: 51 files ``CLASS_test_split1.txt`` of lines ``FILE.avi 1``; 1: train, 2: test, 0: neither."""

from __future__ import annotations

import re
from pathlib import Path

from ....grid.errors import ListError, UsageError
from ..annotations import Annotations, Entry, Request
from ..groups import group_of
from ..splits import Split
from ..text_file import read_lines, text_files

_FILE = re.compile(r"(.+)_test_split(\d)\.txt")
_LINE = re.compile(r"(\S.*)\.(\w+)\s+([012])")
_PART: dict[str, Split] = {"1": "train", "2": "test"}


def recognise(source: Path) -> bool:
    """Return whether there are split files of HMDB51."""
    return any(_FILE.fullmatch(path.name) for path in text_files(source))


def read(request: Request) -> Annotations:
    """Return the clips of one split, those of all classes also where one class's file is given.

    Raises:
        UsageError: If another split is asked for than that of the file.
        ListError: If there is no file of that split, or a line is malformed.
    """
    source = request.source
    named = _FILE.fullmatch(source.name)
    number = request.split or (1 if named is None else int(named[2]))
    if named is not None and int(named[2]) != number:
        raise UsageError(f"--split {number} of '{source.name}': leave --split out, or give the folder")
    found = [(match[1], path) for path in text_files(request.root) if (match := _FILE.fullmatch(path.name))]
    files = [(label, path) for label, path in found if path.name.endswith(f"_test_split{number}.txt")]
    if not files:
        raise ListError(f"'{source}' has no CLASS_test_split{number}.txt of HMDB51; split files there: {len(found)}")
    entries, neither = [], 0
    for label, path in files:
        for line, text in read_lines(path):
            match = _LINE.fullmatch(text)
            if match is None:
                raise ListError(f"'{path}', line {line}: {text!r}, expected a file name, then 0, 1 or 2")
            if match[3] == "0":
                neither += 1
                continue
            group = group_of(match[1], label)
            entries.append(Entry(_PART[match[3]], f"{label}/{match[1]}.{match[2]}", label, (match[1],), group))
    classes, classes_from = request.classes(None, [label for label, _ in files])
    notes = (f"{neither} clips are in neither part of split {number}",) if neither else ()
    what = f"split {number} of HMDB51 ({len(files)} files, one a class)"
    return Annotations(what, classes, classes_from, entries, request.root, notes=notes)
