"""Something-Something: version 1 as rows ``id;class`` with frame folders, version 2 as JSON with WebM files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ....grid.errors import ListError
from ..annotations import Annotations, Entry, Request
from ..splits import Split, split_of
from ..text_file import first_lines, read_json, read_lines, text_files

_ROW = re.compile(r"(\d+);(.+)")


def recognise_v1(source: Path) -> bool:
    """Return whether there are annotations of version 1."""
    return any(map(_is_rows, text_files(source)))


def recognise_v2(source: Path) -> bool:
    """Return whether there are annotations of version 2."""
    return any(map(_is_items, text_files(source)))


def read_v1(request: Request) -> Annotations:
    """Return the clips of version 1. Of the test set only the ids are known.

    Raises:
        ListError: If there are no annotations, or a row is malformed.
    """
    source = request.source
    files = [path for path in text_files(source) if _is_rows(path) or _is_ids(path)]
    if not any(map(_is_rows, files)):
        raise ListError(
            f"'{source}' holds no annotations of Something-Something v1: expected rows such as 100218;Class"
        )
    entries = [entry for path in files for entry in _rows(path)]
    return _annotations(request, "Something-Something v1", files, entries, ".csv")


def read_v2(request: Request) -> Annotations:
    """Return the clips of version 2. The class is the template without its brackets; ``label`` is a sentence.

    Raises:
        ListError: If there are no annotations, or one is malformed.
    """
    source = request.source
    files = [path for path in text_files(source) if path.suffix == ".json" and split_of(path.stem) is not None]
    if source.is_file():
        files = [source]
    if not files:
        raise ListError(
            f"'{source}' holds no annotations of Something-Something v2: expected train.json, validation.json and "
            "test.json, with labels.json"
        )
    entries = [entry for path in files for entry in _items(path)]
    return _annotations(request, "Something-Something v2", files, entries, ".json")


def _annotations(request: Request, name: str, files: list[Path], entries: list[Entry], suffix: str) -> Annotations:
    beside = text_files(request.root)
    published = [path for path in beside if path.suffix == suffix and re.search(r"labels?$", path.stem)]
    if len(published) > 1 and request.labels is None:
        raise ListError(f"'{published[0]}' and '{published[1]}' both name classes: give the right one (--labels)")
    classes, classes_from = request.classes(
        published[0] if published else None, [str(entry.label) for entry in entries if entry.label is not None]
    )
    what = f"annotations of {name} ({', '.join(path.name for path in files)})"
    return Annotations(what, classes, classes_from, entries, request.root)


def _is_rows(path: Path) -> bool:
    lines = first_lines(path) if path.suffix != ".json" else []
    return bool(lines) and all(map(_ROW.fullmatch, lines))


def _is_ids(path: Path) -> bool:
    lines = first_lines(path) if path.suffix == ".csv" and split_of(path.stem) == "test" else []
    return bool(lines) and all(re.fullmatch(r"\d+;?", line) for line in lines)


def _is_items(path: Path) -> bool:
    return path.suffix == ".json" and re.search(r'"template"\s*:', "\n".join(first_lines(path))) is not None


def _rows(path: Path) -> Iterator[Entry]:
    split = _split(path)
    for line, text in read_lines(path):
        number, _, label = text.partition(";")
        if not number.isdecimal() or (not label and split != "test"):
            raise ListError(f"'{path}', line {line}: {text!r}, expected a row such as 100218;Class")
        yield Entry(split, number, label or None, (number,))


def _items(path: Path) -> Iterator[Entry]:
    content, split = read_json(path), _split(path)
    if not isinstance(content, list):
        raise ListError(f"'{path}': expected a list of clips, each with 'id' and 'template'. Is it train.json?")
    for place, item in enumerate(content, 1):
        number = item.get("id") if isinstance(item, dict) else None
        template = item.get("template") if isinstance(item, dict) else None
        if not isinstance(number, str | int) or not isinstance(template, str | None):
            raise ListError(
                f"'{path}', clip {place}: expected an object with 'id', and 'template' except in a test set"
            )
        if template is None and split != "test":
            raise ListError(f"'{path}', clip {place}: no 'template', which tells the class. Download it again.")
        label = None if template is None else template.replace("[", "").replace("]", "")
        yield Entry(split, str(number), label, (str(number),))


def _split(path: Path) -> Split:
    split = split_of(path.stem)
    if split is None:
        raise ListError(f"'{path}': expected train, validation or test in its name. Rename it.")
    return split
