"""``dynvid quantize``: add INT8 graphs to a bundle, and choose thresholds for them."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..commands import PATH, Command, rare
from .output import print_int8, print_sections, steps


@click.command(cls=Command)
@click.argument("bundle", type=PATH)
@click.argument("training_checkpoint", type=PATH)
@click.option(
    "--data", type=PATH, required=True, help="LIST of videos (CSV with the columns 'video' and, if known, 'label')."
)
@click.option("-o", "--output", type=PATH, help="Folder of the new bundle.  [default: BUNDLE.int8]")
@click.option("--save-thresholds", type=PATH, help="T.json to write, for classify --precision int8.")
@click.option(
    "--max-drop",
    type=float,
    help="Largest loss of accuracy (of agreement, without labels).  [default: 0.005 for INT8, 0.01 for thresholds]",
)
@rare("--min-agreement", type=click.FloatRange(0, 1),
              help="Least share of videos with the same exit as in fp32.  [default: 0.975]")  # fmt: skip
@click.option("--q", type=float, help="Ratio of one exit's share to the previous one's; otherwise the critical point.")
@rare(
    "--thresholds",
    type=PATH,
    help="T.json that videos leave by while ranges are measured; otherwise they run to the end.",
)
@rare("--ranges", type=PATH, help="Where to keep ranges.  [default: BUNDLE.ranges.json]")
@rare("--scores", type=PATH, help="Where to keep the fp32 scores.  [default: beside BUNDLE]")
@rare("--threads", type=int, help="CPU threads to compute with.  [default: one per core]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def quantize(
    bundle: Path, training_checkpoint: Path, data: Path, output: Path | None, save_thresholds: Path | None,
    max_drop: float | None, min_agreement: float | None, q: float | None, thresholds: Path | None,
    ranges: Path | None, scores: Path | None, threads: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Write a bundle that also holds INT8 graphs of BUNDLE's subgraphs; layers that lose too much stay in fp32."""
    from ..api import quantize as run_quantize
    from ..calibration.describe import describe

    with steps():
        made, result = run_quantize(
            bundle, training_checkpoint, data, output=output, save_thresholds=save_thresholds, ranges=ranges,
            scores=scores, thresholds=thresholds, q=q, max_drop=max_drop, min_agreement=min_agreement, threads=threads,
        )  # fmt: skip
    figures = {"bundle": str(made.root), **made.manifest.proof["int8"]}
    if as_json:
        click.echo(json.dumps({**result.report, "int8": figures}))
    else:
        print_int8(figures)
        print_sections(describe(result.report))
        click.echo(f"wrote {made.root}")
    for warning in result.report["warnings"]:
        click.echo(f"Warning: {warning}", err=True)
