"""Ranges: how large the activations of a bundle's subgraphs get on some videos, and which videos these were."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from ...grid.errors import RangesError, StaleRangesError
from ...grid.storage.files import whole_file
from ...grid.storage.sealed import SealError, VersionError, seal, unseal
from ...grid.storage.strict_json import StrictJsonError, parse

FORMAT = "dynvid.ranges"
VERSION = (1, 0)


@dataclass(frozen=True)
class Ranges:
    """The range of every activation that INT8 quantises.

    Attributes:
        bundle_sha256: of the bundle's manifest.
        data_sha256: of the videos: of the ascending sha256 of their files, one per line.
        videos: number of videos that gave ranges; the others could not be read.
        thresholds: that they left by; None: each ran to the end of the route.
        reached: number of videos that ran each segment of the route.
        largest: absolute value by subgraph and tensor of its fp32 graph; nearly all videos that reached it stay below.
    """

    bundle_sha256: str
    data_sha256: str
    videos: int
    thresholds: tuple[float | None, ...] | None
    reached: tuple[int, ...]
    largest: dict[str, dict[str, float]]

    def write(self, path: Path) -> None:
        """Write the file atomically; the same ranges give the same bytes.

        Raises:
            ResourceError: If it cannot be written.
        """
        with whole_file(path, "ranges", "give another --ranges") as file:
            file.write(seal(asdict(self), FORMAT, VERSION))


def read_ranges(
    path: Path, bundle_sha256: str, data_sha256: str, thresholds: tuple[float | None, ...] | None
) -> Ranges:
    """Return the ranges of a file, if they belong to this bundle, these videos and these thresholds.

    Raises:
        RangesError: If the file cannot be read, or is malformed.
        StaleRangesError: If they belong to another bundle, videos or thresholds, or have changed since they were
            written.
    """
    again = "run 'dynvid quantize' with another --ranges, or remove the file"
    try:
        content, newer = unseal(path.read_bytes(), FORMAT, VERSION)
        found = parse(Ranges, content, ignore_unknown=newer)
    except OSError as error:
        raise RangesError(f"ranges {str(path)!r} cannot be read ({error.strerror}): {again}") from None
    except SealError:
        raise StaleRangesError(f"ranges {str(path)!r} have changed since they were written: {again}") from None
    except (StrictJsonError, VersionError) as error:
        raise RangesError(f"ranges {str(path)!r} are malformed: {error}; {again}") from None
    for what, have, want in (
        ("bundle", found.bundle_sha256, bundle_sha256),
        ("videos", found.data_sha256, data_sha256),
    ):
        if have != want:
            raise StaleRangesError(
                f"ranges {str(path)!r} belong to {what} {have[:8]}…, but these are {want[:8]}…: {again}"
            )
    if found.thresholds != thresholds:
        raise StaleRangesError(
            f"ranges {str(path)!r} are of videos that left by {found.thresholds}, expected {thresholds}: {again}"
        )
    return found
