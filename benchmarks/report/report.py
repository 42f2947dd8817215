"""What ``dynvid bench`` found: the figures of one bundle on one backend of one machine, and their form as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from ..segment_times import SegmentTime

FORMAT = "dynvid.bench/1"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Ratio:
    """One of the ratios that say how close to the limit a run came.

    Attributes:
        name: such as ``split_overhead``; ``benchmarks/measure/ratios.py`` has them all.
        estimate: None where it could not be measured.
        bar: what it should reach: ``<= 1.05``; "" where nothing is asked.
        meets: whether the value does; None without a value or a bar.
        note: what was measured, or why it was not.
    """

    name: str
    estimate: Estimate | None
    bar: str
    meets: bool | None
    note: str


@dataclass(frozen=True)
class Latency:
    """Milliseconds of some videos, from the first call to the answer; no decoding.

    Attributes:
        videos: how many samples.
        mean_ms: with its interval.
        p50_ms, p90_ms, p99_ms: percentiles.
    """

    videos: int
    mean_ms: Estimate
    p50_ms: float
    p90_ms: float
    p99_ms: float


@dataclass(frozen=True)
class OperatingPoint:
    """One way to run the network, and what it costs: a ratio q, given thresholds, no exits, or the static network.

    Attributes:
        name: ``q = 1.2``, ``thresholds``, ``no exits`` (the route to its end), ``static`` (the full route as one graph).
        q: of the exits' shares; None where there is none.
        thresholds: one a checkpoint, the last None; empty for ``static``.
        shares: of the exits among the clips.
        gmacs, paper_gmacs: mean a video, by both rules.
        fraction: gmacs over the static network's.
        accuracy: of labelled clips; None without labels.
        agreement: share of clips whose class is the static network's.
        latency: one video at a time.
        exit_latency: the same by exit; None where nobody left there.
        offline_videos_per_s: through the stream, all videos there from the start; None where it was not run.
    """

    name: str
    q: float | None
    thresholds: tuple[float | None, ...]
    shares: tuple[float, ...]
    gmacs: float
    paper_gmacs: float
    fraction: float
    accuracy: Estimate | None
    agreement: Estimate
    latency: Latency
    exit_latency: tuple[Latency | None, ...]
    offline_videos_per_s: float | None


@dataclass(frozen=True)
class Peer:
    """The static network on another runtime, such as ``openvino 2026.4.1, fp32``, one video at a time in the same rounds.

    Attributes:
        name: runtime, versions and arithmetic.
        precision: of the arithmetic.
        latency: of a video.
        point_over: time of the first operating point over this one's, for the same clips in the same rounds.
    """

    name: str
    precision: str
    latency: Latency
    point_over: Estimate


@dataclass(frozen=True)
class StreamRun:
    """Many videos at once, for real, at the first operating point.

    Attributes:
        name: ``offline``, ``offline, no exits``, ``Poisson, 70 % of the oracle`` and so on.
        policy: ``re-batched`` for the real stream; the simulator's other policies under their names.
        measured: whether it ran for real; else it is the simulator's, from the measured t_k(n).
        rate_per_s: of the arrivals; None offline.
        videos: served.
        videos_per_s: throughput.
        of_oracle: throughput over the oracle's; None under load.
        p50_ms, p90_ms, p99_ms: from arrival to answer.
        oracle_p50_ms, oracle_p99_ms: the simulator's oracle on the same arrivals; None offline.
        growth: mean latency of the last quarter over that of the second; about 1 where no queue grows.
        fills: [segment][n], launches with n videos, none of 0; empty where it was not counted.
        wait_ms: [segment], mean wait in its queue.
        in_flight: most videos that held a slot.
    """

    name: str
    policy: str
    measured: bool
    rate_per_s: float | None
    videos: int
    videos_per_s: float
    of_oracle: float | None
    p50_ms: float
    p90_ms: float
    p99_ms: float
    oracle_p50_ms: float | None
    oracle_p99_ms: float | None
    growth: float
    fills: tuple[tuple[int, ...], ...]
    wait_ms: tuple[float, ...]
    in_flight: int


@dataclass(frozen=True, slots=True)
class BreakdownPart:
    """Milliseconds a video that a part of the run takes beyond, or with a minus below, what its multiply-adds would."""

    name: str
    ms: float


@dataclass(frozen=True)
class Breakdown:
    """Why saved multiply-adds are not saved milliseconds: from the ideal time to the measured one.

    Attributes:
        name: which run.
        ideal_ms: the static run's time, times mean macs / its macs.
        parts: what comes on top, in order; they add up to ``actual_ms`` - ``ideal_ms``.
        actual_ms: a video's.
    """

    name: str
    ideal_ms: float
    parts: tuple[BreakdownPart, ...]
    actual_ms: float


@dataclass(frozen=True)
class MemoryUse:
    """Of this process at its peak, everything included; of a video in flight in the state store, ``slots`` at most."""

    peak_bytes: int
    state_bytes_per_video: int
    slots: int


@dataclass(frozen=True)
class Decode:
    """Reading, decoding and preparing all frames of a video file, apart from inference; None of it for given arrays."""

    videos: int
    mean_ms: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Scenario:
    """What MLPerf LoadGen says of one scenario.

    Attributes:
        name: ``SingleStream``, ``Offline`` or ``Server``.
        validity: LoadGen's own word: ``VALID`` or ``INVALID``; ``ABORTED`` where it did not come to an end.
        reason: why not valid; None.
        samples: that LoadGen issued.
        seconds: of the run.
        samples_per_s: completed.
        mean_ms, p50_ms, p90_ms, p99_ms: of its latencies.
        target: what was asked: such as ``21.4 queries/s, p99 <= 83.1 ms``; None.
        mean_gmacs: of the samples that were issued.
        accuracy_sampled: answers that were logged while performance was measured.
        accuracy_differing: how many of these are not what the same clip gets alone: class and exit.
    """

    name: str
    validity: str
    reason: str | None
    samples: int
    seconds: float
    samples_per_s: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    target: str | None
    mean_gmacs: float
    accuracy_sampled: int
    accuracy_differing: int


@dataclass(frozen=True)
class Setting:
    """Where, with what, and on what the figures were taken.

    Attributes:
        network, bundle_sha256, classes, gmacs: of the bundle; gmacs of the full route.
        backend, precision, threads: what computed, how, and on how many threads.
        clips: what was classified, such as ``48 random clips`` or ``200 of val.csv``; ``labelled``: whether with labels.
        exits: where thresholds come from, for a reader.
        rounds, batch, streams: passes over the clips; the most videos of one call; streams that share many videos at once.
        command: as it was called.
        machine, versions, date: where, with what, and when; ``machine["device"]`` where a GPU computes.
        others_cpu_share: CPU time of other processes over this one's while measuring; None where it is not known.
        copies_differ: |1 - one copy of the static run / the other|, the median over clips.
        faults: why the run is not valid; empty where it is.
    """

    network: str
    bundle_sha256: str
    classes: int
    gmacs: float
    backend: str
    precision: str
    threads: int
    clips: str
    labelled: bool
    exits: str
    rounds: int
    batch: int
    streams: int
    command: str
    machine: dict[str, str]
    versions: dict[str, str]
    date: str
    others_cpu_share: float | None
    copies_differ: float
    faults: tuple[str, ...]


class Sample(NamedTuple):
    """One measurement as it was taken: what ran, in which round, on which clip, where the clip left (1-based), how long."""

    contestant: str
    round: int
    clip: int
    exit: int
    ms: float


class LaunchSpan(NamedTuple):
    """One launch of a real stream: its run, segment (1-based), rows of the store, when it began and how long it took."""

    run: str
    segment: int
    rows: tuple[int, ...]
    start_ms: float
    ms: float


@dataclass(frozen=True)
class Report:
    """All of it. The first operating point is the one that ratios, streams, breakdowns and the referee are of."""

    setting: Setting
    ratios: tuple[Ratio, ...]
    points: tuple[OperatingPoint, ...]
    peers: tuple[Peer, ...]
    table: tuple[SegmentTime, ...]
    streams: tuple[StreamRun, ...]
    breakdowns: tuple[Breakdown, ...]
    memory: MemoryUse
    decode: Decode | None
    scenarios: tuple[Scenario, ...]
    samples: tuple[Sample, ...]
    launches: tuple[LaunchSpan, ...]

    def to_json(self) -> dict[str, Any]:
        """Return everything but samples and launches, which have files of their own; ratios by their names."""
        fields = asdict(self)
        del fields["samples"], fields["launches"], fields["ratios"]
        named = {ratio.name: asdict(ratio) for ratio in self.ratios}
        return {"format": FORMAT, **fields, **named}
