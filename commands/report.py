"""``dynvid report``: show what became of the videos of a run."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..commands import PATH, Command, rare
from ..grid.errors import UsageError
from ..pages.legible import legible
from .drift import warn_of
from .output import require_own


@click.command(cls=Command)
@click.argument("results", type=PATH)
@click.option("-o", "--output", type=PATH, help="Page (.html) to write.")
@click.option("--data", metavar="LIST", help="LIST with labels; where it has one, it goes before that in RESULTS.")
@rare("--video-column", metavar="NAME", default="video", show_default=True, help="Column of the videos in the LIST.")
@rare("--label-column", metavar="NAME", help="Column of the labels.  [default: label, if there is one]")
@rare("--id-column", metavar="NAME", help="Column of the ids that RESULTS have.  [default: none; found by path or URI]")
@click.option("--thresholds", type=PATH, help="T.json that the videos left by, to compare with calibration.")
@click.option(
    "--bundle", type=PATH, help="Bundle of RESULTS, to check against; needed if no RESULTS.run.json names it."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def report(
    results: Path, output: Path | None, data: str | None, video_column: str, label_column: str | None,
    id_column: str | None, thresholds: Path | None, bundle: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Show what became of the videos in RESULTS, the JSON Lines file of 'dynvid classify -o'.

    -o writes a page: exits by class, accuracy by exit, confusion, costs, drift, videos to look at, failures.
    """
    from ..api import report as make_report
    from ..pages.run.words import drift, summary
    from ..runtime.video.listing import Columns, open_list

    columns = Columns(video_column, label_column, id_column)
    if data is None and columns != Columns():
        raise UsageError("--video-column, --label-column and --id-column name columns of a LIST: give --data LIST")
    require_own("-o", output, "a page", b"<!doctype html>")
    listed = None if data is None else open_list(data, columns)
    figures = make_report(results, output, data=listed, bundle=bundle, thresholds=thresholds)
    if as_json:
        click.echo(json.dumps(figures.to_json(), allow_nan=False))
    else:
        click.echo(summary(figures))
        for failure in figures.failures:
            click.echo(f"  {failure.videos} failed: {legible(failure.cause)}")
        if figures.drift is not None:
            click.echo(drift(figures.drift))
        if output is not None:
            click.echo(f"wrote {output}")
    if figures.drift is not None:
        warn_of(figures.drift)
