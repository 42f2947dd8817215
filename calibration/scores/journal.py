"""A journal of fixed-size records that survives kill -9: records have checksums, and an incomplete tail is dropped."""

from __future__ import annotations

import fcntl
import json
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ...grid.errors import ResourceError, StaleScoresError, UsageError
from ...grid.storage.files import remedy_for


class Journal:
    """An append-only file: a line that says what it belongs to, then records of ``size`` bytes with their crc32.

    Existing records are kept up to the first with a wrong checksum; that one and all after it are cut off. At worst
    something is computed again.

    Attributes:
        records: the records found at opening.
    """

    def __init__(self, path: Path, belongs_to: dict[str, Any], size: int, option: str = "--scores") -> None:
        """Open or start the journal and lock it.

        Raises:
            StaleScoresError: If it belongs to something else.
            UsageError: If another process is writing it.
            ResourceError: If it cannot be written.
        """
        self.path, self._option = path, option
        header = json.dumps(belongs_to, sort_keys=True).encode()
        header = b"%08x %s\n" % (zlib.crc32(header), header)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UsageError(f"{str(path)!r} is being written by another process: wait for it, or stop it") from None
        except OSError as error:
            self._file.close()
            raise self._unwritable(error) from None
        self._file.seek(0)
        content = self._file.read()
        if not content.startswith(header):
            if _whole_header(content):
                self._file.close()
                raise StaleScoresError(
                    f"{str(path)!r} was started for another bundle, other videos, labels, thresholds or preprocessing: "
                    f"give another {option}, or remove it"
                )
            content = b""  # empty, or an incomplete header
        self.records: list[bytes] = []
        end = len(header)
        while len(record := content[end : end + size + 4]) == size + 4:
            if zlib.crc32(record[:-4]).to_bytes(4, "big") != record[-4:]:
                break
            self.records.append(record[:-4])
            end += size + 4
        try:
            if not content:
                self._file.truncate(0)
                self._write(header)
            else:
                self._file.truncate(end)
        except OSError as error:
            raise self._unwritable(error) from None

    def append(self, record: bytes) -> None:
        """Add a record; once this returns, a crash of this process does not lose it.

        Raises:
            ResourceError: If the disk is full.
        """
        try:
            self._write(record + zlib.crc32(record).to_bytes(4, "big"))
        except OSError as error:
            raise self._unwritable(error) from None

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._file.flush()

    def _unwritable(self, error: OSError) -> ResourceError:
        return ResourceError(
            f"{str(self.path)!r} cannot be written ({error.strerror}): "
            f"{remedy_for(error, f'give another {self._option}')}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._file.close()


def _whole_header(content: bytes) -> bool:
    line, newline, _ = content.partition(b"\n")
    check, _, header = line.partition(b" ")
    return bool(newline) and check == b"%08x" % zlib.crc32(header)
