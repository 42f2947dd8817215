"""Sealed JSON: canonical JSON with a format, a version and the sha256 of the rest of its contents."""

from __future__ import annotations

import hashlib
from typing import Any

from .strict_json import StrictJsonError, dumps, loads


class SealError(StrictJsonError):
    """A byte has changed since the text was sealed."""


class VersionError(StrictJsonError):
    """The major version is not supported."""


def seal(content: dict[str, Any], format_name: str, version: tuple[int, int]) -> bytes:
    """Return ``content`` as sealed JSON of a format and its (major, minor) version."""
    return _sealed({**content, "format": format_name, "version": list(version)})


def unseal(text: bytes, format_name: str, version: tuple[int, int]) -> tuple[dict[str, Any], bool]:
    """Return the content of sealed JSON, and whether a newer minor version than ``version`` wrote it.

    Raises:
        StrictJsonError: If it is not JSON, or has another format.
        VersionError: If its major version is not that of ``version``.
        SealError: If a byte has changed since it was sealed.
    """
    content = loads(text)
    if not isinstance(content, dict) or content.get("format") != format_name:
        raise StrictJsonError(f"its format is not {format_name!r}")
    found = content.get("version")
    if not (isinstance(found, list) and len(found) == 2 and all(type(number) is int for number in found)):
        raise StrictJsonError(f"version {found!r}, expected two numbers")
    if found[0] != version[0]:
        raise VersionError(f"it has version {found[0]}.{found[1]}, but this dynvid reads {version[0]}.x")
    content.pop("sha256", None)
    if _sealed(content) != text:
        raise SealError("it has changed since it was written (its sha256 does not fit)")
    del content["format"], content["version"]
    return content, found[1] > version[1]


def _sealed(content: dict[str, Any]) -> bytes:
    return dumps({**content, "sha256": hashlib.sha256(dumps(content)).hexdigest()})
