"""The lines of a run: its records, checked."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...grid.errors import ResultsError, StaleResultsError

_STATUSES = ("ok", "numeric_error", "damaged")
_MOST_CHECKPOINTS = 64  # where the route is not known
_MOST = {
    "confidence": 1.0001, "gmacs": 1e9, "fraction": 1e3, "latency_ms": 1e9, "decode_ms": 1e9, "frames_decoded": 1e9,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class VideoLine:
    """A record of a run. Figures that an older dynvid did not write are None.

    Attributes:
        video, status, label, confidence, checkpoint, gmacs, fraction, latency_ms, decode_ms, frames_decoded: as in the
            record; ``listed_label`` may come from a LIST.
        error: why there is no answer; None where there is one.
        id: of the video in its list; None without one.
    """

    video: str
    status: str
    label: str | None
    listed_label: str | None
    confidence: float | None
    checkpoint: int | None
    gmacs: float | None
    fraction: float | None
    latency_ms: float | None
    decode_ms: float | None
    frames_decoded: int | None
    error: str | None
    id: str | None = None

    @property
    def right(self) -> bool | None:
        """Whether the answer is the label; None without one of them."""
        return None if None in (self.label, self.listed_label) else self.label == self.listed_label


def read_lines(
    records: Iterable[tuple[int, Mapping[str, Any]]], where: str, checkpoints: int | None = None
) -> tuple[VideoLine, ...]:
    """Return records as lines.

    Args:
        records: with their numbers, for messages.
        where: names their file.
        checkpoints: of the route; None: not known.

    Raises:
        ResultsError: If there are none, or one is not a record of ``dynvid classify``.
    """
    lines = tuple(_line(record, f"results {where!r}, line {number}", checkpoints) for number, record in records)
    if not lines:
        raise ResultsError(f"results {where!r} hold no line: give what 'dynvid classify -o' wrote")
    return lines


def require_classes(lines: Iterable[VideoLine], classes: Collection[str], where: str, bundle: str) -> None:
    """Make sure that every answer is a class of the bundle.

    Raises:
        StaleResultsError: If one is not, so that another bundle gave it.
    """
    for line in lines:
        if line.label is not None and line.label not in classes:
            raise StaleResultsError(
                f"results {where!r}: {line.label!r}, the answer for {line.video!r}, is no class of bundle {bundle!r}: give "
                "the bundle that they came from"
            )


def _line(record: Mapping[str, Any], where: str, checkpoints: int | None) -> VideoLine:
    video, status, listed = record.get("video"), record.get("status"), record.get("listed_label")
    if not isinstance(video, str) or status not in _STATUSES:
        raise ResultsError(f"{where}: status {status!r} of {video!r}: give what 'dynvid classify -o' wrote")
    label, checkpoint, error = (record.get(name) for name in ("label", "checkpoint", "error"))
    most = checkpoints or _MOST_CHECKPOINTS
    answered = isinstance(label, str) and checkpoint is not None
    if (status == "ok" and not answered) or not isinstance(label, str | None):
        raise ResultsError(
            f"{where}: label {label!r} at checkpoint {checkpoint!r}: expected a name and a number from 1"
        )
    if checkpoint is not None and not (type(checkpoint) is int and 1 <= checkpoint <= most):
        raise ResultsError(
            f"{where}: label {label!r} at checkpoint {_short(checkpoint)}: expected a number from 1 to {most}"
        )
    figures = {name: record.get(name) for name in _MOST}
    for name, value in figures.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and 0 <= value <= _MOST[name]):
            raise ResultsError(f"{where}: {name} {_short(value)}, expected a number from 0 to {_MOST[name]:g}")
    if not isinstance(listed, str | None) or not isinstance(error, str | None):
        raise ResultsError(f"{where}: listed_label {listed!r} and error {error!r}, expected texts or null")
    if not isinstance(id := record.get("id"), str | None):
        raise ResultsError(f"{where}: id {_short(id)}, expected a text or null")
    return VideoLine(id=id, video=video, status=status, label=label, listed_label=listed, checkpoint=checkpoint, error=error, **figures)  # fmt: skip


def _short(value: object) -> str:
    said = repr(value)
    return said if len(said) <= 40 else f"{said[:20]}… ({len(said)} characters)"
