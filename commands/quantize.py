"""``dynvid quantize``: INT8 twins of a bundle, and thresholds for them."""

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
@click.option("-o", "--output", type=PATH, help="The new bundle; BUNDLE.int8 by default.")
@click.option("--save-thresholds", type=PATH, help="T.json to write, for classify --precision int8.")
@click.option(
    "--max-drop", type=float, help="Largest loss of accuracy (of agreement, without labels); 0.01 by default."
)
@rare("--min-agreement", type=click.FloatRange(0, 1),
              help="Least share of videos that leave where fp32's do; 0.975 by default.")  # fmt: skip
@click.option("--q", type=float, help="Ratio of one exit's share to the share before; else the critical point.")
@rare("--thresholds", type=PATH, help="T.json that videos leave by while ranges are found; else they run to the end.")
@rare("--ranges", type=PATH, help="Where ranges are kept; BUNDLE.ranges.json by default.")
@rare("--scores", type=PATH, help="Where the fp32 scores are kept; beside BUNDLE by default.")
@rare("--threads", type=int, help="CPU threads to compute with; one a core by default.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def quantize(
    bundle: Path, training_checkpoint: Path, data: Path, output: Path | None, save_thresholds: Path | None, max_drop: float | None,
    min_agreement: float | None, q: float | None, thresholds: Path | None, ranges: Path | None, scores: Path | None,
    threads: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Write a bundle that also holds INT8 twins of BUNDLE's subgraphs; what loses too much stays in fp32."""
    from ..api import quantize as run_quantize
    from ..calibration.describe import describe

    with steps() as step:
        made, result = run_quantize(
            bundle, training_checkpoint, data, output=output, save_thresholds=save_thresholds, ranges=ranges, scores=scores,
            thresholds=thresholds, q=q, max_drop=max_drop, min_agreement=min_agreement, threads=threads, report=step,
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
