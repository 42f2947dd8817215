"""The clips below a folder: video files, and folders of frames. Every folder is listed at most once."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...grid.errors import ListError
from .record import FrameFiles

VIDEO_SUFFIXES = frozenset(
    (
        ".3gp", ".asf", ".avi", ".flv", ".gif", ".ivf", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".npy", ".ogg",
        ".ogv", ".ts", ".webm", ".wmv",
    )
)  # fmt: skip
_IMAGE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".webp"))
_FLOW = re.compile(r"flow|[xyuv]_?$", re.IGNORECASE)  # optical flow beside the frames, as TSN stores it
_DIGITS = "0123456789"


@dataclass(frozen=True, slots=True)
class Folder:
    """What lies in one folder.

    Attributes:
        folders: names of the folders in it.
        links: those that are symbolic links.
        videos: names of the video files, by their name without suffix.
        others: names of the files that are neither videos nor images.
        frames: its sequences of numbered images, without optical flow.
        gaps: of each sequence, how many numbers are missing between the first and the last.
    """

    folders: frozenset[str] = frozenset()
    links: frozenset[str] = frozenset()
    videos: dict[str, tuple[str, ...]] | None = None
    others: frozenset[str] = frozenset()
    frames: tuple[FrameFiles, ...] = ()
    gaps: tuple[int, ...] = ()

    def named(self, stem: str) -> tuple[str, ...]:
        """Return the video files of that name, whatever their suffix."""
        return (self.videos or {}).get(stem, ())

    @property
    def is_clip(self) -> bool:
        """Whether it holds the frames of one clip and nothing else that could be one."""
        return bool(self.frames) and not self.videos and not self.folders


class Disk:
    """Finds clips below a root folder, or by absolute paths."""

    def __init__(self, root: Path) -> None:
        self.root = os.path.abspath(root)
        self._folders: dict[str, Folder] = {}
        self._by_name: dict[str, list[str]] | None = None
        self._by_folded: dict[str, list[str]] | None = None

    def folder(self, path: str) -> Folder:
        """Return what lies in a folder; nothing if it is missing. Names that begin with a dot, and __MACOSX, are left out.

        Raises:
            ListError: If it cannot be read.
        """
        if path not in self._folders:
            try:
                self._folders[path] = _listed(path)
            except (FileNotFoundError, NotADirectoryError):
                self._folders[path] = Folder()
            except OSError as fault:
                raise ListError(f"folder '{path}': {fault.strerror}. Allow this user to read it.") from None
        return self._folders[path]

    def at(self, path: str) -> list[str]:
        """Return the clip at a path, relative to the root; if it is missing, those that differ by their suffix."""
        whole = os.path.normpath(os.path.join(self.root, path))
        parent, name = os.path.split(whole)
        found, stem = self.folder(parent), stem_of(name)
        if name in found.folders or name in found.others or name in found.named(stem):
            return [whole]
        others = [stem] if stem in found.folders else []
        return [os.path.join(parent, other) for other in (*found.named(stem), *others)]

    def is_folder(self, path: str) -> bool:
        """Return whether a path that was found is a folder."""
        parent, name = os.path.split(path)
        return name in self.folder(parent).folders

    def named(self, name: str, *, any_case: bool) -> list[str]:
        """Return all clips below the root with that name but for the suffix."""
        if self._by_name is None:
            self._by_name = defaultdict(list)
            for path in self.below(self.root):
                self._by_name[stem_of(os.path.basename(path))].append(path)
        found = self._by_name.get(name, [])
        if found or not any_case:
            return found
        if self._by_folded is None:
            self._by_folded = defaultdict(list)
            for stem, paths in self._by_name.items():
                self._by_folded[stem.casefold()] += paths
        return self._by_folded.get(name.casefold(), [])

    def below(self, top: str) -> Iterator[str]:
        """Yield the paths of all clips below a folder, in order."""
        return self._below(top, (os.path.realpath(top),))

    def _below(self, top: str, above: tuple[str, ...]) -> Iterator[str]:
        found = self.folder(top)
        for _, names in sorted((found.videos or {}).items()):
            yield from (os.path.join(top, name) for name in names)
        for name in sorted(found.folders):
            path = os.path.join(top, name)
            real = os.path.realpath(path) if name in found.links else os.path.join(above[-1], name)
            if any(f"{folder}/".startswith(f"{real}/") for folder in above):
                continue  # a link back, or to a folder above all this
            if self.folder(path).is_clip:
                yield path
            else:
                yield from self._below(path, (*above, real))


def stem_of(name: str) -> str:
    """Return the name of a clip without the suffix of a video; other dots belong to the name."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in VIDEO_SUFFIXES else name


def _listed(path: str) -> Folder:
    folders, links, others, images = set(), set(), set(), []
    videos: dict[str, tuple[str, ...]] = {}
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith((".", "__MACOSX")):
                continue
            if entry.is_dir():
                folders.add(name)
                if entry.is_symlink():
                    links.add(name)
                continue
            stem, suffix = os.path.splitext(name)
            suffix = suffix.lower()
            if suffix in _IMAGE_SUFFIXES:
                images.append(name)
            elif suffix in VIDEO_SUFFIXES:
                videos[stem] = tuple(sorted((*videos.get(stem, ()), name)))
            else:
                others.add(name)
    found = _sequences(images)
    return Folder(
        frozenset(folders), frozenset(links), videos, frozenset(others),
        tuple(frames for frames, _ in found), tuple(gap for _, gap in found),
    )  # fmt: skip


def _sequences(images: Iterable[str]) -> list[tuple[FrameFiles, int]]:
    """Return the numbered sequences among image files, and how many numbers each lacks."""
    numbers: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in images:
        stem, suffix = os.path.splitext(name)
        head = stem.rstrip(_DIGITS)
        if len(head) < len(stem) and not _FLOW.match(head):
            numbers[head, suffix].append(stem[len(head) :])
    found = []
    for (head, suffix), digits in sorted(numbers.items()):
        padded = any(text[0] == "0" and len(text) > 1 for text in digits)
        field = f"{{:0{min(map(len, digits))}d}}" if padded else "{}"
        there = {int(text) for text in digits if field.format(int(text)) == text}
        first, last = min(map(int, digits)), max(map(int, digits))
        before, after = (text.replace("{", "{{").replace("}", "}}") for text in (head, suffix))
        count = last - first + 1
        found.append((FrameFiles(f"{before}{field}{after}", first, count), count - len(there)))
    return found
