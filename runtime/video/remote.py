"""What is behind a URI, such as ``s3://bucket/a.mp4``, through fsspec; a file is fetched by whoever decodes it."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, Any

from ...grid.errors import InputRefusedError, ListError, MissingPackageError, VideoError

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_INSTALL = "pip install 'dynvid[remote]'"


def is_uri(location: str | os.PathLike[str]) -> bool:
    """Return whether a location has a scheme, such as ``s3://``."""
    text = os.fspath(location)
    return "://" in text and _URI.match(text) is not None  # the first test is quick: lists are long


def is_wild(uri: str) -> bool:
    """Return whether the path of a URI has wildcards, ``*`` or ``[...]``; a question mark begins a query."""
    return re.search(r"[*[]", uri.partition("://")[2].partition("/")[2]) is not None


def fetch(uri: str, refusal: type[InputRefusedError] = VideoError) -> IO[bytes]:
    """Return a temporary file with the contents of ``uri``; closing it deletes it.

    Raises:
        InputRefusedError: As ``refusal``, if it cannot be fetched.
        MissingPackageError: If fsspec, or what it needs for this scheme, is not installed.
    """
    file = tempfile.NamedTemporaryFile(prefix="dynvid.", suffix=PurePosixPath(uri).suffix)  # noqa: SIM115
    try:
        with _said_in_one_line(uri, "fetched", "a file", refusal):
            import fsspec

            with fsspec.open(uri, "rb") as remote:
                shutil.copyfileobj(remote, file, 1 << 20)
            file.flush()
    except BaseException:  # Ctrl-C must not leave the file, either
        file.close()
        raise
    return file


def files_behind(uri: str) -> list[str] | None:
    """Return the URIs of all files in a folder and its folders, or of those that fit a pattern, sorted; None: of a file.

    A folder behind ``http`` is a page of links, and its URI ends with a slash; links that lead out of it are left out.

    Raises:
        ListError: If it cannot be listed.
        MissingPackageError: If fsspec, or what it needs for this scheme, is not installed.
    """
    with _said_in_one_line(uri, "listed", "a folder, a pattern or a file", ListError):
        import fsspec

        system, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)  # a list is read once
        if is_wild(uri) and not system.exists(path):
            found = [name for name, entry in system.glob(path, detail=True).items() if entry["type"] == "file"]
        elif uri.endswith("/") or system.info(path)["type"] == "directory":
            found = list(_below(system, path))
        else:
            return None
        scheme, _, rest = uri.partition("://")
        start = f"{scheme}:///" if rest.startswith("/") else f"{scheme}://"
        return sorted(name if is_uri(name) else start + name.lstrip("/") for name in found)


def _below(system: Any, folder: str) -> Iterator[str]:
    """Yield the names of all files below a folder."""
    root = folder.rstrip("/") + "/"
    for _, folders, files in system.walk(folder, detail=True, on_error="raise"):
        for name in [name for name, entry in folders.items() if not f"{entry['name']}/".startswith(root)]:
            del folders[name]  # a link to the folder above
        yield from (entry["name"] for entry in files.values() if entry["name"].startswith(root))


@contextmanager
def _said_in_one_line(uri: str, done: str, expected: str, refusal: type[InputRefusedError]) -> Iterator[None]:
    """Let errors of fsspec and its file systems be ours: each file system has its own."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name == "fsspec":
            raise MissingPackageError(f"'{uri}' needs the package 'fsspec'. Install it: {_INSTALL}") from None
        raise MissingPackageError(f"'{uri}' cannot be {done} without another package: {error}") from None
    except ImportError as error:  # fsspec says which package the scheme needs
        raise MissingPackageError(f"'{uri}' cannot be {done} without another package: {error}") from None
    except Exception as error:
        said = str(error) or type(error).__name__
        raise refusal(
            f"'{uri}' cannot be {done} ({said.splitlines()[0]}). Expected {expected} that this user may read."
        ) from None
