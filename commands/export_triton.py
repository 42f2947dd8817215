"""``dynvid export-triton``: write a model repository for Triton."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..commands import PATH, FiniteRange, precision_option
from ..grid.manifest import Precision


@click.command("export-triton")
@click.argument("bundle", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="The model repository; others' models in it stay.")
@click.option("--name", default="dynvid", show_default=True, help="Name of the model in the repository.")
@click.option("--thresholds", type=PATH, help="T.json; without it, every video runs to the end.")
@click.option("--backend", default="auto", show_default=True, help="Backend; auto as in classify.")
@click.option(
    "--engines",
    type=PATH,
    help="Folder of the engines to copy, or none: run the cells.  [default: BUNDLE.engines, if it is there]",
)
@precision_option
@click.option("--batch", type=click.IntRange(1, 4096), default=8, show_default=True, help="Most videos in one call.")
@click.option("--threads", type=int, help="CPU threads to compute with.  [default: one per core]")
@click.option(
    "--queue-delay",
    metavar="MS",
    type=FiniteRange(0, 60_000),
    default=2.0,
    show_default=True,
    help="How long Triton waits for more requests.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def export_triton(
    bundle: Path, output: Path, name: str, thresholds: Path | None, backend: str, engines: Path | None,
    precision: Precision, batch: int, threads: int | None, queue_delay: float, as_json: bool,
) -> None:  # fmt: skip
    """Write a Triton model repository that serves BUNDLE: config.pbtxt, model.py, and copies of all that they need.

    It runs in a stock Triton whose Python has dynvid installed.
    """
    from ..api import export_triton as write

    folder = write(
        bundle, output, name=name, thresholds=thresholds, backend=backend, engines=engines, precision=precision,
        batch=batch, threads=threads, queue_delay_ms=queue_delay,
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps({"model": str(folder), "name": name}))
    else:
        click.echo(f"{folder}: start it with 'tritonserver --model-repository={output}'")
