"""The command line: every command parses, calls one function, and prints."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from .grid.errors import DynvidError, InputRefusedError, MissingPackageError, UsageError
from .terminal import print_engines, print_int8, print_proof, print_record, print_sections, steps, table

if TYPE_CHECKING:
    from .benchmarks.contestants import Loads
    from .calibration.scores import Scores
    from .grid.bundle import Bundle
    from .grid.fusion import FusedSegment
    from .grid.manifest import Precision, Subgraph
    from .models.network import VideoNetwork
    from .runtime.backends.base import Backend

PATH = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dynvid")
def cli() -> None:
    """Deploy dynamic-inference video networks: split, prove, and run along the checkpoint route."""


def main() -> None:
    """Run the command line; every expected error becomes one line and its exit code."""
    try:
        sys.exit(cli.main(prog_name="dynvid", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Error: interrupted", err=True)
        sys.exit(130)
    except DynvidError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except MemoryError:
        click.echo("Error: out of memory: close other programs, or use a machine with more", err=True)
        sys.exit(6)
    except OSError as error:
        where = f" {str(error.filename)!r}" if error.filename else ""
        click.echo(f"Error: {error.strerror or error}{where}: free some space, or give another place", err=True)
        sys.exit(6)


@cli.command()
@click.argument("source", metavar="NETWORK|TRAINING_CHECKPOINT|BUNDLE")
@click.option("--route", help="joint, depth, input, full, or cells such as '1,0 3,2 7,4'.")
@click.option("--classes", type=int, help="Classes of a NETWORK (400), or expected of a TRAINING_CHECKPOINT.")
@click.option("--frames", type=int, help="Sampled frames l of a NETWORK or of a public layout (16).")
@click.option("--head", type=click.Choice(["conv", "linear"]), help="Heads of a NETWORK (conv).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plan(
    source: str, route: str | None, classes: int | None, frames: int | None, head: str | None, as_json: bool
) -> None:
    """Print grid, segments, spans, parameters and cost; builds nothing."""
    from .grid.plan import plan as make_plan

    if (Path(source) / "manifest.json").exists():
        from .grid.bundle import Bundle
        from .grid.route import parse_route

        if (classes, frames, head) != (None, None, None):
            raise UsageError(
                f"{source!r} is a bundle: --classes, --frames and --head are as it was exported, leave them out"
            )
        manifest = Bundle.open(Path(source)).manifest
        chosen = manifest.route if route is None else parse_route(route, manifest.grid, manifest.route.head_blocks)
        name, costs, parameters = manifest.network["network"], manifest.costs, manifest.parameters
        classes = manifest.classes
    else:
        network = _network_to_plan(source, route, classes, frames, head)
        from .models.cost import measure_costs

        name, chosen, costs = network.config.network, network.route, measure_costs(network)
        parameters, classes = sum(p.numel() for p in network.parameters()), network.config.classes
    result = make_plan(name, classes, parameters, chosen, costs)
    if as_json:
        click.echo(json.dumps(result))
        return
    grid = result["grid"]
    click.echo(
        f"{name}: {classes} classes, {parameters:,} parameters; {grid['input_sets']} input sets x {grid['blocks']} blocks, "
        f"{grid['frames_per_set']} frames a set; {result['frame_gmacs']:.4f} GMACs a frame, {result['full']['gmacs']:.4g} "
        f"in full (paper's rule: {result['full']['paper_gmacs']:.4g})"
    )
    rows = [
        [
            str(c["index"]),
            f"({c['input_set']},{c['block']})",
            " ".join(f"B{p['block']}[{p['start']}:{p['stop']}]" for p in s["spans"]),
            *(f"{value:.4g}" for value in (s["gmacs"], c["gmacs"], c["paper_gmacs"])),
            f"{c['fraction']:.1%}",
        ]
        for c, s in zip(result["checkpoints"], result["segments"], strict=True)
    ]
    heads = ["checkpoint", "cell", "spans of its segment", "segment GMACs", "GMACs", "paper GMACs", "of full"]
    table(heads, rows)


@cli.command()
@click.argument("config", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the run; the same call goes on with it.")
@click.option("--json", "as_json", is_flag=True, help="Print log lines as JSON.")
def train(config: Path, output: Path, as_json: bool) -> None:
    """Train a network by the paper's recipe, as the TOML file CONFIG says; resumable."""
    with _packages("export"):
        from .training.recipe import train as run_training

    with steps() as step:

        def report(line: Any) -> None:
            if "decoded" in line:
                step(f"decoding {line['list']}: {line['decoded']} videos")
            elif as_json:
                click.echo(json.dumps(line))
            else:
                click.echo("  ".join(f"{key} {value}" for key, value in line.items()))

        result = run_training(config, output, report)
    click.echo(json.dumps({"training_checkpoint": str(result)}) if as_json else f"wrote {result}")


@cli.command()
@click.argument("training_checkpoint", type=PATH)
@click.option("-o", "--output", "root", type=PATH, required=True, help="The bundle's folder.")
@click.option("--network", help="Expected network, such as resnet50; refused if the keys say otherwise.")
@click.option("--layout", default="auto", show_default=True, help="Expected layout, or auto.")
@click.option("--route", help="joint, depth, input, full, or cells such as '1,0 3,2 7,4'.")
@click.option("--shift/--no-shift", default=None, help="Online temporal shift, where the keys do not say.")
@click.option("--frames", type=int, help="Sampled frames l of a public layout; 16 by default.")
@click.option("--precision", type=click.Choice(["fp32", "fp16"]), default="fp16", show_default=True,
              help="fp16: both precisions; fp32: that one only.")  # fmt: skip
@click.option("--range-data", type=PATH, help="LIST whose activations decide what may be fp16.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def export(
    training_checkpoint: Path, root: Path, network: str | None, layout: str, route: str | None, shift: bool | None,
    frames: int | None, precision: str, range_data: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Split a training checkpoint along its route, export every unique subgraph, and prove the result."""
    with _packages("export"):
        from .exporter.export import export as run_export
        from .exporter.export import read_clips, sha256_of
        from .models.layouts import load_training_checkpoint

    loaded = load_training_checkpoint(
        training_checkpoint, layout=layout, network=network, route=route, shift=shift, num_frames=frames
    )
    for warning in loaded.warnings:
        click.echo(f"Warning: {warning}", err=True)
    with steps() as step:
        clips = None if range_data is None else read_clips(range_data, loaded.network.config, step)
        bundle = run_export(
            loaded.network,
            root,
            source_sha256=sha256_of(training_checkpoint),
            precisions=("fp32",) if precision == "fp32" else ("fp32", "fp16"),
            range_clips=clips,
            report=step,
        )
    print_proof(bundle, bundle.manifest.proof, as_json)


@cli.command()
@click.argument("bundle", type=PATH)
@click.argument("training_checkpoint", type=PATH, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(bundle: Path, training_checkpoint: Path | None, as_json: bool) -> None:
    """Check hashes and structure of BUNDLE; with its TRAINING_CHECKPOINT, prove it again."""
    import importlib.util

    from .grid.bundle import Bundle

    opened = Bundle.open(bundle)
    opened.verify()
    proof = None
    if training_checkpoint is None and importlib.util.find_spec("onnx") is None:
        click.echo("hashes only: the structure is checked where 'dynvid[export,cpu]' is installed", err=True)
    else:
        with _packages("export"):
            from .exporter.export import verify_structure
        verify_structure(opened)
    if training_checkpoint is not None:
        from .exporter.export import prove_again

        with steps() as step:
            proof = prove_again(opened, training_checkpoint, step)
    print_proof(opened, proof, as_json)


@cli.command("build-engines")
@click.argument("bundle", type=PATH)
@click.option("--fp16", is_flag=True, help="Build the typed fp16 graphs; the fp32 ones by default.")
@click.option("--int8", is_flag=True, help="Build the INT8 twins that 'dynvid calibrate --int8' wrote.")
@click.option("--backend", type=click.Choice(["tensorrt", "tensorrt-rtx", "onnxruntime", "openvino"]), default="tensorrt-rtx",
              show_default=True, help="tensorrt builds on the GPU it is for; tensorrt-rtx builds anywhere; onnxruntime and openvino keep the fused segments for a CPU.")  # fmt: skip
@click.option("--target", help="For tensorrt-rtx, such as sm86,sm89, or current; by default Ampere and later.")
@click.option("--max-batch", type=int, default=1, show_default=True, help="For TensorRT: most videos in one call.")
@click.option("--only", help="Names of subgraphs and segments, such as block0,segment1,full; by default all.")
@click.option("--engines", type=PATH, help="Folder of the engines; BUNDLE.engines by default.")
@click.option("--workers", type=int, default=1, show_default=True, help="Builds at once.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object an engine.")
def build_engines(
    bundle: Path, fp16: bool, int8: bool, backend: str, target: str | None, max_batch: int, only: str | None,
    engines: Path | None, workers: int, as_json: bool,
) -> None:  # fmt: skip
    """Build engines of BUNDLE: one per segment of its route, one of the static network, for TensorRT one per unique subgraph."""
    with _packages("export"):
        import onnx  # noqa: F401
    from .exporter.build_engines import build_engines as run_build
    from .exporter.build_engines import exit_code
    from .exporter.engine_maker import preparation
    from .exporter.fuse_proof import prove_segments
    from .grid.bundle import Bundle
    from .grid.engines import engines_folder

    if fp16 and int8:
        raise UsageError("--fp16 and --int8: give one, each builds a set of its own")
    precision: Precision = "fp16" if fp16 else "int8" if int8 else "fp32"
    opened = Bundle.open(bundle)
    with steps() as step:
        rows = run_build(
            opened,
            engines_folder(bundle) if engines is None else engines,
            backend,
            precision,
            _names(target),
            max_batch,
            workers,
            _names(only) or None,
            prove=lambda: prove_segments(opened, precision, step, preparation(backend)),
            report=step,
        )
    if as_json:
        for row in rows:
            click.echo(json.dumps(row.to_json()))
    else:
        print_engines(rows)
    for row in rows:
        if row.error is not None:
            click.echo(f"Error: {row.subgraph}: {row.error}", err=True)
    if code := exit_code(rows):
        sys.exit(code)


@cli.command()
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
@click.option("--batch", type=click.IntRange(1, 4096), help="Engines: most videos in one call; their best by default.")
@click.option("--max-in-flight", metavar="MB", type=click.FloatRange(min=0, min_open=True),
              help="Engines: memory for videos that have begun; as much as keeps batches full by default.")  # fmt: skip
@click.option(
    "--decoders", type=click.IntRange(1, 64), help="Engines: processes that decode, for each stream; 1 by default."
)
@click.option(
    "--streams",
    type=click.IntRange(1, 64),
    help="Engines: streams that share the videos; 1 by default. On a CPU try one a core with --threads 1.",
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
    from .grid.bundle import Bundle
    from .grid.thresholds import read_thresholds
    from .runtime.classifier import Limits, open_classifier
    from .runtime.classify import Failures, classify_rest, each_once, parse_shard, shard_of
    from .runtime.results import Run, open_results, sha256_of_videos
    from .runtime.video_list import read_list

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


@cli.command()
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
    from .benchmarks.bench import Options
    from .benchmarks.bench import bench as run_bench
    from .benchmarks.clips import random_clips, read_clips
    from .benchmarks.refereed import Referee
    from .benchmarks.report_console import describe
    from .benchmarks.report_files import LOGS, require_report_folder, write_report
    from .benchmarks.report_svg import require_plots
    from .grid.bundle import Bundle
    from .grid.thresholds import read_thresholds

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

    from .benchmarks.contestants import Loads
    from .grid.engines import engines_folder
    from .runtime.backends.base import ON_CPU
    from .runtime.engines import open_engines

    engines = open_engines(bundle, backend, folder, precision, batch)
    plan, flavour, on_cpu = engines.plan, engines.host.flavour, backend.name in ON_CPU
    if importlib.util.find_spec("onnx") is None:
        return Loads(None if on_cpu else plan, plan, None, None)
    from .exporter.build_engines import build_engines as run_build
    from .exporter.engine_maker import for_openvino, preparation
    from .exporter.fuse import fuse
    from .exporter.fuse_proof import prove_segments

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


@cli.command()
@click.argument("bundle", type=PATH, required=False)
@click.argument("training_checkpoint", type=PATH, required=False)
@click.option("--data", type=PATH, help="LIST of videos (CSV with the columns 'video' and, if known, 'label').")
@click.option("--scores", type=PATH, help="With --data: where scores are kept. Without: an .npz to take them from.")
@click.option("-o", "--output", type=PATH, help="T.json to write.")
@click.option("--q", type=float, help="Ratio of one exit's share to the share before.")
@click.option("--budget", type=float, help="Mean GMACs a video, or milliseconds with --cost ms.")
@click.option("--max-drop", type=float, help="Largest loss of accuracy (of agreement, without labels).")
@click.option("--confidence", type=float, help="Promise --max-drop with this probability; without it, as seen.")
@click.option("--cost", type=click.Choice(["macs", "ms"]), default="macs", show_default=True, help="What to save.")
@click.option("--cost-table", type=PATH, help="Times of 'python -m dynvid.benchmarks.timing'; else measured now.")
@click.option("--temperature", is_flag=True, help="Fit one temperature a checkpoint; needs labels.")
@click.option("--split", type=float, default=0.5, show_default=True, help="Share of the videos that calibrate; 1: all.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the split.")
@click.option("--plot", type=PATH, help="SVG of the curve to write.")
@click.option("--check", type=PATH, help="RESULTS.jsonl of 'dynvid classify -o', to compare with --thresholds.")
@click.option(
    "--thresholds",
    type=PATH,
    help="T.json that --check compares with, or that videos leave by while --int8 finds ranges.",
)
@click.option(
    "--int8",
    is_flag=True,
    help="Write INT8 twins into a new bundle, and choose thresholds for them; needs --data and TRAINING_CHECKPOINT.",
)
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    help="With --int8: least share of videos that leave where fp32's do; 0.975 by default.",
)
@click.option("--int8-bundle", type=PATH, help="The new bundle; BUNDLE.int8 by default.")
@click.option("--ranges", type=PATH, help="Where ranges are kept; BUNDLE.ranges.json by default.")
@click.option("--precision", type=click.Choice(["fp32", "fp16", "int8"]),
              help="Of the subgraphs whose answers are scored; fp32 by default, with --int8 the twins.")  # fmt: skip
@click.option("--backend", default="onnxruntime", show_default=True, help="What computes.")
@click.option("--threads", type=int, help="CPU threads to compute with; one a core by default.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def calibrate(
    bundle: Path | None, training_checkpoint: Path | None, data: Path | None, scores: Path | None, output: Path | None,
    q: float | None, budget: float | None, max_drop: float | None, confidence: float | None, cost: str,
    cost_table: Path | None, temperature: bool, split: float, seed: int, plot: Path | None, check: Path | None,
    thresholds: Path | None, int8: bool, min_agreement: float | None, int8_bundle: Path | None, ranges: Path | None,
    precision: str | None, backend: str, threads: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Choose thresholds from labelled videos: by q, a budget, a drop of accuracy, or a promise about it."""
    from .calibration.calibrate import Request
    from .calibration.calibrate import calibrate as run_calibration
    from .calibration.describe import describe
    from .calibration.plot import write_curve
    from .calibration.scores import read_scores
    from .calibration.scoring import kept_scores
    from .calibration.sweep import costs_of
    from .grid.bundle import Bundle
    from .grid.thresholds import Thresholds

    opened = None if bundle is None else Bundle.open(bundle)
    if int8 and (confidence is not None or cost == "ms" or check is not None):
        raise UsageError("--int8 with --confidence, --cost ms or --check: they are of fp32, leave them out")
    if check is not None:
        _check_drift(opened, check, thresholds, as_json)
        return
    if data is None and scores is None:
        raise UsageError("calibrate needs BUNDLE and --data LIST, or --scores FILE.npz")
    if opened is None and (data or output or cost == "ms"):
        raise UsageError("--data, -o and --cost ms need a BUNDLE: thresholds and times belong to one")
    if int8 and (opened is None or data is None or training_checkpoint is None):
        raise UsageError("--int8 needs BUNDLE, its TRAINING_CHECKPOINT and --data LIST")
    if precision is not None and (int8 or data is None):
        raise UsageError(f"--precision {precision} with --int8, or without --data: leave it out, scores say theirs")
    if precision not in (None, "fp32") and cost == "ms":
        raise UsageError(f"--precision {precision} with --cost ms: times are measured in fp32, give --budget in GMACs")
    if int8 and backend != "onnxruntime":
        raise UsageError(f"--int8 --backend {backend}: INT8 is calibrated on onnxruntime, leave --backend out")
    if not int8 and (int8_bundle or ranges or thresholds or min_agreement is not None):
        raise UsageError("--min-agreement, --int8-bundle, --ranges, and --thresholds without --check, belong to --int8")
    if opened is not None and training_checkpoint is not None:
        _require_source(opened, training_checkpoint)
    request = Request(q, budget, max_drop, confidence, "ms" if cost == "ms" else "gmacs", temperature, split, seed)
    ms = None
    with steps() as step:
        if opened is None:
            assert scores is not None
            found = read_scores(scores)
        elif data is None:
            assert scores is not None
            found = kept_scores(scores, opened)
        elif not int8:
            found = _score_list(opened, data, scores, backend, cast("Precision", precision or "fp32"), threads, step)
        else:
            assert training_checkpoint is not None
            with _packages("export"):
                from .exporter.int8 import MIN_AGREEMENT, calibrate_int8

            opened, found = calibrate_int8(
                opened, training_checkpoint, data, int8_bundle or Path(f"{opened.root}.int8"),
                ranges or Path(f"{opened.root}.ranges.json"), scores, threads,
                thresholds, max_drop, MIN_AGREEMENT if min_agreement is None else min_agreement, step,
            )  # fmt: skip
        if opened is not None and cost == "ms":
            if found.belongs_to["precision"] != "fp32":
                raise UsageError(f"--cost ms for scores in {found.belongs_to['precision']}: times are measured in fp32")
            ms = _segment_times(opened, cost_table, backend, threads, step)
        costs = costs_of(found.macs, ms, len(found.probabilities))
        if request.unit not in costs:
            request = replace(request, unit="exits")
        step("choosing thresholds")
        result = run_calibration(found, costs, request)
    if int8:
        assert opened is not None
        result.report["int8"] = {"bundle": str(opened.root), **opened.manifest.proof["int8"]}
        if not as_json:
            print_int8(result.report["int8"])
    if output is not None:
        assert opened is not None
        exits, scored_in = result.exits, found.belongs_to["precision"]
        Thresholds(opened.sha256, exits.thresholds, exits.q, result.temperatures, result.expected, scored_in).write(
            output
        )
    if plot is not None:
        write_curve(plot, result.curve, result.judged, request.unit)
    if as_json:
        click.echo(json.dumps(result.report))
    else:
        print_sections(describe(result.report))
    for warning in result.report["warnings"]:
        click.echo(f"Warning: {warning}", err=True)


@cli.command()
@click.argument("bundle", type=PATH, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(bundle: Path | None, as_json: bool) -> None:
    """Report what is installed, which backends work here and how fast those of a CPU run BUNDLE, and what to do about the others."""
    from .grid.bundle import Bundle
    from .runtime.doctor import examine

    found = examine(None if bundle is None else Bundle.open(bundle))
    if as_json:
        click.echo(json.dumps(found))
    else:
        click.echo(f"dynvid {found['dynvid']}, Python {found['python']}, {found['platform']}, {found['cores']} cores")
        rows = [[name, p["version"] or "-", p["remedy"] or ""] for name, p in found["packages"].items()]
        table(["package", "version", "to install"], rows)
        click.echo(f"GPU: {found['gpu']['name'] or found['gpu']['problem']}")
        said = {True: "yes", False: "no", None: "-"}
        rows = [
            [b["name"], b["version"] or "-", said[b["works"]], said[b["builds"]], b["problem"] or b["note"]]
            for b in found["backends"]
        ]
        table(["backend", "version", "works here", "builds engines", "what was seen"], rows)
        if found["speed"] is not None:
            table([found["speed"]["timed"], "ms"], [[name, f"{ms:.3g}"] for name, ms in found["speed"]["ms"].items()])
            click.echo(found["speed"]["advice"])
        for conflict in found["conflicts"]:
            click.echo(f"Warning: {conflict}", err=True)
    if not any(b["works"] for b in found["backends"] if b["name"] != "null"):
        sys.exit(5)


# shared by the commands


def _network_to_plan(
    source: str, route: str | None, classes: int | None, frames: int | None, head: str | None
) -> VideoNetwork:
    with _packages("export"):
        import torch

        from .models.config_json import from_json
        from .models.layouts import load_training_checkpoint
        from .models.registry import build, registered
    if source in registered() or not Path(source).exists():
        if frames is not None and (frames < 1 or frames % 8):
            raise UsageError(f"--frames {frames}: expected a multiple of the 8 input sets")
        per_set = 2 if frames is None else frames // 8
        classes = 400 if classes is None else classes
        table = {"network": source, "classes": classes, "frames_per_set": per_set, "head": {"style": head or "conv"}}
        with torch.device("meta"):
            return build(from_json(table if route is None else {**table, "route": route}))
    if head is not None:
        raise UsageError(f"--head {head}: {source!r} has its heads already, leave it out")
    return load_training_checkpoint(Path(source), route=route, classes=classes, num_frames=frames).network


def _names(text: str | None) -> list[str]:
    return [name for name in (text or "").replace(",", " ").split() if name]


@contextmanager
def _packages(extra: str) -> Iterator[None]:
    """Turn a missing optional package into an error that names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"this command needs the package {error.name!r}. Install it: pip install 'dynvid[{extra},cpu]'"
        ) from None


def _score_list(
    bundle: Bundle, data: Path, keep: Path | None, backend: str, precision: Precision, threads: int | None,
    step: Callable[[str], None],
) -> Scores:  # fmt: skip
    from .calibration.scoring import score_videos
    from .runtime.backends.base import open_backend
    from .runtime.decoder import Decoder
    from .runtime.session import Session
    from .runtime.video_list import read_list

    videos = read_list(data)
    with Decoder() as decoder:
        return score_videos(
            Session(bundle, open_backend(backend, threads), precision=precision), videos, keep, decoder, step
        )


def _segment_times(
    bundle: Bundle, table: Path | None, backend: str, threads: int | None, step: Callable[[str], None]
) -> list[float]:
    from .benchmarks.timing import measure, read_timing
    from .runtime.backends.base import open_backend

    if table is not None:
        return read_timing(table, bundle).checkpoint_ms()
    step("measuring the segments")
    return measure(bundle, open_backend(backend, threads), threads).checkpoint_ms()


def _require_source(bundle: Bundle, training_checkpoint: Path) -> None:
    """Check that the bundle was exported from this file: its proved fp32 subgraphs then are the reference."""
    import hashlib

    try:
        with training_checkpoint.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputRefusedError(f"{str(training_checkpoint)!r} cannot be read ({error.strerror})") from None
    if found != bundle.manifest.source_sha256:
        raise InputRefusedError(
            f"{str(training_checkpoint)!r} (sha256 {found[:8]}…) is not what bundle {str(bundle.root)!r} was exported from "
            f"({bundle.manifest.source_sha256[:8]}…): export it, or give the other one"
        )


def _check_drift(bundle: Bundle | None, results: Path, thresholds: Path | None, as_json: bool) -> None:
    from .calibration.describe import describe_drift
    from .calibration.drift import check_results
    from .grid.thresholds import read_thresholds

    if bundle is None or thresholds is None:
        raise UsageError("--check RESULTS.jsonl needs BUNDLE and --thresholds T.json")
    expected = read_thresholds(thresholds, bundle.sha256, len(bundle.manifest.route_cells))
    drift = check_results(results, expected, str(thresholds))
    if as_json:
        click.echo(json.dumps(drift.to_json()))
    else:
        print_sections(describe_drift(drift))
    if drift.drifted:
        click.echo(
            f"Warning: videos leave otherwise than at calibration: distance {drift.exit_distance:.3f} of exits and "
            f"{drift.confidence_distance:.3f} with confidences, where chance explains {drift.exit_chance:.3f} and "
            f"{drift.confidence_chance:.3f}. Calibrate on newer videos.",
            err=True,
        )


if __name__ == "__main__":
    main()
