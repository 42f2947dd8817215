"""A LIST: a CSV file that names videos and, if known, their labels."""

from __future__ import annotations

import csv
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from ...grid.errors import ListError
from .foreign_list import advice

LOG = logging.getLogger("dynvid")

_EXPECTED = "Expected a CSV in UTF-8 with a header 'video' or 'video,label', then one row per video."


@dataclass(frozen=True, slots=True)
class ListedVideo:
    """One row of a LIST: the path of the video and its label, None if it has none."""

    path: Path
    label: str | None = None


def read_list(path: str | os.PathLike[str]) -> list[ListedVideo]:
    """Return the videos of a LIST in order, with paths relative to the list's folder.

    The video files are not opened. Columns other than ``video`` and ``label`` are ignored. A path that is named again
    with the same label is left out, with a warning.

    Raises:
        ListError: If the list cannot be read, has no header, no column ``video``, no rows or a malformed row, or
            gives a path two labels.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, row) for row in reader if any(field.strip() for field in row)]
    except OSError as fault:
        raise ListError(f"list '{path}': {fault.strerror}. {_EXPECTED}") from None
    except (UnicodeDecodeError, csv.Error) as fault:
        raise ListError(f"list '{path}' is not a CSV file ({fault}). {advice(path) or _EXPECTED}") from None
    if not rows:
        raise ListError(f"list '{path}' is empty. {_EXPECTED}")
    (header_line, header), *entries = rows
    columns = [name.strip() for name in header]
    if columns.count("video") != 1 or columns.count("label") > 1:
        raise ListError(
            f"list '{path}', line {header_line}: columns {', '.join(columns)}; exactly one must be 'video' "
            f"and at most one 'label'. {advice(path) or _EXPECTED}"
        )
    if not entries:
        raise ListError(f"list '{path}' has a header but no rows. {_EXPECTED}")
    video_column = columns.index("video")
    label_column = columns.index("label") if "label" in columns else None
    videos: list[ListedVideo] = []
    seen: dict[str, tuple[int, str | None]] = {}  # line and label of every video, by path
    again: list[str] = []
    for line, row in entries:
        if len(row) != len(columns):
            raise ListError(
                f"list '{path}', line {line}: {len(row)} fields, expected {len(columns)}. "
                "Quote fields that contain a comma."
            )
        name = row[video_column].strip()
        if not name:
            raise ListError(f"list '{path}', line {line}: no video. Name one, or remove the row.")
        video = path.parent / name
        label = (None if label_column is None else row[label_column].strip()) or None
        key = os.path.abspath(video)
        first, known = seen.setdefault(key, (line, label))
        if known != label:
            raise ListError(
                f"list '{path}', line {line}: '{name}' has label {label!r}, but {known!r} on line {first}. Remove one."
            )
        if first != line:
            again.append(f"'{name}' on lines {first} and {line}")
            continue
        videos.append(ListedVideo(video, label))
    if again:
        LOG.warning(f"list '{path}' names {len(again)} videos again, first {again[0]}: each counts once")
    return videos
