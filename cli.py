"""The command line: every command parses, calls one function, and prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .grid.errors import DynvidError, InputRefusedError, MissingPackageError, UsageError

if TYPE_CHECKING:
    from .grid.bundle import Bundle
    from .models.network import VideoNetwork

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
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


@cli.command()
@click.argument("source", metavar="NETWORK|TRAINING_CHECKPOINT|BUNDLE")
@click.option("--route", help="joint, depth, input, full, or cells such as '1,0 3,2 7,4'.")
@click.option("--classes", type=int, default=400, show_default=True, help="Classes of a NETWORK.")
@click.option("--frames", type=int, default=16, show_default=True, help="Sampled frames l of a NETWORK.")
@click.option("--head", type=click.Choice(["conv", "linear"]), default="conv", help="Heads of a NETWORK.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plan(source: str, route: str | None, classes: int, frames: int, head: str, as_json: bool) -> None:
    """Print grid, segments, spans, parameters and cost; builds nothing."""
    from .grid.plan import plan as make_plan

    if (Path(source) / "manifest.json").exists():
        from .grid.bundle import Bundle
        from .grid.route import parse_route

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
    _table(heads, rows)


@cli.command()
@click.argument("config", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the run; the same call goes on with it.")
@click.option("--json", "as_json", is_flag=True, help="Print log lines as JSON.")
def train(config: Path, output: Path, as_json: bool) -> None:
    """Train a network by the paper's recipe, as the TOML file CONFIG says; resumable."""
    with _packages("export"):
        from .training.recipe import train as run_training

    with _steps() as step:

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
    with _steps() as step:
        clips = None if range_data is None else read_clips(range_data, loaded.network.config, step)
        bundle = run_export(
            loaded.network,
            root,
            source_sha256=sha256_of(training_checkpoint),
            precisions=("fp32",) if precision == "fp32" else ("fp32", "fp16"),
            range_clips=clips,
            report=step,
        )
    _print_proof(bundle, bundle.manifest.proof, as_json)


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

        with _steps() as step:
            proof = prove_again(opened, training_checkpoint, step)
    _print_proof(opened, proof, as_json)


@cli.command()
@click.argument("bundle", type=PATH)
@click.argument("videos", metavar="[VIDEO]...", type=PATH, nargs=-1)
@click.option("--data", type=PATH, help="LIST of videos (CSV with a column 'video').")
@click.option("-o", "--output", type=PATH, help="JSON Lines file to write, one line a video.")
@click.option("--thresholds", type=PATH, help="T.json; without it every video runs to the end.")
@click.option("--backend", default="onnxruntime", show_default=True, help="What computes.")
@click.option("--precision", type=click.Choice(["fp32", "fp16"]), default="fp32", show_default=True)
@click.option("--threads", type=int, help="CPU threads to compute with; one a core by default.")
@click.option("--trace", is_flag=True, help="Run to the end and print every checkpoint's logits.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a video.")
def classify(
    bundle: Path, videos: tuple[Path, ...], data: Path | None, output: Path | None, thresholds: Path | None,
    backend: str, precision: str, threads: int | None, trace: bool, as_json: bool,
) -> None:  # fmt: skip
    """Classify videos (files, or .npy arrays of frames), each until a checkpoint is confident."""
    from .grid.bundle import Bundle
    from .grid.thresholds import read_thresholds
    from .runtime.backends.base import open_backend
    from .runtime.classify import classify_files
    from .runtime.decoder import Decoder
    from .runtime.session import Session
    from .runtime.video_list import read_list

    if bool(videos) == (data is not None):
        raise UsageError("classify needs VIDEO arguments or --data LIST, and not both")
    paths = list(videos) if data is None else [video.path for video in read_list(data)]
    opened = Bundle.open(bundle)
    chosen = None
    if thresholds is None:
        click.echo("no --thresholds: every video runs to the end of its route", err=True)
    else:
        chosen = read_thresholds(thresholds, opened.sha256, len(opened.manifest.route_cells)).thresholds
    session = Session(opened, open_backend(backend, threads), chosen, "fp16" if precision == "fp16" else "fp32")
    failed = 0
    with Decoder() as decoder, _sink(output) as write, _steps() as step:
        header = not (as_json or output)
        for done, record in enumerate(classify_files(session, paths, decoder, trace), 1):
            failed += record["status"] != "ok"
            if as_json or output:
                write(json.dumps(record))
                step(f"{done}/{len(paths)} videos")
            else:
                header = _print_record(record, header)
    if failed == len(paths):
        raise InputRefusedError(f"no video could be classified ({failed} of {failed} failed, see above)")
    if failed:
        click.echo(f"Error: {failed} of {len(paths)} videos could not be classified; the others are above", err=True)
        sys.exit(7)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> None:
    """Report what is installed, which backends really work here, and what to do about the others."""
    from .runtime.doctor import examine

    found = examine()
    if as_json:
        click.echo(json.dumps(found))
    else:
        click.echo(f"dynvid {found['dynvid']}, Python {found['python']}, {found['platform']}, {found['cores']} cores")
        rows = [[name, p["version"] or "-", p["remedy"] or ""] for name, p in found["packages"].items()]
        _table(["package", "version", "to install"], rows)
        rows = [[b["name"], "yes" if b["works"] else "no", b["problem"] or b["note"]] for b in found["backends"]]
        _table(["backend", "works here", "what was seen"], rows)
        for conflict in found["conflicts"]:
            click.echo(f"Warning: {conflict}", err=True)
    if not any(b["works"] for b in found["backends"] if b["name"] != "null"):
        sys.exit(5)


# shared by the commands


def _network_to_plan(source: str, route: str | None, classes: int, frames: int, head: str) -> VideoNetwork:
    with _packages("export"):
        import torch

        from .models.config_json import from_json
        from .models.layouts import load_training_checkpoint
        from .models.registry import build, registered
    if source in registered() or not Path(source).exists():
        if frames < 1 or frames % 8:
            raise UsageError(f"--frames {frames}: expected a multiple of the 8 input sets")
        table = {"network": source, "classes": classes, "frames_per_set": frames // 8, "head": {"style": head}}
        with torch.device("meta"):
            return build(from_json(table if route is None else {**table, "route": route}))
    return load_training_checkpoint(Path(source), route=route).network


@contextmanager
def _packages(extra: str) -> Iterator[None]:
    """Turn a missing optional package into an error that names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"this command needs the package {error.name!r}. Install it: pip install 'dynvid[{extra},cpu]'"
        ) from None


@contextmanager
def _steps() -> Iterator[Callable[[str], None]]:
    """Show the step at work on a terminal's standard error; nothing elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("starting") as status:
        yield status.update


@contextmanager
def _sink(output: Path | None) -> Iterator[Callable[[str], None]]:
    if output is None:
        yield click.echo
        return
    try:
        file = output.open("x")
    except FileExistsError:
        raise UsageError(f"-o {str(output)!r} exists already: remove it, or give another") from None
    except OSError as error:
        raise UsageError(f"-o {str(output)!r} cannot be written ({error.strerror}): give another") from None
    with file:
        yield lambda line: print(line, file=file, flush=True)


def _print_proof(bundle: Bundle, proof: dict[str, Any] | None, as_json: bool) -> None:
    manifest = bundle.manifest
    files = [v for s in manifest.subgraphs for v in s.variants.values()]
    if as_json:
        summary = {"bundle": str(bundle.root), "bundle_sha256": bundle.sha256, "files": len(files)}
        click.echo(json.dumps({**summary, "bytes": sum(v.bytes for v in files), "proof": proof}))
        return
    for precision in manifest.precisions if proof is not None else ():
        assert proof is not None
        figures = proof[precision]
        rows = [
            [str(c.index), str(c.cell), name, f"{error:.1e}"]
            for c, name, error in zip(manifest.route.checkpoints, manifest.heads, figures["checkpoints"], strict=True)
        ]
        click.echo(
            f"{precision}: difference from PyTorch, in standard deviations of the logits (bound {figures['bound']:g})"
        )
        _table(["checkpoint", "cell", "head", "difference"], rows)
    if proof is not None:
        sees = proof["sees"]
        click.echo(
            f"the proof sees: losing any of {sees['states']} states changes logits by at least {sees['least_effect']}, "
            f"reversing time by {sees['frames_reversed']} (required: {sees['required']:g})"
        )
    size = sum(v.bytes for v in files) / 1e6
    click.echo(f"{bundle.root}: {len(files)} files, {size:.1f} MB, as exported (sha256 {bundle.sha256[:12]}…)")


def _print_record(record: dict[str, Any], header: bool) -> bool:
    """Print one record, the header first if it is due; return whether it still is."""
    form = "{:<32} {:<16} {:>6} {:>10} {:>8} {:>8} {:>9} {:>9}  {}"
    if record["checkpoint"] is None:
        click.echo(f"Error: {record['error']}", err=True)
        return header
    if header:
        names = ("video", "label", "conf.", "checkpoint", "GMACs", "of full", "ms", "decode ms", "notes")
        click.echo(form.format(*names))
    notes = "; ".join(record["warnings"]) or ("numeric error: NaN or infinity" if record["status"] != "ok" else "")
    confidence = "-" if record["confidence"] is None else f"{record['confidence']:.3f}"
    figures = [
        f"{record['gmacs']:.3f}",
        f"{record['fraction']:.1%}",
        f"{record['latency_ms']:.1f}",
        f"{record['decode_ms']:.1f}",
    ]
    name = record["video"] if len(record["video"]) <= 32 else "…" + record["video"][-31:]
    click.echo(form.format(name, record["label"] or "-", confidence, record["checkpoint"], *figures, notes))
    for index, logits in enumerate(record.get("logits", []), 1):
        click.echo(f"  checkpoint {index}: " + " ".join(f"{z:.4f}" for z in logits))
    return False


def _table(names: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(line[i]) for line in [names, *rows]) for i in range(len(names))]
    for line in [names, *rows]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
