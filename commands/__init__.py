"""The commands, one file each: it parses, calls one function, and prints."""

from pathlib import Path

import click

PATH = click.Path(path_type=Path)
