"""``dynvid plan``: what a network costs."""

from __future__ import annotations

import json

import click

from .output import print_table


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
    from ..api import plan as make_plan

    result = make_plan(source, route=route, classes=classes, frames=frames, head=head)
    if as_json:
        click.echo(json.dumps(result))
        return
    grid = result["grid"]
    click.echo(
        f"{result['network']}: {result['classes']} classes, {result['parameters']:,} parameters; {grid['input_sets']} input sets x {grid['blocks']} blocks, "
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
    print_table(heads, rows)
