"""``dynvid classify``: videos along the checkpoint route."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from ..grid.errors import UsageError
from ..terminal import print_record, steps
from . import PATH

if TYPE_CHECKING:
    from ..grid.manifest import Precision


@click.command()
@click.argument("bundle", type=PATH)
@click.argument("videos", metavar="[VIDEO]...", type=PATH, nargs=-1)
@click.option("--data", type=PATH, help="LIST of videos (CSV with a column 'video').")
@click.option("-o", "--output", type=PATH, help="JSON Lines file, one line a video; the same command goes on with it.")
@click.option("--shard", metavar="I/N", help="Every N-th video by path, from the I-th: N shards, each with its own -o.")
@click.option("--max-failures", type=click.FloatRange(0, 1), default=0.05, show_default=True,
              help="Stop once a larger share of the videos failed, of 20 or more.")  # fmt: skip
@click.option("--retry-failed", is_flag=True, help="With -o: try the videos again that failed before.")
@click.option("--thresholds", type=PATH, help="T.json; without it every video runs to the end.")
@click.option("--backend", default="onnxruntime", show_default=True, help="What computes.")
@click.option("--engines", type=PATH, help="Folder of the engines, such as fused segments; BUNDLE.engines by default.")
@click.option(
    "--batch",
    type=click.IntRange(1, 4096),
    help="Most videos in one call; by default the engines' best, and 1 for cells.",
)
@click.option("--max-in-flight", metavar="MB", type=click.FloatRange(min=0, min_open=True),
              help="Memory for videos that have begun; as much as keeps batches full by default.")  # fmt: skip
@click.option("--decoders", type=click.IntRange(1, 64), help="Processes that decode, for each stream; 1 by default.")
@click.option(
    "--streams",
    type=click.IntRange(1, 64),
    help="Streams that share the videos; 1 by default. On a CPU try one a core with --threads 1.",
)
@click.option("--precision", type=click.Choice(["fp32", "fp16", "int8"]), default="fp32", show_default=True)
@click.option("--threads", type=int, help="CPU threads to compute with; one a core by default.")
@click.option("--trace", is_flag=True, help="Run to the end and print every checkpoint's logits.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a video.")
def classify(
    bundle: Path, videos: tuple[Path, ...], data: Path | None, output: Path | None, shard: str | None,
    max_failures: float, retry_failed: bool, thresholds: Path | None, backend: str, engines: Path | None, precision: str,
    batch: int | None, max_in_flight: float | None, decoders: int | None, streams: int | None, threads: int | None, trace: bool, as_json: bool,
) -> None:  # fmt: skip
    """Classify videos (files, or .npy arrays of frames), each until a checkpoint is confident."""
    from ..grid.bundle import Bundle
    from ..grid.thresholds import read_thresholds
    from ..runtime.classifier import Limits, open_classifier
    from ..runtime.classify import Failures, classify_rest, each_once, parse_shard, shard_of
    from ..runtime.results import Run, open_results, sha256_of_videos
    from ..runtime.video_list import read_list

    if backend == "null":
        raise UsageError("backend 'null' computes nothing, so it cannot classify: expected onnxruntime")
    if bool(videos) == (data is not None):
        raise UsageError("classify needs VIDEO arguments or --data LIST, and not both")
    if retry_failed and output is None:
        raise UsageError("--retry-failed needs -o OUT.jsonl, where videos failed before")
    part = (1, 1) if shard is None else parse_shard(shard)
    listed = list(videos) if data is None else [video.path for video in read_list(data)]
    if output is not None:
        listed = each_once(listed)
    paths = shard_of(listed, *part)
    opened, graphs = Bundle.open(bundle), cast("Precision", precision)
    chosen = None
    if thresholds is None:
        click.echo("no --thresholds: every video runs to the end of its route", err=True)
    else:
        chosen = read_thresholds(thresholds, opened.sha256, len(opened.manifest.route_cells), graphs)
    header, limits = not as_json, Limits(batch, max_in_flight, decoders, streams)
    with ExitStack() as stack:
        classifier = stack.enter_context(
            open_classifier(
                opened, backend, graphs, chosen, engines=engines, threads=threads, trace=trace, limits=limits
            )
        )
        click.echo(classifier.runs, err=True)
        results = None
        if output is not None:
            values, temperatures = (chosen.thresholds, chosen.temperatures) if chosen else (None, None)
            run = Run(
                opened.sha256, values, temperatures, graphs, backend, trace, len(listed),
                sha256_of_videos(map(str, listed)), part, classifier.fused,
            )  # fmt: skip
            results = stack.enter_context(open_results(output, run, map(str, paths), retry_failed=retry_failed))
            if results.done:
                click.echo(f"{output}: {len(results.done)} of {len(paths)} videos are done already", err=True)
        failures, step = Failures.of(results, max_failures), stack.enter_context(steps())
        for record in stack.enter_context(closing(classify_rest(classifier.records, paths, failures, results))):
            if results is not None:
                step(f"{results.on_disk}/{len(paths)} videos")
            elif as_json:
                click.echo(json.dumps(record, allow_nan=False))
                step(f"{failures.tried}/{len(paths)} videos")
            else:
                header = print_record(record, header)
    if said := failures.partial(len(paths), output):
        click.echo(f"Error: {said}", err=True)
        sys.exit(7)
