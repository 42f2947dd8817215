"""``dynvid classify``: classify videos along the route."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from ..commands import PATH, Command, precision_option, rare
from ..grid.errors import UsageError
from ..grid.manifest import Precision
from .output import print_record, steps


@click.command(cls=Command)
@click.argument("bundle", type=PATH)
@click.argument("videos", metavar="[VIDEO]...", type=PATH, nargs=-1)
@click.option("--data", type=PATH, help="LIST of videos (CSV with a column 'video').")
@click.option("-o", "--output", type=PATH, help="JSON Lines file, one line per video; the same command resumes it.")
@rare("--shard", metavar="I/N", help="Only every N-th video by path, from the I-th; each shard needs its own -o.")
@rare("--max-failures", type=click.FloatRange(0, 1), default=0.05, show_default=True,
              help="Stop once more than 20 and a larger share of all videos failed; 1: never.")  # fmt: skip
@rare("--retry-failed", is_flag=True, help="With -o: retry videos that failed before.")
@click.option("--thresholds", type=PATH, help="T.json; without it, every video runs to the end.")
@click.option("--backend", default="auto", show_default=True,
              help="Backend; auto: that of the engines, else onnxruntime or openvino on the cells.")  # fmt: skip
@rare("--engines", help="Folder of the engines, or none: run the cells.  [default: BUNDLE.engines]")
@click.option(
    "--batch",
    type=click.IntRange(1, 4096),
    help="Most videos in one call.  [default: the engines' best, or 1 for cells]",
)
@rare("--max-in-flight", metavar="MB", type=click.FloatRange(min=0, min_open=True),
              help="Memory for videos in flight.  [default: as much as keeps batches full]")  # fmt: skip
@rare(
    "--decoders",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Decoding processes per stream.",
)
@rare(
    "--streams",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Streams that share the videos; on a CPU, try one per core with --threads 1.",
)
@rare(
    "--decode-timeout",
    metavar="S",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    help="CPU seconds that opening a video, or one read of it, may take.",
)
@precision_option
@click.option("--threads", type=int, help="CPU threads to compute with.  [default: one per core]")
@click.option("--trace", is_flag=True, help="Run to the end and print the logits of every checkpoint.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per video.")
def classify(
    bundle: Path, videos: tuple[Path, ...], data: Path | None, output: Path | None, shard: str | None,
    max_failures: float, retry_failed: bool, thresholds: Path | None, backend: str, engines: str | None,
    precision: Precision, batch: int | None, max_in_flight: float | None, decoders: int, streams: int, decode_timeout: float,
    threads: int | None, trace: bool, as_json: bool,
) -> None:  # fmt: skip
    """Classify videos (files, or .npy arrays of frames), each until a checkpoint is confident.

    Prints a line for each video as it finishes.
    """
    from ..runtime.open_model import open_model
    from ..runtime.records import parse_shard
    from ..runtime.video.listing import read_list

    if bool(videos) == (data is not None):
        raise UsageError("classify needs either VIDEO arguments or --data LIST, not both")
    if retry_failed and output is None:
        raise UsageError("--retry-failed needs -o OUT.jsonl, which holds the earlier failures")
    part = (1, 1) if shard is None else parse_shard(shard)
    listed = list(videos) if data is None else read_list(data)
    if thresholds is None:
        click.echo("no --thresholds: every video runs to the end of its route", err=True)
    header = not as_json
    with (
        open_model(
            bundle,
            thresholds=thresholds,
            backend=backend,
            precision=precision,
            engines=engines,
            threads=threads,
            batch=batch,
            streams=streams,
            decoders=decoders,
            decode_timeout_s=decode_timeout,
            max_in_flight_mb=max_in_flight,
        ) as model,
        steps() if output is not None or as_json else nullcontext(),
    ):
        click.echo(model.runs, err=True)

        def show(record: dict[str, Any]) -> None:
            nonlocal header
            if output is None and not as_json:
                header = print_record(record, header)
            elif output is None:
                click.echo(json.dumps(record, allow_nan=False))

        summary = model.classify_list(
            listed,
            output,
            shard=part,
            max_failures=max_failures,
            retry_failed=retry_failed,
            trace=trace,
            on_record=show,
        )
    if summary.videos > 1 or output is not None:
        click.echo(str(summary), err=True)
    if said := summary.partial(output):
        click.echo(f"Error: {said}", err=True)
        sys.exit(7)
