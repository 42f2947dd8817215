"""``dynvid calibrate``: choose thresholds."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..commands import PATH, PRECISIONS, Command, rare
from ..grid.errors import UsageError
from ..grid.manifest import Precision
from ..grid.packages import packages
from ..grid.thresholds import Rule
from .output import print_sections, require_apart, require_own, steps


@click.command(cls=Command)
@click.argument("bundle", type=PATH, required=False)
@click.argument("training_checkpoint", type=PATH, required=False)
@click.option("--data", type=PATH, help="LIST of videos (CSV with the columns 'video' and, if known, 'label').")
@rare("--scores", type=PATH, help="With --data: where to keep scores. Without: an .npz to read them from.")
@click.option("-o", "--output", type=PATH, help="T.json to write.")
@click.option("--rule", type=click.Choice(["optimal", "geometric"]),
              help="optimal: each threshold optimised, where the videos carry it; geometric: the paper's shares q^k.  "
              "[default: optimal; geometric with --q]")  # fmt: skip
@click.option("--q", type=float, help="Ratio of one exit's share to the share before.")
@click.option("--budget", type=float, help="Mean GMACs a video, or milliseconds with --cost ms.")
@click.option("--max-drop", type=float, help="Largest loss of accuracy (of agreement, without labels).")
@click.option(
    "--confidence", type=float, help="Promise --max-drop with this probability; without it, the drop is an estimate."
)
@click.option("--cost", type=click.Choice(["macs", "ms"]), default="macs", show_default=True, help="What to save.")
@rare("--cost-table", type=PATH, help="Times from 'dynvid time -o'; otherwise measured now.")
@rare("--temperature", is_flag=True, help="Fit one temperature per checkpoint; needs labels.")
@rare("--split", type=float, default=0.5, show_default=True, help="Share of the videos that calibrate; 1: all.")
@rare("--seed", type=int, default=0, show_default=True, help="Of the split.")
@click.option("--plot", type=PATH, help="SVG of the curve to write; needs dynvid[pages].")
@click.option("--precision", type=PRECISIONS,
              help="Precision of the scores.  [default: fp32]")  # fmt: skip
@click.option("--backend", default="auto", show_default=True, help="Backend; auto as in classify.")
@rare("--threads", type=int, help="CPU threads to compute with.  [default: one per core]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def calibrate(
    bundle: Path | None, training_checkpoint: Path | None, data: Path | None, scores: Path | None, output: Path | None,
    rule: Rule | None, q: float | None, budget: float | None, max_drop: float | None, confidence: float | None, cost: str,
    cost_table: Path | None, temperature: bool, split: float, seed: int, plot: Path | None, precision: Precision | None, backend: str,
    threads: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Choose thresholds from labelled videos: by q, a budget, a drop of accuracy, or a promise about that drop."""
    from ..api import calibrate as run_calibration
    from ..calibration.describe import describe

    if bundle is None and output is not None:
        raise UsageError("--data, -o and --cost ms need a BUNDLE: thresholds and times belong to one")
    require_own("-o", output, "a T.json", b'"thresholds"')
    if output is not None and plot is not None:
        require_apart("--plot", plot, "-o", output)
    if plot is not None and plot.suffix.lower() != ".svg":
        raise UsageError(f"--plot {str(plot)!r}: the curve is written as SVG. Give a name that ends in .svg.")
    require_own("--plot", plot, "an SVG", b"<svg")
    if plot is not None:
        with packages("pages"):  # before the work, not after
            from ..pages.calibration_curve import write_curve
    with steps():
        result = run_calibration(
            bundle, training_checkpoint, data=data, scores=scores, q=q, budget=budget, max_drop=max_drop, confidence=confidence, rule=rule,
            cost=cost, cost_table=cost_table, temperature=temperature, split=split, seed=seed,
            precision=precision, backend=backend, threads=threads,
        )  # fmt: skip
    if output is not None:
        result.save(output)
    if plot is not None:
        write_curve(plot, result)
    if as_json:
        click.echo(json.dumps(result.report))
    else:
        print_sections(describe(result.report))
    for warning in result.report["warnings"]:
        click.echo(f"Warning: {warning}", err=True)
