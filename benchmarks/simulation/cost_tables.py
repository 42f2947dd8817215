"""Tables t_k(n): milliseconds of one call of segment k for n videos; given, measured, or derived from a device."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ...grid.bundle import Bundle
from ...grid.costs import Costs
from ...grid.errors import CostTableError, UsageError
from ...grid.route import Route
from ...grid.storage.strict_json import StrictJsonError, loads, parse
from ..segment_times import Timing, read_timing

FORMAT = "dynvid.cost_table/1"

Times = tuple[tuple[int, float], ...]
"""(number, milliseconds), numbers ascending."""


def interpolate(times: Times, number: float) -> float:
    """Return the milliseconds for ``number``: linear between entries, and at the last entry's rate beyond it.

    Below the first entry it is the first entry's time: a call costs no less for being emptier.
    """
    place = bisect_left(times, (number,))
    if place == len(times):
        return times[-1][1] * number / times[-1][0]
    if place == 0:
        return times[0][1]
    (low, low_ms), (high, high_ms) = times[place - 1], times[place]
    return low_ms + (high_ms - low_ms) * (number - low) / (high - low)


@dataclass(frozen=True)
class CostTable:
    """The costs of calls.

    Attributes:
        segments: times by the number of videos, segments in order.
        static: of the ``full`` route, by the number of videos.
        source: where the times come from, for reports.
    """

    segments: tuple[Times, ...]
    static: Times
    source: str

    def __post_init__(self) -> None:
        """Reject tables without ascending numbers and positive times.

        Raises:
            CostTableError: With the row.
        """
        rows = {f"segment {k}": times for k, times in enumerate(self.segments, 1)}
        for name, times in {"static": self.static, **rows}.items():
            ascending = times and times[0][0] >= 1 and all(a[0] < b[0] for a, b in pairwise(times))
            if not ascending or min(ms for _, ms in times) <= 0:
                raise CostTableError(
                    f"cost table, {name}: {list(times)[:6]}; expected pairs of videos, ascending from 1 or more, and "
                    "milliseconds above 0"
                )
        if not self.segments:
            raise CostTableError("cost table without segments: expected at least one")

    def ms(self, segment: int, videos: int) -> float:
        """Return the milliseconds of segment ``segment`` (1-based) for ``videos`` in one call."""
        return interpolate(self.segments[segment - 1], videos)

    def static_ms(self, videos: int) -> float:
        """Return the milliseconds of the ``full`` route for ``videos`` in one call."""
        return interpolate(self.static, videos)


@dataclass(frozen=True)
class _GivenTable:
    format: str
    segments: tuple[tuple[tuple[int, float], ...], ...]
    static: tuple[tuple[int, float], ...]


def read_table(path: Path) -> CostTable:
    """Return the table of a JSON file: ``format``, ``segments`` and ``static``, lists of [videos, milliseconds].

    Raises:
        CostTableError: If it is malformed.
    """
    hint = f'Give {{"format": "{FORMAT}", "segments": [[[videos, ms], ..], ..], "static": [[videos, ms], ..]}}.'
    try:
        found = parse(_GivenTable, loads(path.read_bytes()))
    except OSError as error:
        raise CostTableError(f"cost table {str(path)!r} cannot be read ({error.strerror}). {hint}") from None
    except StrictJsonError as error:
        raise CostTableError(f"cost table {str(path)!r} is malformed: {error}. {hint}") from None
    if found.format != FORMAT:
        raise CostTableError(f"cost table {str(path)!r}: format {found.format!r}. {hint}")
    return CostTable(found.segments, found.static, f"given by {path.name}")


def from_timing(timing: Timing) -> CostTable:
    """Return the table that ``dynvid time`` measured; larger batches cost in proportion to their videos.

    Raises:
        CostTableError: If a segment was not measured.
    """
    count = max(s.index for s in timing.segments)
    rows = [sorted((s.batch, s.median_ms) for s in timing.segments if s.index == k) for k in range(1, count + 1)]
    static = ((timing.static.batch, timing.static.median_ms),)
    source = f"measured with {timing.backend}, {timing.precision}, {timing.threads} threads, {timing.date}"
    return CostTable(tuple(map(tuple, rows)), static, source)


def spread(costs: Costs, route: Route, device: Times, source: str, largest: int = 64) -> CostTable:
    """Return the table of a device that only timed the whole one-frame network, as is usual for image networks.

    A span of T frames of a block costs the block's share of all blocks' multiply-adds, times the device's time for n
    x T images of the whole network; heads likewise. This is the cost of splitting if splitting itself were free.

    Args:
        costs: multiply-adds of the network.
        route: of the segments.
        device: (images, milliseconds) of one call of the whole network.
        source: the source of the device's table.
        largest: largest batch in the table; beyond it, the last rate holds.

    Raises:
        CostTableError: If the device's table is malformed.
    """
    CostTable((device,), device, source)  # checks the form, which is the same
    size, whole = route.grid.frames_per_set, sum(costs.block_macs[: max(route.head_blocks) + 1])
    if whole <= 0:
        raise UsageError(f"{whole} multiply-adds in the blocks of the route: expected more than 0")

    def times(of: Route, index: int) -> Times:
        cell = of.cells[index - 1]
        new_sets = of.embedded(index, cell.block) - of.embedded(index - 1, cell.block)
        parts = [(costs.block_macs[s.block], (s.stop - s.start) * size) for s in of.segments[index - 1].spans]
        parts += [(costs.embed_macs[cell.block], new_sets * size), (costs.answer_macs[cell.block], 1)]
        return tuple(
            (n, sum(macs / whole * interpolate(device, n * frames) for macs, frames in parts if macs and frames))
            for n in range(1, largest + 1)
        )

    segments = tuple(times(route, k) for k in range(1, len(route.cells) + 1))
    return CostTable(segments, times(route.full, 1), source)


def parse_device(text: str) -> Times:
    """Return a device's table from text like ``1:2.08 2:2.65 8:3.29``, images:milliseconds.

    Raises:
        UsageError: If the text is malformed.
    """
    pairs: Sequence[list[str]] = [item.split(":") for item in text.split()]
    try:
        return tuple((int(images), float(ms)) for images, ms in pairs)
    except ValueError:
        raise UsageError(f"device table {text!r}: expected images:milliseconds, such as '1:2.08 8:3.29'") from None


def find_table(table: Path | None, times: Path | None, device: str | None, bundle: Path | None) -> CostTable:
    """Return the table of a file, or of a bundle with its own times or with a device's times of a one-frame network.

    Raises:
        UsageError: If none or several are given.
        CostTableError, StaleCostTableError, ManifestError: If it cannot be read, or belongs to another bundle.
    """
    if sum(source is not None for source in (table, times, device)) != 1 or (table is None) != (bundle is not None):
        raise UsageError("no cost table: give only --table FILE, or BUNDLE with --times FILE or --device TABLE")
    if table is not None:
        return read_table(table)
    assert bundle is not None
    opened = Bundle.open(bundle)
    if times is not None:
        return from_timing(read_timing(times, opened))
    assert device is not None
    return spread(opened.manifest.costs, opened.manifest.route, parse_device(device), f"spread by MACs from {device}")
