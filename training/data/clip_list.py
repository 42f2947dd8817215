"""A list of clips: a LIST, ``video,label``, with columns for what only training reads."""

from __future__ import annotations

import csv
import io
import string
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...grid.errors import ListError
from ...grid.storage.files import whole_file
from ...runtime.video.listing import read_rows
from .record import FrameFiles, Record

COLUMNS = ("video", "label", "group", "start_s", "end_s", "pattern", "first", "count")


def write_clip_list(path: Path, records: Iterable[Record]) -> None:
    """Write records as a list of clips with absolute paths; columns that none of them uses are left out.

    Raises:
        ResourceError: If it cannot be written.
    """
    rows = [_row(record) for record in records]
    used = [name for name in COLUMNS if name in ("video", "label") or any(row[name] for row in rows)]
    text = io.StringIO()
    writer = csv.DictWriter(text, used, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with whole_file(path, "list of clips", "give another -o") as file:
        file.write(text.getvalue().encode())


def read_clip_list(path: Path) -> list[Record]:
    """Return the records of a list of clips in order, with paths relative to the list's folder.

    Only ``video`` is a required column. Unknown columns are ignored. The files are not opened.

    Raises:
        ListError: If the list cannot be read, or a row is malformed.
    """
    rows = read_rows(path, "Expected a list that 'dynvid data' wrote.")
    columns = [name.strip() for name in rows[0][1]] if rows else []
    if "video" not in columns or len(rows) < 2:
        what = f"has the columns {', '.join(columns[:5])}" if rows else "is empty"
        what = "has no rows" if "video" in columns else what
        raise ListError(f"list '{path}' {what}. Expected a header with 'video', then a row a clip; run 'dynvid data'.")
    return [_record(path, line, columns, row) for line, row in rows[1:]]


def _row(record: Record) -> dict[str, str]:
    frames = record.frames
    return {
        "video": str(record.path.absolute()),
        "label": record.label or "",
        "group": record.group or "",
        "start_s": "" if record.start_s is None else repr(record.start_s),
        "end_s": "" if record.end_s is None else repr(record.end_s),
        "pattern": "" if frames is None else frames.pattern,
        "first": "" if frames is None else str(frames.first),
        "count": "" if frames is None else str(frames.count),
    }


def _record(path: Path, line: int, columns: Sequence[str], row: Sequence[str]) -> Record:
    if len(row) != len(columns):
        raise ListError(
            f"list '{path}', line {line}: {len(row)} fields, expected {len(columns)}. Quote fields that contain a comma."
        )
    found = {name: field.strip() for name, field in zip(columns, row, strict=True)}
    if not found["video"]:
        raise ListError(f"list '{path}', line {line}: no video. Name one, or remove the row.")
    try:
        start_s, end_s = (float(found[name]) if found.get(name) else None for name in ("start_s", "end_s"))
        pattern = found.get("pattern")
        frames = FrameFiles(pattern, int(found["first"]), int(found["count"])) if pattern else None
        if frames is not None:
            fields = [field for _, field, _, _ in string.Formatter().parse(frames.pattern) if field is not None]
            if fields != [""] or frames.first < 0 or frames.count < 1:
                raise ValueError(f"pattern {pattern!r}, first {frames.first}, count {frames.count}")
            frames.name(0)
        if not (start_s or 0) >= 0 or (end_s is not None and not end_s > (start_s or 0)):
            raise ValueError(f"start_s {start_s}, end_s {end_s}")
    except (KeyError, ValueError, IndexError) as fault:
        raise ListError(
            f"list '{path}', line {line}: {fault}. Expected seconds in start_s and end_s, a pattern such as "
            "img_{:05d}.jpg, and whole numbers in first and count."
        ) from None
    label, group = found.get("label") or None, found.get("group") or None
    return Record(path.parent / found["video"], label, frames, start_s, end_s, group)
