"""``dynvid plan``: show what a network costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..commands import PATH, Command, reading_options
from ..grid.errors import UsageError
from ..grid.packages import packages
from .output import print_table, require_own


@click.command(cls=Command)
@click.argument("source", metavar="NETWORK|TRAINING_CHECKPOINT|BUNDLE")
@click.option("--route", help="joint, depth, input, full, or cells such as '1,0 3,2 7,4'.")
@click.option("--classes", type=int, help="Classes of a NETWORK (default 400), or expected in a TRAINING_CHECKPOINT.")
@click.option("--frames", type=int, help="Sampled frames l of a NETWORK or a public layout (default 16).")
@click.option("--head", type=click.Choice(["conv", "linear"]), help="Heads of a NETWORK (default conv).")
@click.option("--svg", type=PATH, help="Figure of grid and route to write; needs dynvid[pages].")
@reading_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plan(
    source: str, route: str | None, classes: int | None, frames: int | None, head: str | None, svg: Path | None,
    as_json: bool, **reading: Any,
) -> None:  # fmt: skip
    """Print grid, segments, spans, parameters and cost; builds nothing."""
    from ..api import plan as make_plan

    if svg is not None:
        if svg.suffix.lower() != ".svg":
            raise UsageError(f"--svg {str(svg)!r}: expected a name that ends in .svg")
        require_own("--svg", svg, "an SVG", b"<svg")
        with packages("pages"):  # before the work, not after
            from ..pages.plan_figure import write_plan
    result = make_plan(source, route=route, classes=classes, frames=frames, head=head, **reading)
    if svg is not None:
        write_plan(svg, result)
    if as_json:
        click.echo(json.dumps(result))
        return
    grid = result["grid"]
    click.echo(
        f"{result['network']}: {result['classes']} classes, {result['parameters']:,} parameters; "
        f"{grid['input_sets']} input sets x {grid['blocks']} blocks, {grid['frames_per_set']} frames per set; "
        f"{result['frame_gmacs']:.4f} GMACs per frame, {result['full']['gmacs']:.4g} in full (paper's rule: "
        f"{result['full']['paper_gmacs']:.4g})"
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
    heads = ["checkpoint", "cell", "spans of its segment", "segment GMACs", "GMACs", "paper GMACs", "of static"]
    print_table(heads, rows)
    click.echo("static: the last checkpoint alone. A route to its end also pays for the heads that it passes.")
