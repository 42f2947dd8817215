"""Join the results of several shards, or of a run on Ray."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...grid.errors import ResultsError, StaleResultsError, UsageError
from ...grid.storage.files import sync_folder, whole_file
from ...grid.storage.sealed import seal
from .formats import dumps, files_of, is_parquet, lines_of, read_records, write_parquet
from .results_file import key_of
from .run import FORMAT, VERSION, Run, run_beside, sidecar_of

LOG = logging.getLogger("dynvid")

MEASURED = ("latency_ms", "decode_ms", "waited_ms", "elapsed_ms", "frames_decoded")
"""Keys of a record that differ from one run to the next; all others are the same to the last bit."""

_SUFFIXES = ("", ".json", ".jsonl", ".ndjson", ".parquet")

Record = dict[str, Any]


@dataclass(frozen=True)
class Merged:
    """What was joined.

    Attributes:
        parts: number of files.
        lines: that they had; ``videos``: different ones, each written once.
        failed: videos whose status is not ``ok``.
        missing: videos of the list that no part has; None if the parts do not say of which run they are, or its list was
            not read to its end.
    """

    parts: int
    lines: int
    videos: int
    failed: int
    missing: int | None

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        """Return the counts in one line."""
        missing = "" if self.missing is None else f", {self.missing} missing"
        return f"{self.videos} videos of {self.lines} lines in {self.parts} files, {self.failed} failed{missing}"


def merge(parts: Sequence[Path], output: Path) -> Merged:
    """Write the lines of several files of results as one file; ``dynvid.merge`` documents it.

    About 200 bytes of memory are used for each video.
    """
    files = [file for part in parts for file in _files(part)]
    if output.resolve() in {file.resolve() for file in files}:
        raise UsageError(f"-o {str(output)!r} is one of the parts: give another")
    _require_results(output)
    sidecar = sidecar_of(lines_of(output))  # raises its error now
    runs = {file: run_beside(file) for file in files}
    run = _run_of(runs)
    counted = run is not None and run.list_sha256 is None  # else its list was not read to its end
    if unknown := [file for file in files if runs[file] is None]:
        LOG.warning(
            f"{len(unknown)} of {len(files)} files do not say of which run they are, first {str(unknown[0])!r}: whether all "
            "are of one run, and which videos are missing, is not known"
        )
    elif not counted:
        LOG.warning("the list of this run was not read to its end: which videos are missing is not known")
    first: dict[str, tuple[bytes, int]] = {}  # by key: the digest of what must not differ, and the part
    counts = {"lines": 0, "failed": 0}

    def each_once() -> Iterator[Record]:
        for number, file in enumerate(files):
            before = counts["lines"]
            for record in read_records(file):
                counts["lines"] += 1
                fixed = {key: value for key, value in record.items() if key not in MEASURED}
                digest = hashlib.blake2b(json.dumps(fixed, sort_keys=True).encode(), digest_size=16).digest()
                known = first.get(key := key_of(record))
                if known is None:
                    first[key] = digest, number
                    counts["failed"] += record["status"] != "ok"
                    yield record
                elif known[0] != digest:
                    raise ResultsError(
                        f"{key!r} has two lines that differ, in {str(files[known[1]])!r} and {str(file)!r}. Expected "
                        "results of one bundle, thresholds and backend: leave one of them out"
                    )
            if counts["lines"] == before and runs[file] is None:
                raise ResultsError(f"{str(file)!r} is empty. Give what 'dynvid classify -o' wrote.")
            if run is not None and counted and len(first) > run.videos:
                raise StaleResultsError(
                    f"{str(file)!r} has lines of other videos: its run has {run.videos}, and these parts have more. "
                    "Something else changed the lines: leave that part out, and classify it again"
                )
            LOG.debug(f"{number + 1}/{len(files)} files merged")
        _remove(sidecar)  # it says nothing of these lines; without one, classify refuses what is there

    if is_parquet(output):
        write_parquet(each_once(), output)
    else:
        with whole_file(output, "results", "give another -o") as target:
            target.writelines(map(dumps, each_once()))
    missing = run.videos - len(first) if run is not None and counted else None
    if run is not None and not is_parquet(output):
        with whole_file(sidecar, "results", "give another -o") as target:
            target.write(seal(asdict(run), FORMAT, VERSION))
    if missing:
        LOG.warning(f"{missing} of the {run.videos if run else 0} videos of the list have no line in these parts")
    return Merged(len(files), counts["lines"], len(first), counts["failed"], missing)


def _files(part: Path) -> list[Path]:
    """Return the files of results of a part: itself, or those of a folder.

    In a folder these are parquet files, ``*.jsonl``, and whatever has a sidecar. A parquet file is left out where the lines
    that it was written from lie beside it with their sidecar: they may have gone on since.
    """
    if not part.is_dir():
        return [part]
    tables, lines = files_of(part), set(part.glob("*.jsonl"))
    known = {file for sidecar in part.glob("*.run.json") if (file := _beside(sidecar)).exists()}
    found = sorted(lines | known | {table for table in tables if lines_of(table) not in known})
    if unfinished := sorted(set(part.glob("*.parquet")) - set(tables)):
        LOG.warning(
            f"{str(part)!r}: {len(unfinished)} parquet files are left out, first {unfinished[0].name!r}: Ray had not "
            "finished them"
        )
    if not found:
        raise ResultsError(f"folder {str(part)!r} holds no results. Give what 'dynvid classify -o' wrote.")
    return found


def _beside(sidecar: Path) -> Path:
    return sidecar.with_name(sidecar.name.removesuffix(".run.json"))


def _require_results(output: Path) -> None:
    """Refuse to replace what is no results, or to write what does not look like results.

    Raises:
        UsageError: If the file is something else, or its name is that of another kind of file.
    """
    name = output.name.lower()
    if output.suffix.lower() not in _SUFFIXES or f".{name}".endswith(".run.json"):
        raise UsageError(
            f"-o {str(output)!r}: expected the name of results, which ends in .jsonl or .parquet, and not in run.json, "
            "which says what results belong to"
        )
    if not os.path.lexists(output):
        return
    if not output.is_file():
        raise UsageError(f"-o {str(output)!r} is not a regular file: give another")
    if output.stat().st_size:
        try:
            next(read_records(output), None)
        except ResultsError:
            raise UsageError(f"-o {str(output)!r} exists and is not results: give another, or remove it") from None


def _remove(sidecar: Path) -> None:
    """Remove a sidecar, for good: the file that it lies beside is replaced after it."""
    if sidecar.exists():
        sidecar.unlink()
        sync_folder(sidecar.parent)


def _run_of(runs: Mapping[Path, Run | None]) -> Run | None:
    """Return the whole run that all files are shards of; None if one of them does not say.

    Raises:
        StaleResultsError: If they belong to different runs.
    """
    known = {file: run for file, run in runs.items() if run is not None}
    whole: Run | None = None
    for file, run in known.items():
        part = replace(run, shard=(1, 1))
        if whole is not None and part != whole:
            raise StaleResultsError(
                f"{str(file)!r} holds results of another run than {str(next(iter(known)))!r}: "
                f"{'; '.join(whole.differences(part))}. Merge the shards of one run"
            )
        whole = part
    return whole if len(known) == len(runs) else None
