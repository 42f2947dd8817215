"""``dynvid conformance``: check a new network against the network protocol."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict

import click

from ..grid.packages import packages

_MARKS = {"passed": "✓", "failed": "✗", "not run": "-"}


@click.command()
@click.argument("network")
@click.option("--crop", type=int, default=64, show_default=True, help="Height and width of the frames.")
@click.option(
    "--config", metavar="JSON", default="{}", help='Further configuration, such as \'{"options": {"width": 8}}\'.'
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def conformance(network: str, crop: int, config: str, as_json: bool) -> None:
    """Check that NETWORK (a registered name, or module:function) keeps the protocol that the split and its proof rely on."""
    with packages("export,cpu"):
        import torch

        from ..models.conformance.kit import check, read_config
    sys.path.insert(0, os.getcwd())  # the first place to look for module:function
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors are small, so more threads would only wait for each other on a busy machine
    try:
        findings = check(read_config(network, crop, config))
    finally:
        torch.set_num_threads(threads)
    failed = [finding for finding in findings if finding.state == "failed"]
    if as_json:
        click.echo(json.dumps({"network": network, "conforms": not failed, "findings": [asdict(f) for f in findings]}))
    else:
        for finding in findings:
            click.echo(f"{_MARKS[finding.state]} {finding.check}: {finding.why}")
    for finding in failed:
        for fault in finding.faults:
            click.echo(f"Error: {finding.check}: {fault}", err=True)
    if failed:
        sys.exit(2)
