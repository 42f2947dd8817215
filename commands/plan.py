"""``dynvid plan``: what a network costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..grid.errors import UsageError
from ..terminal import table
from .packages import packages

if TYPE_CHECKING:
    from ..models.network import VideoNetwork


@click.command()
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
    from ..grid.plan import plan as make_plan

    if (Path(source) / "manifest.json").exists():
        from ..grid.bundle import Bundle
        from ..grid.route import parse_route

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
        from ..models.cost import measure_costs

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


def _network_to_plan(
    source: str, route: str | None, classes: int | None, frames: int | None, head: str | None
) -> VideoNetwork:
    with packages("export"):
        import torch

        from ..models.config_json import from_json
        from ..models.layouts import load_training_checkpoint
        from ..models.registry import build, registered
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
