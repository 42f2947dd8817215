"""Annotation files: where they are, and their lines and rows."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...grid.errors import ListError
from ...grid.storage.strict_json import StrictJsonError, loads

_SUFFIXES = {".txt", ".csv", ".tsv", ".json", ".lst", ".list"}
_FOLDERS = re.compile(r"anno|label|list|split|meta", re.IGNORECASE)
_HEAD_BYTES = 1 << 16

Row = tuple[int, list[str]]
"""Number of the line, and its fields."""


def text_files(source: Path) -> list[Path]:
    """Return the file itself, or the files in a folder that may be annotations, also one level down in ``labels/``.

    Raises:
        ListError: If the source is missing or cannot be read.
    """
    try:
        if source.is_file():
            return [source]
        inside = sorted(source.iterdir())
        folders = [path for path in inside if _FOLDERS.search(path.name) and path.is_dir()]
        inside += [path for folder in folders for path in sorted(folder.iterdir())]
    except OSError as fault:
        raise ListError(
            f"source '{source}': {fault.strerror}. Expected a list, or a folder of lists or videos."
        ) from None
    return [path for path in inside if path.suffix.lower() in _SUFFIXES and path.is_file()]


def first_lines(path: Path) -> list[str]:
    """Return the first whole lines of a file that are not empty, to recognise it by; wrong bytes are replaced."""
    try:
        with path.open("rb") as file:
            content = file.read(_HEAD_BYTES)
    except OSError as fault:
        raise ListError(f"'{path}': {fault.strerror}. Allow this user to read it, or leave it out.") from None
    whole = content if len(content) < _HEAD_BYTES else content[: content.rfind(b"\n") + 1] or content
    return [line.strip() for line in whole.decode("utf-8-sig", "replace").splitlines() if line.strip()]


def read_text(path: Path) -> str:
    """Return the contents of an annotation file.

    Raises:
        ListError: If it cannot be read, or is not in UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as fault:
        raise ListError(f"'{path}': {fault.strerror}. Allow this user to read it, or leave it out.") from None
    except UnicodeDecodeError as fault:
        raise ListError(
            f"'{path}' is not text in UTF-8 (byte {fault.start}): convert it, as by iconv -f LATIN1 -t UTF-8"
        ) from None


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Return number and text of the lines that are not empty; raises as ``read_text``."""
    lines = enumerate(read_text(path).split("\n"), 1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def read_rows(path: Path, delimiter: str = ",") -> Iterator[Row]:
    """Yield the rows of a file of separated values that are not empty; raises as ``read_text``."""
    reader = csv.reader(read_text(path).splitlines(keepends=True), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if any(map(str.strip, row)):
                yield reader.line_num, [field.strip() for field in row]
    except csv.Error as fault:
        raise ListError(f"'{path}', line {reader.line_num}: {fault}. Quote fields that hold quotes.") from None


def read_json(path: Path) -> Any:
    """Return the value of a JSON file; raises as ``read_text``, and a ListError if it is not JSON."""
    try:
        return loads(read_text(path).encode())
    except StrictJsonError as fault:
        raise ListError(f"'{path}' is not JSON: {fault}. Download it again, or mend it.") from None
