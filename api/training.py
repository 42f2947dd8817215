"""What comes before a bundle: data sets read, and networks trained."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..grid.packages import packages
from ..grid.storage.files import StrPath

LOG = logging.getLogger("dynvid")


def data(
    source: StrPath,
    *,
    format: str = "auto",
    videos: StrPath | None = None,
    labels: StrPath | None = None,
    split: int | None = None,
    first_label: int = 0,
    scan: bool = False,
    output: StrPath | None = None,
) -> dict[str, Any]:
    """Read a data set as it lies on disk; return what was found, and write the lists that training reads.

    Args:
        source: annotations of Kinetics, Something-Something, UCF101 or HMDB51, a list, a folder of any of these, or a
            folder of class folders.
        format: kinetics, something-v1, something-v2, ucf101, hmdb51, list or class-folders; auto recognises it.
        videos: folder of the clips; None: the source, or the folder of the file.
        labels: a file of class names in order of number, one a line or a label map; None: the data set's own.
        split: which split of UCF101, HMDB51 or numbered lists; None: that of the file, else 1.
        first_label: number of the first class in a list, 0 or 1.
        scan: open every clip, read its first and last sampled frame, and leave out those that cannot be read.
        output: folder for ``classes.txt``, ``train.csv``, ``validation.csv``, ``test.csv``, ``problems.csv`` and
            ``report.json``.

    Returns:
        What ``dynvid data --json`` prints.

    Raises:
        UsageError: If the arguments do not go together, or the output is a folder of something else.
        ListError, LabelsError: If a list or the labels cannot be used, or no clip is found.
        DecoderFaultError: If no video at all can be decoded here.
        ResourceError: If the output cannot be written.
    """
    from ..training.data.report import report_of, require_folder, write_folder
    from ..training.data.scan import scan as scan_clips
    from ..training.data.source import read_source

    if output is not None:
        require_folder(Path(output))
    LOG.info("reading lists and folders")
    found = read_source(
        Path(source),
        format=format,
        videos=None if videos is None else Path(videos),
        labels=None if labels is None else Path(labels),
        split=split,
        first_label=first_label,
    )
    if scan:
        found = scan_clips(found)
    if output is not None:
        write_folder(found, Path(output))
    return report_of(found)


def train(
    config: StrPath,
    output: StrPath,
    *,
    changes: Sequence[str] = (),
    overfit_one_batch: bool = False,
    report: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> Path:
    """Train a network by the paper's recipe (section 4); return the path of the best training checkpoint.

    Args:
        config: a TOML file; docs/guides/train.md describes it.
        output: folder of the run; the same call goes on with an interrupted run.
        changes: over the file, such as ``recipe.batch=64``.
        overfit_one_batch: only try whether the network learns one batch by heart; nothing is written.
        report: called with every line of the log and every row of results.

    Raises:
        UsageError: If the configuration does not fit, or the run was begun with another.
        ListError, LabelsError: If the clips or classes cannot be used.
        TrainingCheckpointError: If the start or the saved state cannot be used.
        VideoError: If too many clips cannot be read, or one is not decoded in time.
        NetworkError: If training diverges, or one batch cannot be learnt.
        ResourceError: If something cannot be written; what was saved before stays.
    """
    with packages("export,cpu"):
        from ..training.configuration.read import read_configuration
        from ..training.train import train as run_training

    configuration = read_configuration(Path(config), changes)
    return run_training(configuration, Path(output), report, overfit_one_batch=overfit_one_batch)
