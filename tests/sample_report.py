"""A report made by hand: figures such as a measurement gives, and none of them measured."""

import dataclasses
import math

from dynvid.benchmarks.report.report import (
    Breakdown,
    BreakdownPart,
    Decode,
    Estimate,
    Latency,
    LaunchSpan,
    MemoryUse,
    OperatingPoint,
    Peer,
    Ratio,
    Report,
    Sample,
    Scenario,
    Setting,
    StreamRun,
)
from dynvid.benchmarks.segment_times import SegmentTime

COSTS = (1.1, 1.9, 1.5, 3.4, 4.2, 7.6)  # GMACs of the segments
EXITS = 6


def around(value, width=0.02):
    return Estimate(value, value * (1 - width), value * (1 + width))


def latency(ms, videos=240):
    return Latency(videos, around(ms), 0.98 * ms, 1.09 * ms, 1.21 * ms)


def point(name, q, gmacs, ms, accuracy, agreement, shares):
    ends = [sum(COSTS[: k + 1]) for k in range(EXITS)]
    by_exit = tuple(latency(1.15 * end, 40) if part else None for part, end in zip(shares, ends, strict=False))
    top = lambda x: Estimate(x, x - 0.03, min(1.0, x + 0.02))  # noqa: E731
    thresholds = (*(0.5 + 0.05 * k for k in range(len(shares) - 1)), None) if shares else ()
    return OperatingPoint(
        name, q, thresholds, shares, gmacs, 1.06 * gmacs, gmacs / 18.2, top(accuracy), top(agreement), latency(ms),
        by_exit, 1350 / ms,
    )  # fmt: skip


def stream(name, policy, measured, rate, per_s, of_oracle, p99, fills=()):
    oracle = (None, None) if rate is None else (p99 * 0.5, p99 * 0.9)
    waits = tuple(2.5 * k + 4 for k in range(EXITS)) if fills else ()
    return StreamRun(
        name, policy, measured, rate, 1000, per_s, of_oracle, 0.6 * p99, 0.9 * p99, p99, *oracle, 1.02, fills, waits, 24
    )


def histogram(sharp):
    return tuple(
        tuple(0 if n == 0 else round(60 * math.exp(-(((n - 8 + k * sharp) / 2.2) ** 2))) for n in range(9))
        for k in range(EXITS)
    )


def sample_report(**changes):
    points = (
        point("q = 1.2", 1.2, 9.75, 10.9, 0.968, 0.971, (0.26, 0.2, 0.17, 0.15, 0.13, 0.09)),
        point("q = 0.6", 0.6, 5.1, 5.9, 0.921, 0.925, (0.48, 0.27, 0.13, 0.07, 0.03, 0.02)),
        point("q = 0.9", 0.9, 7.6, 8.6, 0.951, 0.955, (0.35, 0.24, 0.16, 0.12, 0.08, 0.05)),
        point("q = 1.8", 1.8, 13.6, 14.9, 0.981, 0.99, (0.08, 0.1, 0.15, 0.2, 0.22, 0.25)),
        point("no exits", None, 19.7, 21.3, 0.982, 0.996, (0.0, 0.0, 0.0, 0.0, 0.0, 1.0)),
        dataclasses.replace(point("static", None, 18.2, 19.4, 0.982, 1.0, ()), agreement=Estimate(1.0, 0.985, 1.0)),
    )
    table = tuple(
        SegmentTime(k, n, ms, 0.97 * ms, 1.05 * ms)
        for k in (*range(1, EXITS + 1), 0)
        for n in (1, 2, 4, 8)
        for ms in [(COSTS[k - 1] if k else 19.0) * n * (0.84 + 0.25 / n)]
    )
    report = Report(
        setting=Setting(
            "msdnet38", "3f" * 32, 200, 18.2, "onnxruntime", "fp32", 2, "48 random clips", True,
            "q = 1.2 on 96 random clips", 5, 8, 1, "dynvid bench msdnet38.bundle -o report",
            {"processor": "Example CPU 9000 @ 2.4 GHz", "system": "Linux x86_64", "cores": "2"},
            {"python": "3.11.9", "dynvid": "0.1.0", "numpy": "2.1.0", "onnxruntime": "1.22.0"}, "2026-01-31", 0.013,
            0.0062, (),
        ),
        ratios=(
            Ratio("split_overhead_cells", Estimate(1.0713, 1.0611, 1.0822), "<= 1.10", True, "span launches over the static run"),
            Ratio("split_overhead", Estimate(0.9914, 0.9823, 1.0034), "<= 1.00", True, "fused segments over the static run"),
            Ratio("progressive_penalty", Estimate(1.0974, 1.0871, 1.1083), "<= 1.137", True, "no exits over static, at 1.083 of its MACs"),
            Ratio("flops_realisation", Estimate(0.9534, 0.9412, 0.9656), ">= 0.95", True, "at q = 1.2"),
            Ratio("scheduler_efficiency", Estimate(0.9316, 0.9213, 0.9427), ">= 0.95", False, "offline, batch 8, 1,000 videos"),
            Ratio("latency_ratio_p50", None, "<= 1.10", None, "no run under load was asked for"),
            Ratio("latency_ratio_p99", Estimate(1.2113, 1.1717, 1.2519), "", None, "at 70 % of the oracle's rate"),
        ),
        points=points,
        peers=(
            Peer("torch 2.10.0, eager, fp32", "fp32", latency(20.1), Estimate(0.542, 0.531, 0.553)),
            Peer("openvino 2025.2, fp32", "fp32", latency(19.2), Estimate(0.568, 0.561, 0.574)),
        ),
        table=table,
        streams=(
            stream("offline", "re-batched", True, None, 121.4, 0.932, 8100.0, histogram(0.4)),
            stream("offline", "oracle", False, None, 130.3, 1.0, 7600.0),
            stream("offline", "compaction only", False, None, 98.1, 0.753, 9800.0),
            stream("offline", "no compaction", False, None, 62.6, 0.48, 15700.0),
            stream("Poisson, 70 % of the oracle", "re-batched", True, 91.2, 90.8, None, 71.0, histogram(1.1)),
            stream("Poisson, 90 % of the oracle", "re-batched", True, 117.3, 116.9, None, 240.0, histogram(0.6)),
        ),
        breakdowns=(
            Breakdown("one at a time, q = 1.2", 10.39, (BreakdownPart("segments instead of one graph", -0.09), BreakdownPart("heads and decisions", 0.33), BreakdownPart("boundary copies", 0.18), BreakdownPart("scheduling", 0.09)), 10.9),
            Breakdown("stream, q = 1.2", 7.66, (BreakdownPart("batches that are not full", 0.31), BreakdownPart("gathering survivors", 0.16), BreakdownPart("scheduling", 0.11)), 8.24),
        ),
        memory=MemoryUse(912_000_000, 3_411_000, 24),
        decode=Decode(48, 38.2, 36.9, 55.0),
        scenarios=(
            Scenario("SingleStream", "VALID", None, 1024, 61.2, 89.9, 11.1, 10.8, 17.2, 22.9, None, 9.7, 1024, 0),
            Scenario("Offline", "VALID", None, 8192, 66.4, 119.8, 33000.0, 33100.0, 59000.0, 66000.0, None, 9.8, 512, 0),
            Scenario("Server", "INVALID", "p99 latency over the bound", 5000, 60.1, 83.2, 60.0, 52.0, 88.0, 131.0, "83.9 queries/s, p99 <= 86.0 ms", 9.7, 500, 0),
        ),
        samples=tuple(
            Sample(name, turn, clip, 1 + (clip + turn) % EXITS, 10 + clip + turn / 7)
            for name in ("static", "q = 1.2") for turn in range(3) for clip in range(4)
        ),
        launches=tuple(
            LaunchSpan(run, 1 + i % EXITS, tuple(range(1 + i % 4)), 3.1 * i, 3.1)
            for run in ("offline", "Poisson, 70 % of the oracle") for i in range(30)
        ),
    )  # fmt: skip
    return dataclasses.replace(report, **changes)


def bare_report():
    """Return a report without anything that may be absent, and with figures that are not numbers."""
    full = sample_report()
    point = dataclasses.replace(
        full.points[0],
        q=None,
        name="thresholds",
        accuracy=None,
        exit_latency=(None,) * EXITS,
        offline_videos_per_s=None,
    )
    setting = dataclasses.replace(
        full.setting, machine={}, versions={}, others_cpu_share=None, copies_differ=math.nan, labelled=False
    )
    return dataclasses.replace(
        full, setting=setting, ratios=tuple(dataclasses.replace(r, estimate=None, meets=None) for r in full.ratios),
        points=(point,), peers=(), table=(), streams=(), breakdowns=(), decode=None, scenarios=(), samples=(), launches=(),
    )  # fmt: skip
