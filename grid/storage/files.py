"""Files that are read whole and never through a link, and that are on the disk once they are written."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from ..errors import ResourceError


def open_regular(path: Path) -> BinaryIO:
    """Return a regular file, open for reading.

    Raises:
        OSError: If it is not there, is a link, a folder, a pipe or a device, or cannot be read.
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
    """Write a new file that its owner alone may change, down to the disk.

    Raises:
        OSError: If something is there already, or it cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


@contextmanager
def whole_file(path: Path, what: str, remedy: str) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of ``path`` once it is whole and on the disk; else nothing is left of it.

    Args:
        path: of the file; its folder is made.
        what: it is, for the error.
        remedy: what to do where it cannot be written.

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
            f"{what} {str(path)!r} cannot be written ({error.strerror or error}): free some space, or {remedy}"
        ) from None
    finally:
        with suppress(OSError):  # what failed is being told already
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Write the names in a folder down to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
