"""Files behind a URI, such as ``s3://bucket/a.mp4``, through fsspec; each is fetched by whoever decodes it."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import PurePosixPath
from typing import IO

from ...grid.errors import InputRefusedError, MissingPackageError, VideoError

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_INSTALL = "pip install 'dynvid[remote]'"


def is_uri(location: str | os.PathLike[str]) -> bool:
    """Return whether a location has a scheme, such as ``s3://``."""
    text = os.fspath(location)
    return "://" in text and _URI.match(text) is not None  # the first test is quick: lists are long


def fetch(uri: str, refusal: type[InputRefusedError] = VideoError) -> IO[bytes]:
    """Return a temporary file with the contents of ``uri``; closing it deletes it.

    Raises:
        InputRefusedError: As ``refusal``, if it cannot be fetched.
        MissingPackageError: If fsspec, or what it needs for this scheme, is not installed.
    """
    try:
        import fsspec
    except ModuleNotFoundError:
        raise MissingPackageError(f"'{uri}' needs the package 'fsspec'. Install it: {_INSTALL}") from None
    file = tempfile.NamedTemporaryFile(prefix="dynvid.", suffix=PurePosixPath(uri).suffix)  # noqa: SIM115
    try:
        with fsspec.open(uri, "rb") as remote:
            shutil.copyfileobj(remote, file, 1 << 20)
        file.flush()
    except ImportError as error:  # fsspec says which package the scheme needs
        file.close()
        raise MissingPackageError(f"'{uri}' cannot be fetched without another package: {error}") from None
    except BaseException as error:  # each file system has its own errors; Ctrl-C must not leave the file, either
        file.close()
        if not isinstance(error, Exception):
            raise
        said = str(error) or type(error).__name__
        raise refusal(
            f"'{uri}' cannot be fetched ({said.splitlines()[0]}). Expected a file that this user may read."
        ) from None
    return file
