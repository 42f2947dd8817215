"""Pages that show how a video was classified, and what became of a run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..grid.errors import ThresholdsError, UsageError
from ..grid.packages import packages
from ..grid.storage.files import StrPath
from ..runtime.open_model import open_model

if TYPE_CHECKING:
    from ..grid.bundle import Bundle
    from ..grid.manifest import Precision
    from ..grid.thresholds import Thresholds
    from ..pages.explained.explanation import Explanation, Unexplained
    from ..pages.run.figures import RunFigures
    from ..runtime.results.run import Run
    from ..runtime.video.listing import ListedVideo


def explain(
    bundle: StrPath,
    videos: StrPath | Sequence[StrPath | ListedVideo],
    output: StrPath | None = None,
    *,
    thresholds: StrPath | None = None,
    backend: str = "auto",
    precision: Precision = "fp32",
    engines: StrPath | None = None,
    threads: int | None = None,
) -> list[Explanation | Unexplained]:
    """Show what each video did on the route: frames looked at, cells computed, confidences, time and multiply-adds.

    Every video runs to the end of the route, so that the picture also shows what leaving early saved. The first one
    runs once before, to warm up.

    Args:
        bundle: the folder.
        videos: a video, or at most 50; a row of ``read_list`` also has a label, so that the page says what was right.
        output: the page (.html) or figure (.svg, .png) to write; None: nothing is written.
        thresholds: T.json; None: every video runs to the end.
        backend: the backend; auto as in ``load``.
        precision: precision to compute in.
        engines: folder of the engines, or none; None: ``BUNDLE.engines``.
        threads: CPU threads to compute with; None: one per core.

    Returns:
        What each video did, in order: ``to_json`` has every figure of the picture, ``answer`` is the run that it shows.
        A video without an answer has only ``error``.

    Raises:
        VideoError, FramesError: If the only video cannot be read, or one changes meanwhile.
        UsageError: If there are no videos or too many, or the output has another ending.
        IntegrityError, BackendError, ResourceError: As ``load`` and ``classify``.
    """
    from ..pages.explained.explanation import MOST, explain_videos
    from ..runtime.results.unknown_labels import warn_of_unknown
    from ..runtime.video.listing import ListedVideo

    given = videos if isinstance(videos, Iterable) and not isinstance(videos, str | os.PathLike) else [videos]
    listed = list[ListedVideo]()
    for video in given:
        if not isinstance(video, str | os.PathLike):
            raise UsageError(f"video {video!r}: expected a path, or a row of a list")
        listed.append(video if isinstance(video, ListedVideo) else ListedVideo(Path(video)))
    if not 1 <= len(listed) <= MOST:
        raise UsageError(f"{len(listed)} videos: expected 1 to {MOST} on a page. 'dynvid report' shows a whole run.")
    if output is not None:
        with packages("pages"):
            from ..pages.explained.page import Setting, require_form, write
        require_form(Path(output))
    with open_model(
        bundle, thresholds=thresholds, backend=backend, precision=precision, engines=engines, threads=threads, batch=1
    ) as model:
        warn_of_unknown([(str(video), video.label) for video in listed], model.bundle.manifest.class_names)
        found = list(explain_videos(model, listed))
        manifest, runs = model.bundle.manifest, model.runs
    if output is not None:
        chosen = None if thresholds is None else os.fspath(thresholds)
        setting = Setting(manifest.network["network"], os.fspath(bundle), runs, chosen, manifest.static)
        write(found, setting, Path(output))
    return found


def report(
    results: StrPath | Sequence[Mapping[str, Any]],
    output: StrPath | None = None,
    *,
    data: StrPath | Sequence[ListedVideo] | None = None,
    bundle: StrPath | None = None,
    thresholds: StrPath | None = None,
) -> RunFigures:
    """Show what became of the videos of a run: exits by class, accuracy by exit, confusion, costs, drift, failures.

    Args:
        results: JSON Lines file of ``classify_list`` or ``dynvid classify -o``, or records as ``on_record`` gets them.
        output: the page (.html) to write, with pictures of the first, the last and the wrong ones; None: nothing.
        data: LIST with labels, or its rows (``open_list`` names columns); where it has one of a video, it goes before
            that in the results. Rows with ids are found by them.
        bundle: the folder, to check labels and results against; needed only with ``thresholds``, where nothing beside
            the results says which it was.
        thresholds: T.json that the videos left by, to compare their exits with those at calibration.

    Returns:
        The figures; ``to_json`` has them under the names of ``dynvid report --json``.

    Raises:
        ResultsError: If the results cannot be read.
        ListError: If the list cannot be used.
        ThresholdsError, StaleThresholdsError: If the thresholds are not the bundle's, or do not say what is expected, or
            what lies beside the results says that they left by others.
        UsageError: If the output has another ending, the results are neither a path nor records, or it is not known
            whose thresholds they are.
        StaleResultsError: If what lies beside the results was changed, or names another bundle than the one given, or
            an answer is none of its classes.
        ResourceError: If the page cannot be written.
    """
    from ..calibration.drift import compare, tally_of_records
    from ..grid.bundle import Bundle
    from ..pages.run.figures import RunFigures
    from ..pages.run.lines import read_lines, require_classes
    from ..pages.run.listed_labels import with_labels
    from ..runtime.results.lines import latest, numbered_records
    from ..runtime.results.run import run_beside
    from ..runtime.video.listing import VideoList, open_list

    if output is not None:
        with packages("pages"):
            from ..pages.run.page import require_page, write
        require_page(Path(output))
    path = Path(results) if isinstance(results, str | os.PathLike) else None
    where = "given" if path is None else str(path)
    given = _records(results) if path is None else numbered_records(path)
    records = latest(given, where)
    run = None if path is None else run_beside(path)
    opened = None if bundle is None else Bundle.open(Path(bundle))
    if run is not None and opened is not None:
        run.require_bundle(opened.sha256, where)
    checkpoints = None
    if opened is not None:
        checkpoints = len(opened.manifest.route_cells)
    elif run is not None and run.thresholds is not None:
        checkpoints = len(run.thresholds)
    lines = read_lines(records, where, checkpoints)
    if opened is not None:
        classes = set(map(opened.manifest.label, range(opened.manifest.classes)))
        require_classes(lines, classes, where, str(bundle))
    if data is not None:
        rows = open_list(data) if isinstance(data, str | os.PathLike) else VideoList.of(data)
        lines = with_labels(lines, rows, None if opened is None else opened.manifest.class_names)
    found, without = None, "No thresholds were given to compare with (--thresholds T.json)."
    if thresholds is not None:
        expected = _expected(Path(thresholds), opened, run, where)
        checkpoints = len(expected.thresholds)
        assert expected.expected is not None
        found = compare(expected.expected, tally_of_records(records, where, checkpoints))
    figures = RunFigures(
        lines,
        checkpoints or max((line.checkpoint or 1 for line in lines), default=1),
        found,
        None if run is None else run.shard_videos,
        run is None or run.shard_videos is not None,
        (1, 1) if run is None else run.shard,
    )
    if output is not None:
        ran = "" if run is None else f" · {run.backend}, {run.precision}, bundle {run.bundle_sha256[:8]}…"
        write(figures, f"{path or 'as they were classified'}{ran}", without, Path(output))
    return figures


def _records(results: object) -> list[tuple[int, Mapping[str, Any]]]:
    """Return records that a caller gave, with their numbers."""
    records = list[Mapping[str, Any]]()
    for record in results if isinstance(results, Iterable) else [results]:
        if not isinstance(record, Mapping):
            raise UsageError(
                f"results {record!r}: expected the path of a file of results, or records, which are mappings"
            )
        records.append(record)
    return list(enumerate(records, 1))


def _expected(path: Path, opened: Bundle | None, run: Run | None, results: str) -> Thresholds:
    """Return thresholds that say how videos left at calibration, checked against the bundle and those of a run."""
    from ..grid.thresholds import read_thresholds

    if opened is not None:
        opened.require_exits("report --thresholds")
    if run is not None:
        run.require_exits(str(path), results)
    if opened is not None:
        found = read_thresholds(path, opened.sha256, len(opened.manifest.route_cells))
    elif run is not None and run.thresholds is not None:
        found = read_thresholds(path, run.bundle_sha256, len(run.thresholds))
    else:
        raise UsageError(
            f"thresholds {str(path)!r}: nothing beside the results says which bundle they are of: give the bundle, too"
        )
    if run is not None:
        run.require_thresholds(found, str(path), results)
    if found.expected is None:
        raise ThresholdsError(
            f"thresholds {str(path)!r} do not say how videos left at calibration: choose them with 'dynvid calibrate'"
        )
    return found
