"""The rows of a LIST, in each of its formats: CSV, TSV, parquet, JSON Lines, a text file of paths, a folder, a glob."""

from __future__ import annotations

import csv
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ...grid.errors import ListError
from ...grid.packages import packages
from ...grid.storage.strict_json import StrictJsonError, loads
from .foreign_list import VIDEO_END, advice
from .remote import files_behind, is_wild

EXPECTED = "Expected a CSV in UTF-8 with a header 'video' or 'video,label', then one row per video."
_TSV = (
    "Expected text in UTF-8, separated by tabs, with a header 'video' or 'video' and 'label', then one row per video."
)
_TEXT = "Expected one path a line in UTF-8, or a CSV with a header 'video'."
_FOLDER = "Expected videos in it, or in its folders."
_PATTERN = "Expected a pattern such as 'clips/**/*.mp4', in quotes."
_ROWS_A_BATCH = 10_000  # of parquet
_NAMES_SHOWN = 20

Row = tuple[int, Sequence[str | None]]


class Table(NamedTuple):
    """A LIST that is being read.

    Attributes:
        line: of the header, 1-based; 0 where the format has none.
        columns: names of the columns.
        rows: each with the number of its line or row, 1-based, and a field for each column; None: no value.
        expected: what the format expects, for errors.
        others: names of columns that are there, too, but not in ``rows``.
    """

    line: int
    columns: list[str]
    rows: Iterator[Row]
    expected: str
    others: Sequence[str] = ()


def open_table(path: Path, wanted: Sequence[str], asked: Sequence[str] = ()) -> Table:
    """Return the rows of a LIST; the format follows from the suffix, and is CSV for any other.

    Args:
        path: a file, a folder, or a glob pattern.
        wanted: names of the columns that matter; the first is that of the video.
        asked: those of them that some row must have.

    Raises:
        ListError: If it cannot be read. So may ``rows``.
        MissingPackageError: If it is parquet, and pyarrow is not installed.
    """
    if path.is_dir():
        found = sorted(str(file.relative_to(path)) for file in path.rglob("*") if VIDEO_END.search(file.name))
        return _of_paths(path, wanted, enumerate(found, 1), f"is a folder without videos. {_FOLDER}", _FOLDER)
    if is_pattern(path):
        names = sorted(file for file in glob.iglob(str(path), recursive=True) if os.path.isfile(file))
        return _of_paths(path, wanted, enumerate(names, 1), f"fits no file. {_PATTERN}", _PATTERN)
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".pq"):
        return _parquet(path, wanted)
    if suffix in (".jsonl", ".ndjson"):
        expected = f"Expected JSON Lines: one object a line, with the key {wanted[0]!r}."
        if wanted[0] == "video":
            expected += " 'dynvid classify' takes another key: --video-column NAME."
        return Table(0, list(wanted), _json_rows(path, wanted, asked, expected), expected)
    if suffix == ".txt" and (table := _text(path, wanted)) is not None:
        return table
    expected = {".tsv": _TSV, ".txt": _TEXT}.get(suffix, EXPECTED)
    rows = csv_rows(path, expected, "\t" if suffix == ".tsv" else ",")
    first = next(rows, None)
    if first is None:
        raise ListError(f"list '{path}' is empty. {expected}")
    return Table(first[0], [name.strip() for name in first[1]], rows, expected)


def table_behind(uri: str, wanted: Sequence[str]) -> Table | None:
    """Return the rows of a folder or pattern behind a URI, one for each video; None: it is a file.

    Raises:
        ListError, MissingPackageError: As ``files_behind``, and if there is no video.
    """
    found = files_behind(uri)
    if found is None:
        return None
    if is_wild(uri):
        return _of_paths(uri, wanted, enumerate(found, 1), f"fits no file. {_PATTERN}", _PATTERN)
    videos = enumerate(filter(VIDEO_END.search, found), 1)
    return _of_paths(uri, wanted, videos, f"is a folder without videos. {_FOLDER}", _FOLDER)


def is_pattern(path: Path) -> bool:
    """Return whether a LIST is a glob pattern: it has wildcards, and no file has its name."""
    return glob.has_magic(str(path)) and not path.exists()


def csv_rows(path: Path, expected: str, separator: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV file in UTF-8 that are not empty, each with the number of its last line.

    Raises:
        ListError: If it cannot be read, with what is ``expected``.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=separator, strict=True)
            for row in reader:
                if row and (row[0].strip() or any(field.strip() for field in row)):
                    yield reader.line_num, row
    except OSError as fault:
        raise ListError(f"list '{path}': {fault.strerror}. {expected}") from None
    except (UnicodeDecodeError, csv.Error) as fault:
        raise ListError(f"list '{path}' is not a CSV file ({fault}). {advice(path) or expected}") from None


def _text(path: Path, wanted: Sequence[str]) -> Table | None:
    """Return the paths of a text file, one a line; None if it is a CSV, or seems to be a list of another kind."""
    if not path.is_file():
        return None
    try:
        with path.open(encoding="utf-8-sig") as file:
            start = [line.strip() for line in islice(file, 1000) if line.strip()]
    except (OSError, UnicodeDecodeError):
        return None  # the reader of CSV says what is wrong
    if not start or wanted[0] in [name.strip().strip('"') for name in start[0].split(",")]:
        return None
    if not all(VIDEO_END.search(line) for line in start) and advice(path) is not None:
        return None

    def lines() -> Iterator[tuple[int, str]]:
        with path.open(encoding="utf-8-sig") as file:
            yield from ((number, line.strip()) for number, line in enumerate(file, 1) if line.strip())

    return _of_paths(path, wanted, lines(), f"is empty. {_TEXT}", _TEXT)


def _of_paths(
    path: Path | str, wanted: Sequence[str], paths: Iterable[tuple[int, str]], nothing: str, expected: str
) -> Table:
    """Return a table with one column, the video."""
    rows = iter(paths)
    first = next(rows, None)
    if first is None:
        raise ListError(f"list '{path}' {nothing}")

    def each() -> Iterator[Row]:
        yield first[0], [first[1]]
        yield from ((number, [name]) for number, name in rows)

    return Table(0, [wanted[0]], each(), expected)


def _json_rows(path: Path, wanted: Sequence[str], asked: Sequence[str], expected: str) -> Iterator[Row]:
    missing, keys = set(asked), dict[str, None]()
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                found = loads(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
                if not isinstance(found, dict) or wanted[0] not in found:
                    raise ListError(f"list '{path}', line {number}: no key {wanted[0]!r}. {expected}")
                if missing:
                    missing -= found.keys()
                    keys |= dict.fromkeys(found)
                yield number, [_text_of(found.get(name)) for name in wanted]
    except OSError as fault:
        raise ListError(f"list '{path}': {fault.strerror}. {expected}") from None
    except StrictJsonError as fault:
        raise ListError(f"list '{path}', line {number}: {fault}. {expected}") from None
    for name in asked:
        if keys and name in missing:
            raise ListError(
                f"list '{path}': no row has the key {name!r}: keys are {shown_names(keys)}. Name one of them."
            )


def _parquet(path: Path, wanted: Sequence[str]) -> Table:
    expected = f"Expected a parquet file with a column {wanted[0]!r}."
    with packages("parquet"):
        import pyarrow
        import pyarrow.parquet
    try:
        file = pyarrow.parquet.ParquetFile(path)
        columns = list(file.schema_arrow.names)
    except (OSError, pyarrow.ArrowException) as fault:
        raise ListError(f"list '{path}' is not a parquet file ({str(fault).splitlines()[0]}). {expected}") from None
    used = [name for name in wanted if name in columns]

    def rows() -> Iterator[Row]:
        number = 0
        for batch in file.iter_batches(_ROWS_A_BATCH, columns=used):
            values = [column.to_pylist() for column in batch.columns]
            for fields in zip(*values, strict=True):
                number += 1
                yield number, [_text_of(field) for field in fields]

    return Table(0, used, rows(), expected, [name for name in columns if name not in used])


def _text_of(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else str(value)


def shown_names(names: Iterable[str]) -> str:
    """Return the first names of columns, for an error."""
    every = list(names)
    return ", ".join(map(shown_name, every[:_NAMES_SHOWN])) + (", …" if len(every) > _NAMES_SHOWN else "")


def shown_name(text: str) -> str:
    """Return the start of a name, with escapes for what cannot be printed."""
    text = text if len(text) <= 100 else text[:100] + "…"
    return text if text.isprintable() else repr(text)
