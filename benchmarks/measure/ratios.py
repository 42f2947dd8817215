"""The ratios that show how close to the limit a run came, with their targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...grid.manifest import Manifest
from ..report.report import Estimate, Ratio, StreamRun
from ..simulation.outcome import Exits
from .contestants import CELLS, COPY, HALVES, NO_EXITS, SPANS, STATIC
from .estimates import Times, of_median
from .rounds import Samples
from .stream_runs import Served

_ON_GPU = {8: 0.85, 16: 0.90, 32: 0.95}
"""Targets of FLOPs realisation at these batch sizes; between two, the smaller one's target applies."""


@dataclass(frozen=True)
class Gmacs:
    """Multiply-adds of a video in 1e9: of the static network, of the route without exits, and the mean with exits."""

    static: float
    route: float
    mean: float

    @classmethod
    def of(cls, manifest: Manifest, exits: Exits) -> Gmacs:
        """Return the multiply-adds for clips that leave at ``exits`` [clips], 1-based."""
        costs, route = manifest.costs, manifest.route
        along = np.array([costs.checkpoint(route, k) for k in range(1, len(route.cells) + 1)])
        return cls(costs.checkpoint(route.full, 1) / 1e9, along[-1] / 1e9, float(along[exits - 1].mean()) / 1e9)


def static_runs(samples: Samples) -> tuple[str, ...]:
    """Return the contestants that count as the static run: the network in one call, or in halves if that is faster."""
    if HALVES in samples and samples.relative(HALVES, STATIC, COPY).value < 1:
        return (HALVES,)
    return (STATIC, COPY)


def single_video_ratios(samples: Samples, point: str, gmacs: Gmacs, manifest: Manifest, on_cpu: bool) -> list[Ratio]:
    """Return the ratios for one video at a time.

    Args:
        samples: of all contestants.
        point: name of the operating point.
        gmacs: multiply-adds.
        manifest: of the bundle.
        on_cpu: whether targets apply; there are none for a GPU, which one video does not fill.
    """
    names = static_runs(samples)
    against = f"the static run in {'halves' if names == (HALVES,) else 'one call'}"

    def relative(contestant: str) -> Times:
        return samples.relative(contestant, *names)

    found = []
    for name, contestant, most in (("split_overhead", SPANS, 1.00), ("split_overhead_cells", CELLS, 1.10)):
        if contestant in samples:
            what = f"{contestant}, all frames, over {against}"
            found.append(_ratio(name, relative(contestant).estimate(), most if on_cpu else None, True, what))
        else:
            found.append(Ratio(name, None, "", None, "segments without heads need 'dynvid[export]'"))
    more = gmacs.route / gmacs.static
    found.append(
        _ratio(
            "progressive_penalty", relative(NO_EXITS).estimate(), 1.05 * more if on_cpu else None, True,
            f"to the end of the route, over {against}; multiply-adds {more:.3f} x; the target is 1.05 x that",
        )
    )  # fmt: skip
    ideal = gmacs.static / gmacs.mean
    found.append(
        _ratio(
            "flops_realisation", relative(point).under(1 / ideal), least_realised(manifest) if on_cpu else None, False,
            f"{point}: {gmacs.mean:.4g} of {gmacs.static:.4g} GMACs, ideal {ideal:.3f} x faster than {against}",
        )
    )  # fmt: skip
    return found


def offline_realisation(
    dynamic: Sequence[Served], static: Sequence[Served], gmacs: Gmacs, batch: int, on_cpu: bool, manifest: Manifest
) -> Ratio:
    """Return the FLOPs realisation of the offline stream over the static network, both batched, by pairs of passes."""
    found = [
        one.run.videos_per_s / other.run.videos_per_s * gmacs.mean / gmacs.static
        for one, other in zip(dynamic, static, strict=True)
    ]
    what = f"many videos at once, at most {batch} per call, over the static network in batches of {batch}"
    bar = least_realised(manifest) if on_cpu else gpu_bar(batch)
    return _ratio("flops_realisation_offline", of_median(found), bar, False, what)


def least_realised(manifest: Manifest) -> float:
    """Return the target of FLOPs realisation on a CPU."""
    return 1.0 if str(manifest.network["network"]).startswith("resnet") else 0.95


def scheduler_efficiency(efficiencies: Sequence[float], batch: int) -> Ratio:
    """Return the stream's throughput divided by the oracle's, from several offline runs."""
    what = f"offline, {len(efficiencies)} runs, at most {batch} videos per call; the oracle uses the measured t_k(n)"
    return _ratio("scheduler_efficiency", of_median(efficiencies), 0.95, False, what)


def latency_ratios(run: StreamRun | None, share: float) -> list[Ratio]:
    """Return the latency ratios of a run under load; these are single values, with the same arrivals as the oracle."""
    found = []
    for name, most in (("p50", 1.10), ("p99", 1.25)):
        if run is None or run.oracle_p50_ms is None or run.oracle_p99_ms is None:
            found.append(Ratio(f"latency_ratio_{name}", None, "", None, "no run under load was requested"))
            continue
        own, bound = (run.p50_ms, run.oracle_p50_ms) if name == "p50" else (run.p99_ms, run.oracle_p99_ms)
        value = own / bound
        what = f"{run.videos} videos, Poisson at {share:.0%} of the oracle's rate; one run, so no interval"
        found.append(_ratio(f"latency_ratio_{name}", Estimate(value, value, value), most, True, what))
    return found


def gpu_bar(batch: int) -> float | None:
    """Return the target of FLOPs realisation on a GPU at this batch size; None below the smallest that has one."""
    reached = [size for size in _ON_GPU if size <= batch]
    return _ON_GPU[max(reached)] if reached else None


def _ratio(name: str, estimate: Estimate, bar: float | None, below: bool, note: str) -> Ratio:
    if bar is None:
        return Ratio(name, estimate, "", None, note)
    meets = estimate.value <= bar if below else estimate.value >= bar
    return Ratio(name, estimate, f"{'<=' if below else '>='} {bar:.4g}", bool(meets), note)
