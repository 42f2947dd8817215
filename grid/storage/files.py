"""Read files without following links, and write files that are synced to disk."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from ..errors import ResourceError

StrPath = str | os.PathLike[str]


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal.

    Raises:
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_regular(path: Path) -> BinaryIO:
    """Return a regular file, open for reading.

    Raises:
        OSError: If it is missing, is a link, a folder, a pipe or a device, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return open(descriptor, "rb")


def read_file(path: Path) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        OSError: As ``open_regular``.
    """
    with open_regular(path) as file:
        return file.read()


def write_file(path: Path, content: bytes) -> None:
    """Write a new file, which only its owner may change, and sync it to disk.

    Raises:
        OSError: If the path exists, or cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


@contextmanager
def whole_file(path: Path, what: str, remedy: str) -> Iterator[IO[bytes]]:
    """Open a file that replaces ``path`` once it is complete and synced to disk; on failure nothing of it remains.

    Args:
        path: of the file; its folder is created.
        what: what the file is, for the error.
        remedy: what to do if it cannot be written.

    Raises:
        ResourceError: If it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ResourceError(
            f"{what} {str(path)!r} cannot be written ({error.strerror or error}): {remedy_for(error, remedy)}"
        ) from None
    finally:
        with suppress(OSError):  # the failure is already being reported
            temporary.unlink(missing_ok=True)


def require_writable(path: Path, what: str, remedy: str) -> None:
    """Make sure before the work that ``whole_file`` can write there; nothing is left behind.

    Args:
        path: of the file to be; its folder need not exist yet.
        what: what the file is, for the error.
        remedy: what to do if it cannot be written.

    Raises:
        ResourceError: If it cannot be written.
    """
    try:
        with suppress(FileNotFoundError):
            if stat.S_ISDIR(path.stat().st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ResourceError(
            f"{what} {str(path)!r} cannot be written ({error.strerror}): {remedy_for(error, remedy)}"
        ) from None


def remedy_for(error: OSError, otherwise: str) -> str:
    """Return what to do about a file that cannot be written, or a process that cannot start, by the cause.

    ``otherwise`` says what to do where the cause cannot be mended, such as ``give another -o``.
    """
    code = error.errno
    if code in (errno.ENOSPC, errno.EDQUOT):
        return f"free some space, or {otherwise}"
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"allow this user to write there, or {otherwise}"
    if code in (errno.EMFILE, errno.ENFILE):
        return "allow more open files (ulimit -n), or use fewer streams and decoders"
    if code == errno.EAGAIN:
        return "allow more processes (ulimit -u), or use fewer streams, decoders and threads"
    if code == errno.ENOMEM:
        return "close other programs, or use a machine with more memory"
    if code == errno.ENAMETOOLONG:
        return "give a shorter name"
    if code in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
        return f"its file system has no locks, which keep two processes from writing one file; {otherwise}"
    return otherwise


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
