"""Why saved multiply-adds are not all saved milliseconds: the gap between a video's ideal and actual time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..report.report import Breakdown, BreakdownPart
from ..simulation.cost_tables import CostTable
from ..simulation.outcome import Exits
from .ratios import Gmacs, static_runs
from .rounds import Samples
from .stream_runs import Served


def single_breakdown(samples: Samples, point: str, exits: Exits, table: CostTable, gmacs: Gmacs) -> Breakdown:
    """Return the breakdown for one video at a time.

    Args:
        samples: of all contestants.
        point: the operating point.
        exits: [clips], 1-based.
        table: t_k(n).
        gmacs: multiply-adds.
    """
    static = samples.times(*static_runs(samples)).value
    ideal, actual = static * gmacs.mean / gmacs.static, samples.times(point).value
    calls, static_call = _calls(exits, table, 1), table.static_ms(1)
    within = ideal * static_call / static
    return Breakdown(
        f"one video at a time, {point}",
        ideal,
        (
            BreakdownPart("segments' calls, beyond ideal", calls - within),
            BreakdownPart("frames in, answers out, exits", (actual - calls) - (ideal - within)),
        ),
        actual,
    )


def stream_breakdown(
    passes: Sequence[Served],
    static: Sequence[Served],
    exits: Exits,
    table: CostTable,
    gmacs: Gmacs,
    batch: int,
    streams: int,
) -> Breakdown:
    """Return the breakdown for many videos at once, offline: the median pass, in milliseconds of one stream.

    The ideal is the time of a video in the streams of the static network.
    """
    served, whole = _middle(passes), _middle(static)
    videos = len(served.run.latency_s)
    ideal = streams * 1e3 / whole.run.videos_per_s * gmacs.mean / gmacs.static
    actual = streams * 1e3 / served.run.videos_per_s
    best = _calls(exits, table, batch)
    filled, padded, calls, copies, frames = (
        seconds * 1e3 / videos
        for seconds in (served.filled_s, served.padded_s, served.calls_s, served.copies_s, served.frames_s)
    )
    parts = (
        BreakdownPart("segments' calls, beyond ideal", best - ideal),
        BreakdownPart("batches not at their best", filled - best),
        BreakdownPart("padding", padded - filled),
        BreakdownPart("calls longer than alone", calls - padded),
        BreakdownPart("copies: state store", copies),
        BreakdownPart("frames into batches", frames),
        BreakdownPart("scheduling, exits, answers", actual - calls - copies - frames),
    )
    together = "" if streams == 1 else f", {streams} streams"
    return Breakdown(f"many videos at once, offline, at most {batch} a call{together}", ideal, parts, actual)


def _calls(exits: Exits, table: CostTable, batch: int) -> float:
    """Return the mean milliseconds of a video's calls, each segment at its best batch size of at most ``batch``."""
    best = [min(table.ms(k, n) / n for n in range(1, batch + 1)) for k in range(1, len(table.segments) + 1)]
    return float(np.cumsum(best)[exits - 1].mean())


def _middle(passes: Sequence[Served]) -> Served:
    return sorted(passes, key=lambda served: served.run.videos_per_s)[len(passes) // 2]
