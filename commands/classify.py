"""``dynvid classify``: classify videos along the route."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..commands import (
    PATH,
    Command,
    FiniteRange,
    backend_option,
    batch_option,
    engines_option,
    precision_option,
    rare,
    require_videos,
)
from ..grid.errors import UsageError
from ..grid.manifest import Precision
from ..grid.packages import packages
from .output import print_record, require_apart, require_own, say, steps

if TYPE_CHECKING:
    from ..runtime.results.summary import Summary


@click.command(cls=Command)
@click.argument("bundle", type=PATH)
@click.argument("videos", metavar="[VIDEO]...", nargs=-1)
@click.option(
    "--data", metavar="LIST", help="CSV, TSV, parquet, JSON Lines, text file of paths, folder or glob pattern."
)
@click.option("-o", "--output", type=PATH,
              help="JSON Lines file, or .parquet, one row per video; the same command resumes it.")  # fmt: skip
@rare("--video-column", metavar="NAME", default="video", show_default=True, help="Column of the videos in the LIST.")
@rare("--label-column", metavar="NAME", help="Column of the labels.  [default: label, if there is one]")
@rare("--id-column", metavar="NAME", help="Column of an id per video, which results then carry.  [default: none]")
@rare("--shard", metavar="I/N", help="Only every N-th video by path, from the I-th; each shard needs its own -o.")
@rare("--max-failures", type=click.FloatRange(0, 1), default=0.05, show_default=True,
              help="Stop once more than 20 and a larger share of all videos failed; 1: never.")  # fmt: skip
@rare("--retry-failed", is_flag=True, help="With -o: retry videos that failed before.")
@click.option("--thresholds", type=PATH, help="T.json; without it, every video runs to the end.")
@backend_option
@engines_option
@batch_option
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
    default=60.0,
    show_default=True,
    help="CPU seconds that decoding a video may take in all.",
)
@rare("--ray", metavar="[ADDRESS]", is_flag=False, flag_value="local",
      help="Classify on a Ray cluster, -o is a folder; auto: this machine's cluster; no address: one is started here.")  # fmt: skip
@rare("--actors", type=click.IntRange(1), help="With --ray: actors.  [default: one per CPU, or as the GPUs allow]")
@rare("--gpus-per-actor", metavar="F", type=FiniteRange(0), default=0.0, show_default=True,
      help="With --ray: share of a GPU that each actor takes.")  # fmt: skip
@precision_option
@click.option("--threads", type=int, help="CPU threads to compute with.  [default: one per core]")
@click.option("--report", type=PATH, help="Page (.html) to write: exits, accuracy, costs, drift, failures.")
@click.option("--trace", is_flag=True, help="Run to the end and print the logits of every checkpoint.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per video.")
def classify(
    bundle: Path, videos: tuple[str, ...], data: str | None, output: Path | None, video_column: str,
    label_column: str | None, id_column: str | None, shard: str | None,
    max_failures: float, retry_failed: bool, thresholds: Path | None, backend: str, engines: str | None,
    precision: Precision, batch: int | None, max_in_flight: float | None, decoders: int, streams: int, decode_timeout: float,
    ray: str | None, actors: int | None, gpus_per_actor: float, threads: int | None, report: Path | None, trace: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Classify videos (files, URIs, or .npy arrays of frames), each until a checkpoint is confident.

    Prints a line for each video as it finishes.
    """
    from ..api import classify_on_ray
    from ..api import report as make_report
    from ..runtime.open_model import open_model
    from ..runtime.results.formats import lines_of
    from ..runtime.results.records import parse_shard
    from ..runtime.results.run import sidecar_of
    from ..runtime.video.listing import Columns, ListedVideo, VideoList, open_list
    from ..runtime.video.remote import is_uri

    if ray is not None and ray not in ("auto", "local") and (":" not in ray or (is_uri(ray) and ray[:6] != "ray://")):
        raise UsageError(
            f"--ray took {ray!r} as its address: expected auto, local or HOST:PORT. To start a cluster here, write --ray local"
        )
    if not videos and data is None:
        raise UsageError("classify reads nothing: give VIDEO or --data LIST")
    if videos and data is not None:
        raise UsageError("classify takes VIDEO or --data LIST, not both: leave one out")
    require_videos(videos)
    if retry_failed and output is None:
        raise UsageError("--retry-failed needs -o OUT.jsonl, which holds the earlier failures")
    if report is not None:
        require_own("--report", report, "a page", b"<!doctype html>")
        with packages("pages"):  # before the work, not after
            from ..pages.run.page import require_page
        require_page(report, "--report")
        if output is not None:
            lines = lines_of(output)
            require_apart("--report", report, "-o", output, lines, sidecar_of(lines))
    if ray is None and (actors is not None or gpus_per_actor):
        raise UsageError("--actors and --gpus-per-actor are for a cluster: add --ray")
    if ray is not None and (output is None or shard is not None or retry_failed or as_json or report):
        raise UsageError(
            "--ray writes to a folder: give -o OUT, without --shard, --json and --report. To retry failed videos, merge the "
            "folder, then use --retry-failed with -o on the merged file, without --ray; 'dynvid report' reads that file"
        )
    part = (1, 1) if shard is None else parse_shard(shard)
    columns = Columns(video_column, label_column, id_column)
    if data is None and columns != Columns():
        raise UsageError("--video-column, --label-column and --id-column name columns of a LIST: give --data LIST")
    if data is None:
        listed = VideoList.of(map(ListedVideo.of, videos), once=output is not None)
    else:
        listed = open_list(data, columns)
    header, records = not as_json, list[dict[str, Any]]()
    shown = output is not None or (sys.stderr.isatty() if not as_json else not sys.stdout.isatty())
    options: dict[str, Any] = {
        "thresholds": thresholds, "backend": backend, "precision": precision, "engines": engines, "batch": batch,
        "streams": streams, "decoders": decoders, "decode_timeout_s": decode_timeout, "max_in_flight_mb": max_in_flight,
    }  # fmt: skip
    if ray is not None:
        assert output is not None
        with steps():
            summary = classify_on_ray(
                bundle, listed, output, address=ray, actors=actors, gpus_per_actor=gpus_per_actor,
                max_failures=max_failures, trace=trace, **options, threads=threads or 1,
            )  # fmt: skip
        _end(summary, output)
        return
    with (
        open_model(bundle, **options, threads=threads) as model,
        steps() if shown else nullcontext(),
    ):
        if thresholds is None and not model.bundle.manifest.static:
            print("no --thresholds: every video runs to the end of its route", file=sys.stderr)  # above the bars
        print(model.runs, file=sys.stderr)

        def show(record: dict[str, Any]) -> None:
            nonlocal header
            if report is not None and output is None:
                records.append(record)
            if output is None and not as_json:
                header = print_record(record, header)
            elif output is None:
                say(json.dumps(record, allow_nan=False))

        summary = model.classify_list(
            listed,
            output,
            shard=part,
            max_failures=max_failures,
            retry_failed=retry_failed,
            trace=trace,
            on_record=show,
        )
    if report is not None:
        compared = summary.exits and model.thresholds is not None and model.thresholds.expected is not None
        make_report(records if output is None else output, report, bundle=bundle,
                    thresholds=thresholds if compared else None)  # fmt: skip
    _end(summary, output)


def _end(summary: Summary, output: Path | None) -> None:
    """Print the counts, and exit with 7 if some videos have no answer."""
    if summary.videos > 1 or output is not None:
        click.echo(str(summary), err=True)
    if said := summary.partial(output):
        click.echo(f"Error: {said}", err=True)
        sys.exit(7)
