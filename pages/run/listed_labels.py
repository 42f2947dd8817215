"""Labels that a LIST brings to the lines of a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...runtime.results.unknown_labels import warn_of_unknown
from ...runtime.video.listing import read_list
from ..numbers import counted
from .lines import VideoLine

LOG = logging.getLogger("dynvid")


def with_labels(lines: Sequence[VideoLine], data: Path, classes: Sequence[str] | None) -> tuple[VideoLine, ...]:
    """Return the lines with the labels of a LIST; where it has none of a video, that of the results stays.

    It warns of labels that are no classes, of a list without labels, and of a list of other videos.

    Args:
        lines: of the run.
        data: the LIST.
        classes: of the bundle; None: only the answers are known.

    Raises:
        ListError: If the list cannot be used.
    """
    rows = read_list(data)
    labels = {os.path.abspath(row.path): row.label for row in rows}
    paths = [os.path.abspath(line.video) for line in lines]
    listed = [(str(row), row.label) for row in rows if row.label is not None]
    answers = sorted({line.label for line in lines if line.label is not None})
    if labels.keys().isdisjoint(paths):
        LOG.warning(
            f"none of the {counted(len(rows), 'video')} of list '{data}' is in these results, first '{rows[0]}': its "
            f"labels are not used. Expected paths such as '{lines[0].video}'"
        )
    elif not listed:
        LOG.warning(f"list '{data}' has no labels: those in the results stay")
    elif classes is not None:
        warn_of_unknown(listed, classes)
    elif answers and not {label for _, label in listed} & set(answers):
        LOG.warning(
            f"no label of list '{data}' is an answer in these results, first {listed[0][1]!r} of '{listed[0][0]}': "
            f"they count as wrong. Expected classes such as {', '.join(answers[:3])}; with the bundle, each is checked"
        )
    known = zip(lines, map(labels.get, paths), strict=True)
    return tuple(line if label is None else replace(line, listed_label=label) for line, label in known)
