"""Find the videos that kill the process that classifies them, whichever process that is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

LONE_TRIES = 3
"""A video that was alone at work this often when its process died is not tried again."""


class Quarantine:
    """Marks, in a folder that all processes share, of what is at work: whatever is left there killed its process.

    A batch is tried as a whole once. If it was at work when a process died, its videos are tried one by one, and each
    has a mark of its own with a count. Marks outlive every process.

    Args:
        folder: of the marks; it is made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def begin(self, keys: Iterable[str]) -> bool:
        """Mark a batch; return whether it was at work before, so that its videos must be tried one by one."""
        mark = self._mark(*keys)
        if mark.exists():
            return True
        mark.touch()
        return False

    def end(self, keys: Iterable[str]) -> None:
        """Take the mark of a batch away."""
        self._mark(*keys).unlink(missing_ok=True)

    def begin_alone(self, key: str) -> bool:
        """Mark one video; return False if it was alone at work ``LONE_TRIES`` times before, and must not be tried."""
        mark = self._mark(key, "alone")
        tries = mark.stat().st_size if mark.exists() else 0
        if tries >= LONE_TRIES:
            return False
        with mark.open("ab") as file:
            file.write(b".")
        return True

    def end_alone(self, key: str) -> None:
        """Take the mark of one video away."""
        self._mark(key, "alone").unlink(missing_ok=True)

    def _mark(self, *parts: str) -> Path:
        return self._folder / hashlib.sha256("\0".join(parts).encode()).hexdigest()
