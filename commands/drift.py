"""``dynvid drift``: check whether videos still leave as they did at calibration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..commands import PATH
from .output import print_sections

if TYPE_CHECKING:
    from ..calibration.drift import Drift


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--thresholds", type=PATH, required=True, help="T.json that the videos left by.")
@click.option("--results", type=PATH, required=True, help="RESULTS.jsonl from 'dynvid classify -o'.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def drift(bundle: Path, thresholds: Path, results: Path, as_json: bool) -> None:
    """Compare how videos left BUNDLE's route with how they did at calibration."""
    from ..api import drift as find_drift
    from ..calibration.describe import describe_drift

    found = find_drift(bundle, thresholds, results)
    if as_json:
        click.echo(json.dumps(found.to_json()))
    else:
        print_sections(describe_drift(found))
    warn_of(found)


def warn_of(found: Drift) -> None:
    """Warn on standard error if videos leave differently."""
    if found.drifted:
        click.echo(
            f"Warning: videos leave differently than at calibration: distance {found.exit_distance:.3f} of exits and "
            f"{found.confidence_distance:.3f} with confidences, while chance explains {found.exit_chance:.3f} and "
            f"{found.confidence_chance:.3f}. Calibrate on newer videos.",
            err=True,
        )
