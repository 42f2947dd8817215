"""A run of ``classify`` over a list: what decides which videos have a line in its results, and what it says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...grid.errors import StaleResultsError, StaleThresholdsError
from ...grid.manifest import Precision
from ...grid.storage.files import read_file
from ...grid.storage.sealed import unseal
from ...grid.storage.strict_json import StrictJsonError, parse
from ...grid.thresholds import Thresholds

FORMAT, VERSION = "dynvid.run", (1, 2)


@dataclass(frozen=True)
class Run:
    """The run that a results file belongs to: everything that decides which videos have a line and what it says.

    Attributes:
        bundle_sha256: of the bundle's manifest.
        thresholds, temperatures: those of the session.
        precision, backend, trace: as given.
        videos: number of videos before sharding; ``videos_sha256``: hash of their paths, in any order.
        shard: (i, n), 1-based.
        fused: whether fused segments answered; the cells' answers differ in the last bits.
        list_sha256: of the LIST's bytes, as long as it has not been read to its end; then ``videos`` is 0. Else None.
    """

    bundle_sha256: str
    thresholds: tuple[float | None, ...] | None
    temperatures: tuple[float, ...] | None
    precision: Precision
    backend: str
    trace: bool
    videos: int
    videos_sha256: str
    shard: tuple[int, int] = (1, 1)
    fused: bool = False
    list_sha256: str | None = None

    def provisional(self, list_sha256: str) -> Run:
        """Return the same run while its list has not been read to its end."""
        return replace(self, videos=0, videos_sha256="", list_sha256=list_sha256)

    @property
    def shard_videos(self) -> int | None:
        """The number of videos of its shard; None if the list has not been read to its end."""
        return None if self.list_sha256 is not None else len(range(self.shard[0] - 1, self.videos, self.shard[1]))

    def require_bundle(self, bundle_sha256: str, results: str) -> None:
        """Check that the run's ``results`` are of this bundle.

        Raises:
            StaleResultsError: If they are of another one.
        """
        if self.bundle_sha256 != bundle_sha256:
            raise StaleResultsError(
                f"results {results!r} are of bundle {_shown(self.bundle_sha256)}, but this one is "
                f"{_shown(bundle_sha256)}: give the bundle that classified them"
            )

    def require_exits(self, thresholds: str, results: str) -> None:
        """Check that videos could leave early, so that ``thresholds`` can be theirs.

        Raises:
            StaleThresholdsError: If the run had no thresholds.
        """
        if self.thresholds is None:
            raise StaleThresholdsError(
                f"results {results!r} had no thresholds: every video ran to the end, so how they left cannot be compared "
                f"with {thresholds!r}. Classify with these thresholds, or leave them out"
            )

    def require_thresholds(self, found: Thresholds, thresholds: str, results: str) -> None:
        """Check that the videos left by the thresholds ``found`` in a file.

        Raises:
            StaleThresholdsError: If the run had others, or none.
        """
        self.require_exits(thresholds, results)
        if (found.thresholds, found.temperatures) != (self.thresholds, self.temperatures):
            raise StaleThresholdsError(
                f"these results left by other thresholds: {results!r} by {_listed(self.thresholds)} with temperatures "
                f"{_listed(self.temperatures)}, but {thresholds!r} has {_listed(found.thresholds)} with "
                f"{_listed(found.temperatures)}. Give the T.json that they left by, or classify again"
            )

    def differences(self, other: Run) -> list[str]:
        """Return the fields in which ``other`` differs, each as 'field its value, here own value'."""
        own, others = asdict(self), asdict(other)
        return [f"{k} {_shown(others[k])}, here {_shown(own[k])}" for k in own if own[k] != others[k]]

    def remedy(self, other: Run) -> str:
        """Return how to go on with the results of ``other``, up to "another" file."""
        if other != replace(self, fused=not self.fused, backend=other.backend):
            return "Give"
        if not self.fused:
            return "Go on with the engines that it began with. Else give"
        backend = "" if self.backend == other.backend else f" --backend {other.backend}"
        return f"Engines were built since: go on with --engines none{backend}. Else give"


def sidecar_of(lines: Path) -> Path:
    """Return the file beside lines of results that says which run they belong to."""
    return lines.with_name(f"{lines.name}.run.json")


def run_beside(results: Path) -> Run | None:
    """Return the run that results belong to, by what lies beside them; None if nothing says so.

    Args:
        results: lines; or a parquet file, whose lines have its name and ``.jsonl``, or one of a folder of Ray's.

    Raises:
        StaleResultsError: As ``read_run``.
    """
    if results.suffix.lower() != ".parquet":
        return read_run(sidecar_of(results))
    beside = sidecar_of(results.with_name(f"{results.name}.jsonl"))
    return read_run(beside if beside.exists() else results.with_name("run.json"))


def read_run(sidecar: Path) -> Run | None:
    """Return the run that a sidecar names; None if there is no such file.

    Raises:
        StaleResultsError: If it cannot be read, or was changed.
    """
    try:
        content, newer = unseal(read_file(sidecar), FORMAT, VERSION)
        return parse(Run, content, ignore_unknown=newer)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StaleResultsError(
            f"{str(sidecar)!r} cannot be read ({error.strerror}): give other results, or remove both files"
        ) from None
    except StrictJsonError as error:
        raise StaleResultsError(f"{str(sidecar)!r}: {error}. Give other results, or remove both files.") from None


def sha256_of_videos(videos: Iterable[str]) -> str:
    """Return the sha256 of a set of paths: of their sorted list as JSON, made in pieces."""
    digest, ordered = hashlib.sha256(b"["), sorted(videos)
    for start in range(0, len(ordered), 10_000):
        digest.update((", " if start else "").encode() + json.dumps(ordered[start : start + 10_000])[1:-1].encode())
    digest.update(b"]")
    return digest.hexdigest()


def _listed(values: Iterable[float | None] | None) -> str:
    return "none" if values is None else " ".join("always" if value is None else f"{value:.6g}" for value in values)


def _shown(value: Any) -> str:
    return f"{value[:8]}…" if isinstance(value, str) and len(value) == 64 else str(value)
