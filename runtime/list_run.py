"""Classify the videos of a list, and go on where an earlier call stopped."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from .records import each_once, file_of, shard_of
from .results_file import open_results
from .run import Run, sha256_of_videos
from .summary import Summary
from .video.listing import ListedVideo, read_list

LOG = logging.getLogger("dynvid")

Record = dict[str, Any]
Records = Generator[Record, None, None]


def run_list(
    classify: Callable[[Iterable[Path], Mapping[Path, str | None]], Records],
    videos: str | os.PathLike[str] | Sequence[Path | ListedVideo],
    classes: Sequence[str],
    output: Path | None,
    run: Run,
    max_failures: float,
    retry_failed: bool,
    on_record: Callable[[Record], None],
) -> Summary:
    """Classify videos and write one line per video; ``Model.classify_list`` documents it.

    Args:
        classify: yields the record of each of the paths; the mapping has the labels of the list.
        videos: a LIST, its rows, or paths.
        classes: names of the bundle's classes.
        output: the JSON Lines file; None: nothing is written.
        run: the run; its videos are filled in here.
        max_failures: the share of all videos that may fail.
        retry_failed: try videos again that failed in an earlier call.
        on_record: called with each record as it arrives.

    Raises:
        As ``Model.classify_list``.
    """
    rows = read_list(videos) if isinstance(videos, str | os.PathLike) else videos
    labels = {row.path: row.label for row in rows if isinstance(row, ListedVideo)}
    _warn_of_unknown(labels, classes)
    paths = [row.path if isinstance(row, ListedVideo) else row for row in rows]
    paths = paths if output is None else each_once(paths)
    run = replace(run, videos=len(paths), videos_sha256=sha256_of_videos(map(str, paths)))
    paths = shard_of(paths, *run.shard)
    summary, replaced, results = Summary(max_failures, len(paths)), list[str](), None

    def earlier(record: Record) -> None:
        summary.add_earlier(record)
        was, now = record.get("file"), file_of(Path(record["video"]))  # older dynvids wrote none
        if record["status"] == "ok" and None not in (was, now) and was != now:
            replaced.append(record["video"])

    with ExitStack() as stack:
        if output is not None:
            results = stack.enter_context(
                open_results(output, run, map(str, paths), retry_failed=retry_failed, on_line=earlier)
            )
            if results.done:
                LOG.warning(f"{output}: {len(results.done)} of {len(paths)} videos are done already")
        if replaced:
            LOG.warning(
                f"{output}: {len(replaced)} videos that are done are other files now, first '{replaced[0]}': "
                "their lines describe the old files. To classify them again, remove their lines, then run this again"
            )
        begun = time.monotonic()
        left = paths if results is None else [path for path in paths if str(path) not in results.done]
        records = stack.enter_context(closing(classify(left, labels)))
        while not summary.too_many and (record := next(records, None)) is not None:
            summary.add(record)
            if results is not None:
                results.append(record)
            on_record(record)
            LOG.debug(f"{summary.tried if results is None else results.on_disk}/{len(paths)} videos")
        summary.seconds = time.monotonic() - begun
    return summary


def _warn_of_unknown(labels: Mapping[Path, str | None], classes: Sequence[str]) -> None:
    """Warn of labels that are no classes: classifying needs none, but they count as wrong answers."""
    known = set(classes)
    unknown = [(path, label) for path, label in labels.items() if label is not None and label not in known]
    if unknown:
        path, label = unknown[0]
        shown = ", ".join(classes[:3]) + (", …" if len(classes) > 3 else "")
        LOG.warning(
            f"{len(unknown)} labels of the list are not classes of the bundle, first {label!r} of '{path}': the accuracy "
            f"counts them as wrong. Expected one of the {len(classes)} classes {shown}"
        )
