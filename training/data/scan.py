"""A look at every clip: it is opened, and its first and last sampled frame are read, as deployment does."""

from __future__ import annotations

import logging
import os
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ...grid.errors import InputRefusedError, ListError
from ...grid.preprocessing import Preprocessing
from ...runtime.video.decoder import Decoder
from ...runtime.video.view import View
from .problem import KINDS, Problem
from .record import Record
from .source import Source, with_empty_classes
from .splits import Split

LOG = logging.getLogger("dynvid")

SAMPLES = 16
"""Frames that the paper samples of a clip; the first and the last of them are read."""

_MOST_THREADS = 8


def scan(source: Source) -> Source:
    """Return the data set without the clips that cannot be read; each of these is a problem.

    Raises:
        ListError: If no clip can be read.
        DecoderFaultError: If no video at all can be decoded here.
    """
    clips = [(split, record) for split, records in source.splits.items() for record in records]
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for place in range(len(clips)):
        waiting.put(place)
    found: list[tuple[str, str] | None] = [None] * len(clips)  # kind of problem and detail
    ended = threading.Event()

    def work() -> None:
        with Decoder() as decoder:
            while not ended.is_set():
                try:
                    place = waiting.get_nowait()
                except queue.Empty:
                    return
                found[place] = _look(decoder, clips[place][1])
                LOG.debug(f"reading the first and last frame: {len(clips) - waiting.qsize()}/{len(clips)} clips")

    threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    with ThreadPoolExecutor(threads) as pool:
        try:
            for future in [pool.submit(work) for _ in range(threads)]:
                future.result()
        finally:
            ended.set()
    splits: dict[Split, list[Record]] = {split: [] for split in source.splits}
    problems = []
    for (split, record), seen in zip(clips, found, strict=True):
        if seen is not None:
            problems.append(Problem(split, seen[0], str(record.path), seen[1]))
        if seen is None or not KINDS[seen[0]].left_out:
            splits[split].append(record)
    if not any(splits.values()):
        raise ListError(f"none of the {len(clips)} clips can be read, first: {problems[0].detail}")
    return with_empty_classes(replace(source, splits=splits, problems=[*source.problems, *problems], scanned=True))


def _look(decoder: Decoder, record: Record) -> tuple[str, str] | None:
    """Return the kind of problem and what it is; None if the clip is sound."""
    view = View(start_s=record.start_s, end_s=record.end_s)
    try:
        with decoder.open(record.path, Preprocessing(), SAMPLES, view, record.frames) as clip:
            clip.pixels([0, SAMPLES - 1])
            return ("damaged", "; ".join(clip.warnings)) if clip.damaged else None
    except InputRefusedError as error:
        return "unreadable", str(error)
