"""How much one machine can serve, and how many machines a load needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ...runtime.scheduling.policies import Mode
from .baselines import oracle, serve_batches
from .cost_tables import CostTable
from .outcome import Exits, SimulatedRun
from .simulator import load_limit, simulate


@dataclass(frozen=True)
class CapacityPlan:
    """The performance of one device, offline and under load, at one batch size.

    Attributes:
        batch: the most videos in one call.
        offline: runs with all videos present from the start; the static run first, the oracle last.
        limit: highest Poisson rate, videos per second, that keeps the deadline; 0 if none does, None without a
            deadline.
        under_load: the run at that rate.
        devices: number of devices that a given rate needs, at the limit if there is a deadline, else offline; None if
            no number suffices.
    """

    batch: int
    offline: tuple[SimulatedRun, ...]
    limit: float | None
    under_load: SimulatedRun | None
    devices: int | None

    def to_json(self) -> dict[str, Any]:
        """Return the figures; speed-ups are over the static run."""
        static, bound = self.offline[0].videos_per_s, self.offline[-1].videos_per_s
        return {
            "batch": self.batch,
            "offline": [
                {**run.to_json(), "speed_up": run.videos_per_s / static, "of_oracle": run.videos_per_s / bound}
                for run in self.offline
            ],
            "limit_per_s": self.limit,
            "under_load": None if self.under_load is None else self.under_load.to_json(),
            "devices": self.devices,
        }


def plan(
    table: CostTable,
    exits: Exits,
    batch: int,
    *,
    slots: int | None = None,
    deadline_s: float | None = None,
    rate: float | None = None,
    mode: Mode = "throughput",
    seed: int = 0,
) -> CapacityPlan:
    """Return the performance of one device, and how many are needed.

    Args:
        table: of costs.
        exits: [videos], where each leaves, 1-based.
        batch: the most videos in one call.
        slots: as ``simulate``.
        deadline_s: seconds after arrival, for 99 %; None: offline only.
        rate: videos per second to find the number of devices for, distributed among them at random.
        mode: of the scheduler under load.
        seed: of the arrivals.
    """
    dynamic = simulate(table, exits, batch, slots=slots)
    offline = (
        simulate(table, exits, batch, mode="static"),
        *(serve_batches(table, exits, batch, compact=compact) for compact in (False, True)),
        dynamic,
        oracle(table, exits, batch),
    )
    limit, under_load = None, None
    if deadline_s is not None:
        found = load_limit(
            lambda arrivals: simulate(table, exits, batch, arrivals, mode, slots=slots, deadline_s=deadline_s),
            offline[-1].videos_per_s, len(exits), deadline_s, seed,
        )  # fmt: skip
        limit, under_load = found or (0.0, None)
    capacity = dynamic.videos_per_s if limit is None else limit
    devices = math.ceil(rate / capacity) if rate is not None and capacity > 0 else None
    return CapacityPlan(batch, offline, limit, under_load, devices)
