"""Names of classes from a file: one a line, or a label map."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..grid.errors import LabelsError
from ..grid.storage.files import read_file
from ..grid.storage.strict_json import StrictJsonError, loads

_NUMBERED = re.compile(r"(\d+)[\s,;:]+(.+)")
_HEADER = re.compile(r"(id|index|class)[\s,;]+(name|label|class)", re.IGNORECASE)


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the names of the classes in order.

    Text has one name a line; lines that all begin with a number are a map, numbered from 0 or 1. JSON is a list of
    names, or an object from names to numbers or from numbers to names.

    Raises:
        LabelsError: If the file cannot be read, a name occurs twice, or a number is missing.
    """
    try:
        text = read_file(path).decode("utf-8-sig")
    except OSError as error:
        raise LabelsError(f"labels {str(path)!r} cannot be read ({error.strerror}): give a file of names") from None
    except UnicodeDecodeError:
        raise LabelsError(f"labels {str(path)!r} are not text in UTF-8: save them as such") from None
    labels = _from_json(text, path) if path.suffix.lower() == ".json" else _from_lines(text, path)
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice or len(labels) < 2:
        what = f"name {twice[0]!r} twice" if twice else f"hold {len(labels)} names"
        raise LabelsError(f"labels {str(path)!r} {what}: expected every class once, one a line")
    return labels


def _from_lines(text: str, path: Path) -> tuple[str, ...]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and _HEADER.fullmatch(lines[0]):
        del lines[0]
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    if lines and all(numbered):
        return _in_order([(match[2].strip('"'), match[1]) for match in numbered if match], path)
    return tuple(lines)


def _from_json(text: str, path: Path) -> tuple[str, ...]:
    try:
        content = loads(text.encode())
    except StrictJsonError as error:
        raise LabelsError(f"labels {str(path)!r} are not JSON: {error}") from None
    if isinstance(content, list) and all(isinstance(label, str) for label in content):
        return tuple(content)
    if isinstance(content, dict) and all(_is_number(key) for key in content):
        return _in_order([(name, number) for number, name in content.items()], path)
    if isinstance(content, dict):
        return _in_order(list(content.items()), path)
    raise LabelsError(f"labels {str(path)!r}: expected a list of names, or an object of names and numbers")


def _in_order(pairs: list[tuple[Any, Any]], path: Path) -> tuple[str, ...]:
    if not all(isinstance(name, str) and _is_number(number) for name, number in pairs):
        raise LabelsError(f"labels {str(path)!r}: expected each name with its number")
    found = {int(number): str(name) for name, number in pairs}
    first = min(found, default=0)
    if first > 1 or sorted(found) != list(range(first, first + len(pairs))):
        raise LabelsError(
            f"labels {str(path)!r} are numbered {first} to {max(found, default=0)} for {len(pairs)} names: expected "
            "every number once, from 0 or 1"
        )
    return tuple(found[number] for number in sorted(found))


def _is_number(value: object) -> bool:
    return type(value) is int or (isinstance(value, str) and value.isascii() and value.isdigit())
