"""``dynvid explain``: show what a video did on the route."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from ..commands import PATH, Command, engines_option, precision_option, rare, require_videos
from ..grid.errors import InputRefusedError, UsageError
from ..grid.manifest import Precision
from .output import require_own, steps


@click.command(cls=Command)
@click.argument("bundle", type=PATH)
@click.argument("videos", metavar="[VIDEO]...", type=PATH, nargs=-1)
@click.option("--data", type=PATH, help="LIST of videos; with labels, the page says what was right.")
@click.option("-o", "--output", type=PATH, help="Page (.html) or figure (.svg, .png) to write.")
@click.option("--thresholds", type=PATH, help="T.json; without it, every video runs to the end.")
@click.option("--backend", default="auto", show_default=True, help="Backend; auto as in classify.")
@engines_option
@precision_option
@rare("--threads", type=int, help="CPU threads to compute with.  [default: one per core]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a video.")
def explain(
    bundle: Path, videos: tuple[Path, ...], data: Path | None, output: Path | None, thresholds: Path | None,
    backend: str, engines: str | None, precision: Precision, threads: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Show what each VIDEO did on the route: frames looked at, cells computed, confidences, time and multiply-adds.

    -o draws it. Videos run to the end of the route here, to show what leaving early saved.
    """
    from ..api import explain as run_explain
    from ..pages.explained.explanation import Explanation, Unexplained
    from ..pages.explained.words import verdict
    from ..pages.legible import legible
    from ..runtime.video.listing import read_list

    if not videos and data is None:
        raise UsageError("explain reads nothing: give VIDEO or --data LIST")
    if videos and data is not None:
        raise UsageError("explain takes VIDEO or --data LIST, not both: leave one out")
    require_videos(videos)
    png = output is not None and output.suffix.lower() == ".png"
    require_own("-o", output, "a page or a figure", b"\x89PNG" if png else b"<svg")
    with steps():
        found = run_explain(
            bundle, videos if data is None else read_list(data), output, thresholds=thresholds, backend=backend,
            precision=precision, engines=engines, threads=threads,
        )  # fmt: skip
    for one in found:
        if as_json:
            click.echo(json.dumps(one.to_json(), allow_nan=False))
        elif isinstance(one, Explanation):
            click.echo(legible(f"{one.video}: {verdict(one)}"))
    if output is not None and not as_json:
        click.echo(f"wrote {output}")
    failed = [one for one in found if isinstance(one, Unexplained)]
    for one in failed:
        click.echo(f"Error: {legible(one.error)}", err=True)
    if failed:
        sys.exit(InputRefusedError.exit_code if len(failed) == len(found) else 7)
