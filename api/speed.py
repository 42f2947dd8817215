"""How fast a bundle is: its segments, and it beside others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..grid.errors import UsageError
from ..grid.packages import packages
from ..grid.storage.files import StrPath

if TYPE_CHECKING:
    from ..benchmarks.measure.contestants import Loads
    from ..benchmarks.report.report import Report
    from ..benchmarks.segment_times import Timing
    from ..grid.bundle import Bundle
    from ..grid.manifest import Precision

LOG = logging.getLogger("dynvid")


def time(
    bundle: StrPath,
    *,
    backend: str = "auto",
    engines: StrPath | None = None,
    precision: Precision = "fp32",
    threads: int | None = None,
    rounds: int = 100,
) -> Timing:
    """Return the milliseconds of each segment of the route, and of the static network, for one video on this machine.

    They are medians, interleaved, after a warm-up. Everything runs as ``classify`` runs it: from engines if any were
    built, else from cells.

    Args:
        bundle: the folder.
        backend: the backend; auto as in ``load``.
        engines: folder of the engines; None: ``BUNDLE.engines``.
        precision: precision to compute in.
        threads: CPU threads to compute with; None: one per core.
        rounds: number of measured runs, at least 5.

    Returns:
        The times; ``write`` saves them for ``calibrate`` and ``dynvid simulate``.

    Raises:
        UsageError: If there are too few rounds.
        IntegrityError, BackendError: As ``load``.
    """
    from ..benchmarks.measure.timing import measure
    from ..grid.bundle import Bundle

    opened, folder = Bundle.open(Path(bundle)), None if engines is None else Path(engines)
    LOG.info("measuring the segments")
    return measure(opened, backend, threads, rounds, precision=precision, engines=folder)


def bench(
    bundle: StrPath,
    output: StrPath,
    training_checkpoint: StrPath | None = None,
    *,
    data: StrPath | None = None,
    clips: int = 48,
    thresholds: StrPath | None = None,
    qs: Sequence[float] = (1.2, 0.7, 1.0, 1.5, 2.0),
    batch: int = 4,
    streams: int = 1,
    backend: str = "auto",
    engines: StrPath | None = None,
    precision: Precision = "fp32",
    threads: int | None = None,
    rounds: int | None = None,
    seconds: float = 60.0,
    stream_seconds: float = 20.0,
    load_videos: int | None = None,
    peers: Sequence[str] = (),
    referee: bool = False,
    referee_seconds: float = 60.0,
    command: str = "dynvid.bench",
) -> Report:
    """Measure latency against average FLOPs, beside the static network, and write the report.

    Args:
        bundle: the folder.
        output: folder of the report: table, JSON, CSV, a page with plots, and a trace.
        training_checkpoint: for the peers torch, torch-compile and nncf.
        data: LIST of videos; None: clips of noise.
        clips: number of clips, all in memory.
        thresholds: T.json for the main operating point; None: the first of ``qs``.
        qs: ratios of the exits' shares, one operating point each.
        batch: most videos in one call.
        streams: number of streams that share many videos.
        backend: the backend; auto as in ``load``.
        engines: folder of the engines; None: ``BUNDLE.engines``; on a CPU they are built first.
        precision: precision to compute in.
        threads: CPU threads to compute with; None: one per core.
        rounds: passes over the clips; None: as many as fit in ``seconds``.
        seconds: time for single videos, and for the table t_k(n).
        stream_seconds: time for each run of many videos at once.
        load_videos: number of videos in each run under load; None: as many as fit in ``stream_seconds``.
        peers: openvino, openvino-bf16, torch, torch-compile: also measure the static network there; nncf: the
            static network without shift, quantised by NNCF.
        referee: also let MLPerf LoadGen measure.
        referee_seconds: least time that it measures Offline and Server.
        command: the command line, for the report.

    Raises:
        UsageError: If the arguments do not go together.
        DynvidError: As bundle, engines, backend and videos.
    """
    from ..benchmarks.bench import Options
    from ..benchmarks.bench import bench as run_bench
    from ..benchmarks.measure.clips import random_clips, read_clips
    from ..benchmarks.mlperf.subject import Referee
    from ..grid.bundle import Bundle
    from ..grid.engines.cache import engines_folder
    from ..grid.thresholds import read_thresholds
    from ..runtime.execution.engine_lookup import fitting_backend

    with packages("bench"):
        from ..benchmarks.report.files import LOGS, require_report_folder, write_report
    if backend == "null":
        raise UsageError("backend 'null' computes nothing, so there is nothing to measure: expected onnxruntime")
    opened, folder = Bundle.open(Path(bundle)), engines_folder(Path(bundle)) if engines is None else Path(engines)
    manifest, into = opened.manifest, Path(output)
    opened.require_exits("bench", "'dynvid time' measures it")
    opened.require(precision)
    chosen = None
    if thresholds is not None:
        chosen = read_thresholds(Path(thresholds), opened.sha256, len(manifest.route_cells), precision)
    require_report_folder(into)
    options = Options(
        tuple(qs), chosen, precision, threads, batch, streams, rounds, seconds, stream_seconds, load_videos,
        tuple(peers), None if training_checkpoint is None else Path(training_checkpoint),
        Referee(into / LOGS, referee_seconds) if referee else None, command,
    )  # fmt: skip
    measured_on = random_clips(manifest, clips) if data is None else read_clips(Path(data), manifest, clips)
    name = fitting_backend(opened, precision, folder) if backend == "auto" else backend
    loads = partial(_loads, opened, name, precision, folder)
    found = run_bench(opened, name, folder, loads, measured_on, options)
    write_report(found, into)
    return found


def _loads(bundle: Bundle, backend: str, precision: Precision, folder: Path) -> Loads:
    """Build the engines if that takes no GPU; return the sources of graphs that are not engines.

    Raises:
        DynvidError: If an engine cannot be built.
    """
    import importlib.util

    from ..benchmarks.measure.contestants import Loads
    from ..runtime.backends.registry import ON_CPU

    if importlib.util.find_spec("onnx") is None:
        return Loads()
    from ..exporter.engines.build import build_engines as run_build
    from ..exporter.engines.makers import preparation
    from ..exporter.graphs.fuse import fuse
    from ..exporter.graphs.rewrites import rewrite
    from ..exporter.graphs.uint8_activations import uint8_activations
    from ..exporter.proof.segment_equivalence import prove_segments

    plain, graph = (partial(fuse, bundle, precision=name) for name in ("fp32", precision))
    if backend not in ON_CPU:
        return Loads(graph=plain, unshifted=_unshifted(bundle))
    prepare = preparation(backend)
    rows = run_build(
        bundle,
        folder,
        backend,
        precision,
        prove=prove_segments,
    )
    for row in rows:
        if row.error is not None:
            raise row.error

    return Loads(
        lambda subgraph: rewrite(bundle.read(subgraph.variant(precision)), (uint8_activations,)),
        lambda segment: prepare(graph(segment)),
        plain,
        _unshifted(bundle),
    )


def _unshifted(bundle: Bundle) -> Callable[[Path], bytes]:
    """Return what exports a bundle's static network without shift, from its training checkpoint."""

    def export_it(training_checkpoint: Path) -> bytes:
        from ..exporter.split.unshifted import unshifted
        from ..models.bundled_network import network_of

        return unshifted(network_of(bundle.manifest, training_checkpoint))

    return export_it
