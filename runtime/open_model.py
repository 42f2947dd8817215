"""Open a bundle: its engines if any were built, else its cells, on a suitable backend."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Literal

from ..grid.bundle import Bundle
from ..grid.engines.request import build_command, engines_folder
from ..grid.errors import UsageError
from ..grid.manifest import Precision
from ..grid.thresholds import Thresholds, read_thresholds
from .argument_checks import require_count, require_path, require_seconds
from .backends.registry import ON_CPU, open_backend
from .execution.capacity import Limits, cost_by_macs, open_executor
from .execution.engine_lookup import fitting_backend
from .execution.executor import Executor
from .model import Model
from .scheduling.policies import Mode
from .stream.pool import StreamPool
from .stream.stream import Stream
from .video.decoder import DECODE_TIMEOUT_S, Decoder

MOST_PENDING = 1024


def open_model(
    bundle: Bundle | str | os.PathLike[str],
    *,
    thresholds: Thresholds | str | os.PathLike[str] | None = None,
    backend: str = "auto",
    precision: Precision = "fp32",
    engines: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    gpu: int = 0,
    mode: Mode = "throughput",
    batch: int | None = None,
    streams: int = 1,
    decoders: int = 1,
    decode_timeout_s: float = DECODE_TIMEOUT_S,
    max_in_flight_mb: float | None = None,
    max_pending: int = MOST_PENDING,
) -> Model:
    """Open a bundle: its engines if any were built, else its cells. Everything that runs a bundle opens it here.

    Args:
        bundle: a bundle, or its folder.
        thresholds: a T.json or its contents; None: every video runs to the end of its route.
        backend: the backend; ``auto``: the one that engines were built for, TensorRT first if there is a GPU. Without
            engines, onnxruntime, or OpenVINO if only that is installed. In bf16, OpenVINO.
        precision: precision to compute in: fp32, fp16 or int8; on OpenVINO also bf16, and int8-bf16, which computes
            in bf16 what INT8 leaves out.
        engines: the folder of the engines; None: ``BUNDLE.engines``; ``"none"``: the cells, whatever was built.
        threads: CPU threads to compute with; None: one per core.
        gpu: index of the GPU, if the backend uses one.
        mode: mode of the scheduler: throughput, latency or deadline.
        batch: most videos in one call; None: the engines' best, one for cells.
        streams: number of streams that share the videos.
        decoders: threads per stream that read frames.
        decode_timeout_s: CPU seconds that a video may take in the decoder process: opening it, and all reads of it.
        max_in_flight_mb: memory for videos in flight, in 10^6 bytes; None: as much as keeps batches full.
        max_pending: how many videos ``submit`` lets wait.

    Raises:
        ManifestError, HashError: If the bundle is damaged.
        ThresholdsError, StaleThresholdsError: If the thresholds do not fit the bundle.
        UsageError: If an argument does not apply, is of another type or too low; thresholds do not apply to a static bundle.
        IntegrityError: If engines are missing, stale or damaged; the message has the command that builds them. Unusable
            engines are never silently skipped.
        EnvironmentFaultError: If the backend cannot run here.
    """
    counts = {"threads": threads, "batch": batch, "streams": streams, "decoders": decoders, "max_pending": max_pending}
    for what, count in counts.items():
        if count is not None or what not in ("threads", "batch"):
            require_count(what, count)
    if require_seconds("decode_timeout_s", decode_timeout_s) <= 0:
        raise UsageError(f"decode_timeout_s {decode_timeout_s:g}: expected more than 0")
    if not isinstance(backend, str):
        raise UsageError(f"backend {backend!r}: expected a name, such as 'auto'")
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(Path(require_path("bundle", bundle)))
    opened.require(precision)
    if thresholds is not None:
        opened.require_exits("thresholds", "leave --thresholds out")
    if thresholds is not None and not isinstance(thresholds, Thresholds):
        thresholds = read_thresholds(
            Path(require_path("thresholds", thresholds)), opened.sha256, len(opened.manifest.route_cells), precision
        )
    folder: Path | Literal["none"] | None = None
    if engines is not None:
        folder = "none" if engines == "none" else Path(engines)
    name = fitting_backend(opened, precision, folder) if backend == "auto" else backend
    if name == "null":
        raise UsageError("backend 'null' computes nothing, so it cannot classify: expected onnxruntime")
    limits = Limits(batch, max_in_flight_mb, decoders, streams)
    # streams share a CPU backend, but a GPU belongs to the thread that opened it, so each stream opens its own
    shared = open_backend(name, threads, precision=precision) if name in ON_CPU else name
    executor = partial(open_executor, opened, shared, precision, folder, limits, threads=threads, gpu=gpu)
    chosen = (thresholds.thresholds, thresholds.temperatures) if thresholds else (None, None)
    measure = cost_by_macs if name in ON_CPU else Executor.measured_cost
    open_decoder = partial(Decoder, timeout_s=decode_timeout_s)

    def make_stream() -> Stream:
        return Stream(executor, *chosen, mode=mode, decoders=decoders, measure=measure, open_decoder=open_decoder)

    replicas = StreamPool(make_stream, streams)
    return Model(opened, name, precision, thresholds, replicas, _runs(opened, replicas, precision, folder), max_pending)


def _runs(bundle: Bundle, streams: StreamPool, precision: Precision, engines: Path | Literal["none"] | None) -> str:
    executor = streams.streams[0].executor
    name, folder = executor.backend.name, engines_folder(bundle.root) if engines is None else engines
    most = f"up to {executor.buckets[0][-1]} a call, {len(streams.streams) * executor.store.slots.count} in flight"
    if executor.is_fused:
        return f"fused segments of {str(folder)!r} on {name}, {precision}, {most}"
    said = f"the cells of {str(bundle.root)!r} on {name}, {precision}, {most}"
    if executor.backend.engine_host is None or engines == "none":
        return said
    command = build_command(bundle.root, Path(folder), executor.backend.engine_host.flavour, precision)
    return f"{said}; '{command}' makes it faster"
