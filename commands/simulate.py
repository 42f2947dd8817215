"""``dynvid simulate``: run the scheduler against a cost table instead of a device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..commands import PATH, Command, rare
from .output import print_table

if TYPE_CHECKING:
    from ..runtime.scheduling.policies import Mode


@click.command(cls=Command)
@click.argument("bundle", type=PATH, required=False)
@click.option("--table", type=PATH, help="JSON with the times of every segment.")
@click.option("--times", type=PATH, help="File written by 'dynvid time BUNDLE -o'.")
@click.option("--device", help="Times of the one-frame network, distributed by MACs: 'images:ms images:ms ..'.")
@click.option("--batch", "batches", type=click.IntRange(1, 1024), multiple=True, default=(8,), show_default=True,
              help="Most videos in one call; may be repeated.")  # fmt: skip
@click.option(
    "--q", type=float, default=1.2, show_default=True, help="Ratio of one exit's share to the previous one's."
)
@rare("--shares", help="Shares of the exits instead of --q: '0.1,0.2,..'.")
@rare("--videos", type=click.IntRange(100), default=20000, show_default=True, help="Number of videos to simulate.")
@rare("--slots", type=click.IntRange(1), help="Most videos in flight.  [default: two batches per segment]")
@click.option(
    "--deadline-ms",
    type=click.FloatRange(0, min_open=True),
    help="Find the highest load at which 99 % are answered in time.",
)
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Videos per second to plan devices for.")
@rare("--mode", type=click.Choice(["throughput", "latency", "deadline"]), default="throughput", show_default=True,
              help="Mode of the scheduler under load.")  # fmt: skip
@rare("--seed", type=int, default=0, show_default=True, help="Seed of exits and arrivals.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def simulate(
    bundle: Path | None, table: Path | None, times: Path | None, device: str | None, batches: tuple[int, ...], q: float,
    shares: str | None, videos: int, slots: int | None, deadline_ms: float | None, rate: float | None,
    mode: Mode, seed: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Simulate one device, and plan how many devices a load needs."""
    from ..benchmarks.simulation.capacity import plan
    from ..benchmarks.simulation.cost_tables import find_table
    from ..benchmarks.simulation.outcome import draw_exits, geometric_shares, parse_shares

    costs = find_table(table, times, device, bundle)
    given = geometric_shares(len(costs.segments), q) if shares is None else parse_shares(shares, len(costs.segments))
    exits = draw_exits(given, videos, seed)
    deadline_s = None if deadline_ms is None else deadline_ms / 1e3
    plans = [
        plan(costs, exits, b, slots=slots, deadline_s=deadline_s, rate=rate, mode=mode, seed=seed) for b in batches
    ]
    if as_json:
        click.echo(json.dumps({"source": costs.source, "seed": seed, "plans": [p.to_json() for p in plans]}))
        return
    click.echo(f"costs {costs.source}; {videos} videos")
    for found in plans:
        click.echo(f"batch {found.batch}")
        rows = [
            [row["policy"], f"{row['videos_per_s'] * 3600:,.0f}", f"{row['speed_up']:.2f}", f"{row['of_oracle']:.1%}"]
            for row in found.to_json()["offline"]
        ]
        print_table(["policy", "videos/h", "x static", "of the oracle"], rows)
        if found.limit is not None:
            click.echo(f"  keeps {deadline_ms:g} ms for 99 % up to {found.limit:.1f} videos/s")
        if rate is not None:
            need = "no number of devices suffices" if found.devices is None else f"{found.devices} devices"
            click.echo(f"  {rate:g} videos/s: {need}")
