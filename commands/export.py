"""``dynvid export``: turn a training checkpoint into a proved bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..commands import PATH, Command, rare, reading_options
from .output import print_proof, steps


@click.command(cls=Command)
@click.argument("training_checkpoint", type=PATH)
@click.option("-o", "--output", "root", type=PATH, required=True, help="Folder of the bundle.")
@click.option("--route", help="joint, depth, input, full, or cells such as '1,0 3,2 7,4'.")
@rare("--frames", type=int, help="Sampled frames l of a public layout.  [default: 16]")
@click.option("--precision", type=click.Choice(["fp32", "fp16"]), default="fp16", show_default=True,
              help="fp16 exports both precisions, fp32 only that one.")  # fmt: skip
@rare("--range-data", type=PATH, help="LIST of videos whose activations decide what may be fp16.")
@rare("--labels", type=PATH, help="File of class names, one a line or a label map.")
@reading_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def export(
    training_checkpoint: Path, root: Path, route: str | None, frames: int | None, precision: str,
    range_data: Path | None, labels: Path | None, as_json: bool, **reading: Any,
) -> None:  # fmt: skip
    """Split a training checkpoint along its route, export every unique subgraph, and prove the result."""
    from ..api import export as run_export

    with steps():
        bundle = run_export(
            training_checkpoint,
            root,
            route=route,
            frames=frames,
            precision=precision,
            range_data=range_data,
            labels=labels,
            **reading,
        )
    print_proof(bundle, bundle.manifest.proof, as_json)
