"""The thresholds file T.json: one confidence per checkpoint, bound to one bundle, and the exits to expect from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from .errors import StaleThresholdsError, ThresholdsError
from .manifest import Precision, graphs_of
from .storage.files import whole_file
from .storage.strict_json import StrictJsonError, dumps, loads, parse

CONFIDENCE_BINS = 10  # of a tally: [0, 0.1), ..., [0.9, 1]
Rule = Literal["geometric", "optimal"]
"""How thresholds are chosen: shares in proportion to q^k (paper, section 4), or each threshold optimised."""
Tally = tuple[tuple[int, ...], ...]
"""Number of videos that left at each checkpoint, by confidence bin, [checkpoints][CONFIDENCE_BINS]."""


@dataclass(frozen=True)
class Thresholds:
    """A video exits at the first checkpoint k whose confidence strictly exceeds ``thresholds[k - 1]``.

    Attributes:
        bundle_sha256: of the bundle's manifest.
        thresholds: one per checkpoint in [0, 1]; the last is None: that checkpoint always answers.
        q: ratio of the geometric exit distribution that they were chosen for (paper, section 4), if they were.
        temperatures: one per checkpoint, above 0: logits are divided by it before the confidence is compared; None:
            no scaling.
        expected: how the calibration videos left under these thresholds, to compare later videos with.
        precision: of the subgraphs whose answers they were chosen on.
        rule: by which they were chosen.
    """

    bundle_sha256: str
    thresholds: tuple[float | None, ...]
    q: float | None = None
    temperatures: tuple[float, ...] | None = None
    expected: Tally | None = None
    precision: Precision = "fp32"
    rule: Rule = "geometric"

    def write(self, path: Path) -> None:
        """Write the file atomically.

        Raises:
            ResourceError: If it cannot be written.
        """
        with whole_file(path, "thresholds", "give another place") as file:
            file.write(dumps(asdict(self)))


def read_thresholds(path: Path, bundle_sha256: str, checkpoints: int, precision: Precision | None = None) -> Thresholds:
    """Return the thresholds of a file, checked against the bundle with this manifest hash and number of checkpoints.

    Args:
        path: of the file.
        bundle_sha256: of the bundle's manifest.
        checkpoints: number of checkpoints on its route.
        precision: the precision to use them with. INT8 needs its own thresholds; fp16 is proved to answer like fp32,
            and bf16 comes near. None: any.

    Raises:
        ThresholdsError: If the file is malformed, or does not have one threshold per checkpoint in [0, 1], the last
            null.
        StaleThresholdsError: If it belongs to another bundle, or was chosen on answers in another precision.
    """
    try:
        found = parse(Thresholds, loads(path.read_bytes()))
    except OSError as error:
        raise ThresholdsError(f"thresholds {str(path)!r} cannot be read ({error.strerror}): give a T.json") from None
    except StrictJsonError as error:
        raise ThresholdsError(
            f"thresholds {str(path)!r} are malformed: {error}. Expected bundle_sha256, thresholds, q, temperatures, "
            "expected, precision and rule, as 'dynvid calibrate' writes them."
        ) from None
    if found.bundle_sha256 != bundle_sha256:
        raise StaleThresholdsError(
            f"thresholds {str(path)!r} belong to bundle {found.bundle_sha256[:8]}…, but this one is "
            f"{bundle_sha256[:8]}…: run 'dynvid calibrate' for this bundle"
        )
    if precision is not None and (graphs_of(precision) == "int8") != (graphs_of(found.precision) == "int8"):
        raise StaleThresholdsError(
            f"thresholds {str(path)!r} were chosen on answers in {found.precision}, but these are in {precision}: "
            f"run in that precision, or choose thresholds with 'dynvid calibrate --precision {precision}'"
        )
    check_thresholds(found.thresholds, checkpoints, str(path))
    check_temperatures(found.temperatures, checkpoints, str(path))
    if found.expected is not None and not (
        [len(row) for row in found.expected] == [CONFIDENCE_BINS] * checkpoints
        and min(map(min, found.expected)) >= 0
        and sum(map(sum, found.expected)) > 0
    ):
        raise ThresholdsError(
            f"thresholds {str(path)!r}: 'expected' must hold {CONFIDENCE_BINS} counts for each of {checkpoints} "
            "checkpoints: run 'dynvid calibrate' again"
        )
    return found


def check_thresholds(thresholds: tuple[float | None, ...], checkpoints: int, where: str) -> tuple[float | None, ...]:
    """Return ``thresholds`` if there is one per checkpoint in [0, 1], the last None.

    Raises:
        ThresholdsError: With the first that is wrong.
    """
    if len(thresholds) != checkpoints or thresholds[-1] is not None:
        raise ThresholdsError(
            f"thresholds {where!r}: {len(thresholds)} values for {checkpoints} checkpoints; expected one per "
            "checkpoint, the last null since it always answers"
        )
    for index, value in enumerate(thresholds[:-1], 1):
        if value is None or not 0.0 <= value <= 1.0:
            raise ThresholdsError(f"thresholds {where!r}: checkpoint {index} has {value}, expected a number in [0, 1]")
    return thresholds


def check_temperatures(temperatures: tuple[float, ...] | None, checkpoints: int, where: str) -> tuple[float, ...]:
    """Return ``temperatures``, or ones for None, if there is one per checkpoint, each positive and finite.

    Raises:
        ThresholdsError: With the first that is wrong.
    """
    if temperatures is None:
        return (1.0,) * checkpoints
    if len(temperatures) != checkpoints:
        raise ThresholdsError(
            f"thresholds {where!r}: {len(temperatures)} temperatures for {checkpoints} checkpoints; expected one each"
        )
    for index, value in enumerate(temperatures, 1):
        if not 0.0 < value < float("inf"):
            raise ThresholdsError(
                f"thresholds {where!r}: checkpoint {index} has temperature {value}, expected a number above 0"
            )
    return temperatures
