"""``dynvid data``: read a data set as it lies on disk, and report what is there and what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..commands import PATH
from .output import print_table, steps


@click.command()
@click.argument("source", type=PATH)
@click.option(
    "--format",
    "format_",
    metavar="FORMAT",
    default="auto",
    show_default=True,
    help="kinetics, something-v1, something-v2, ucf101, hmdb51, list or class-folders.",
)
@click.option("--videos", type=PATH, help="Folder of the clips, if it is not SOURCE.")
@click.option("--labels", type=PATH, help="File of the class names in order of number, one a line or a label map.")
@click.option("--split", type=click.IntRange(1), help="Which split of UCF101, HMDB51 or numbered lists.  [default: 1]")
@click.option("--first-label", type=click.IntRange(0, 1), default=0, show_default=True, help="First number in a list.")
@click.option("--scan", is_flag=True, help="Open every clip and read its first and last sampled frame.")
@click.option("-o", "--output", type=PATH, help="Folder for classes.txt, a list for each split, and the problems.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def data(
    source: Path,
    format_: str,
    videos: Path | None,
    labels: Path | None,
    split: int | None,
    first_label: int,
    scan: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Read the data set SOURCE: a list, a folder of lists, or a folder of class folders.

    It reports how many clips are listed, found, missing and unreadable, and all that is wrong. -o writes the lists that
    'dynvid train' reads.
    """
    from ..api import data as read_data

    with steps():
        found = read_data(
            source, format=format_, videos=videos, labels=labels, split=split, first_label=first_label, scan=scan,
            output=output,
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(found))
    else:
        _print(found, output)


def _print(found: dict[str, Any], output: Path | None) -> None:
    click.echo(f"{found['recognised']}; clips in {found['videos']}")
    click.echo(f"{found['classes']} classes, {found['classes_from']}")
    for note in found["notes"]:
        click.echo(note)
    columns = ["listed", "found", "missing", "unreadable", "usable"]
    rows = [
        [name, *("-" if column == "unreadable" and not found["scanned"] else str(counts[column]) for column in columns)]
        for name, counts in found["splits"].items()
    ]
    print_table(["split", *columns], rows)
    for kind, about in found["problems"].items():
        fate = {True: "left out; ", False: "kept; ", None: ""}[about["left_out"]]
        click.echo(f"{kind}: {about['count']} ({fate}{about['advice']})")
        for one in about["first"]:
            click.echo(f"  {' · '.join(text for text in (one['split'], one['clip'], one['detail']) if text)}")
        if about["count"] > len(about["first"]):
            click.echo(
                f"  and {about['count'] - len(about['first'])} more" + (f" in {output}/problems.csv" if output else "")
            )
    if not found["scanned"]:
        click.echo("No clip was opened: --scan finds those that cannot be read.")
    if output is None:
        click.echo("next: the same command with -o FOLDER, which writes the lists that training reads")
        return
    lists = [f"{output}/{name}.csv" for name, counts in found["splits"].items() if counts["is_list"]]
    others = [
        f"{output}/{name}.csv" for name, counts in found["splits"].items() if counts["usable"] and not counts["is_list"]
    ]
    if lists:
        click.echo(f"calibrate and classify can take {', '.join(lists)}")
    if others:
        click.echo(f"only training can take {', '.join(others)}: folders of frames, or parts of videos")
    folder = json.dumps(str(output.absolute()), ensure_ascii=False)
    click.echo(f"next: in CONFIG.toml, [data] folder = {folder}; then dynvid train CONFIG.toml -o RUN/")
