"""The results of ``dynvid classify -o``: one line per video, written so that the same command resumes after any crash.

A sealed ``OUT.run.json`` is written beside ``OUT`` before the first line. It says which run the lines belong to.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from ...grid.errors import ResourceError, StaleResultsError, UsageError
from ...grid.storage.files import remedy_for, sync_folder, write_file
from ...grid.storage.sealed import seal
from ...grid.storage.strict_json import StrictJsonError, loads
from ..closing import Closing
from ..video.listing import VideoList
from .run import FORMAT, VERSION, Run, read_run, sidecar_of

_STATUSES = ("ok", "numeric_error", "damaged")
_STREAMS = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/self/fd/")
_LINES_A_SYNC, _SECONDS_A_SYNC = 100, 1.0

Own = Callable[[str], str | None]  # a video's key as the list holds it; None: not in the list


class Results(Closing):
    """A results file, open and locked for one process. Use ``open_results`` to open it.

    A line reaches the operating system in one write when its video is done, so a crash of this process loses no line.
    Lines are synced to disk after every 100, or with the first line at least a second after the last sync. A power
    failure thus loses at most 100 lines and what was written within one second.

    Attributes:
        path: of the file.
        done: keys of the videos that have a line; ``failed``: those whose status is not ``ok``.
    """

    def __init__(self, path: Path, descriptor: int, done: set[str], failed: set[str], own: Own) -> None:
        self.path, self.done, self.failed = path, done, failed
        self._descriptor, self._own = descriptor, own
        self._unsynced, self._synced_s = 0, time.monotonic()

    @property
    def on_disk(self) -> int:
        """The number of lines that survive even a power failure."""
        return len(self.done) - self._unsynced

    def append(self, record: dict[str, Any]) -> None:
        """Add the record of a video, as returned by ``records.record`` or ``records.unanswered``.

        Raises:
            ResourceError: If the disk is full.
        """
        video = self._own(key_of(record))
        assert video is not None, record
        assert video not in self.done, record
        try:
            _write(self._descriptor, json.dumps(record, allow_nan=False).encode() + b"\n")
            self.done.add(video)
            if record["status"] != "ok":
                self.failed.add(video)
            self._unsynced += 1
            if self._unsynced >= _LINES_A_SYNC or time.monotonic() - self._synced_s >= _SECONDS_A_SYNC:
                self._sync()
        except OSError as error:
            raise _unwritable(self.path, error) from None

    def settle(self, run: Run) -> None:
        """Say that the lines belong to ``run``, now that its list was read to its end.

        Raises:
            ResourceError: If the disk is full.
        """
        try:
            _claim(self.path, run)
        except OSError as error:
            raise _unwritable(self.path, error) from None

    def close(self) -> None:
        """Sync every line to disk and release the lock.

        Raises:
            ResourceError: If the disk is full.
        """
        try:
            self._sync()
        except OSError as error:
            raise _unwritable(self.path, error) from None
        finally:
            os.close(self._descriptor)

    def _sync(self) -> None:
        os.fsync(self._descriptor)
        self._unsynced, self._synced_s = 0, time.monotonic()


def open_results(
    path: Path,
    run: Run,
    videos: Iterable[str] | VideoList,
    *,
    retry_failed: bool = False,
    on_line: Callable[[dict[str, Any]], None] = lambda _: None,
    list_sha256: str | None = None,
) -> Results:
    """Open a results file, new or to be resumed. An incomplete last line is cut off.

    Args:
        path: the file, or a link to it; ``path``.run.json is written beside it. Its folder is created.
        run: the run that the file must belong to.
        videos: the list, or the keys that may have a line in it.
        retry_failed: remove the lines of the videos that failed, so that they are tried again.
        on_line: called with the record of each line that stays.
        list_sha256: of the LIST, by which a file is known whose run ended before its list was read.

    Raises:
        StaleResultsError: If the file holds no results, belongs to another run, or was changed.
        UsageError: If another process is writing it, or it cannot be written.
        ResourceError: If the disk is full.
    """
    path = _followed(path)
    own = videos.own if isinstance(videos, VideoList) else {video: video for video in videos}.get
    descriptor = _locked(path)
    try:
        _belong(path, descriptor, run, list_sha256)
        done, failed, end = _read(path, descriptor, own, retry_failed, on_line)
        try:
            os.ftruncate(descriptor, end)
            if retry_failed and failed:
                descriptor = _without(path, descriptor, failed)
                done, failed = done - failed, set()
        except OSError as error:
            raise _unwritable(path, error) from None
    except BaseException:
        os.close(descriptor)
        raise
    return Results(path, descriptor, done, failed, own)


def key_of(record: Mapping[str, Any]) -> Any:
    """Return what tells a record from the others of its list: its id if it has one, else its video."""
    return record.get("id", record.get("video"))


def _followed(path: Path) -> Path:
    """Return the file that ``path`` names, if it is a link; standard output is refused, since it cannot be resumed."""
    if str(path) == "-" or os.path.abspath(path).startswith(_STREAMS):
        raise UsageError(f"-o {str(path)!r} is a stream, which cannot be resumed: leave -o out and add --json")
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _locked(path: Path) -> int:
    """Open the file, creating it and its folder if missing, and lock it for this process; return the descriptor."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        remedy = remedy_for(error, "give another")
        raise UsageError(f"-o {str(path)!r} cannot be written ({error.strerror}): {remedy}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UsageError(f"-o {str(path)!r} is not a regular file: give another")
        with suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.stat()):  # else replaced between opening and locking
                return descriptor
        raise UsageError(f"-o {str(path)!r} is being written by another process: wait for it, or give another")
    except OSError as error:
        os.close(descriptor)
        remedy = remedy_for(error, "give another")
        raise UsageError(f"-o {str(path)!r} cannot be locked ({error.strerror}): {remedy}") from None
    except UsageError:
        os.close(descriptor)
        raise


def _belong(path: Path, descriptor: int, run: Run, list_sha256: str | None) -> None:
    """Check that the file belongs to ``run``; claim an empty one for it."""
    sidecar = sidecar_of(path)
    empty = os.fstat(descriptor).st_size == 0
    found = read_run(sidecar)
    if found is None and not empty:
        raise StaleResultsError(
            f"-o {str(path)!r} exists, but without {sidecar.name} beside it these are no results to resume: give "
            "another, or remove it"
        )
    if list_sha256 is not None and found == run.provisional(list_sha256):
        found = None
    if found not in (None, run) and not empty:
        assert found is not None
        raise StaleResultsError(
            f"-o {str(path)!r} holds results of another run: {'; '.join(run.differences(found))}. "
            f"{run.remedy(found)} another, or remove it and {sidecar.name}."
        )
    try:
        if found != run:
            _claim(path, run)
        if empty:
            sync_folder(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from None


def _claim(path: Path, run: Run) -> None:
    """Write beside the file which run it belongs to."""
    sidecar = sidecar_of(path)
    temporary = path.with_name(f".{sidecar.name}.new")
    temporary.unlink(missing_ok=True)  # left by a killed process: we hold the lock
    write_file(temporary, seal(asdict(run), FORMAT, VERSION))
    temporary.replace(sidecar)


def _read(
    path: Path,
    descriptor: int,
    own: Own,
    retry_failed: bool,
    on_line: Callable[[dict[str, Any]], None],
) -> tuple[set[str], set[str], int]:
    """Return the videos that have a line, those that failed, and where the last complete line ends."""
    done: set[str] = set()
    failed: set[str] = set()
    end = 0
    with _reader(descriptor) as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                record = loads(line)
            except StrictJsonError as error:
                raise _changed(path, number, str(error)) from None
            key, status = (key_of(record), record.get("status")) if isinstance(record, dict) else (None, None)
            video = own(key) if isinstance(key, str) else None
            if video is None or status not in _STATUSES:
                raise _changed(path, number, f"status {status!r} of {key!r}, which is not a result of this run")
            if video in done:
                raise _changed(path, number, f"{video!r} already has a line")
            done.add(video)
            if status != "ok":
                failed.add(video)
            if status == "ok" or not retry_failed:
                on_line(record)
            end += len(line)
    return done, failed, end


def _without(path: Path, descriptor: int, failed: set[str]) -> int:
    """Atomically replace the file with a copy that lacks the lines of ``failed``; return the new descriptor, locked."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    replacing = os.open(temporary, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(replacing, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with _reader(descriptor) as lines, open(replacing, "wb", closefd=False) as kept:
            kept.writelines(line for line in lines if key_of(json.loads(line)) not in failed)
        os.fsync(replacing)
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        os.close(replacing)
        temporary.unlink(missing_ok=True)
        raise
    os.close(descriptor)
    return replacing


def _reader(descriptor: int) -> BinaryIO:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return open(descriptor, "rb", closefd=False)


def _write(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _unwritable(path: Path, error: OSError) -> ResourceError:
    remedy = remedy_for(error, "give another")
    return ResourceError(
        f"-o {str(path)!r} cannot be written ({error.strerror}): {remedy}. The same command resumes it"
    )


def _changed(path: Path, number: int, fault: str) -> StaleResultsError:
    return StaleResultsError(
        f"-o {str(path)!r}, line {number}: {fault}. Something else changed the file: remove that line, or give another."
    )
