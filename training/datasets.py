"""Labelled videos for training, read by the same code as in deployment, and decoded once into a cache."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..grid.errors import ListError
from ..grid.preprocessing import Preprocessing
from ..runtime.video.file import VideoFile
from ..runtime.video.listing import ListedVideo, read_list

LOG = logging.getLogger("dynvid")


def class_indices(videos: Sequence[ListedVideo], labels: Sequence[str], path: Path) -> NDArray[np.int64]:
    """Return the class number of every video of the LIST at ``path``, [videos].

    Raises:
        ListError: If a video has no label, or one that is not among ``labels``.
    """
    known = {label: index for index, label in enumerate(labels)}
    strange = sorted({str(video.label) for video in videos if video.label not in known})
    if strange:
        raise ListError(
            f"{str(path)!r} has labels {', '.join(strange[:5])} that are not among the {len(known)} classes "
            f"({', '.join(list(known)[:5])}, ...): correct the list or the configuration's labels"
        )
    return np.array([known[str(video.label)] for video in videos], dtype=np.int64)


def load_pixels(
    path: Path,
    preprocessing: Preprocessing,
    num_frames: int,
    cache: Path,
) -> tuple[list[ListedVideo], NDArray[np.uint8]]:
    """Return the videos of the LIST at ``path`` and their sampled frames in temporal order.

    The pixels, [videos, frames, crop, crop, 3], are decoded once into a file in the folder ``cache``, keyed by the
    videos' paths, sizes and modification times, and the preprocessing, and memory-mapped from there.
    """
    videos = read_list(path)
    stats = [(str(v.path), v.path.stat().st_size, v.path.stat().st_mtime_ns) for v in videos if v.path.exists()]
    key = json.dumps([stats, asdict(preprocessing), num_frames], sort_keys=True).encode()
    target = cache / f"pixels-{hashlib.sha256(key).hexdigest()[:16]}.npy"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        shape = (len(videos), num_frames, preprocessing.crop, preprocessing.crop, 3)
        try:
            pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            for index, video in enumerate(videos, 1):
                with VideoFile(video.path, preprocessing, num_frames) as source:
                    pixels[index - 1] = source.pixels(range(num_frames))
                LOG.debug(f"decoding {path.name}: {index}/{len(videos)} videos")
            pixels.flush()
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    return videos, np.load(target, mmap_mode="r")
