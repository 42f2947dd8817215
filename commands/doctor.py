"""``dynvid doctor``: report what works on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from ..commands import PATH
from .output import print_table


@click.command()
@click.argument("bundle", type=PATH, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(bundle: Path | None, as_json: bool) -> None:
    """Report what is installed, whether videos can be decoded and which backends work, and how to fix the rest.

    Also times the working CPU backends on BUNDLE, or on four convolutions without it.
    """
    from ..grid.bundle import Bundle
    from ..runtime.doctor import examine

    found = examine(None if bundle is None else Bundle.open(bundle))
    if as_json:
        click.echo(json.dumps(found))
    else:
        click.echo(f"dynvid {found['dynvid']}, Python {found['python']}, {found['platform']}, {found['cores']} cores")
        rows = [[name, p["version"] or "-", p["remedy"] or ""] for name, p in found["packages"].items()]
        print_table(["package", "version", "to install"], rows)
        click.echo(f"GPU: {found['gpu']['name'] or found['gpu']['problem']}")
        click.echo(f"videos: {found['decoder']['problem'] or 'a freshly made clip was decoded with every pixel right'}")
        said = {True: "yes", False: "no", None: "-"}
        rows = [
            [
                b["name"] + ("" if b["precision"] == "fp32" else f", {b['precision']}"),
                b["version"] or "-",
                said[b["works"]],
                said[b["builds"]],
                b["problem"] or b["note"],
            ]
            for b in found["backends"]
        ]
        print_table(["backend", "version", "works here", "builds engines", "what was seen"], rows)
        if found["speed"] is not None:
            print_table(
                [found["speed"]["timed"], "ms"], [[name, f"{ms:.3g}"] for name, ms in found["speed"]["ms"].items()]
            )
            click.echo(found["speed"]["advice"])
        for conflict in found["conflicts"]:
            click.echo(f"Warning: {conflict}", err=True)
    if not (found["decoder"]["works"] and any(b["works"] for b in found["backends"] if b["name"] != "null")):
        sys.exit(5)
