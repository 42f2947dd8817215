"""Kinetics: ``label,youtube_id,time_start,time_end,split``, and clips ``ID_START_END.mp4`` in any folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ....grid.errors import ListError
from ..annotations import Annotations, Entry, Request
from ..splits import split_of
from ..text_file import first_lines, read_rows, text_files

_COLUMNS = ("youtube_id", "time_start", "time_end")


def recognise(source: Path) -> bool:
    """Return whether there are annotations of Kinetics."""
    return any(map(_is_kinetics, text_files(source)))


def read(request: Request) -> Annotations:
    """Return the clips of the annotation files.

    A clip is looked for by its name, so that the spelling of its folder does not matter, and flat folders are fine.

    Raises:
        ListError: If there are no annotations, or a row is malformed.
    """
    source = request.source
    files = [path for path in text_files(source) if _is_kinetics(path)]
    if not files:
        raise ListError(
            f"'{source}' holds no annotations of Kinetics: expected a CSV with the columns "
            f"{', '.join(_COLUMNS)}. Without one, folders of classes are read by --format class-folders."
        )
    entries = [entry for path in files for entry in _entries(path)]
    classes, classes_from = request.classes(None, [str(entry.label) for entry in entries if entry.label is not None])
    what = f"annotations of Kinetics ({', '.join(path.name for path in files)})"
    return Annotations(what, classes, classes_from, entries, request.root)


def _is_kinetics(path: Path) -> bool:
    lines = first_lines(path)
    return bool(lines) and set(_COLUMNS) <= {name.strip().strip('"') for name in lines[0].split(",")}


def _entries(path: Path) -> Iterator[Entry]:
    rows = read_rows(path)
    _, columns = next(rows)
    for line, row in rows:
        if len(row) != len(columns):
            raise ListError(f"'{path}', line {line}: {len(row)} fields, expected {len(columns)}. Quote the label.")
        found = dict(zip(columns, row, strict=True))
        said = found.get("split") or path.stem
        split = split_of(said)
        if split is None:
            raise ListError(f"'{path}', line {line}: split {said!r}, expected train, val or test")
        try:
            start, end = (int(float(found[name])) for name in ("time_start", "time_end"))  # some copies have 20.0
        except (ValueError, OverflowError):
            raise ListError(
                f"'{path}', line {line}: time_start {found['time_start']!r} and time_end {found['time_end']!r}, "
                "expected seconds"
            ) from None
        video = found["youtube_id"]
        if not video:
            raise ListError(f"'{path}', line {line}: no youtube_id. Name it, or remove the row.")
        clip = f"{video}_{start:06d}_{end:06d}"
        yield Entry(split, clip, found.get("label") or None, (clip, video), video)
