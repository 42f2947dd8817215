"""Measure the real stream, offline and under load, beside the simulator's policies on the same videos."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...grid.manifest import Manifest
from ...runtime.execution.capacity import Limits
from ...runtime.scheduling.slots import slots_for
from ..report.report import LaunchSpan, StreamRun
from ..simulation.baselines import oracle, serve_batches
from ..simulation.cost_tables import CostTable
from ..simulation.outcome import Exits, Floats, SimulatedRun, poisson_arrivals
from ..simulation.simulator import simulate
from .clips import Clips, InOrder
from .contestants import Open
from .stream_runs import Bed, Served, TimedExecutor

LOG = logging.getLogger("dynvid")

PASSES = 5
LEAST, MOST = 60, 20000
"""Least and most videos in one run."""
LOADS = (0.70, 0.90)
"""Shares of the oracle's throughput at which videos arrive. Latency ratios use the first, stability the last."""

OFFLINE, NEVER, STATIC, FILES = "offline", "offline, no exits", "offline, static network", "offline, from files"


@dataclass(frozen=True)
class StreamOptions:
    """How runs of many videos at once are measured.

    Attributes:
        batch: most videos in one call.
        streams: number of streams that share the videos, each with its own backend.
        seconds: time for each run.
        load_videos: number of videos in each run under load; None: as many as fit in ``seconds``.
    """

    batch: int
    streams: int
    seconds: float
    load_videos: int | None


class StreamBench:
    """Runs of one operating point.

    Args:
        manifest: of the bundle.
        open_one: opens what ``classify`` runs; called in the thread that uses it.
        clips: the clips to classify.
        exits: [clips], where each leaves at the operating point, 1-based.
        chosen: thresholds and temperatures of the operating point.
        table: t_k(n), measured.
        options: see ``StreamOptions``.

    Attributes:
        served: every real run, by name, in the order of the passes.
        slots: most videos in flight in one stream.
    """

    def __init__(
        self, manifest: Manifest, open_one: Open, clips: Clips, exits: Exits,
        chosen: tuple[Sequence[float | None], Sequence[float] | None], table: CostTable, options: StreamOptions,
    ) -> None:  # fmt: skip
        self._open_one, self._sources, self._exits, self._chosen = open_one, clips.sources(manifest), exits, chosen
        self._files, self._table, self._options = clips.paths, table, options
        self._batch, self._streams = options.batch, options.streams
        self.slots = slots_for(len(table.segments), options.batch, decoders=1)  # the same number as in classify
        self.served: dict[str, list[Served]] = {OFFLINE: [], NEVER: [], STATIC: []}

    def run(self) -> tuple[list[StreamRun], list[float]]:
        """Return every run, real and simulated, and each offline pass's throughput divided by the oracle's."""
        order = self._order(self._per_s(self._exits))
        bound = oracle(self._table, self._exits[order], self._batch, streams=self._streams)
        efficiencies = []
        with ExitStack() as stack:
            bed = stack.enter_context(self._bed(self._sources, full=False))
            static = stack.enter_context(self._bed(self._sources, full=True))
            files = stack.enter_context(self._bed(self._files, full=False)) if self._files else None
            for number in range(PASSES):
                LOG.info(f"stream: pass {number + 1}/{PASSES}")
                bed.judge_by(*self._chosen)
                served = self._serve(OFFLINE, bed, order)
                efficiencies.append(served.run.videos_per_s / bound.videos_per_s)
                bed.judge_by(None, None)
                few = order[: max(LEAST, len(order)) // 2]
                self._serve(NEVER, bed, few)
                self._serve(STATIC, static, few)
                if files is not None:
                    self._serve(FILES, files, few)
            bed.judge_by(*self._chosen)
            rows = [self._middle(name, bound if name == OFFLINE else None) for name in self.served]
            rows += self._simulated(order, bound)
            for share in LOADS:
                rows.append(self._under_load(bed, share, bound.videos_per_s))
        return rows, efficiencies

    def launches(self) -> tuple[LaunchSpan, ...]:
        """Return the launches of the first pass of each run."""
        return tuple(span for runs in self.served.values() for span in runs[0].launches)

    def _bed(self, clips: Sequence[InOrder | Path], full: bool) -> Bed:
        table = CostTable((self._table.static,), self._table.static, self._table.source) if full else self._table
        own = (None, None) if full else self._chosen
        mode = "static" if full else "throughput"
        executor = partial(self._open_one, limits=Limits(self._batch), full=full, kind=TimedExecutor)
        return Bed(executor, table, clips, self._streams, thresholds=own[0], temperatures=own[1], mode=mode)

    def _serve(self, name: str, bed: Bed, order: NDArray[np.int64], arrivals: Floats | None = None) -> Served:
        served = bed.serve(name, order.tolist(), arrivals)
        self.served.setdefault(name, []).append(served)
        return served

    def _middle(self, name: str, bound: SimulatedRun | None) -> StreamRun:
        """Return the pass of median throughput."""
        passes = sorted(self.served[name], key=lambda served: served.run.videos_per_s)
        return _row(name, passes[len(passes) // 2], None, bound)

    def _under_load(self, bed: Bed, share: float, most_per_s: float) -> StreamRun:
        rate, name = share * most_per_s, f"Poisson, {share:.0%} of the oracle"
        order = self._order(rate, seed=1, count=self._options.load_videos)
        LOG.info(f"stream: {len(order)} videos, {name}")
        arrivals = poisson_arrivals(rate, len(order))
        served = self._serve(name, bed, order, arrivals)
        bound = oracle(self._table, self._exits[order], self._batch, arrivals, self._streams)
        return _row(name, served, rate, bound)

    def _simulated(self, order: NDArray[np.int64], bound: SimulatedRun) -> list[StreamRun]:
        """Return the policies' simulated runs and the bound.

        One stream's videos are simulated, and the speed is multiplied by the number of streams.
        """
        table, exits, batch, streams = self._table, self._exits[order], self._batch, self._streams
        runs = [
            simulate(table, exits, batch, mode="static"),
            *(serve_batches(table, exits, batch, compact=compact) for compact in (False, True)),
            simulate(table, exits, batch, slots=self.slots),
        ]
        rows = []
        for run, faster in (*((run, streams) for run in runs), (bound, 1)):
            rate = run.videos_per_s * faster
            p50, p90, p99 = (run.p_s(percent) * 1e3 / faster for percent in (50, 90, 99))
            rows.append(
                StreamRun(
                    OFFLINE, run.policy, False, None, len(order), rate, rate / bound.videos_per_s, p50, p90, p99,
                    None, None, run.growth, (), (), run.in_flight * faster,
                )
            )  # fmt: skip
        return rows

    def _per_s(self, exits: Exits) -> float:
        return oracle(self._table, exits, self._batch, streams=self._streams).videos_per_s

    def _order(self, per_s: float, seed: int = 0, count: int | None = None) -> NDArray[np.int64]:
        """Return the clips of a run, by default as many as fit in its time; all clips equally often, to within one."""
        count = count or int(np.clip(per_s * self._options.seconds, LEAST, MOST))
        whole = np.tile(np.arange(len(self._exits)), -(-count // len(self._exits)))[:count]
        return np.random.default_rng(seed).permutation(whole)


def _row(name: str, served: Served, rate: float | None, bound: SimulatedRun | None) -> StreamRun:
    run = served.run
    under_load = rate is not None and bound is not None
    return StreamRun(
        name, "re-batched" if name != STATIC else "static", True, rate, len(run.latency_s), run.videos_per_s,
        run.videos_per_s / bound.videos_per_s if bound is not None and not under_load else None,
        run.p_s(50) * 1e3, run.p_s(90) * 1e3, run.p_s(99) * 1e3,
        bound.p_s(50) * 1e3 if under_load and bound else None, bound.p_s(99) * 1e3 if under_load and bound else None,
        run.growth, served.fills, served.wait_ms, served.in_flight,
    )  # fmt: skip
