"""How long each segment of a route takes: what ``dynvid time BUNDLE -o TIMES.json`` measures.

Segments are timed as they run, video after video, and in the same rounds as the static run (the ``full``
route), so that whatever disturbs the machine disturbs all of them alike. Medians, after a warm-up. The file is what
``dynvid calibrate --cost ms --cost-table`` reads.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path

import numpy as np

from ..grid.bundle import Bundle
from ..grid.errors import CostTableError, StaleCostTableError, UsageError
from ..grid.files import whole_file
from ..grid.manifest import Precision
from ..grid.strict_json import StrictJsonError, dumps, loads, parse
from ..runtime.backends.base import Backend
from ..runtime.capacity import Limits, open_executor
from ..runtime.session import ArraySource
from .machine import cpu_seconds, describe, others_share, versions

FORMAT = "dynvid.timing/1"


@dataclass(frozen=True)
class SegmentTime:
    """Compute milliseconds of one segment, its checkpoint's head included, for ``batch`` videos at once."""

    index: int
    batch: int
    median_ms: float
    p25_ms: float
    p75_ms: float


@dataclass(frozen=True)
class Timing:
    """A table t_k(n) of one bundle on one machine.

    Attributes:
        format: names this layout.
        bundle_sha256: of the bundle's manifest.
        segments: one entry a segment and batch size, segments in order.
        static: the ``full`` route, measured in the same rounds; its index is 0.
        backend, precision, threads: what computed, how, and on how many threads.
        rounds, warmup: measured and not measured.
        machine, versions, date: where, with what, and when.
        others_cpu_share: CPU time of other processes over this one's while measuring; None where it is not known.
        is_fused: whether engines ran, not cells.
    """

    format: str
    bundle_sha256: str
    segments: tuple[SegmentTime, ...]
    static: SegmentTime
    backend: str
    precision: str
    threads: int
    rounds: int
    warmup: int
    machine: dict[str, str]
    versions: dict[str, str]
    date: str
    others_cpu_share: float | None
    is_fused: bool = False

    def checkpoint_ms(self, batch: int = 1) -> list[float]:
        """Return the milliseconds until each checkpoint answers, summed over the segments before."""
        return list(accumulate(s.median_ms for s in self.segments if s.batch == batch))

    def write(self, path: Path) -> None:
        """Write the table as JSON, whole or not at all.

        Raises:
            ResourceError: If it cannot be written.
        """
        with whole_file(path, "times", "give another -o") as file:
            file.write(dumps(asdict(self)))


def read_timing(path: Path, bundle: Bundle) -> Timing:
    """Return the table of a file, fit for ``bundle``.

    Raises:
        CostTableError: If it is malformed, or has not one positive time for each segment at batch 1.
        StaleCostTableError: If it belongs to another bundle.
    """
    try:
        found = parse(Timing, loads(path.read_bytes()))
    except OSError as error:
        raise CostTableError(
            f"cost table {str(path)!r} cannot be read ({error.strerror}): give what 'dynvid time' wrote"
        ) from None
    except StrictJsonError as error:
        raise CostTableError(
            f"cost table {str(path)!r} is malformed: {error}. Give what 'dynvid time' wrote."
        ) from None
    if found.bundle_sha256 != bundle.sha256:
        raise StaleCostTableError(
            f"cost table {str(path)!r} belongs to bundle {found.bundle_sha256[:8]}…, this one is {bundle.sha256[:8]}…: measure "
            "this one with 'dynvid time'"
        )
    alone = [s for s in found.segments if s.batch == 1]
    wanted = list(range(1, len(bundle.manifest.route_cells) + 1))
    if found.format != FORMAT or [s.index for s in alone] != wanted or min(s.median_ms for s in alone) <= 0:
        raise CostTableError(
            f"cost table {str(path)!r}: format {found.format!r}, segments {[s.index for s in alone]} at batch 1; expected "
            f"{FORMAT!r} and a time above 0 for each of {wanted}"
        )
    return found


def measure(
    bundle: Bundle,
    backend: str | Backend = "auto",
    threads: int | None = None,
    rounds: int = 100,
    warmup: int = 20,
    precision: Precision = "fp32",
    engines: Path | None = None,
) -> Timing:
    """Return the compute time of every segment of the bundle's route, one video at a time, run as ``classify`` runs it.

    Args:
        bundle: the bundle.
        backend: what computes, as ``open_executor``.
        threads: that the backend is opened with, or was; None: one a core.
        rounds: measured; each runs the whole route and then the static run.
        warmup: rounds before, not measured.
        precision: to compute in.
        engines: their folder; None: ``BUNDLE.engines``, and cells where none were built.

    Raises:
        UsageError: If rounds or warm-up are too few.
        IntegrityError, BackendError: As ``open_executor``.
    """
    if rounds < 5 or warmup < 1:
        raise UsageError(f"{rounds} rounds after {warmup} of warm-up: expected at least 5 after 1")
    manifest = bundle.manifest
    along = open_executor(bundle, backend, precision, engines, Limits(batch=1), threads=threads)
    static = open_executor(bundle, along.backend, precision, engines, Limits(batch=1), full=True)
    shape = (manifest.grid.num_frames, 3, manifest.preprocessing.crop, manifest.preprocessing.crop)
    rng = np.random.default_rng(0)
    clips = [ArraySource(rng.normal(size=shape).astype(np.float32)) for _ in range(8)]
    times = np.zeros((rounds, len(manifest.route.cells) + 1))
    busy = cpu_seconds()
    for number in range(-warmup, rounds):
        row = [at.compute_ms for executor in (along, static) for at in executor.walk([clips[number % len(clips)]])]
        if number >= 0:
            times[number] = row
    others = others_share(busy, cpu_seconds())
    entries = []
    for index, column in enumerate(times.T, 1):
        p25, median, p75 = np.percentile(column, [25, 50, 75]).tolist()
        entries.append(SegmentTime(index if index <= len(manifest.route.cells) else 0, 1, median, p25, p75))
    return Timing(
        FORMAT, bundle.sha256, tuple(entries[:-1]), entries[-1], along.backend.name, precision, threads or len(os.sched_getaffinity(0)), rounds, warmup,
        describe(), versions(), datetime.now(UTC).strftime("%Y-%m-%d"), others, along.is_fused,
    )  # fmt: skip
