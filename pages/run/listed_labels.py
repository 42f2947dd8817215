"""Labels that a LIST brings to the lines of a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace

from ...grid.errors import UsageError
from ...runtime.results.unknown_labels import warn_of_unknown
from ...runtime.video.listing import VideoList
from ...runtime.video.remote import is_uri
from ..numbers import counted
from .lines import VideoLine

LOG = logging.getLogger("dynvid")


def with_labels(lines: Sequence[VideoLine], rows: VideoList, classes: Sequence[str] | None) -> tuple[VideoLine, ...]:
    """Return the lines with the labels of a LIST; where it has none of a video, that of the results stays.

    A video is found by its id where the list has ids, else by its path or URI. It warns of labels that are no classes,
    of a list without labels, and of a list of other videos.

    Args:
        lines: of the run.
        rows: of the list.
        classes: of the bundle; None: only the answers are known.

    Raises:
        ListError: If the list cannot be used.
        UsageError: If the list has ids, and the results have none.
    """
    name = "given" if rows.name is None else f"'{rows.name}'"
    by_id = len(rows) > 0 and rows[0].id is not None
    if by_id and all(line.id is None for line in lines):
        raise UsageError(
            f"list {name} was read with ids, and the results have none: leave --id-column out, or classify with it"
        )
    labels = {row.id if by_id else _place(str(row)): row.label for row in rows}
    keys = [line.id if by_id else _place(line.video) for line in lines]
    listed = [(str(row), row.label) for row in rows if row.label is not None]
    answers = sorted({line.label for line in lines if line.label is not None})
    if labels.keys().isdisjoint(keys):
        what, found = ("id", lines[0].id) if by_id else ("path", lines[0].video)
        LOG.warning(
            f"none of the {counted(len(rows), 'video')} of list {name} is in these results, first '{rows[0].key}': its "
            f"labels are not used. Expected {what}s such as '{found}'"
        )
    elif not listed:
        LOG.warning(f"list {name} has no labels: those in the results stay")
    elif classes is not None:
        warn_of_unknown(listed, classes)
    elif answers and not {label for _, label in listed} & set(answers):
        LOG.warning(
            f"no label of list {name} is an answer in these results, first {listed[0][1]!r} of '{listed[0][0]}': "
            f"they count as wrong. Expected classes such as {', '.join(answers[:3])}; with the bundle, each is checked"
        )
    known = zip(lines, map(labels.get, keys), strict=True)
    return tuple(line if label is None else replace(line, listed_label=label) for line, label in known)


def _place(video: str) -> str:
    return video if is_uri(video) else os.path.abspath(video)
