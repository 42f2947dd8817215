"""A LIST: what names videos and, if known, their labels and ids."""

from __future__ import annotations

import hashlib
import logging
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import overload

from ...grid.errors import ListError
from .foreign_list import advice
from .list_formats import Table, csv_rows, is_pattern, open_table, shown_name, shown_names, table_behind
from .remote import fetch, is_uri

LOG = logging.getLogger("dynvid")

_PARTS = {"pattern": "a folder of frames", "start_s": "a part of a video", "end_s": "a part of a video"}
_ROWS_AT_ONCE = 10_000
_LONGEST_PATH = 4096  # characters, of a file


@dataclass(frozen=True, slots=True)
class ListedVideo(os.PathLike[str]):
    """One row of a LIST. ``os.fspath`` gives the path or URI.

    Attributes:
        path: of the video; of a URI, only its name is of use.
        label: None if it has none.
        id: its id in the list; None: its path is its id.
        uri: such as ``s3://bucket/a.mp4``; None: a local file.
    """

    path: Path
    label: str | None = None
    id: str | None = None
    uri: str | None = None

    @classmethod
    def of(cls, location: str, label: str | None = None, id: str | None = None) -> ListedVideo:
        """Return the row of a path or URI."""
        return cls(Path(location), label, id, location if is_uri(location) else None)

    def __fspath__(self) -> str:
        return str(self.path) if self.uri is None else self.uri

    def __str__(self) -> str:
        return self.__fspath__()

    @property
    def key(self) -> str:
        """What tells it from the others of its list: its id, else its path or URI."""
        return self.__fspath__() if self.id is None else self.id


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns of a LIST; None: ``label`` where there is one, and no id."""

    video: str = "video"
    label: str | None = None
    id: str | None = None


_Entry = tuple[int, str, str | None, str | None]  # line, video as written, label, id


class VideoList(Sequence[ListedVideo]):
    """The videos of a LIST in order, read as far as they are asked for. ``len`` reads to the end.

    A row takes about 130 bytes and its path. A video that is named again with the same label is left out, with a warning at the end.

    Args:
        entries: the rows.
        name: of the list, for errors and warnings; None: rows that a caller gave, which are not warned of.
        folder: that paths are relative to.
        once: leave out what is named again.

    Attributes:
        complete: whether all rows were read.

    Raises:
        ListError: While it is read, if a row is malformed, or a video has two labels, or an id two videos.
    """

    def __init__(
        self, entries: Iterator[_Entry], name: str | None = None, folder: str = "", *, once: bool = True
    ) -> None:
        self._entries, self._name, self._once = entries, name, once
        self._folder = folder and folder + "/"
        self._videos: list[str] = []
        self._labels: list[str | None] = []
        self._ids: list[str | None] = []
        self._lines = array("I")
        self._first: dict[str, int] = {}  # the place of every video, by its id or plain path
        self._texts: dict[str | None, str | None] = {}  # one string for each label
        self._absolute: bool | None = None
        self._here = os.getcwd() + os.sep
        self._again, self._first_again = 0, ""
        self.complete = False

    @classmethod
    def of(cls, videos: Iterable[Path | ListedVideo], *, once: bool = True) -> VideoList:
        """Return a list of the rows given; a list itself."""
        if isinstance(videos, VideoList):
            return videos
        rows = (video if isinstance(video, ListedVideo) else ListedVideo.of(os.fspath(video)) for video in videos)
        made = cls(((0, os.fspath(row), row.label, row.id) for row in rows), once=once)
        len(made)
        return made

    def read_on(self) -> bool:
        """Read some thousand rows; return whether the list is complete."""
        if not self.complete:
            taken = 0
            for taken, entry in enumerate(islice(self._entries, _ROWS_AT_ONCE), 1):  # noqa: B007
                self._add(*entry)
            self.complete = taken < _ROWS_AT_ONCE
            if self.complete and self._again and self._name is not None:
                LOG.warning(
                    f"list '{self._name}' names {self._again} videos again, first {self._first_again}: each counts once"
                )
        return self.complete

    def sha256(self) -> str | None:
        """Return the sha256 of the list's bytes; None if it is not one file, so that its rows must be read."""
        if self._name is None or not os.path.isfile(self._name):
            return None
        with open(self._name, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def own(self, key: str) -> str | None:
        """Return the list's own string of a video's key; None if it is not in the list, as far as it was read."""
        place = self._first.get(key)
        place = self._first.get(self._plain(key)) if place is None else place
        return None if place is None else self._ids[place] or self._videos[place]

    @property
    def name(self) -> str | None:
        """The path, pattern or URI of the list; None: rows that a caller gave."""
        return self._name

    @property
    def labels(self) -> Sequence[str | None]:
        """The labels, as far as they were read."""
        return self._labels

    @property
    def locations(self) -> Sequence[str]:
        """The paths and URIs, as far as they were read."""
        return self._videos

    def identities(self) -> Iterator[str]:
        """Yield what tells this list from another: path, and id where there is one."""
        yield from (v if i is None else f"{i} {v}" for v, i in zip(self._videos, self._ids, strict=True))

    @overload
    def __getitem__(self, place: int) -> ListedVideo: ...
    @overload
    def __getitem__(self, place: slice) -> list[ListedVideo]: ...
    def __getitem__(self, place: int | slice) -> ListedVideo | list[ListedVideo]:
        if isinstance(place, slice):
            return [self[index] for index in range(*place.indices(len(self)))]
        while not -len(self._videos) <= place < len(self._videos) or (place < 0 and not self.complete):
            if self.complete:
                raise IndexError(place)
            self.read_on()
        return ListedVideo.of(self._videos[place], self._labels[place], self._ids[place])

    def __len__(self) -> int:
        while not self.read_on():
            continue
        return len(self._videos)

    def _add(self, line: int, name: str, label: str | None, id: str | None) -> None:
        video = self._located(name)
        count = len(self._videos)
        place = self._first.setdefault(self._plain(video) if id is None else id, count)
        if place == count or not self._once:
            self._videos.append(video)
            self._labels.append(self._texts.setdefault(label, label))
            self._ids.append(id)
            self._lines.append(line)
            return
        first = self._lines[place]
        if id is not None and self._videos[place] != video:
            where, there = (
                ("rows", "") if self._name is None else (f"list '{self._name}', line {line}", f" on line {first}")
            )
            raise ListError(
                f"{where}: id {id!r} is '{name}', but '{self._videos[place]}'{there}. Expected an id a video: rename one."
            )
        if self._name is None:
            return
        if self._labels[place] != label:
            raise ListError(
                f"list '{self._name}', line {line}: '{name}' has label {label!r}, but {self._labels[place]!r} on line "
                f"{first}. Remove one."
            )
        self._again += 1
        self._first_again = self._first_again or f"'{name}' on lines {first} and {line}"

    def _located(self, name: str) -> str:
        """Return a path as it is shown, or a URI."""
        if "://" in name and is_uri(name):
            return name
        path = name if name[0] == "/" else self._folder + name
        if "//" in path or "./" in path or path[-1] == "/" or path[-2:] == "/.":
            return path if is_uri(path) else str(Path(path))
        return path

    def _plain(self, video: str) -> str:
        """Return the path by which files are told apart: absolute, or relative to the working folder, as the first is.

        It is the string itself where it can be, so that it takes no memory.
        """
        absolute = video[0] == "/"
        if self._absolute is None:
            self._absolute = absolute
        if absolute is self._absolute and ".." not in video:
            return video
        if is_uri(video):
            return video
        path = os.path.abspath(video)
        return path if self._absolute else path.removeprefix(self._here)


def open_list(path: str | os.PathLike[str], columns: Columns = Columns()) -> VideoList:
    """Return the videos of a LIST in order, with paths relative to its folder; only the first rows are read yet.

    The video files are not opened. Of a table, other columns are ignored, except those of a list of clips that name a
    folder of frames or a part of a video.

    Args:
        path: CSV, TSV, parquet, JSON Lines or a text file of paths, by its suffix (else CSV); a folder, or a glob
            pattern; any of them may be a URI.
        columns: names of the columns.

    Raises:
        ListError: If the list cannot be read, has no header, no column of videos, no rows or a malformed row, or
            gives a video two labels or an id two videos, or a row is a folder of frames or a part of a video. Reading
            on may raise it, too.
        MissingPackageError: If a package for it is not installed.
    """
    name, folder = os.fspath(path), os.path.dirname(os.fspath(path))
    asked = [column for column in (columns.label, columns.id) if column is not None]
    wanted = [columns.video, columns.label or "label", *([columns.id] if columns.id else ()), *_PARTS]
    with ExitStack() as stack:
        table, local = None, name
        if is_uri(name) and (table := table_behind(name, wanted)) is None:
            local = stack.enter_context(fetch(name, ListError)).name
        table = table or open_table(Path(local), wanted, asked)
        if os.path.isdir(name):
            folder = name.rstrip("/")
        elif not is_uri(name) and is_pattern(Path(name)):
            folder = ""  # what fits is relative to the working folder, or absolute, as the pattern is
        videos = VideoList(_entries(name, table, columns), name, "" if folder == "." else folder)
        videos.read_on()
        if is_uri(name):
            len(videos)  # before the temporary file goes
    if not videos.locations:
        raise ListError(f"list '{name}' {'has a header but no rows' if table.line else 'is empty'}. {table.expected}")
    return videos


def read_list(path: str | os.PathLike[str]) -> list[ListedVideo]:
    """Return all videos of a LIST whose files are here; see ``open_list``.

    Raises:
        ListError: As ``open_list``, and if a video is a URI.
    """
    videos = list(open_list(path))
    for video in videos:
        if video.uri is not None:
            raise ListError(
                f"list '{path}': '{video.uri}' is a URI, which only classify reads. Expected files: fetch them."
            )
    return videos


def read_rows(path: Path, expected: str) -> list[tuple[int, list[str]]]:
    """Return the rows of a CSV file; see ``csv_rows``."""
    return list(csv_rows(path, expected))


def _entries(name: str, table: Table, columns: Columns) -> Iterator[_Entry]:
    """Yield the rows of a table, checked one by one."""
    found = table.columns
    asked = [column for column in (columns.label, columns.id) if column is not None]
    label = columns.label or "label"
    where = f"list '{name}', line {table.line}" if table.line else f"list '{name}'"
    for column in (columns.video, *asked):
        if column not in found:
            shown = shown_names([*found, *table.others])
            remedy = "Name one of them."
            if columns == Columns():
                seems = None if is_uri(name) else advice(Path(name))
                remedy = seems or f"{table.expected} 'dynvid classify' takes another column: --video-column NAME."
            raise ListError(f"{where}: no column {column!r}: columns are {shown}. {remedy}")
    for column in (columns.video, label, *asked):
        if found.count(column) > 1:
            raise ListError(f"{where}: {found.count(column)} columns {column!r}, expected one. Rename the others.")
    video_place = found.index(columns.video)
    label_place = found.index(label) if label in found else None
    id_place = None if columns.id is None else found.index(columns.id)
    parts = {found.index(column): what for column, what in _PARTS.items() if column in found}
    width = len(found)
    for line, row in table.rows:
        if len(row) != width:
            raise ListError(
                f"list '{name}', line {line}: {len(row)} fields, expected {width}. "
                "Quote fields that contain a separator."
            )
        video = (row[video_place] or "").strip()
        if not video:
            raise ListError(f"list '{name}', line {line}: no video. Name one, or remove the row.")
        if "\0" in video or (len(video) > _LONGEST_PATH and not is_uri(video)):
            raise ListError(f"list '{name}', line {line}: {shown_name(video)} cannot be a path. {table.expected}")
        id = None if id_place is None else (row[id_place] or "").strip()
        if id == "":
            raise ListError(f"list '{name}', line {line}: '{video}' has no {columns.id!r}. Give it one.")
        for place, what in parts.items():
            if value := (row[place] or "").strip():
                raise ListError(
                    f"list '{name}', line {line}: '{video}' is {what} ({found[place]} {value}), which only training "
                    "reads. Expected a whole video: write each clip to a video file of its own."
                )
        known = None if label_place is None else (row[label_place] or "").strip() or None
        yield line, video, known, id
