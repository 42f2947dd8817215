"""The command line: all commands, and the handling of their errors."""

from __future__ import annotations

import logging
import sys

import click

from .commands.bench import bench
from .commands.build_engines import build_engines
from .commands.calibrate import calibrate
from .commands.classify import classify
from .commands.conformance import conformance
from .commands.data import data
from .commands.doctor import doctor
from .commands.drift import drift
from .commands.explain import explain
from .commands.export import export
from .commands.export_triton import export_triton
from .commands.merge import merge
from .commands.output import every_line
from .commands.plan import plan
from .commands.quantize import quantize
from .commands.report import report
from .commands.serve import serve
from .commands.simulate import simulate
from .commands.time import time
from .commands.train import train
from .commands.verify import verify
from .grid.errors import DynvidError
from .grid.storage.files import remedy_for
from .pages.legible import legible


class _Warning(logging.Formatter):
    """A warning, in one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return f"Warning: {legible(record.getMessage())}"


class CommandsInOrder(click.Group):
    """Lists its commands in the order in which they are used."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names."""
        return list(self.commands)


@click.group(cls=CommandsInOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dynvid")
@click.option("-v", "--verbose", is_flag=True, help="Print on standard error all that is being done, line by line.")
@click.pass_context
def cli(context: click.Context, verbose: bool) -> None:
    """Deploy dynamic-inference video networks: split, prove, and run along the checkpoint route."""
    if verbose:
        context.with_resource(every_line())


for command in (
    plan, data, train, export, verify, build_engines, calibrate, quantize, drift, classify, merge, explain, report, serve,
    export_triton, bench, time, simulate, conformance, doctor,
):  # fmt: skip
    cli.add_command(command)


def main() -> None:
    """Run the command line; every expected error becomes one line and its exit code."""
    if logging.lastResort is not None:  # shows warnings where a command shows no steps
        logging.lastResort.setFormatter(_Warning())
    if sys.stdout is None:  # a file opened next would take its place
        click.echo("Error: standard output is closed: send it to a file, or to /dev/null", err=True)
        sys.exit(2)
    try:
        sys.exit(cli.main(prog_name="dynvid", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Error: interrupted", err=True)
        sys.exit(130)
    except DynvidError as error:
        click.echo(f"Error: {legible(str(error))}", err=True)
        sys.exit(error.exit_code)
    except ImportError as error:
        click.echo(f"Error: {error}. A package is missing or broken: run 'dynvid doctor'.", err=True)
        sys.exit(5)
    except MemoryError:
        click.echo("Error: out of memory: close other programs, or use a machine with more", err=True)
        sys.exit(6)
    except OSError as error:
        where = f" {str(error.filename)!r}" if error.filename else ""
        click.echo(f"Error: {error.strerror or error}{where}: {remedy_for(error, 'give another place')}", err=True)
        sys.exit(6)


if __name__ == "__main__":
    main()
