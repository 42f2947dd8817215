"""A folder of class folders, or such folders below ``train``, ``val`` and ``test``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ....grid.errors import ListError
from ..annotations import Annotations, Entry, Request
from ..disk import Disk, stem_of
from ..groups import group_of
from ..names import fold
from ..splits import SPLITS, Split, split_of_folder


def recognise(source: Path) -> bool:
    """Return whether the source is a folder with a clip at least two levels down."""
    if not source.is_dir():
        return False
    disk = Disk(source)
    return any(_clips(disk, os.path.join(disk.root, name)) for name in disk.folder(disk.root).folders)


def read(request: Request) -> Annotations:
    """Return the clips of all class folders, however deep within these.

    A class may be spelled in two ways in two splits, and in a third way in the labels.

    Raises:
        ListError: If the source is not such a folder, or two folders of one split are one class.
    """
    source = request.source
    if not source.is_dir():
        raise ListError(f"source '{source}' is not a folder. Expected one of class folders.")
    disk = Disk(source)
    splits = _splits(disk)
    found = [(split, name, path) for split, top in splits for name, path in _classes(disk, split, top)]
    if not found:
        raise ListError(
            f"'{source}' holds no class folders with videos: expected FOLDER/CLASS/video.mp4, or "
            "FOLDER/train/CLASS/video.mp4, or folders of frames in place of videos"
        )
    spelled = {fold(name): name for _, name, _ in reversed(found)}  # as in the first split that has it
    classes, classes_from = request.classes(None, list(spelled.values()))
    entries = [
        Entry(split, os.path.relpath(clip, disk.root), name, (),
              group_of(stem_of(os.path.basename(clip)), name))
        for split, name, path in found
        for clip in disk.below(path)
    ]  # fmt: skip
    entries += [
        Entry(split, os.path.relpath(clip, disk.root), None) for split, top in splits for clip in _strays(disk, top)
    ]
    parts = f" below {', '.join(os.path.basename(top) for _, top in splits)}" if len(splits) > 1 else ""
    return Annotations(f"class folders{parts}", classes, classes_from, entries, source, disk=disk)


def _clips(disk: Disk, path: str) -> bool:
    return not disk.folder(path).is_clip and next(disk.below(path), None) is not None


def _splits(disk: Disk) -> list[tuple[Split, str]]:
    """Return the folders of the splits; the root as train, unless each folder with clips is named after a split."""
    folders = [name for name in sorted(disk.folder(disk.root).folders) if _clips(disk, os.path.join(disk.root, name))]
    said = [(split_of_folder(name), name) for name in folders]
    parts = [(split, os.path.join(disk.root, name)) for split, name in said if split is not None]
    if not parts or len(parts) < len(folders) or not any(split == "train" for split, _ in parts):
        return [("train", disk.root)]
    for split in SPLITS:
        names = [os.path.basename(path) for one, path in parts if one == split]
        if len(names) > 1:
            raise ListError(f"'{disk.root}' has several folders for {split}: {', '.join(names)}. Leave one.")
    return sorted(parts, key=lambda part: SPLITS.index(part[0]))


def _classes(disk: Disk, split: Split, top: str) -> Iterator[tuple[str, str]]:
    seen: dict[str, str] = {}
    for name in sorted(disk.folder(top).folders):
        path = os.path.join(top, name)
        if disk.folder(path).is_clip:
            continue  # a stray
        if seen.setdefault(fold(name), name) != name:
            raise ListError(
                f"folders '{seen[fold(name)]}' and '{name}' of '{top}' have the same letters and digits, so they are one "
                "class: merge them, or rename one"
            )
        yield name, path


def _strays(disk: Disk, top: str) -> Iterator[str]:
    """Yield the clips that lie beside the class folders."""
    found = disk.folder(top)
    for names in (found.videos or {}).values():
        yield from (os.path.join(top, name) for name in names)
    yield from (os.path.join(top, name) for name in found.folders if disk.folder(os.path.join(top, name)).is_clip)
