"""``dynvid bench``: latency against average FLOPs."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from ..grid.errors import UsageError
from ..terminal import print_sections, steps
from . import PATH

if TYPE_CHECKING:
    from ..benchmarks.contestants import Loads
    from ..grid.bundle import Bundle
    from ..grid.fusion import FusedSegment
    from ..grid.manifest import Precision, Subgraph
    from ..runtime.backends.base import Backend


@click.command()
@click.argument("bundle", type=PATH)
@click.argument("training_checkpoint", type=PATH, required=False)
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the report.")
@click.option("--data", type=PATH, help="LIST of videos to classify; clips of noise by default.")
@click.option("--clips", type=click.IntRange(1), default=48, show_default=True, help="How many, all in memory.")
@click.option("--thresholds", type=PATH, help="T.json: the main operating point; else the first --q is.")
@click.option("--q", "qs", type=click.FloatRange(0, min_open=True), multiple=True, default=(1.2, 0.7, 1.0, 1.5, 2.0),
              show_default=True, help="Ratio of the exits' shares; may be repeated.")  # fmt: skip
@click.option("--batch", type=click.IntRange(1, 256), default=4, show_default=True, help="Most videos of one call.")
@click.option("--streams", type=click.IntRange(1, 64), default=1, show_default=True,
              help="Streams that share many videos at once; on a CPU, try one a core with --threads 1.")  # fmt: skip
@click.option("--backend", default="onnxruntime", show_default=True, help="What computes.")
@click.option("--engines", type=PATH, help="Folder of the engines; BUNDLE.engines by default.")
@click.option("--precision", type=click.Choice(["fp32", "fp16", "int8"]), default="fp32", show_default=True)
@click.option(
    "--threads", type=int, help="CPU threads to compute with, onnxruntime's in all streams; one a core by default."
)
@click.option("--rounds", type=click.IntRange(1), help="Passes over the clips; as many as fit by default.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=60.0, show_default=True,
              help="For single videos, and for the table t_k(n); at least one pass is made.")  # fmt: skip
@click.option("--stream-seconds", type=click.FloatRange(0, min_open=True), default=20.0, show_default=True,
              help="For each run of many videos at once.")  # fmt: skip
@click.option(
    "--load-videos",
    type=click.IntRange(1),
    help="Videos of each run under load; by default as many as --stream-seconds take.",
)
@click.option("--peer", "peers", type=click.Choice(["openvino", "torch", "torch-compile"]), multiple=True,
              help="Measure the static network there, too; may be repeated; torch needs TRAINING_CHECKPOINT.")  # fmt: skip
@click.option("--referee/--no-referee", default=False, show_default=True, help="Let MLPerf LoadGen judge, too.")
@click.option("--referee-seconds", type=click.FloatRange(0, min_open=True), default=60.0, show_default=True,
              help="That LoadGen measures Offline and Server at least.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench(
    bundle: Path, training_checkpoint: Path | None, output: Path, data: Path | None, clips: int, thresholds: Path | None,
    qs: tuple[float, ...], batch: int, streams: int, backend: str, engines: Path | None, precision: str,
    threads: int | None, rounds: int | None, seconds: float, stream_seconds: float, load_videos: int | None,
    peers: tuple[str, ...], referee: bool, referee_seconds: float, as_json: bool,
) -> None:  # fmt: skip
    """Measure latency against average FLOPs of BUNDLE: table, JSON, CSV, a page with plots, and a trace."""
    from ..benchmarks.bench import Options
    from ..benchmarks.bench import bench as run_bench
    from ..benchmarks.clips import random_clips, read_clips
    from ..benchmarks.refereed import Referee
    from ..benchmarks.report_console import describe
    from ..benchmarks.report_files import LOGS, require_report_folder, write_report
    from ..benchmarks.report_svg import require_plots
    from ..grid.bundle import Bundle
    from ..grid.thresholds import read_thresholds

    if backend == "null":
        raise UsageError("backend 'null' computes nothing, so there is nothing to measure: expected onnxruntime")
    if precision == "int8" and peers:
        raise UsageError(f"--peer {peers[0]} with --precision int8: peers run the fp32 network, leave --peer out")
    opened, graphs = Bundle.open(bundle), cast("Precision", precision)
    opened.require(graphs)
    chosen = None
    if thresholds is not None:
        chosen = read_thresholds(thresholds, opened.sha256, len(opened.manifest.route_cells), graphs)
    require_plots()
    require_report_folder(output)
    options = Options(
        qs, chosen, graphs, threads, batch, streams, rounds, seconds, stream_seconds, load_videos, peers, training_checkpoint,
        Referee(output / LOGS, engines, referee_seconds, streams) if referee else None, shlex.join(["dynvid", *sys.argv[1:]]),
    )  # fmt: skip
    with steps() as step:
        measured_on = (
            random_clips(opened.manifest, clips) if data is None else read_clips(data, opened.manifest, clips, step)
        )

        def loads(found: Backend) -> Loads:
            return _loads(opened, found, graphs, engines, batch, step)

        report = run_bench(opened, backend, loads, measured_on, options, step)
    write_report(report, output)
    if as_json:
        click.echo(json.dumps(report.to_json()))
    else:
        print_sections(describe(report))
        click.echo(f"wrote {output}")


def _loads(
    bundle: Bundle, backend: Backend, precision: Precision, folder: Path | None, batch: int, step: Callable[[str], None]
) -> Loads:
    """Return where a benchmark's graphs come from: engines, made first where that takes no GPU, and fused here for the rest."""
    import importlib.util

    from ..benchmarks.contestants import Loads
    from ..grid.engines import engines_folder
    from ..runtime.backends.base import ON_CPU
    from ..runtime.engines import open_engines

    engines = open_engines(bundle, backend, folder, precision, batch)
    plan, flavour, on_cpu = engines.plan, engines.host.flavour, backend.name in ON_CPU
    if importlib.util.find_spec("onnx") is None:
        return Loads(None if on_cpu else plan, plan, None, None)
    from ..exporter.build_engines import build_engines as run_build
    from ..exporter.engine_maker import for_openvino, preparation
    from ..exporter.fuse import fuse
    from ..exporter.fuse_proof import prove_segments

    def graph(segment: FusedSegment) -> bytes:
        return fuse(bundle, segment, precision)

    if not on_cpu:
        return Loads(plan, plan, None, graph)
    cache, prepare = engines_folder(bundle.root) if folder is None else folder, preparation(flavour)
    rows = run_build(
        bundle,
        cache,
        flavour,
        precision,
        prove=lambda: prove_segments(bundle, precision, step, prepare),
        report=step,
    )
    for row in rows:
        if row.error is not None:
            raise row.error

    def cell(subgraph: Subgraph | FusedSegment) -> bytes:
        return for_openvino(bundle.read(cast("Subgraph", subgraph).variant(precision)))

    return Loads(cell if precision == "int8" else None, plan, lambda segment: prepare(graph(segment)), graph)
