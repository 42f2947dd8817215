"""Measure how long each segment of a route takes, for ``dynvid time BUNDLE -o TIMES.json``.

Segments are timed as they run, video after video, and in the same rounds as the static run (the ``full`` route), so
that any disturbance of the machine affects all of them alike. Figures are medians after a warm-up. ``dynvid calibrate
--cost ms --cost-table`` reads the file.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ...grid.bundle import Bundle
from ...grid.errors import UsageError
from ...grid.manifest import Precision
from ...runtime.backends.base import Backend
from ...runtime.execution.capacity import Limits, open_executor
from ...runtime.session import ArraySource
from ..segment_times import FORMAT, SegmentTime, Timing
from .machine import cpu_seconds, describe, others_share, versions


def measure(
    bundle: Bundle,
    backend: str | Backend = "auto",
    threads: int | None = None,
    rounds: int = 100,
    warmup: int = 20,
    precision: Precision = "fp32",
    engines: Path | None = None,
) -> Timing:
    """Return the compute time of every segment of the bundle's route, one video at a time, run as ``classify`` runs it.

    Args:
        bundle: the bundle.
        backend: the backend, as in ``open_executor``.
        threads: number of threads that the backend is, or was, opened with; None: one per core.
        rounds: measured rounds; each runs the whole route and then the static run.
        warmup: unmeasured rounds before them.
        precision: precision to compute in.
        engines: folder of the engines; None: ``BUNDLE.engines``, and cells if none were built.

    Raises:
        UsageError: If there are too few rounds or warm-up rounds.
        IntegrityError, BackendError: As ``open_executor``.
    """
    if rounds < 5 or warmup < 1:
        raise UsageError(f"{rounds} rounds after {warmup} of warm-up: expected at least 5 rounds after 1 of warm-up")
    manifest = bundle.manifest
    along = open_executor(bundle, backend, precision, engines, Limits(batch=1), threads=threads)
    static = open_executor(bundle, along.backend, precision, engines, Limits(batch=1), full=True)
    shape = (manifest.grid.num_frames, 3, manifest.preprocessing.crop, manifest.preprocessing.crop)
    rng = np.random.default_rng(0)
    clips = [ArraySource(rng.normal(size=shape).astype(np.float32)) for _ in range(8)]
    times = np.zeros((rounds, len(manifest.route.cells) + 1))
    busy = cpu_seconds()
    for number in range(-warmup, rounds):
        row = [at.compute_ms for executor in (along, static) for at in executor.walk([clips[number % len(clips)]])]
        if number >= 0:
            times[number] = row
    others = others_share(busy, cpu_seconds())
    entries = []
    for index, column in enumerate(times.T, 1):
        p25, median, p75 = np.percentile(column, [25, 50, 75]).tolist()
        entries.append(SegmentTime(index if index <= len(manifest.route.cells) else 0, 1, median, p25, p75))
    return Timing(
        FORMAT, bundle.sha256, tuple(entries[:-1]), entries[-1], along.backend.name, precision,
        threads or len(os.sched_getaffinity(0)), rounds, warmup, describe(), versions(),
        datetime.now(UTC).strftime("%Y-%m-%d"), others, along.is_fused,
    )  # fmt: skip
