"""The search for the clips that are listed: which are on disk, and what is wrong with the others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ...grid.errors import ListError
from .annotations import Annotations, Entry
from .disk import Disk
from .names import ClassNames, fold
from .problem import Problem
from .record import FrameFiles, Record
from .splits import SPLITS, Split

_MOST_CLASSES = 100_000  # that lists of numbers may have


class Search:
    """Looks for the clip of one entry after another.

    Attributes:
        classes: of the data set.
        records: the clips found, by split.
        listed: number of entries, by split.
        problems: what is wrong.
    """

    def __init__(self, annotations: Annotations, disk: Disk, first_label: int) -> None:
        """Note the classes; without names, they are called by their numbers from 0.

        Raises:
            ListError: If a name cannot be a line of a file.
        """
        numbers = {entry.label for entry in annotations.entries if isinstance(entry.label, int)}
        names = annotations.classes
        if names is None:
            if numbers and max(numbers) > _MOST_CLASSES:
                clip = next(entry.clip for entry in annotations.entries if entry.label == max(numbers))
                raise ListError(
                    f"clip '{clip}' has label {max(numbers)}: expected at most {_MOST_CLASSES}. Correct it, or give the "
                    "names of the classes (--labels)."
                )
            names = tuple(map(str, range(max(numbers) - first_label + 1)))
        if bad := [name for name in names if name.splitlines() != [name.strip()]]:
            raise ListError(f"class {bad[0]!r} begins or ends with a space, or holds a line break: rename it")
        self.classes = ClassNames(names)
        self.records: dict[Split, list[Record]] = {split: [] for split in SPLITS}
        self.listed = dict.fromkeys(SPLITS, 0)
        self.problems: list[Problem] = []
        self._any_case, self._disk, self._first_label = annotations.any_case, disk, first_label
        self._seen: dict[Split, dict[object, str | None]] = {split: {} for split in SPLITS}  # label by clip
        self._begins_at_1 = first_label == 0 and bool(numbers) and min(numbers) == 1
        if self._begins_at_1 and max(numbers) == len(numbers):
            detail = f"label 0 never occurs, and the {len(numbers)} labels are 1 to {max(numbers)}"
            self.problems.append(Problem("", "labels begin at 1", "", detail))

    def take(self, entry: Entry) -> None:
        """Add the record of an entry, or what is wrong with it.

        Raises:
            ListError: If its label is out of range, or a folder cannot be read.
        """
        self.listed[entry.split] += 1
        found = self._record(entry)
        if isinstance(found, Problem):
            self.problems.append(found)
        else:
            self.records[entry.split].append(found)

    def compare_splits(self) -> None:
        """Note the clips and the groups that are in two splits."""
        first: dict[str, Split] = {}
        torn: dict[str, str] = {}
        for place, split in enumerate(SPLITS):
            for record in self.records[split]:
                key = _key(record)
                others = [other for other in SPLITS[:place] if key in self._seen[other]]
                if others:
                    self.problems.append(Problem(split, "in two splits", str(record.path), f"also in {others[0]}"))
                elif record.group is not None and first.setdefault(record.group, split) != split:
                    torn.setdefault(record.group, f"in {first[record.group]} and {split}")
        self.problems += [Problem("", "group in two splits", group, where) for group, where in torn.items()]

    def _record(self, entry: Entry) -> Record | Problem:
        label = self._label(entry)
        if label is None and entry.label is not None:
            return _problem(entry, "class not among the labels", str(entry.label))
        if label is None and entry.split != "test":
            return _problem(entry, "no label")
        paths = self._paths(entry)
        if not paths:
            looked = os.path.join(self._disk.root, "**" if entry.names else "", (entry.names or (entry.clip,))[0])
            return _problem(entry, "missing", looked)
        path = paths[0] if len(paths) == 1 else self._preferred(paths, entry)
        frames = self._frames(entry, path)
        if isinstance(frames, Problem):
            return frames
        if path.encode("utf-8", "ignore") != os.fsencode(path):
            return _problem(entry, "name not in UTF-8")
        record = Record(Path(path), label, frames, entry.start_s, entry.end_s, entry.group)
        seen, key = self._seen[entry.split], _key(record)
        if key in seen:
            same = seen[key] == label
            return _problem(
                entry, "listed twice" if same else "two labels", "" if same else f"{seen[key]}, then {label}"
            )
        seen[key] = label
        return record

    def _label(self, entry: Entry) -> str | None:
        if not isinstance(entry.label, int):
            return None if entry.label is None else self.classes.find(entry.label)
        first, count = self._first_label, len(self.classes.names)
        if first <= entry.label < first + count:
            return self.classes.names[entry.label - first]
        advice = "Correct it, or give the right --labels."
        if self._begins_at_1 and entry.label == count:
            advice = "Labels seem to begin at 1: give --first-label 1."
        raise ListError(
            f"clip '{entry.clip}' of {entry.split} has label {entry.label}, expected {first} to {first + count - 1} for "
            f"{count} classes. {advice}"
        )

    def _paths(self, entry: Entry) -> Sequence[str]:
        if not entry.names:
            return self._disk.at(entry.clip)
        found = (self._disk.named(name, any_case=self._any_case) for name in entry.names)
        return next((paths for paths in found if paths), [])

    def _preferred(self, paths: Sequence[str], entry: Entry) -> str:
        """Return the one in the folder of its class, else a video before frames; several files are a problem."""
        wanted = "" if entry.label is None else fold(str(entry.label))
        order = sorted(
            paths,
            key=lambda path: (
                fold(os.path.basename(os.path.dirname(path))) != wanted,
                self._disk.is_folder(path),
                path,
            ),
        )
        if len(set(map(os.path.realpath, order))) > 1:
            self.problems.append(_problem(entry, "several files", ", ".join(order)))
        return order[0]

    def _frames(self, entry: Entry, path: str) -> FrameFiles | Problem | None:
        """Return the frames of a folder, what is wrong with them, or None for a video file."""
        if not self._disk.is_folder(path):
            return None
        held = self._disk.folder(path)
        there = [pair for pair in zip(held.frames, held.gaps, strict=True) if entry.pattern in (None, pair[0].pattern)]
        if not there:
            return _problem(entry, "missing", f"folder {path} holds no numbered images")
        if len(there) > 1:
            return _problem(entry, "several sequences", ", ".join(frames.pattern for frames, _ in there))
        found, gap = there[0]
        last = found.first + found.count - 1
        if gap:
            return _problem(entry, "frames missing", f"{gap} of the numbers {found.first} to {last}")
        # a list says how many frames to leave out at the beginning; a list of clips, the number of the first one
        first = (entry.first or 0) + (0 if entry.pattern else found.first)
        count = last - first + 1 if entry.count is None else entry.count
        if count < 1 or first < found.first or first + count - 1 > last:
            return _problem(
                entry, "frames missing", f"listed {first} to {first + count - 1}, found {found.first} to {last}"
            )
        return FrameFiles(found.pattern, first, count)


def _key(record: Record) -> object:
    """Return what two records of the same clip share."""
    path = str(record.path)
    return path if record.whole_file else (path, record.frames, record.start_s, record.end_s)


def _problem(entry: Entry, kind: str, detail: str = "") -> Problem:
    clip, detail = (text.encode("utf-8", "backslashreplace").decode() for text in (entry.clip, detail))
    return Problem(entry.split, kind, clip, detail)
