"""What classifies files for ``dynvid classify``: streams of a bundle's fused segments, or of its cells where none were built."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..grid.bundle import Bundle
from ..grid.engine_wanted import build_command, engines_folder
from ..grid.errors import DynvidError, InputRefusedError, UsageError
from ..grid.fusion import fused_segments
from ..grid.manifest import Manifest, Precision
from ..grid.thresholds import Thresholds
from .backends.base import ON_CPU, Backend, open_backend
from .batch_executor import BatchExecutor
from .call_times import Cost
from .classify import record, unanswered
from .engines import open_engines
from .intake import Intake
from .replicas import Replicas
from .slots import slots_for, slots_within
from .state_store import bytes_per_video
from .stream import Stream

ENGINES_ONLY = ("tensorrt", "tensorrt-rtx")
"""Backends that cannot run the bundle's own graphs."""

Records = Generator[dict[str, Any], None, None]


@dataclass(frozen=True)
class Limits:
    """What streams may use.

    Attributes:
        batch: most videos in one call; None: the most that the engines are at their best for, and one for cells.
        in_flight_mb: of memory for videos in flight, in 10^6 bytes, of all streams; None: as much as keeps batches full.
        decoders: threads of a stream that read frames; None: 1.
        streams: that share the videos; None: 1.
    """

    batch: int | None = None
    in_flight_mb: float | None = None
    decoders: int | None = None
    streams: int | None = None


@dataclass(frozen=True)
class Classifier:
    """Ready to classify.

    Attributes:
        records: yields one record a video, see ``classify.record``, as soon as there is one; so they come in another order than
            the videos. A video that cannot be read has a record that says why.
        runs: what computes, in words.
        fused: whether that are fused segments, whose results differ from the cells' in the last bits.
    """

    records: Callable[[Iterable[Path]], Records]
    runs: str
    fused: bool


@contextmanager
def open_classifier(
    bundle: Bundle,
    backend: str,
    precision: Precision = "fp32",
    thresholds: Thresholds | None = None,
    *,
    engines: Path | None = None,
    threads: int | None = None,
    trace: bool = False,
    limits: Limits = Limits(),
) -> Iterator[Classifier]:
    """Open streams of the bundle's fused segments, or of its cells where no fused segment was ever built.

    What was built and does not fit is an error, never passed over.

    Args:
        bundle: the bundle.
        backend: the name of what computes.
        precision: of the graphs.
        thresholds: None: every video runs to the end.
        engines: the folder of the engines; None: ``BUNDLE.engines``.
        threads: of the CPU; None: one a core.
        trace: run every video to the end; records have ``logits``, and else say what they would without.
        limits: of the streams.

    Raises:
        UsageError: If an argument has nothing to act on, or one is too low.
        IntegrityError: If engines are missing, stale or damaged; with the command that builds them.
        EnvironmentFaultError: If the backend cannot run here.
    """
    bundle.require(precision)
    chosen = (thresholds.thresholds, thresholds.temperatures) if thresholds else (None, None)
    # streams share a CPU's backend; a GPU belongs to the thread that opened it, so each stream opens its own
    shared = open_backend(backend, threads) if backend in ON_CPU else None

    def executor() -> BatchExecutor:
        held = open_backend(backend, threads) if shared is None else shared
        return open_executor(bundle, held, precision, engines, limits)

    measure = BatchExecutor.measured_cost if shared is None else cost_by_macs
    count = limits.streams or 1
    with Replicas(
        lambda: Stream(executor, *chosen, decoders=limits.decoders or 1, measure=measure, trace=trace), count
    ) as streams:
        held = streams.streams[0].executor
        folder = engines_folder(bundle.root) if engines is None else engines
        most = f"up to {held.buckets[0][-1]} a call, {count * held.store.slots.count} in flight"
        runs = f"fused segments of {str(folder)!r}, {most}"
        if not held.is_fused:
            runs = f"the cells of {str(bundle.root)!r}, {most}"
            if held.backend.engine_host is not None:
                runs += f"; '{build_command(bundle.root, folder, held.backend.engine_host.flavour, precision)}' makes it faster"
        yield Classifier(lambda videos: _streamed(streams, bundle.manifest, videos, trace), runs, held.is_fused)


def open_executor(
    bundle: Bundle,
    backend: Backend,
    precision: Precision = "fp32",
    engines: Path | None = None,
    limits: Limits = Limits(),
) -> BatchExecutor:
    """Return the executor of a bundle, as large as ``limits`` and the engines allow: the one way to run it.

    It runs fused segments where one was ever built for this backend and precision, or ``engines`` is given, else cells.

    Args:
        bundle: the bundle.
        backend: what computes.
        precision: of the graphs.
        engines: the folder of the engines; None: ``BUNDLE.engines``.
        limits: of one of so many streams.

    Raises:
        UsageError: If the memory allowed holds no video, or the backend runs no engines, or cells for one video a call only.
        IntegrityError: If an engine is missing, stale or damaged; with the command that builds it.
        BackendError, ResourceError: As ``BatchExecutor``.
    """
    segments, found = fused_segments(bundle.manifest, precision), None
    if backend.engine_host is not None or engines is not None:
        found = open_engines(bundle, backend, engines, precision)
        if backend.name not in ENGINES_ONLY and engines is None and not found.begun(segments):
            found = None
    batch = limits.batch or (1 if found is None else found.best_batch(segments[0]))
    if found is None and batch > 1 and backend.name not in ON_CPU:
        raise UsageError(f"--batch {batch}: backend {backend.name!r} runs cells for one video a call, leave it out")
    # with fewer, batches may stay short; with more, they get no fuller, but for the videos whose frames are being decoded
    slots = slots_for(len(segments), batch, limits.decoders or 1)
    if limits.in_flight_mb is not None:
        slots = min(slots, slots_within(limits.in_flight_mb, bytes_per_video(segments) * (limits.streams or 1)))
    batch = min(batch, slots)
    buckets = [batch_sizes(batch, padded=backend.name not in ON_CPU)] * len(segments)
    load = None if found is None else replace(found, batch=batch).plan
    return BatchExecutor(bundle, backend, precision, load, slots, buckets)


def batch_sizes(batch: int, padded: bool) -> Sequence[int]:
    """Return the numbers of rows that calls have: every one, or on a GPU, which prepares each, powers of two and the last."""
    if not padded:
        return range(1, batch + 1)
    return [*(1 << power for power in range((batch - 1).bit_length())), batch]


def cost_by_macs(executor: BatchExecutor) -> Cost:
    """Return t_k(n) in proportion to multiply-adds, from calls of segment 1 with one video: enough where time is work.

    So a few videos of a big network are not kept waiting for the measurement of every segment.
    """
    costs, route = executor.bundle.manifest.costs, executor.route
    spent = [0, *(costs.checkpoint(route, k) for k in range(1, len(route.cells) + 1))]
    macs = [after - before for before, after in pairwise(spent)]
    seconds = executor.time_call(1, 1) / macs[0]
    return lambda k, rows: seconds * macs[k - 1] * rows


def _streamed(streams: Intake, manifest: Manifest, videos: Iterable[Path], trace: bool) -> Records:
    with closing(streams.classify(videos)) as answers:
        for path, answer in answers:
            if isinstance(answer, InputRefusedError):
                yield unanswered(path, str(answer))
            elif isinstance(answer, DynvidError):
                raise answer
            else:
                yield record(path, answer, manifest, trace)
