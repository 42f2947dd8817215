"""Report missing optional dependencies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import MissingPackageError


@contextmanager
def packages(extras: str) -> Iterator[None]:
    """Turn a missing optional package into an error that names the extras to install, such as ``export,cpu``."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"this command needs the package {error.name!r}. Install it: pip install 'dynvid[{extras}]'"
        ) from None
