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
    from ..runtime.backends.registry import ON_CPU, open_backend
    from ..runtime.port_check import check_ports

    opened, proof = Bundle.open(bundle), None
    if training_checkpoint is None and labels is None and importlib.util.find_spec("onnx") is None:
        opened.verify()
        backend = next((name for name in ON_CPU if importlib.util.find_spec(name) is not None), None)
        if backend is not None:
            check_ports(opened, open_backend(backend))
        checked = "hashes only" if backend is None else f"hashes, and ports as {backend} sees them"
        click.echo(f"checked {checked}: install 'dynvid[export,cpu]' to check the structure too", err=True)
    else:
        from ..api import verify as run_verify

        with steps():
            proof = run_verify(bundle, training_checkpoint, labels=labels)
    print_proof(opened, proof, as_json)
