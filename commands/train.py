"""``dynvid train``: train a network by the paper's recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..commands import PATH
from .output import steps


@click.command()
@click.argument("config", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the run; the same call resumes it.")
@click.option("--json", "as_json", is_flag=True, help="Print log lines as JSON.")
def train(config: Path, output: Path, as_json: bool) -> None:
    """Train a network by the paper's recipe, as configured in the TOML file CONFIG; resumable."""
    from ..api import train as run_training

    with steps():

        def report(line: Any) -> None:
            if as_json:
                click.echo(json.dumps(line))
            else:
                click.echo("  ".join(f"{key} {value}" for key, value in line.items()))

        result = run_training(config, output, report=report)
    click.echo(json.dumps({"training_checkpoint": str(result)}) if as_json else f"wrote {result}")
