"""Latency against average FLOPs: every figure of ``dynvid bench``, measured side by side in one process."""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..calibration.choosing.interval import of_share
from ..calibration.choosing.thresholds import exits as exits_of
from ..calibration.choosing.thresholds import geometric_thresholds
from ..calibration.scores.answers import answers_of
from ..calibration.scores.scores import Scores
from ..grid.bundle import Bundle
from ..grid.errors import UsageError
from ..grid.manifest import Manifest, Precision
from ..grid.segments import fused_segments
from ..grid.thresholds import Thresholds
from ..runtime.backends.registry import ON_CPU, open_backend
from ..runtime.execution.capacity import open_executor
from ..runtime.execution.state_store import bytes_per_video
from .measure.breakdown import single_breakdown, stream_breakdown
from .measure.call_table import cost_table, measure_table
from .measure.clips import Clips
from .measure.contestants import COPY, NO_EXITS, STATIC, Field, Loads
from .measure.machine import MOST_OTHERS, cpu_seconds, describe, gpu_name, others_share, versions
from .measure.peers import PeerRun, open_peer, require_training_checkpoint
from .measure.ratios import Gmacs, latency_ratios, offline_realisation, scheduler_efficiency, single_video_ratios
from .measure.rounds import Samples, interleave
from .measure.stream_bench import LOADS, NEVER, OFFLINE, StreamBench, StreamOptions
from .measure.stream_bench import STATIC as STATIC_STREAM
from .mlperf.loadgen import LoadGenOrder
from .mlperf.subject import Referee, judged
from .report.report import Estimate, Latency, MemoryUse, OperatingPoint, Peer, Report, Scenario, Setting

LOG = logging.getLogger("dynvid")

MOST_DIFFERENT = 0.02
"""Largest allowed difference between two copies of the static run during a measurement."""


@dataclass(frozen=True)
class Options:
    """What to measure, and for how long.

    Attributes:
        qs: ratios of the exits' shares, the main one first; their thresholds are chosen on the clips themselves.
        chosen: thresholds from calibration, which are then the main operating point; or None.
        precision: of the graphs.
        threads: CPU threads to compute with; None: one per core.
        batch: most videos in one call.
        streams: number of streams that share the videos in runs of many videos.
        rounds: passes over the clips; None: as many as fit in ``seconds``.
        seconds: time for each of the two measurements without a stream: single videos, and t_k(n).
        stream_seconds: time for each run of the streams.
        load_videos: number of videos in each run under load; None: as many as fit in ``stream_seconds``.
        peers: other runtimes, see ``peers.NAMES``.
        training_checkpoint: for the peers that are made from it.
        referee: settings for MLPerf LoadGen; None: it is not run.
        command: the command line, for the report.
    """

    qs: tuple[float, ...] = (1.2,)
    chosen: Thresholds | None = None
    precision: Precision = "fp32"
    threads: int | None = None
    batch: int = 4
    streams: int = 1
    rounds: int | None = None
    seconds: float = 60.0
    stream_seconds: float = 20.0
    load_videos: int | None = None
    peers: tuple[str, ...] = ()
    training_checkpoint: Path | None = None
    referee: Referee | None = None
    command: str = ""


@dataclass(frozen=True)
class _Point:
    """An operating point before it is measured."""

    name: str
    q: float | None
    thresholds: tuple[float | None, ...]
    temperatures: tuple[float, ...] | None
    exits: NDArray[np.int64]  # [clips], 1-based


def bench(
    bundle: Bundle, backend: str, engines: Path, open_loads: Callable[[], Loads], clips: Clips, options: Options,
) -> Report:  # fmt: skip
    """Return every figure of a bundle on a backend.

    Args:
        bundle: the bundle.
        backend: name of the backend.
        engines: folder of the engines of its route, and of ``full``.
        open_loads: builds these engines if it can, and says where other graphs come from.
        clips: the clips to classify.
        options: what to measure.

    Raises:
        UsageError: If an option is out of range.
        IntegrityError: If an engine is missing or stale.
        DynvidError: If opening the backend, the graphs or the peers fails.
    """
    if min(options.batch, options.streams) < 1 or (not options.qs and options.chosen is None):
        raise UsageError(
            f"batch {options.batch}, {options.streams} streams, q {list(options.qs)}: expected batch and streams of "
            "at least 1, and at least one q"
        )
    require_training_checkpoint(options.peers, options.training_checkpoint)
    manifest, busy = bundle.manifest, cpu_seconds()
    open_backend(backend, options.threads, precision=options.precision).close()  # fail before building engines in vain
    threads, loads = options.threads or len(os.sched_getaffinity(0)), open_loads()
    open_one = partial(
        open_executor, bundle, backend=backend, precision=options.precision, engines=engines, threads=options.threads
    )
    field = Field(open_one, engines, loads, clips)
    LOG.info("scoring every checkpoint")
    along, static = field.answers(field.along), field.answers(field.static)
    points = _points(along, options)
    peers = _open_peers(bundle, clips, loads, static[0, 0], threads, options)
    contestants = [*field.contestants, *(field.point(p.name, p.thresholds, p.temperatures) for p in points), *peers]
    samples = Samples(interleave(contestants, len(clips.frames), options.seconds, options.rounds))
    copies_differ = abs(1 - samples.relative(STATIC, COPY).value)
    field.backend.close()  # each stream opens its own backend
    del field, contestants
    table = measure_table(open_one, len(manifest.route_cells), options.batch, options.streams, options.seconds)
    costs = cost_table(
        table, f"measured with {backend}, {options.precision}, {threads} threads, {options.streams} streams"
    )
    main = points[0]
    how = StreamOptions(options.batch, options.streams, options.stream_seconds, options.load_videos)
    stream = StreamBench(
        manifest, open_one, clips, main.exits, (main.thresholds, main.temperatures), costs, how,
    )  # fmt: skip
    streams, efficiencies = stream.run()
    others = others_share(busy, cpu_seconds())
    clip_s = samples.times(NO_EXITS).value / 1e3
    scenarios = _ask_referee(bundle, backend, engines, clips, along, main, clip_s, options)

    gmacs = Gmacs.of(manifest, main.exits)
    on_cpu = backend in ON_CPU
    loaded = next((run for run in streams if run.rate_per_s is not None), None)
    ratios = (
        *single_video_ratios(samples, main.name, gmacs, manifest, on_cpu),
        offline_realisation(
            stream.served[OFFLINE], stream.served[STATIC_STREAM], gmacs, options.batch, on_cpu, manifest
        ),
        scheduler_efficiency(efficiencies, options.batch),
        *latency_ratios(loaded, LOADS[0]),
    )
    faults = []
    if copies_differ > MOST_DIFFERENT:
        faults.append(
            f"two copies of the static run differ by {copies_differ:.1%}, expected at most {MOST_DIFFERENT:.0%}"
        )
    if others is not None and others > MOST_OTHERS:
        faults.append(f"other processes used {others:.0%} of this one's CPU time, expected at most {MOST_OTHERS:.0%}")
    setting = Setting(
        manifest.network["network"], bundle.sha256, manifest.classes, gmacs.static, backend, options.precision, threads,
        clips.source, clips.labels is not None,
        "thresholds as given"
        if options.chosen
        else "thresholds chosen on these clips, so that the exits' shares follow q",
        max(sample.round for sample in samples.all) + 1, options.batch, options.streams, options.command,
        describe(None if on_cpu else gpu_name()), versions(), datetime.now(UTC).strftime("%Y-%m-%d"), others,
        copies_differ, tuple(faults),
    )  # fmt: skip
    names = {OFFLINE: main.name, NEVER: NO_EXITS, STATIC_STREAM: STATIC}
    per_s = {names[run.name]: run.videos_per_s for run in streams if run.measured and run.name in names}
    return Report(
        setting,
        ratios,
        tuple(_figures(point, along, static, clips, manifest, samples, per_s) for point in _all_points(points, along)),
        tuple(Peer(p.name, p.precision, _latency(samples, p.name), _over(samples, main, p)) for p in peers),
        tuple(table),
        tuple(streams),
        (
            single_breakdown(samples, main.name, main.exits, costs, gmacs),
            stream_breakdown(
                stream.served[OFFLINE], stream.served[STATIC_STREAM], main.exits, costs, gmacs, options.batch,
                options.streams,
            ),
        ),
        MemoryUse(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            bytes_per_video(fused_segments(manifest, options.precision)),
            stream.slots * options.streams,
        ),
        clips.decode,
        scenarios,
        samples.all,
        stream.launches(),
    )  # fmt: skip


def _points(probabilities: NDArray[np.float32], options: Options) -> list[_Point]:
    """Return the operating points that have thresholds, the main one first."""
    found = []
    if options.chosen is not None:
        chosen = options.chosen
        answers = answers_of(Scores(probabilities), chosen.temperatures)
        exits = exits_of(answers.confidences, chosen.thresholds) + 1
        found.append(_Point("thresholds", chosen.q, chosen.thresholds, chosen.temperatures, exits))
    confidences = answers_of(Scores(probabilities)).confidences
    for q in dict.fromkeys(options.qs):
        thresholds = geometric_thresholds(confidences, q)
        found.append(_Point(f"q = {q:g}", q, thresholds, None, exits_of(confidences, thresholds) + 1))
    return found


def _all_points(points: Sequence[_Point], probabilities: NDArray[np.float32]) -> list[_Point]:
    checkpoints, clips = probabilities.shape[:2]
    never = _Point(NO_EXITS, None, (*[1.0] * (checkpoints - 1), None), None, np.full(clips, checkpoints))
    return [*points, never, _Point(STATIC, None, (), None, np.ones(clips, np.int64))]


def _figures(
    point: _Point, along: NDArray[np.float32], static: NDArray[np.float32], clips: Clips, manifest: Manifest,
    samples: Samples, per_s: dict[str, float],
) -> OperatingPoint:  # fmt: skip
    """Return the figures of an operating point; ``along`` and ``static`` are [checkpoints, clips, classes]."""
    costs, whole = manifest.costs, point.name == STATIC
    route = manifest.route.full if whole else manifest.route
    checkpoints = len(route.cells)
    answers = (static if whole else along)[point.exits - 1, np.arange(len(point.exits))].argmax(axis=1)
    wanted = static[0].argmax(axis=1)
    gmacs, paper = (
        float(np.array([cost(route, k) for k in range(1, checkpoints + 1)])[point.exits - 1].mean()) / 1e9
        for cost in (costs.checkpoint, costs.paper_checkpoint)
    )
    return OperatingPoint(
        point.name, point.q, point.thresholds,
        tuple((np.bincount(point.exits, minlength=checkpoints + 1)[1:] / len(point.exits)).tolist()),
        gmacs, paper, gmacs * 1e9 / costs.checkpoint(manifest.route.full, 1),
        None if clips.labels is None else _share(answers == clips.labels),
        _share(answers == wanted),
        _latency(samples, point.name),
        tuple(samples.latency(point.name, left) for left in range(1, checkpoints + 1)),
        per_s.get(point.name),
    )  # fmt: skip


def _latency(samples: Samples, name: str) -> Latency:
    found = samples.latency(name)
    assert found is not None  # every contestant ran every clip
    return found


def _over(samples: Samples, point: _Point, peer: PeerRun) -> Estimate:
    """Return an operating point's time over a peer's, clip by clip."""
    return samples.relative(point.name, peer.name).estimate()


def _share(hits: NDArray[np.bool_]) -> Estimate:
    low, high = of_share(int(hits.sum()), len(hits))
    return Estimate(float(hits.mean()), low, high)


def _ask_referee(
    bundle: Bundle, backend: str, engines: Path, clips: Clips, along: NDArray[np.float32], main: _Point, clip_s: float,
    options: Options,
) -> tuple[Scenario, ...]:  # fmt: skip
    given = options.referee
    if given is None:
        return ()
    LOG.info("MLPerf LoadGen: SingleStream, Offline, Server")
    folder, manifest = given.folder.resolve(), bundle.manifest
    checkpoints = range(1, len(manifest.route.cells) + 1)
    order = LoadGenOrder(
        bundle=str(bundle.root.resolve()),
        engines=str(engines.resolve()),
        backend=backend,
        precision=options.precision,
        threads=options.threads,
        batch=options.batch,
        thresholds=main.thresholds,
        temperatures=main.temperatures,
        clips=str(folder / "clips.npy"),
        expected=str(folder / "expected.npy"),
        gmacs=tuple(manifest.costs.checkpoint(manifest.route, k) / 1e9 for k in checkpoints),
        clip_s=clip_s,
        logs=str(folder),
        offline_s=given.seconds,
        server_s=given.seconds,
        streams=options.streams,
    )
    return judged(order, clips, manifest, along, main.exits)


def _open_peers(
    bundle: Bundle,
    clips: Clips,
    loads: Loads,
    probabilities: NDArray[np.float32],
    threads: int,
    options: Options,
) -> list[PeerRun]:
    path = options.training_checkpoint
    return [
        open_peer(name, bundle, clips, loads, probabilities, path, threads, options.precision)
        for name in dict.fromkeys(options.peers)
    ]
