"""Size an executor by the limits of a stream and of its engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

from ...grid.bundle import Bundle
from ...grid.errors import UsageError
from ...grid.manifest import Precision
from ...grid.segments import fused_segments
from ..backends.base import Backend
from ..backends.registry import ON_CPU, open_backend
from ..scheduling.batch_cost import Cost
from ..scheduling.slots import slots_for, slots_within
from .composed import CELLS
from .engine_lookup import fitting_backend, open_engines
from .executor import Executor
from .state_store import bytes_per_video

ENGINES_ONLY = ("tensorrt", "tensorrt-rtx")
"""Backends that run only engines, not the bundle's own graphs."""


@dataclass(frozen=True)
class Limits:
    """Limits on the resources of streams.

    Attributes:
        batch: most videos in one call; None: the largest batch that the engines are optimised for, one for cells.
        in_flight_mb: memory for the videos in flight of all streams, in 10^6 bytes; None: as much as keeps batches
            full.
        decoders: threads per stream that read frames; None: 1.
        streams: number of streams that share the videos; None: 1.
    """

    batch: int | None = None
    in_flight_mb: float | None = None
    decoders: int | None = None
    streams: int | None = None


def open_executor(
    bundle: Bundle,
    backend: str | Backend = "auto",
    precision: Precision = "fp32",
    engines: Path | Literal["none"] | None = None,
    limits: Limits = Limits(),
    full: bool = False,
    threads: int | None = None,
    gpu: int = 0,
    kind: type[Executor] = Executor,
) -> Executor:
    """Return a bundle's executor, as large as ``limits`` and the engines allow. This is the only way to run a bundle.

    It runs fused segments if one was ever built for this backend and precision, or if ``engines`` is given; otherwise
    cells.

    Args:
        bundle: the bundle.
        backend: an open backend, a name, or ``auto`` for the result of ``fitting_backend``.
        precision: precision to compute in.
        engines: the folder of the engines; None: ``BUNDLE.engines``; ``none``: cells, whatever was built.
        limits: the limits; the executor is for one of ``limits.streams``.
        full: run the static network instead of the bundle's route.
        threads: threads of a backend that is opened here; None: one per core.
        gpu: GPU of a backend that is opened here.
        kind: class of the executor; a subclass may observe it.

    Raises:
        UsageError: If the backend is unknown, does not support ``precision``, runs no engines, or runs cells for only
            one video per call, or if not even one video fits in the allowed memory.
        IntegrityError: If an engine is missing, stale or damaged; the message has the command that builds it.
        BackendError, ResourceError: As ``Executor``.
        EnvironmentFaultError: If the backend cannot run here.
    """
    bundle.require(precision)
    if isinstance(backend, str):
        name = fitting_backend(bundle, precision, engines) if backend == "auto" else backend
        backend = open_backend(name, threads, gpu, precision=precision)
    segments, found = fused_segments(bundle.manifest, precision), None
    if engines == "none":
        if backend.name in ENGINES_ONLY:
            raise UsageError(f"--engines none: backend {backend.name!r} runs engines only, leave it out")
    elif backend.engine_host is not None or engines is not None:
        found = open_engines(bundle, backend, engines, precision)
        if backend.name not in ENGINES_ONLY and engines is None and not found.begun(segments):
            found = None
    route = bundle.manifest.route
    if full:
        route = route.full
        segments = fused_segments(bundle.manifest, precision, route)
    batch = limits.batch or (1 if found is None else found.best_batch(segments[0]))
    if found is None and batch > 1 and backend.name not in ON_CPU:
        raise UsageError(f"--batch {batch}: backend {backend.name!r} runs cells for one video per call, leave it out")
    # fewer slots may keep batches short; more would not fill them further, except for videos that are being decoded
    slots = slots_for(len(segments), batch, limits.decoders or 1)
    if limits.in_flight_mb is not None:
        slots = min(slots, slots_within(limits.in_flight_mb, bytes_per_video(segments) * (limits.streams or 1)))
    batch = min(batch, slots)
    buckets = [batch_sizes(batch, padded=backend.name not in ON_CPU)] * len(segments)
    programs = CELLS if found is None else replace(found, batch=batch).plan
    return kind(bundle, backend, precision, programs, slots, buckets, route)


def batch_sizes(batch: int, padded: bool) -> Sequence[int]:
    """Return the batch sizes of calls: every size, or powers of two and the last on a GPU, which prepares each size."""
    if not padded:
        return range(1, batch + 1)
    return [*(1 << power for power in range((batch - 1).bit_length())), batch]


def cost_by_macs(executor: Executor) -> Cost:
    """Return t_k(n) in proportion to multiply-adds, from timing segment 1 with one video: enough where time is work.

    Measuring every segment would keep a few videos of a large network waiting.
    """
    costs, route = executor.bundle.manifest.costs, executor.route
    spent = [0, *(costs.checkpoint(route, k) for k in range(1, len(route.cells) + 1))]
    macs = [after - before for before, after in pairwise(spent)]
    seconds = executor.time_call(1, 1) / macs[0]
    return lambda k, rows: seconds * macs[k - 1] * rows
