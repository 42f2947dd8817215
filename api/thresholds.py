"""Thresholds: how they are chosen, and whether videos still leave by them as expected."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..grid.errors import CostTableError, UsageError
from ..grid.storage.files import StrPath
from .speed import time

if TYPE_CHECKING:
    from ..calibration.calibrate import Calibration
    from ..calibration.drift import Drift
    from ..calibration.scores.scores import Scores
    from ..grid.bundle import Bundle
    from ..grid.manifest import Precision
    from ..grid.thresholds import Rule

LOG = logging.getLogger("dynvid")


def calibrate(
    bundle: StrPath | None = None,
    training_checkpoint: StrPath | None = None,
    *,
    data: StrPath | None = None,
    scores: StrPath | None = None,
    q: float | None = None,
    budget: float | None = None,
    max_drop: float | None = None,
    confidence: float | None = None,
    rule: Rule | None = None,
    cost: str = "macs",
    cost_table: StrPath | None = None,
    temperature: bool = False,
    split: float = 0.5,
    seed: int = 0,
    precision: Precision | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> Calibration:
    """Return thresholds chosen on labelled videos: by q, a budget, a drop of accuracy, or a promise about that drop.

    Args:
        bundle: the folder; None: use only ``scores``.
        training_checkpoint: the one that the bundle was exported from; only checked.
        data: LIST of videos.
        scores: with ``data``: where to keep scores. Without: an .npz with ``probabilities`` [checkpoints, videos,
            classes] and, if known, ``labels`` [videos] and ``macs`` [checkpoints].
        q: ratio of one exit's share to the previous one's (paper, section 4).
        budget: mean cost per video: GMACs, or milliseconds if ``cost`` is ms.
        max_drop: largest loss of accuracy, or of agreement without labels; with ``confidence``, promised with that
            probability. Give at most one of ``q``, ``budget`` and ``max_drop``; without any: the critical point,
            within 0.01.
        confidence: see ``max_drop``.
        rule: geometric (the paper's shares q^k), or optimal (each threshold optimised, where the videos carry it).
            None: geometric with ``q``, otherwise optimal.
        cost: macs or ms: what is saved.
        cost_table: what ``time`` wrote, in the precision of the scores; None: times are measured now.
        temperature: fit one temperature a checkpoint; needs labels.
        split: share of the videos that calibrate; 1: all.
        seed: of the split.
        precision: precision of the scores; None: fp32.
        backend: the backend; auto as in ``load``.
        threads: CPU threads to compute with; None: one per core.

    Returns:
        The calibration; ``save`` writes its T.json, ``report`` is what ``dynvid calibrate --json`` prints.

    Raises:
        UsageError: If the arguments do not go together, or the budget cannot be kept.
        InputRefusedError: If the list, a score or a table cannot be used.
        TooFewVideosError, GuaranteeError: If a promise cannot be given.
        IntegrityError, BackendError: As ``load``.
    """
    from ..calibration.calibrate import calibrate as run_calibration
    from ..calibration.choosing.request import Request
    from ..calibration.choosing.sweep import costs_of
    from ..calibration.scores.scores import read_scores
    from ..calibration.scores.scoring import kept_scores
    from ..grid.bundle import Bundle

    if data is None and scores is None:
        raise UsageError("calibrate needs BUNDLE and --data LIST, or --scores FILE.npz")
    if bundle is None and (data is not None or cost == "ms"):
        raise UsageError("--data, -o and --cost ms need a BUNDLE: thresholds and times belong to one")
    if cost not in ("macs", "ms"):
        raise UsageError(f"cost {cost!r}: expected 'macs' or 'ms'")
    if rule not in (None, "optimal", "geometric"):
        raise UsageError(f"rule {rule!r}: expected 'optimal' or 'geometric'")
    if cost_table is not None and cost != "ms":
        raise UsageError("--cost-table without --cost ms: add it, since milliseconds are saved only then")
    if data is None and backend != "auto" and (cost != "ms" or cost_table is not None):
        raise UsageError(f"--backend {backend} without --data: leave it out, since nothing is computed")
    if precision is not None and data is None:
        raise UsageError(f"--precision {precision} without --data: leave it out, since scores have their own precision")
    request = Request(
        q, budget, max_drop, confidence, "ms" if cost == "ms" else "gmacs", temperature, split, seed, rule
    )
    if bundle is None:
        assert scores is not None
        opened, found = None, read_scores(Path(scores))
    else:
        opened = Bundle.open(Path(bundle))
        opened.require_exits("calibrate")
        if training_checkpoint is not None:
            opened.require_source(Path(training_checkpoint))
        if data is None:
            assert scores is not None
            found = kept_scores(Path(scores), opened)
        else:
            keep = None if scores is None else Path(scores)
            found = _scores(opened, Path(data), keep, backend, precision or "fp32", threads)
    scored_in: Precision = found.belongs_to.get("precision", "fp32")
    ms = None
    if opened is not None and cost == "ms":
        ms = _checkpoint_ms(opened, cost_table, backend, scored_in, threads)
    costs = costs_of(found.macs, ms, len(found.probabilities))
    if request.unit not in costs:
        request = replace(request, unit="exits")
    LOG.info("choosing thresholds")
    result = run_calibration(found, costs, request)
    return replace(result, bundle_sha256=None if opened is None else opened.sha256, precision=scored_in)


def drift(bundle: StrPath, thresholds: StrPath, results: StrPath) -> Drift:
    """Return how much the exits of videos differ from those at calibration.

    Args:
        bundle: the folder.
        thresholds: T.json that the videos left by.
        results: JSON Lines file of ``classify_list`` or ``dynvid classify -o``.

    Raises:
        ThresholdsError, StaleThresholdsError: If the thresholds are not the bundle's, or do not say what is expected, or
            what lies beside the results says that they left by others.
        ResultsError: If the results cannot be read.
        StaleResultsError: If what lies beside the results was changed, or names another bundle.
    """
    from ..calibration.drift import check_results
    from ..grid.bundle import Bundle
    from ..grid.thresholds import read_thresholds

    opened = Bundle.open(Path(bundle))
    opened.require_exits("drift")
    expected = read_thresholds(Path(thresholds), opened.sha256, len(opened.manifest.route_cells))
    return check_results(Path(results), expected, os.fspath(thresholds))


def _scores(
    bundle: Bundle,
    data: Path,
    keep: Path | None,
    backend: str,
    precision: Precision,
    threads: int | None,
) -> Scores:
    """Return the scores of a bundle, run as ``load`` runs it."""
    from ..calibration.scores.scoring import score_videos
    from ..runtime.execution.capacity import Limits, open_executor
    from ..runtime.session import Session
    from ..runtime.video.decoder import Decoder
    from ..runtime.video.listing import read_list

    videos = read_list(data)
    executor = open_executor(bundle, backend, precision, limits=Limits(batch=1), threads=threads)
    with Decoder() as decoder:
        return score_videos(Session(executor), videos, keep, decoder)


def _checkpoint_ms(
    bundle: Bundle, table: StrPath | None, backend: str, precision: Precision, threads: int | None
) -> list[float]:
    """Return the milliseconds until each checkpoint answers, from a table or measured now."""
    from ..benchmarks.segment_times import read_timing

    if table is not None:
        found = read_timing(Path(table), bundle)
        if found.precision != precision:
            raise CostTableError(
                f"cost table {str(table)!r} has times in {found.precision}, but the scores are in {precision}: "
                f"measure with 'dynvid time --precision {precision}'"
            )
        return found.checkpoint_ms()
    return time(bundle.root, backend=backend, precision=precision, threads=threads).checkpoint_ms()
