"""The commands, one file each: it parses, calls one function, and prints."""

from pathlib import Path
from typing import get_args

import click

from ..grid.manifest import Precision

PATH = click.Path(path_type=Path)
PRECISIONS = click.Choice(get_args(Precision))
precision_option = click.option(
    "--precision",
    type=PRECISIONS,
    default="fp32",
    show_default=True,
    help="bf16 is OpenVINO's arithmetic on the fp32 graphs; int8-bf16 on what INT8 leaves in fp32.",
)
