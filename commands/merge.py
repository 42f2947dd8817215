"""``dynvid merge``: the results of several shards, or of a run on Ray, as one file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from ..commands import PATH, Command
from .output import steps


@click.command(cls=Command)
@click.argument("parts", metavar="PART...", type=PATH, nargs=-1, required=True)
@click.option(
    "-o", "--output", type=PATH, required=True, help="JSON Lines file, or .parquet; only results are replaced."
)
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def merge(parts: tuple[Path, ...], output: Path, as_json: bool) -> None:
    """Join results into one file: files of 'classify -o', or the folders of 'classify --ray'.

    A video that has several lines is written once, and refused where they differ in anything but times.
    """
    from ..api import merge as run_merge

    with steps():
        found = run_merge(parts, output)
    if as_json:
        click.echo(json.dumps(found.to_json()))
    else:
        click.echo(f"{output}: {found}")
    if found.missing:
        sys.exit(7)
