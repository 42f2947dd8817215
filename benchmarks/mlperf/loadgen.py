"""MLPerf LoadGen as the referee: it drives a stream, measures its speed, and decides whether the run is valid.

The three scenarios run in turn, each in its own process under a watchdog, because an error in LoadGen's callbacks
ends the process and a lost answer hangs it. LoadGen's outcome is always reported; only errors in the order are
raised.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ...grid.errors import ResourceError, UsageError
from ...grid.manifest import Precision
from ...grid.packages import packages
from ...grid.storage.strict_json import StrictJsonError, dumps, loads, parse
from ...runtime.child_process import ChildFailure, ChildProcess
from ...runtime.scheduling.policies import Mode
from ..report.report import Scenario
from .log import ACCURACY, DETAIL, LogError, read_answers, read_verdict

Name = Literal["SingleStream", "Offline", "Server"]

OFFLINE_MARGIN = 1.2
"""Offline is told to expect this factor more than a first measurement; otherwise it might end too soon to be valid."""

_LOADGEN_SLACK = 1.1  # LoadGen's own slack on the number of Offline samples
_SINGLE_STREAM_QUERIES = 100  # LoadGen requires 64 for a p90
_SERVER_QUERIES = 1000  # and 662 for a p99; of 1000, two may be late
_TIMES_LONGER = 3.0
_STDERR = "stderr.txt"
_CHILD = "from dynvid.benchmarks.mlperf.loadgen_process import main; main()"


@dataclass(frozen=True)
class LoadGenOrder:
    """What the referee drives, and for how long.

    Attributes:
        bundle: folder of the bundle.
        engines: folder of its engines.
        backend, precision, threads: the backend, its precision, and its number of CPU threads (None: one per core).
        batch: the most videos in one call.
        streams: number of streams that share the videos.
        thresholds, temperatures: one per checkpoint, as ``Stream``.
        clips: a .npy file, float32 [clips, l, 3, crop, crop], in temporal order.
        expected: a .npy file, integers [clips, 2]: class (-1: numeric error) and exit (1-based) of each clip run alone.
        gmacs: multiply-adds up to each checkpoint.
        clip_s: seconds for one clip alone to the end of the route, for time limits.
        logs: folder of the logs, with one subfolder per scenario.
        single_stream_s, offline_s, server_s: the least duration of each scenario.
        server_share: queries per second in Server divided by samples per second in Offline.
        server_bound: p99 that Server must keep, as a multiple of SingleStream's p90.
    """

    bundle: str
    engines: str
    backend: str
    precision: Precision
    threads: int | None
    batch: int
    thresholds: tuple[float | None, ...] | None
    temperatures: tuple[float, ...] | None
    clips: str
    expected: str
    gmacs: tuple[float, ...]
    clip_s: float
    logs: str
    single_stream_s: float = 10.0
    offline_s: float = 60.0
    server_s: float = 60.0
    server_share: float = 0.70
    server_bound: float = 5.0
    streams: int = 1


@dataclass(frozen=True)
class ScenarioOrder:
    """One scenario of an order.

    Attributes:
        order: the whole order.
        name: of the scenario.
        mode: of the stream.
        min_s, min_queries: the least that LoadGen runs.
        queries_per_s: in Server; None elsewhere.
        bound_ms: on p99 in Server; None elsewhere.
    """

    order: LoadGenOrder
    name: Name
    mode: Mode
    min_s: float
    min_queries: int
    queries_per_s: float | None = None
    bound_ms: float | None = None

    @property
    def folder(self) -> Path:
        """The folder of its logs."""
        return Path(self.order.logs) / self.name

    @property
    def warm_up_s(self) -> float:
        """The least time that the stream runs before LoadGen."""
        return self.min_s / 10

    @property
    def expected_s(self) -> float:
        """The expected duration, from timing the calls to the last answer."""
        order = self.order
        opening_s = 4 * order.streams * (1 + order.batch) * order.clip_s  # for timing the calls
        warm_up_s = max(self.warm_up_s, 2 * order.streams * order.batch * order.clip_s)
        if self.name == "Offline":
            return opening_s + warm_up_s + self.min_s * OFFLINE_MARGIN * _LOADGEN_SLACK
        query_s = order.clip_s if self.queries_per_s is None else 1 / self.queries_per_s
        return opening_s + warm_up_s + max(self.min_s, self.min_queries * query_s)


def referee(order: LoadGenOrder, child: str = _CHILD, grace_s: float = 60.0) -> tuple[Scenario, ...]:
    """Return LoadGen's results for SingleStream, Offline and Server; ``ABORTED`` for a run that did not finish.

    Args:
        order: what to drive.
        child: code that runs one scenario.
        grace_s: seconds that a scenario may take beyond three times its expected duration.

    Raises:
        MissingPackageError: If LoadGen is not installed.
        UsageError: If clips, expected answers and multiply-adds do not fit one another.
        ResourceError: If the log folder cannot be written.
    """
    with packages("bench"):
        import mlperf_loadgen  # noqa: F401
    _check(order)
    single = _run(
        ScenarioOrder(order, "SingleStream", "latency", order.single_stream_s, _SINGLE_STREAM_QUERIES), child, grace_s
    )
    offline = _run(ScenarioOrder(order, "Offline", "throughput", order.offline_s, 1), child, grace_s)
    missing = [scenario.name for scenario in (single, offline) if scenario.validity == "ABORTED"]
    if missing:
        return (
            single,
            offline,
            _aborted("Server", None, f"not run: its target comes from {missing[0]}, which was aborted"),
        )
    rate, bound_ms = order.server_share * offline.samples_per_s, order.server_bound * single.p90_ms
    server = ScenarioOrder(order, "Server", "latency", order.server_s, _SERVER_QUERIES, rate, bound_ms)
    return single, offline, _run(server, child, grace_s)


def _check(order: LoadGenOrder) -> None:
    clips, expected = np.load(order.clips, mmap_mode="r"), np.load(order.expected)
    if clips.ndim != 5 or clips.dtype != np.float32 or expected.shape != (len(clips), 2):
        raise UsageError(
            f"clips {clips.dtype} {list(clips.shape)} and expected answers {list(expected.shape)}: expected float32 "
            "[clips, l, 3, crop, crop] and [clips, 2]"
        )
    if not 1 <= expected[:, 1].min() <= expected[:, 1].max() <= len(order.gmacs):
        raise UsageError(
            f"expected exits {expected[:, 1].min()} to {expected[:, 1].max()}: gmacs has {len(order.gmacs)} checkpoints"
        )


def _run(scenario: ScenarioOrder, code: str, grace_s: float) -> Scenario:
    """Return the result of one scenario, run in a child process that is killed if it takes too long."""
    folder = scenario.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (DETAIL, ACCURACY, _STDERR):  # from an earlier run
            (folder / name).unlink(missing_ok=True)
        (folder / "order.json").write_bytes(dumps(asdict(scenario)))
    except OSError as error:
        raise ResourceError(f"log folder {str(folder)!r} cannot be written ({error.strerror}): give another") from None
    child = ChildProcess(code, str(folder / "order.json"))
    try:
        try:
            exits = child.receive(scenario.expected_s * _TIMES_LONGER + grace_s)
        finally:
            child.stop(at_once=True)
            (folder / _STDERR).write_bytes(child.heard)
        return _result(scenario, parse(tuple[int, ...], loads(bytes(exits))))
    except (ChildFailure, LogError, OSError, StrictJsonError) as error:
        return _aborted(scenario.name, _target(scenario), str(error))


def _result(scenario: ScenarioOrder, exits: tuple[int, ...]) -> Scenario:
    order, left = scenario.order, np.array(exits)
    verdict, answers = read_verdict(scenario.folder), read_answers(scenario.folder)
    expected = np.load(order.expected)
    differing = sum((answer.class_index, answer.exit) != tuple(expected[answer.clip]) for answer in answers)
    return Scenario(
        name=scenario.name,
        validity=verdict.validity,
        reason=verdict.reason,
        samples=verdict.samples,
        seconds=verdict.samples / verdict.samples_per_s,
        samples_per_s=verdict.samples_per_s,
        mean_ms=verdict.mean_ms,
        p50_ms=verdict.p50_ms,
        p90_ms=verdict.p90_ms,
        p99_ms=verdict.p99_ms,
        target=_target(scenario),
        mean_gmacs=float(left @ np.array(order.gmacs) / left.sum()),
        accuracy_sampled=len(answers),
        accuracy_differing=differing,
    )


def _target(scenario: ScenarioOrder) -> str | None:
    if scenario.name == "Server":
        return f"{scenario.queries_per_s:.1f} queries/s, p99 <= {scenario.bound_ms:.1f} ms"
    return f"at least {scenario.min_s:g} s" if scenario.name == "Offline" else None


def _aborted(name: Name, target: str | None, reason: str) -> Scenario:
    return Scenario(name, "ABORTED", reason, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, target, 0.0, 0, 0)
