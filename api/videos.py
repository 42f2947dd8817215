"""Videos beyond one process: a cluster that classifies them, and results joined."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..grid.errors import UsageError
from ..grid.storage.files import StrPath

if TYPE_CHECKING:
    from ..runtime.results.merge import Merged
    from ..runtime.results.summary import Summary
    from ..runtime.video.listing import ListedVideo


def classify_on_ray(
    bundle: StrPath,
    videos: StrPath | Sequence[Path | ListedVideo],
    output: StrPath,
    *,
    address: str = "local",
    actors: int | None = None,
    gpus_per_actor: float = 0.0,
    max_failures: float = 0.05,
    trace: bool = False,
    **options: Any,
) -> Summary:
    """Classify the videos of a LIST on a Ray cluster and write parquet files of results.

    Each actor opens the bundle once. The same call goes on where an earlier one stopped or was killed. A video that
    kills its actor gets the status ``damaged`` after three tries alone. ``dynvid.merge`` joins the files.

    Args:
        bundle: a folder that every machine reaches under the same path, as are thresholds, engines and videos.
        videos: as for ``Model.classify_list``.
        output: a folder that every machine reaches.
        address: of the cluster; ``auto``: the one of this machine; ``local``: one is started here for this call.
        actors: how many; None: one per CPU of the cluster, or as many as its GPUs allow.
        gpus_per_actor: share of a GPU that each takes, such as 0.5.
        max_failures: the share of all videos that may fail; 20 always may.
        trace: rows then have ``logits``.
        options: as for ``load``; ``threads`` is 1 unless given.

    Returns:
        The counts over all rows written so far.

    Raises:
        ListError: If the list cannot be used.
        StaleResultsError: If ``output`` holds something else.
        UsageError: If the cluster has too few CPUs or GPUs, or another process writes there.
        MissingPackageError: If Ray is not installed.
        BackendError: If the cluster cannot be reached, or gives up.
        DynvidError: As ``load``, of the machine that opens the bundle.
    """
    from ..runtime.video.listing import VideoList, open_list
    from ..serving.ray_job import classify_on_ray as run_on_ray

    if isinstance(videos, VideoList):
        rows = videos
    else:
        rows = open_list(videos) if isinstance(videos, str | os.PathLike) else VideoList.of(videos)
    return run_on_ray(
        Path(bundle), rows, Path(output), address=address, actors=actors, gpus_per_actor=gpus_per_actor,
        max_failures=max_failures, trace=trace, options={"threads": 1, **options},
    )  # fmt: skip


def merge(parts: Sequence[StrPath], output: StrPath) -> Merged:
    """Join results into one file: the shards of a run, or what ``classify --ray`` wrote; return the counts.

    A video that has several lines is written once. Lines keep the order of the parts. If all parts say which run they
    belong to, the file goes on with ``classify_list`` as if one process had written it, and missing videos are counted.

    Args:
        parts: files of results, JSON Lines or parquet, or folders of them.
        output: the file, JSON Lines or, by its suffix, parquet; only results are replaced.

    Raises:
        ResultsError: If a part cannot be read or is empty, or two lines of a video differ in anything but times.
        StaleResultsError: If the parts are of different runs, or have more videos than their run.
        UsageError: If the output is one of the parts, or something else than results, or has another kind of name.
        ResourceError: If the output cannot be written.
    """
    from ..runtime.results.merge import merge as run_merge

    if not isinstance(parts, Sequence) or isinstance(parts, str) or not parts:
        raise UsageError(f"parts {parts!r}: expected a list of files or folders of results")
    return run_merge([Path(part) for part in parts], Path(output))
