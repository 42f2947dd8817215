"""Run the scheduler against a cost table instead of a device, for ``dynvid simulate``.

One device runs one launch at a time and takes exactly what the table says; exits are drawn from given shares. The
simulator compares policies, finds the highest load that keeps a deadline, and plans machines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ...runtime.scheduling.policies import Mode
from ...runtime.scheduling.queues import Ended, Launch
from ...runtime.scheduling.scheduler import Scheduler
from ...runtime.scheduling.slots import Slots
from .cost_tables import CostTable
from .outcome import Exits, Floats, SimulatedRun, poisson_arrivals


def simulate(
    table: CostTable,
    exits: Exits,
    batch: int,
    arrivals: Floats | None = None,
    mode: Mode = "throughput",
    *,
    slots: int | None = None,
    deadline_s: float | None = None,
    patience_s: float | None = None,
) -> SimulatedRun:
    """Simulate the scheduler on some videos.

    Args:
        table: of costs.
        exits: [videos], where each leaves, 1-based.
        batch: the most videos in one call; every smaller number is a bucket too.
        arrivals: [videos], seconds, ascending; None: all at once.
        mode: of the scheduler. ``static`` runs the table's ``full`` route instead, with a single exit for all.
        slots: None: two full batches per segment.
        deadline_s: seconds after arrival. Only mode ``deadline`` acts on it; misses are counted in all modes.
        patience_s: as ``Scheduler``.
    """
    if mode == "static":
        table, exits = CostTable((table.static,), table.static, table.source), np.ones_like(exits)
    segments = len(table.segments)
    buckets = [[batch] if mode == "static" else range(1, batch + 1)] * segments
    ledger = Slots(2 * segments * batch if slots is None else slots)
    scheduler = Scheduler(lambda k, n: table.ms(k, n) / 1e3, buckets, ledger, mode, patience_s=patience_s)
    drive = _Loop(scheduler, table, exits, arrivals, deadline_s if mode == "deadline" else None)
    drive.run()
    stats, arrived, ended = scheduler.stats, np.array(drive.arrivals), np.array(drive.ended)
    checkpoints = np.array(drive.checkpoints)
    late = np.zeros(len(exits), bool) if deadline_s is None else ended > arrived + deadline_s
    launched = [sum(n * count for n, count in enumerate(fills)) for fills in stats.fills]
    return SimulatedRun(
        f"re-batched, {mode}" if mode != "static" else "static",
        ended - arrived,
        checkpoints,
        drive.now,
        drive.busy_s,
        tuple(videos / max(1, sum(fills)) for videos, fills in zip(launched, stats.fills, strict=True)),
        tuple(waited / max(1, videos) for waited, videos in zip(stats.waited_s, launched, strict=True)),
        int((late | (checkpoints == 0)).sum()),
        drive.in_flight,
    )


@dataclass
class _Loop:
    """The loop around a scheduler: a device that follows the table, and videos that arrive meanwhile."""

    scheduler: Scheduler
    table: CostTable
    exits: Exits
    arrivals_s: Floats | None
    deadline_s: float | None
    now: float = 0.0
    busy_s: float = 0.0
    offered: int = 0
    in_flight: int = 0
    arrivals: list[float] = field(init=False)
    ended: list[float] = field(init=False)
    checkpoints: list[int] = field(init=False)

    def __post_init__(self) -> None:
        videos = len(self.exits)
        self.arrivals = [0.0] * videos if self.arrivals_s is None else self.arrivals_s.tolist()
        self.ended, self.checkpoints = [0.0] * videos, [0] * videos

    def run(self) -> None:
        scheduler, exit_of = self.scheduler, self.exits.tolist()
        seconds: dict[tuple[int, int], float] = {}
        self._admit(self.now)
        while (step := scheduler.next(self.now)) is not None:
            if isinstance(step, Launch):
                call = (step.segment, step.rows)
                if call not in seconds:
                    seconds[call] = self.table.ms(*call) / 1e3
                back = self.now + seconds[call]
                self._admit(back)
                self.now, self.busy_s = back, self.busy_s + seconds[call]
                exited = {t.video for t in step.tickets if exit_of[t.video] == step.segment}
                ended = scheduler.update(step, back, exited)
            else:
                times = [] if step.until is None else [step.until]
                times += self.arrivals[self.offered : self.offered + 1]
                self.now = max(self.now, min(times))
                ended = scheduler.take_ended()
            self._note(ended)
            self._admit(self.now)
        self._note(scheduler.take_ended())

    def _note(self, ended: list[Ended]) -> None:
        for end in ended:
            assert isinstance(end.video, int)
            self.ended[end.video], self.checkpoints[end.video] = end.at, end.checkpoint

    def _admit(self, until: float) -> None:
        """Offer what arrived up to ``until``, while there are slots."""
        slots, arrivals, videos = self.scheduler.slots, self.arrivals, len(self.arrivals)
        while self.offered < videos and arrivals[self.offered] <= until and slots.free:
            at = arrivals[self.offered]
            deadline = None if self.deadline_s is None else at + self.deadline_s
            self.scheduler.offer(self.offered, max(self.now, at), deadline)
            self.offered += 1
            if self.offered == videos:
                self.scheduler.flush()
        self.in_flight = max(self.in_flight, slots.count - slots.free)


def load_limit(
    serve: Callable[[Floats], SimulatedRun],
    most_per_s: float,
    videos: int,
    deadline_s: float,
    seed: int = 0,
    steps: int = 10,
) -> tuple[float, SimulatedRun] | None:
    """Return the highest Poisson rate, videos per second, that is served in time, and the run that showed it.

    In time means that 99 % of the videos are answered within ``deadline_s``, and no queue grows.

    Args:
        serve: the policy, given arrivals [videos].
        most_per_s: a rate that nothing can serve, the oracle's.
        videos: number of videos in one run.
        deadline_s: see above.
        seed: of the arrivals.
        steps: number of bisections.

    Returns:
        None if even the lowest rate tried, ``most_per_s`` / 2^steps, is not served in time.
    """
    low, high, found = 0.0, most_per_s, None
    for _ in range(steps):
        rate = (low + high) / 2
        run = serve(poisson_arrivals(rate, videos, seed))
        in_time = (run.latency_s <= deadline_s) & (run.checkpoints > 0)
        if in_time.mean() >= 0.99 and run.growth < 1.5:
            low, found = rate, (rate, run)
        else:
            high = rate
    return found
