"""What the annotation files of a data set say, before anyone looks for the clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...grid.errors import ListError
from ...models.labels import read_labels
from .disk import Disk
from .splits import Split


@dataclass(frozen=True, slots=True)
class Entry:
    """One clip as it is listed.

    Attributes:
        split: the part of the data set.
        clip: what the data set calls it: a path or an id.
        label: name or number of its class; None where it is withheld.
        names: file names without suffix to look for anywhere, the first that is there; empty: ``clip`` is a path.
        group: see ``Record``; ``start_s`` and ``end_s`` likewise.
        first: number of the first frame, in a list of frame folders that says so.
        count: number of frames, likewise.
        pattern: names of the frames, likewise.
    """

    split: Split
    clip: str
    label: str | int | None
    names: tuple[str, ...] = ()
    group: str | None = None
    first: int | None = None
    count: int | None = None
    pattern: str | None = None
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True, slots=True)
class Annotations:
    """A data set as listed.

    Attributes:
        recognised: the format and the files that were read, in words.
        classes: in order of number; None: labels are numbers, and nothing names them.
        classes_from: where the classes and their order come from, in words.
        entries: the clips in the order of the lists.
        root: where the clips are, unless the user says otherwise.
        any_case: whether names of files that differ only by case are one.
        notes: what is left aside by the rules of the format, in words.
        disk: what is known of the root already.
    """

    recognised: str
    classes: tuple[str, ...] | None
    classes_from: str
    entries: list[Entry]
    root: Path
    any_case: bool = False
    notes: tuple[str, ...] = ()
    disk: Disk | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What the user says about a data set.

    Attributes:
        source: the file or folder.
        labels: file of the class names in order of number; None: as the data set says.
        split: which of several published splits; None: the first.
    """

    source: Path
    labels: Path | None = None
    split: int | None = None

    @property
    def root(self) -> Path:
        """The source, or the folder of the file."""
        return self.source if self.source.is_dir() else self.source.parent

    def classes(self, published: Path | None, found: Sequence[str | None]) -> tuple[tuple[str, ...], str]:
        """Return classes and where they come from: the user's file, the published one, else the sorted names.

        Raises:
            LabelsError: If the file cannot be used.
            ListError: If there is neither a file nor a label.
        """
        path = self.labels or published
        if path is not None:
            return read_labels(path), f"numbered as in {path.name}"
        names = sorted({name for name in found if name is not None})
        if not names:
            raise ListError(
                f"'{self.source}': no clip has a label, and no file names the classes. Give one (--labels)."
            )
        return tuple(names), "numbered in the order of their sorted names"
