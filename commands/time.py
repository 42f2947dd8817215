"""``dynvid time``: measure how long each segment takes here."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from ..commands import PATH, precision_option
from ..grid.manifest import Precision
from .output import print_table, require_own, steps


@click.command()
@click.argument("bundle", type=PATH)
@click.option(
    "-o", "--output", type=PATH, help="JSON file to write, for --cost-table of calibrate and --times of simulate."
)
@click.option("--backend", default="auto", show_default=True, help="Backend; auto as in classify.")
@click.option("--engines", type=PATH, help="Folder of the engines.  [default: BUNDLE.engines]")
@precision_option
@click.option("--threads", type=int, help="CPU threads to compute with.  [default: one per core]")
@click.option("--rounds", type=int, default=100, show_default=True, help="Number of measured runs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def time(
    bundle: Path, output: Path | None, backend: str, engines: Path | None, precision: Precision, threads: int | None,
    rounds: int, as_json: bool,
) -> None:  # fmt: skip
    """Measure the time of each segment of BUNDLE's route for one video, run as classify runs it."""
    from ..api import time as take_times
    from ..benchmarks.measure.machine import MOST_OTHERS

    require_own("-o", output, "a file of times", b"dynvid.timing")
    with steps():
        found = take_times(
            bundle, backend=backend, engines=engines, precision=precision, threads=threads, rounds=rounds,
        )  # fmt: skip
    if output is not None:
        found.write(output)
    if as_json:
        click.echo(json.dumps(asdict(found)))
    else:
        what = "fused segments" if found.is_fused else "cells"
        click.echo(f"{what} on {found.backend}, {found.precision}, {found.threads} threads, one video at a time")
        rows = [
            [
                f"segment {one.index}" if one.index else "static run",
                *(f"{v:.3f}" for v in (one.median_ms, one.p25_ms, one.p75_ms)),
            ]
            for one in (*found.segments, found.static)
        ]  # fmt: skip
        print_table(["", "median ms", "25 %", "75 %"], rows)
    if found.others_cpu_share is not None and found.others_cpu_share > MOST_OTHERS:
        click.echo(
            f"Warning: other processes used {found.others_cpu_share:.0%} of this one's CPU time: measure on a quiet "
            "machine",
            err=True,
        )
