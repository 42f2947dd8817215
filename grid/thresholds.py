"""The thresholds file T.json: one confidence a checkpoint, bound to one bundle."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from .errors import StaleThresholdsError, ThresholdsError
from .strict_json import StrictJsonError, dumps, loads, parse


@dataclass(frozen=True)
class Thresholds:
    """A video exits at the first checkpoint k whose confidence exceeds ``thresholds[k - 1]``, strictly.

    Attributes:
        bundle_sha256: of the bundle's manifest.
        thresholds: one a checkpoint in [0, 1]; the last is None: that checkpoint always answers.
        q: ratio of the geometric exit distribution that they were chosen for (paper, section 4), where they were.
    """

    bundle_sha256: str
    thresholds: tuple[float | None, ...]
    q: float | None = None

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(dumps(asdict(self)))
        temporary.replace(path)


def read_thresholds(path: Path, bundle_sha256: str, checkpoints: int) -> Thresholds:
    """Return the thresholds of a file, fit for the bundle with this manifest hash and number of checkpoints.

    Raises:
        ThresholdsError: If the file is malformed, or its thresholds are not one a checkpoint in [0, 1], the last null.
        StaleThresholdsError: If it belongs to another bundle.
    """
    try:
        found = parse(Thresholds, loads(path.read_bytes()))
    except OSError as error:
        raise ThresholdsError(f"thresholds {str(path)!r} cannot be read ({error.strerror}): give a T.json") from None
    except StrictJsonError as error:
        raise ThresholdsError(
            f"thresholds {str(path)!r} are malformed: {error}. Expected bundle_sha256, thresholds and q."
        ) from None
    if found.bundle_sha256 != bundle_sha256:
        raise StaleThresholdsError(
            f"thresholds {str(path)!r} belong to bundle {found.bundle_sha256[:8]}…, this one is {bundle_sha256[:8]}…: "
            "choose them again for this bundle"
        )
    return Thresholds(found.bundle_sha256, check_thresholds(found.thresholds, checkpoints, str(path)), found.q)


def check_thresholds(thresholds: tuple[float | None, ...], checkpoints: int, where: str) -> tuple[float | None, ...]:
    """Return ``thresholds`` if they are one a checkpoint in [0, 1], the last None.

    Raises:
        ThresholdsError: Naming the first that is not.
    """
    if len(thresholds) != checkpoints or thresholds[-1] is not None:
        raise ThresholdsError(
            f"thresholds {where!r}: {len(thresholds)} values for {checkpoints} checkpoints; expected one a checkpoint, the "
            "last null since it always answers"
        )
    for index, value in enumerate(thresholds[:-1], 1):
        if value is None or not 0.0 <= value <= 1.0:
            raise ThresholdsError(f"thresholds {where!r}: checkpoint {index} has {value}, expected a number in [0, 1]")
    return thresholds
