"""``dynvid export``: from a training checkpoint to a proved bundle."""

from __future__ import annotations

from pathlib import Path

import click

from ..terminal import print_proof, steps
from . import PATH
from .packages import packages


@click.command()
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
    with packages("export"):
        from ..exporter.export import export as run_export
        from ..exporter.export import read_clips, sha256_of
        from ..models.layouts import load_training_checkpoint

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
