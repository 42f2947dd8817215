"""The commands, one file each: parse, call one function, print. This module holds what they share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from ..grid.manifest import Precision

F = TypeVar("F", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)
PRECISIONS = click.Choice(get_args(Precision))
precision_option = click.option(
    "--precision",
    type=PRECISIONS,
    default="fp32",
    show_default=True,
    help="bf16 runs the fp32 graphs in bf16, int8-bf16 the fp32 rest of INT8 graphs; both need OpenVINO.",
)


class RareOption(click.Option):
    """An option that is rarely changed."""


class Command(click.Command):
    """A command that lists its rare options last in ``--help``, under their own heading."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options."""
        rows: dict[str, list[tuple[str, str]]] = {"Options": [], "Rarely needed": []}
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx)
            if isinstance(parameter, click.Option) and row is not None:
                rows["Rarely needed" if isinstance(parameter, RareOption) else "Options"].append(row)
        for heading, found in rows.items():
            if found:
                with formatter.section(heading):
                    formatter.write_dl(found)


def rare(*names: str, **attributes: Any) -> Callable[[F], F]:
    """Return the decorator for an option that ``--help`` shows last; arguments as ``click.option``."""
    return click.option(*names, cls=RareOption, **attributes)
