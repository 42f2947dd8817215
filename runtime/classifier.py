"""What classifies files for ``dynvid classify``: a stream of fused segments, many videos at once, or a session, one by one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
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
from .backends.base import Backend, open_backend
from .batch_executor import BatchExecutor
from .call_times import Cost
from .classify import classify_files, record, unanswered
from .decoder import Decoder
from .engines import Engines, open_engines
from .intake import Intake
from .replicas import Replicas
from .session import Session
from .slots import slots_for, slots_within
from .state_store import bytes_per_video
from .stream import Stream

ENGINES_ONLY = ("tensorrt", "tensorrt-rtx")
"""Backends that cannot run the bundle's own graphs."""

Records = Generator[dict[str, Any], None, None]


@dataclass(frozen=True)
class Limits:
    """What a stream may use.

    Attributes:
        batch: most videos in one call; None: the most that the engines are at their best for.
        in_flight_mb: of memory for videos in flight, in 10^6 bytes, of all streams; None: as much as keeps batches full.
        decoders: threads of a stream that read frames; None: 1.
        streams: that share the videos; None: 1.
    """

    batch: int | None = None
    in_flight_mb: float | None = None
    decoders: int | None = None
    streams: int | None = None

    @property
    def given(self) -> str | None:
        """The first option that was given, by its name on the command line."""
        named = {
            "--batch": self.batch,
            "--max-in-flight": self.in_flight_mb,
            "--decoders": self.decoders,
            "--streams": self.streams,
        }
        return next((name for name, value in named.items() if value is not None), None)


@dataclass(frozen=True)
class Classifier:
    """Ready to classify.

    Attributes:
        records: yields one record a video as soon as there is one, see ``classify_files``; those of a stream have the
            fields of an ``Answer``.
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
    """Open a stream of the bundle's fused segments, or a session where there are none or every checkpoint is traced.

    onnxruntime runs the cells where no fused segment of the bundle was ever built; what was built and does not fit is an
    error, never passed over.

    Args:
        bundle: the bundle.
        backend: the name of what computes.
        precision: of the graphs.
        thresholds: None: every video runs to the end.
        engines: the folder of the engines; None: ``BUNDLE.engines``.
        threads: of the CPU; None: one a core.
        trace: run every video to the end; records have ``logits``.
        limits: of a stream.

    Raises:
        UsageError: If an argument has nothing to act on, or one is too low.
        IntegrityError: If engines are missing, stale or damaged; with the command that builds them.
        EnvironmentFaultError: If the backend cannot run here.
    """
    bundle.require(precision)
    chosen = (thresholds.thresholds, thresholds.temperatures) if thresholds else (None, None)
    fused, found, opened = backend in ENGINES_ONLY, None, None
    if trace or not fused:  # else it is opened in the stream's own thread: a GPU belongs to one
        opened = open_backend(backend, threads)
        if opened.engine_host is not None or engines is not None:
            found = open_engines(bundle, opened, engines, precision)
            segments = fused_segments(bundle.manifest, precision)
            fused = fused or engines is not None or found.begun(segments)
    folder = engines_folder(bundle.root) if engines is None else engines
    with ExitStack() as stack:
        if fused and not trace:

            def executor() -> BatchExecutor:
                held = open_backend(backend, threads) if opened is None else opened
                return open_executor(open_engines(bundle, held, engines, precision), held, limits)

            measure = BatchExecutor.measured_cost if opened is None else cost_by_macs
            count = limits.streams or 1
            streams = stack.enter_context(
                Replicas(lambda: Stream(executor, *chosen, decoders=limits.decoders or 1, measure=measure), count)
            )
            held = streams.streams[0].executor
            most = f"up to {held.buckets[0][-1]} videos a call, {count * held.store.slots.count} in flight"
            yield Classifier(
                lambda videos: _streamed(streams, bundle.manifest, videos),
                f"fused segments of {str(folder)!r}, {most}",
                True,
            )
            return
        command = build_command(bundle.root, folder, found.host.flavour if found else "onnxruntime", precision)
        if limits.given:
            fast = f"build the fused segments first: '{command}'" if found and not trace else "leave it out"
            what = "--trace" if trace else "the cells"
            raise UsageError(f"{limits.given} is for many videos at once, and {what} run one by one: {fast}")
        assert opened is not None
        stack.callback(opened.close)
        session = Session(
            bundle, opened, chosen[0], precision, temperatures=chosen[1], load=found.plan if found and fused else None
        )
        decoder = stack.enter_context(Decoder())
        runs = f"fused segments of {str(folder)!r}" if fused else f"the cells of {str(bundle.root)!r}"
        faster = f"; '{command}' makes it faster" if found and not fused else ""
        yield Classifier(
            lambda videos: classify_files(session, videos, decoder, trace), f"{runs}, one by one{faster}", fused
        )


def open_executor(engines: Engines, backend: Backend, limits: Limits) -> BatchExecutor:
    """Return the executor of a bundle's fused segments, as large as ``limits`` and the engines allow.

    Raises:
        UsageError: If the memory allowed holds no video.
        IntegrityError: If an engine is missing, stale or damaged; with the command that builds it.
        BackendError, ResourceError: As ``BatchExecutor``.
    """
    bundle, precision = engines.bundle, engines.precision
    segments = fused_segments(bundle.manifest, precision)
    batch = limits.batch or engines.best_batch(segments[0])
    # with fewer, batches may stay short; with more, they get no fuller, but for the videos whose frames are being decoded
    slots = slots_for(len(segments), batch, limits.decoders or 1)
    if limits.in_flight_mb is not None:
        slots = min(slots, slots_within(limits.in_flight_mb, bytes_per_video(segments) * (limits.streams or 1)))
    batch = min(batch, slots)
    buckets = [batch_sizes(batch, padded=engines.host.flavour != "onnxruntime")] * len(segments)
    return BatchExecutor(bundle, backend, precision, replace(engines, batch=batch).plan, slots, buckets)


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


def _streamed(streams: Intake, manifest: Manifest, videos: Iterable[Path]) -> Records:
    with closing(streams.classify(videos)) as answers:
        for path, answer in answers:
            if isinstance(answer, InputRefusedError):
                yield unanswered(path, str(answer))
            elif isinstance(answer, DynvidError):
                raise answer
            else:
                yield record(path, answer, manifest, trace=False)
