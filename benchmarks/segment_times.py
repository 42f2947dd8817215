"""The times of a route's segments on one machine: written by ``dynvid time``, read by ``calibrate --cost-table``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

from ..grid.bundle import Bundle
from ..grid.errors import CostTableError, StaleCostTableError
from ..grid.storage.files import whole_file
from ..grid.storage.strict_json import StrictJsonError, dumps, loads, parse

FORMAT = "dynvid.timing/1"


@dataclass(frozen=True)
class SegmentTime:
    """Compute milliseconds of one segment, including its checkpoint's head, for ``batch`` videos at once."""

    index: int
    batch: int
    median_ms: float
    p25_ms: float
    p75_ms: float


@dataclass(frozen=True)
class Timing:
    """A table t_k(n) of one bundle on one machine.

    Attributes:
        format: name of this layout.
        bundle_sha256: of the bundle's manifest.
        segments: one entry per segment and batch size, segments in order.
        static: the ``full`` route, measured in the same rounds; its index is 0.
        backend, precision, threads: the backend, its precision, and its number of threads.
        rounds, warmup: numbers of measured and of unmeasured rounds.
        machine, versions, date: where, with what, and when.
        others_cpu_share: CPU time of other processes divided by this one's during the measurement; None if unknown.
        is_fused: whether engines ran instead of cells.
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
        """Return the milliseconds until each checkpoint answers, summed over all segments up to it."""
        return list(accumulate(s.median_ms for s in self.segments if s.batch == batch))

    def write(self, path: Path) -> None:
        """Write the table as JSON, atomically.

        Raises:
            ResourceError: If it cannot be written.
        """
        with whole_file(path, "times", "give another -o") as file:
            file.write(dumps(asdict(self)))


def read_timing(path: Path, bundle: Bundle) -> Timing:
    """Return the table of a file, checked against ``bundle``.

    Raises:
        CostTableError: If it is malformed, or lacks one positive time for each segment at batch 1.
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
            f"cost table {str(path)!r} belongs to bundle {found.bundle_sha256[:8]}…, but this one is "
            f"{bundle.sha256[:8]}…: measure this one with 'dynvid time'"
        )
    alone = [s for s in found.segments if s.batch == 1]
    wanted = list(range(1, len(bundle.manifest.route_cells) + 1))
    if found.format != FORMAT or [s.index for s in alone] != wanted or min(s.median_ms for s in alone) <= 0:
        raise CostTableError(
            f"cost table {str(path)!r}: format {found.format!r}, segments {[s.index for s in alone]} at batch 1; "
            f"expected {FORMAT!r} and a time above 0 for each of {wanted}"
        )
    return found
