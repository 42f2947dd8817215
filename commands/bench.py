"""``dynvid bench``: latency against average FLOPs."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import click

from ..commands import PATH, Command, precision_option, rare
from ..grid.manifest import Precision
from .output import print_sections, steps


@click.command(cls=Command)
@click.argument("bundle", type=PATH)
@click.argument("training_checkpoint", type=PATH, required=False)
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the report.")
@click.option("--data", type=PATH, help="LIST of videos to classify.  [default: clips of noise]")
@rare("--clips", type=click.IntRange(1), default=48, show_default=True, help="Number of clips, all in memory.")
@click.option("--thresholds", type=PATH, help="T.json for the main operating point; otherwise the first --q is.")
@click.option("--q", "qs", type=click.FloatRange(0, min_open=True), multiple=True, default=(1.2, 0.7, 1.0, 1.5, 2.0),
              show_default=True, help="Ratio of one exit's share to the previous one's; may be repeated.")  # fmt: skip
@click.option("--batch", type=click.IntRange(1, 256), default=4, show_default=True, help="Most videos in one call.")
@rare("--streams", type=click.IntRange(1, 64), default=1, show_default=True,
              help="Streams that share many videos; on a CPU, try one per core with --threads 1.")  # fmt: skip
@click.option("--backend", default="auto", show_default=True, help="Backend; auto as in classify.")
@rare("--engines", type=PATH, help="Folder of the engines.  [default: BUNDLE.engines]")
@precision_option
@click.option(
    "--threads", type=int, help="CPU threads to compute with, in all streams for onnxruntime.  [default: one per core]"
)
@rare("--rounds", type=click.IntRange(1), help="Passes over the clips.  [default: as many as fit]")
@rare("--seconds", type=click.FloatRange(0, min_open=True), default=60.0, show_default=True,
              help="Time for single videos, and for the table t_k(n); at least one pass is made.")  # fmt: skip
@rare("--stream-seconds", type=click.FloatRange(0, min_open=True), default=20.0, show_default=True,
              help="Time for each run of many videos at once.")  # fmt: skip
@rare(
    "--load-videos",
    type=click.IntRange(1),
    help="Videos in each run under load.  [default: as many as fit in --stream-seconds]",
)
@click.option("--peer", "peers", type=click.Choice(["openvino", "openvino-bf16", "nncf", "torch", "torch-compile"]),
              multiple=True, help="Also measure the static network there; repeatable. nncf: without shift, quantised; it "
              "and torch need TRAINING_CHECKPOINT.")  # fmt: skip
@rare("--referee/--no-referee", default=False, show_default=True, help="Also let MLPerf LoadGen measure.")
@rare("--referee-seconds", type=click.FloatRange(0, min_open=True), default=60.0, show_default=True,
              help="Least time that LoadGen measures Offline and Server.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench(
    bundle: Path, training_checkpoint: Path | None, output: Path, data: Path | None, clips: int,
    thresholds: Path | None, qs: tuple[float, ...], batch: int, streams: int, backend: str, engines: Path | None,
    precision: Precision, threads: int | None, rounds: int | None, seconds: float, stream_seconds: float,
    load_videos: int | None, peers: tuple[str, ...], referee: bool, referee_seconds: float, as_json: bool,
) -> None:  # fmt: skip
    """Measure latency against average FLOPs of BUNDLE; write a table, JSON, CSV, a page with plots, and a trace."""
    from ..api import bench as run_bench
    from ..benchmarks.report.console import describe

    with steps():
        report = run_bench(
            bundle, output, training_checkpoint, data=data, clips=clips, thresholds=thresholds, qs=qs, batch=batch,
            streams=streams, backend=backend, engines=engines, precision=precision, threads=threads, rounds=rounds,
            seconds=seconds, stream_seconds=stream_seconds, load_videos=load_videos, peers=peers, referee=referee,
            referee_seconds=referee_seconds, command=shlex.join(["dynvid", *sys.argv[1:]]),
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(report.to_json()))
    else:
        print_sections(describe(report))
        click.echo(f"wrote {output}")
