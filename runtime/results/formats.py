"""Results as JSON Lines and as parquet: read, and written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...grid.errors import ResultsError
from ...grid.packages import packages
from ...grid.storage.files import whole_file
from ...grid.storage.strict_json import StrictJsonError, loads
from .results_file import key_of

if TYPE_CHECKING:
    import pyarrow

Record = dict[str, Any]

_ROWS_A_GROUP = 10_000
_OF_ANSWERS = ("cut", "waited_ms", "elapsed_ms", "logits")  # what a damaged video has not
_EXPECTED = "Give what 'dynvid classify -o' wrote."


def is_parquet(path: Path) -> bool:
    """Return whether the suffix of a file of results is that of parquet."""
    return path.suffix.lower() == ".parquet"


def lines_of(output: Path) -> Path:
    """Return the JSON Lines of a file of results: the file itself, or, since parquet cannot grow, the one beside it.

    Raises:
        MissingPackageError: If parquet is asked for, and pyarrow is not installed.
    """
    if not is_parquet(output):
        return output
    with packages("parquet"):
        import pyarrow.parquet  # noqa: F401
    return output.with_name(f"{output.name}.jsonl")


def files_of(folder: Path) -> list[Path]:
    """Return the parquet files of a folder, without those that Ray had not finished when it was killed.

    Ray writes ``checkpoint/NAME.parquet`` once the files ``NAME-*.parquet`` are whole.
    """
    found, finished = sorted(folder.glob("*.parquet")), folder / "checkpoint"
    if not finished.is_dir():
        return found
    return [file for file in found if (finished / f"{file.stem.rpartition('-')[0]}.parquet").exists()]


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a file of results, JSON Lines or parquet by its suffix.

    Raises:
        ResultsError: If it cannot be read, or a line is not a record.
        MissingPackageError: If it is parquet, and pyarrow is not installed.
    """
    return _from_parquet(path) if is_parquet(path) else _from_lines(path)


def _fault_of(number: int, line: bytes, error: StrictJsonError) -> str:
    """Return what is wrong with a line that is not JSON, and what to do; only the last line lacks its end."""
    if not line.endswith((b"\n", b"\r")):
        return f"line {number} ends in the middle: run classify again, or remove it"
    return f"line {number}: {str(error).replace('line 1 column', 'column')}. {_EXPECTED}"


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the number and the value of each line of a JSON Lines file, one line in memory at a time.

    Raises:
        ResultsError: If the file cannot be read, or a line is not JSON.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    found = loads(line)
                except StrictJsonError as error:
                    raise ResultsError(f"results {str(path)!r}, {_fault_of(number, line, error)}") from None
                yield number, found
    except OSError as error:
        raise ResultsError(f"results {str(path)!r} cannot be read ({error.strerror}). {_EXPECTED}") from None


def _from_lines(path: Path) -> Iterator[Record]:
    for number, found in json_lines(path):
        if not isinstance(found, dict) or not isinstance(key_of(found), str) or "status" not in found:
            raise ResultsError(f"results {str(path)!r}, line {number}: no 'video' and 'status'. {_EXPECTED}")
        yield found


def _from_parquet(path: Path) -> Iterator[Record]:
    with packages("parquet"):
        import pyarrow
        import pyarrow.parquet
    try:
        file = pyarrow.parquet.ParquetFile(path)
        if not {"video", "status"} <= set(file.schema_arrow.names):
            raise ResultsError(f"results {str(path)!r} have no columns 'video' and 'status'. {_EXPECTED}")
        for batch in file.iter_batches(_ROWS_A_GROUP):
            yield from map(_without_absent, batch.to_pylist())
    except (OSError, pyarrow.ArrowException) as error:
        raise ResultsError(
            f"results {str(path)!r} are not a whole parquet file ({str(error).splitlines()[0]}). {_EXPECTED}"
        ) from None


def write_parquet(records: Iterable[Record], path: Path) -> None:
    """Write records as a parquet file, whole or not at all.

    Raises:
        ResourceError: If it cannot be written.
    """
    import pyarrow.parquet

    taken = iter(records)
    with (
        whole_file(path, "results", "give another -o") as file,
        pyarrow.parquet.ParquetWriter(file, schema()) as writer,
    ):
        while group := list(islice(taken, _ROWS_A_GROUP)):
            writer.write_table(table_of(group))


def table_of(records: Iterable[Record]) -> pyarrow.Table:
    """Return records as a table; keys that a record lacks are null."""
    import pyarrow

    return pyarrow.Table.from_pylist(list(records), schema())


def schema() -> pyarrow.Schema:
    """Return the columns of results; numbers keep all their bits."""
    import pyarrow as pa

    text, real, count = pa.string(), pa.float64(), pa.int64()
    columns = {
        "video": text, "id": text, "file": pa.struct({"bytes": count, "modified": count}), "label": text,
        "listed_label": text, "error": text, "status": text, "class_index": count, "confidence": real,
        "checkpoint": count, "gmacs": real, "fraction": real, "latency_ms": real, "decode_ms": real,
        "frames_decoded": count, "frames_total": count, "damaged": pa.bool_(), "warnings": pa.list_(text),
        "cut": pa.bool_(), "waited_ms": real, "elapsed_ms": real, "logits": pa.list_(pa.list_(real)),
    }  # fmt: skip
    return pa.schema(columns.items())


def dumps(record: Record) -> bytes:
    """Return a record as a line of JSON."""
    return json.dumps(record, allow_nan=False).encode() + b"\n"


def _without_absent(record: Record) -> Record:
    """Return a record without the keys that it lacked as JSON."""
    record.pop("key", None)  # by which Ray knows what is done
    if record["status"] == "damaged":
        return {
            key: value for key, value in record.items() if key not in _OF_ANSWERS and (value is not None or key != "id")
        }
    return {key: value for key, value in record.items() if value is not None or key not in ("id", "logits")}
