"""The commands, one file each: parse, call one function, print. This module holds what they share."""

import glob
import math
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from ..grid.errors import UsageError
from ..grid.manifest import Precision
from ..runtime.video.remote import is_uri

F = TypeVar("F", bound=Callable[..., Any])


class LocalPath(click.Path):
    """A path of this machine. A URI is refused: as a path it would lose a slash, and name something else."""

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Return the path.

        Raises:
            UsageError: If it is a URI, or empty.
        """
        name = "path"
        if param is not None:
            name = param.opts[0] if isinstance(param, click.Option) else param.human_readable_name.strip("[].")
        if os.fspath(value) == "":
            raise UsageError(f"{name} '': expected a path; a dot is this folder")
        if is_uri(value):
            raise UsageError(
                f"{name} {os.fspath(value)!r} is a URI: expected a file or folder of this machine. Fetch it, or send it "
                "there, by another tool"
            )
        return super().convert(value, param, ctx)


PATH = LocalPath(path_type=Path)


def require_videos(videos: Sequence[str | os.PathLike[str]]) -> None:
    """Make sure that each VIDEO may be one, and is not what names many.

    Raises:
        UsageError: If one is a glob pattern or a folder.
    """
    for video in videos:
        name = os.fspath(video)
        if is_uri(name):
            continue
        pattern = glob.has_magic(name) and not os.path.exists(name)
        if pattern or os.path.isdir(name):
            kind = "a glob pattern" if pattern else "a folder"
            raise UsageError(f"VIDEO {name!r} is {kind}, which names a list: give --data {shlex.quote(name)}")


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


class FiniteRange(click.FloatRange):
    """A range of numbers that excludes nan and infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        found: float = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return found


def rare(*names: str, **attributes: Any) -> Callable[[F], F]:
    """Return the decorator for an option that ``--help`` shows last; arguments as ``click.option``."""
    return click.option(*names, cls=RareOption, **attributes)


backend_option = click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="Backend; auto: that of the engines, else onnxruntime or openvino on the cells.",
)
engines_option = rare("--engines", help="Folder of the engines, or none: run the cells.  [default: BUNDLE.engines]")
batch_option = click.option(
    "--batch",
    type=click.IntRange(1, 4096),
    help="Most videos in one call.  [default: the engines' best, or 1 for cells]",
)

READING = (
    rare("--network", help="Expected network of a training checkpoint, such as resnet50; any other is refused."),
    rare("--layout", default="auto", show_default=True, help="Expected layout, or auto."),
    click.option("--shift/--no-shift", default=None, help="Use the online temporal shift, if the keys do not say."),
    rare("--weights", metavar="KEY", help="Key of the weights in a file that has several sets."),
    rare("--shift-div", type=int, help="A shift moves 1/N of the channels, in a public layout.  [default: 8]"),
    rare("--stride-in-1x1/--stride-in-3x3", default=None, help="Where a public ResNet strides: 1x1 is Caffe-style."),
    rare("--dilated", type=int, help="Last stages of a torchvision ResNet that dilate, not stride.  [default: 0]"),
    rare("--static", is_flag=True, help="Take a public layout as trained, TSM shifting both ways: one call, no exits."),
)
"""How a training checkpoint is to be read, where it does not say."""


def reading_options(command: F) -> F:
    """Give a command the options ``READING``, in their order."""
    for option in reversed(READING):
        command = option(command)
    return command
