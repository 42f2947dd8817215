"""Names of classes, which lists and folders spell differently."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence


def fold(name: str) -> str:
    """Return what all spellings of a name share: its letters and digits, in lower case.

    Folders of Kinetics are spelled ``skiing (not slalom)``, ``skiing_(not_slalom)`` or ``skiing_not_slalom``.
    """
    kept = "".join(mark for mark in unicodedata.normalize("NFKC", name).casefold() if mark.isalnum())
    return kept or name


class ClassNames:
    """The classes of a data set in order of number, found by any spelling."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        times = Counter(map(fold, self.names))
        self._found: dict[str, str | None] = {fold(name): name for name in self.names if times[fold(name)] == 1}
        self._found |= {name: name for name in self.names}

    def find(self, name: str) -> str | None:
        """Return the class of that name or spelling; None if it is unknown, or fits several."""
        if name not in self._found:
            self._found[name] = self._found.get(fold(name))
        return self._found[name]
