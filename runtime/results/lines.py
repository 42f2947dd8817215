"""Read the records of a results file, whoever wrote it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...grid.errors import ResultsError
from .formats import is_parquet, json_lines, read_records
from .results_file import key_of

LOG = logging.getLogger("dynvid")

Numbered = tuple[int, Mapping[str, Any]]


def numbered_records(results: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and record of each line of a results file of ``dynvid classify``; {} for one that is no record.

    Raises:
        ResultsError: If the file cannot be read, or a line is not JSON.
        MissingPackageError: If it is parquet, and pyarrow is not installed.
    """
    if results.is_dir():
        raise ResultsError(
            f"results {str(results)!r} are a folder: join its files with 'dynvid merge {results} -o results.jsonl' "
            "first, and give that file"
        )
    if is_parquet(results):
        yield from enumerate(read_records(results), 1)
        return
    for number, record in json_lines(results):
        yield number, record if isinstance(record, dict) else {}


def latest(records: Iterable[Numbered], where: str) -> list[Numbered]:
    """Return each video's last record, in the order of the first; warn of those that have several.

    Args:
        records: with their numbers.
        where: names their file.
    """
    found, again = dict[Any, Numbered](), dict[Any, int]()
    for number, record in records:
        key = key_of(record)
        key = key if isinstance(key, str) else number  # no record: whoever reads it says so
        if key in found:
            again.setdefault(key, found[key][0])
        found[key] = number, record
    if again:
        key, first = next(iter(again.items()))
        several = "1 video has" if len(again) == 1 else f"{len(again)} videos have"
        LOG.warning(
            f"results {where!r}: {several} several lines, first {key!r} on lines {first} and {found[key][0]}: the last "
            "one counts"
        )
    return list(found.values())
