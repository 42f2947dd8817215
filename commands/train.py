"""``dynvid train``: train a network by the paper's recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ..commands import PATH
from .output import steps


@click.command()
@click.argument("config", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the run; the same call resumes it.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="TABLE.KEY=VALUE",
    help="Change the configuration, such as recipe.batch=64; may be repeated.",
)
@click.option(
    "--overfit-one-batch", is_flag=True, help="Only try whether the network learns one batch by heart; writes nothing."
)
@click.option("--json", "as_json", is_flag=True, help="Print log lines as JSON.")
def train(config: Path, output: Path, changes: tuple[str, ...], overfit_one_batch: bool, as_json: bool) -> None:
    """Train a network by the paper's recipe, as configured in the TOML file CONFIG; resumable."""
    from ..api import train as run_training

    with steps():

        def report(entry: Mapping[str, Any]) -> None:
            line = dict(entry)
            if as_json:
                click.echo(json.dumps(line))
                return
            following = line.pop("next", [])
            click.echo("  ".join(f"{key} {value}" for key, value in line.items()))
            for command in following:
                click.echo(f"next: {command}")

        run_training(config, output, changes=changes, overfit_one_batch=overfit_one_batch, report=report)
