"""Classify the videos of a list, and go on where an earlier call stopped."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..video.listing import ListedVideo, VideoList, open_list
from .formats import lines_of, read_records, write_parquet
from .records import file_of, shard_of
from .results_file import open_results
from .run import Run, sha256_of_videos
from .summary import Summary
from .unknown_labels import warn_of_unknown

LOG = logging.getLogger("dynvid")

Record = dict[str, Any]
Records = Generator[Record, None, None]


def run_list(
    classify: Callable[[Iterable[ListedVideo]], Records],
    videos: str | os.PathLike[str] | Sequence[Path | ListedVideo],
    classes: Sequence[str],
    output: Path | None,
    run: Run,
    max_failures: float,
    retry_failed: bool,
    on_record: Callable[[Record], None],
) -> Summary:
    """Classify videos and write one line per video; ``Model.classify_list`` documents it.

    A long list is read on while its first videos are classified, unless lines are there already or a shard is asked for.

    Args:
        classify: yields the record of each of the rows.
        videos: a LIST, its rows, or paths.
        classes: names of the bundle's classes.
        output: the file of results; None: nothing is written.
        run: the run; its videos are filled in here.
        max_failures: the share of all videos that may fail.
        retry_failed: try videos again that failed in an earlier call.
        on_record: called with each record as it arrives.

    Raises:
        As ``Model.classify_list``.
    """
    rows = _rows(videos, once=output is not None)
    lines = None if output is None else lines_of(output)
    source = None if rows.complete else rows.sha256()
    if run.shard != (1, 1) or source is None or (lines is not None and lines.is_file() and lines.stat().st_size):
        len(rows)
    settled, places = rows.complete, list[int]()
    if settled:
        run = _settled(run, rows, classes)
        places = shard_of(range(len(rows)), *run.shard, rows.locations.__getitem__)
    elif source is not None:
        run = run.provisional(source)
    summary, replaced, results = Summary(max_failures, len(places)), list[str](), None

    def earlier(record: Record) -> None:
        summary.add_earlier(record)
        was, now = record.get("file"), file_of(record["video"])  # older dynvids wrote none
        if record["status"] == "ok" and None not in (was, now) and was != now:
            replaced.append(record["video"])

    def left() -> Iterator[ListedVideo]:
        for row in (rows[place] for place in places) if settled else rows:
            if results is None or row.key not in results.done:
                yield row

    with ExitStack() as stack:
        if lines is not None:
            results = stack.enter_context(
                open_results(
                    lines, run, rows, retry_failed=retry_failed, on_line=earlier,
                    list_sha256=rows.sha256() if settled else source,
                )
            )  # fmt: skip
            if results.done:
                LOG.warning(f"{output}: {len(results.done)} of {len(places)} videos are done already")
        if replaced:
            LOG.warning(
                f"{output}: {len(replaced)} videos that are done are other files now, first '{replaced[0]}': "
                "their lines describe the old files. To classify them again, remove their lines, then run this again"
            )
        begun = time.monotonic()
        records = stack.enter_context(closing(classify(left())))
        while not (settled and summary.too_many) and (record := next(records, None)) is not None:
            summary.add(record)
            if results is not None:
                results.append(record)
            on_record(record)
            if not settled and rows.read_on():
                settled, summary.videos = True, len(rows)
                run = _settled(run, rows, classes)
                if results is not None:
                    results.settle(run)
            if settled:
                LOG.debug(
                    f"{summary.tried if results is None else results.on_disk}/{summary.videos} videos{summary.so_far}"
                )
        summary.seconds = time.monotonic() - begun
    if output is not None and lines != output:
        assert lines is not None
        write_parquet(read_records(lines), output)
    return summary


def _rows(videos: str | os.PathLike[str] | Sequence[Path | ListedVideo], *, once: bool) -> VideoList:
    if isinstance(videos, VideoList):
        return videos
    if isinstance(videos, str | os.PathLike):
        return open_list(videos)
    return VideoList.of(videos, once=once)


def _settled(run: Run, rows: VideoList, classes: Sequence[str]) -> Run:
    """Return the run over a list that was read to its end; warn of labels that are no classes."""
    warn_of_unknown(zip(rows.locations, rows.labels, strict=True), classes)
    return replace(run, videos=len(rows), videos_sha256=sha256_of_videos(rows.identities()), list_sha256=None)
