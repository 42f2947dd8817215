"""``dynvid verify``: check a bundle, and prove it again."""

from __future__ import annotations

from pathlib import Path

import click

from ..commands import PATH
from .output import print_proof, steps


@click.command()
@click.argument("bundle", type=PATH)
@click.argument("training_checkpoint", type=PATH, required=False)
@click.option("--labels", type=PATH, help="File of class names that the bundle was exported with.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(bundle: Path, training_checkpoint: Path | None, labels: Path | None, as_json: bool) -> None:
    """Check the hashes and structure of BUNDLE; with its TRAINING_CHECKPOINT, prove it again."""
    import importlib.util

    from ..grid.bundle import Bundle

    opened, proof = Bundle.open(bundle), None
    if training_checkpoint is None and importlib.util.find_spec("onnx") is None:
        opened.verify()
        click.echo("checked hashes only: install 'dynvid[export,cpu]' to check the structure too", err=True)
    else:
        from ..api import verify as run_verify

        with steps() as step:
            proof = run_verify(bundle, training_checkpoint, labels=labels, report=step)
    print_proof(opened, proof, as_json)
