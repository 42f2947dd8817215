"""``dynvid export``: turn a training checkpoint into a proved bundle."""

from __future__ import annotations

from pathlib import Path

import click

from ..commands import PATH, Command, rare
from .output import print_proof, steps


@click.command(cls=Command)
@click.argument("training_checkpoint", type=PATH)
@click.option("-o", "--output", "root", type=PATH, required=True, help="Folder of the bundle.")
@rare("--network", help="Expected network, such as resnet50; any other is refused.")
@rare("--layout", default="auto", show_default=True, help="Expected layout, or auto.")
@click.option("--route", help="joint, depth, input, full, or cells such as '1,0 3,2 7,4'.")
@click.option("--shift/--no-shift", default=None, help="Use the online temporal shift, if the keys do not say.")
@rare("--frames", type=int, help="Sampled frames l of a public layout.  [default: 16]")
@click.option("--precision", type=click.Choice(["fp32", "fp16"]), default="fp16", show_default=True,
              help="fp16 exports both precisions, fp32 only that one.")  # fmt: skip
@rare("--range-data", type=PATH, help="LIST of videos whose activations decide what may be fp16.")
@rare("--weights", metavar="KEY", help="Key of the weights in a file that has several sets.")
@rare("--labels", type=PATH, help="File of class names, one a line or a label map.")
@rare("--shift-div", type=int, help="A shift moves 1/N of the channels, in a public layout.  [default: 8]")
@rare("--stride-in-1x1/--stride-in-3x3", default=None, help="Where a public ResNet strides: 1x1 is Caffe-style.")
@rare("--dilated", type=int, help="Last stages of a torchvision ResNet that dilate, not stride.  [default: 0]")
@rare("--static", is_flag=True, help="Export a public layout as trained, TSM shifting both ways: one call, no exits.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def export(
    training_checkpoint: Path, root: Path, network: str | None, layout: str, route: str | None, shift: bool | None,
    frames: int | None, precision: str, range_data: Path | None, weights: str | None, labels: Path | None,
    shift_div: int | None, stride_in_1x1: bool | None, dilated: int | None, static: bool, as_json: bool,
) -> None:  # fmt: skip
    """Split a training checkpoint along its route, export every unique subgraph, and prove the result."""
    from ..api import export as run_export

    with steps():
        bundle = run_export(
            training_checkpoint,
            root,
            network=network,
            layout=layout,
            route=route,
            shift=shift,
            frames=frames,
            precision=precision,
            range_data=range_data,
            weights=weights,
            labels=labels,
            shift_div=shift_div,
            stride_in_1x1=stride_in_1x1,
            dilated=dilated,
            static=static,
        )
    print_proof(bundle, bundle.manifest.proof, as_json)
