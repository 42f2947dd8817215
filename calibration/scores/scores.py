"""Scores: the probabilities of every exit for every video, with labels and costs, stored in an ``.npz``."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...grid.errors import ScoresError
from ...grid.storage.files import whole_file

_TOLERANCE = 5e-3  # by how much the sum of an answer's probabilities may differ from 1, as in fp16 arithmetic
_KEYS = ("probabilities", "labels", "macs", "videos", "failed", "belongs_to")


@dataclass(frozen=True)
class Scores:
    """The answers of all exits.

    Attributes:
        probabilities: softmax of every exit, [exits, videos, classes], float32 or float64.
        labels: the right class of every video, [videos]; None if unknown.
        macs: multiply-adds spent when each exit answers, [exits]; None if unknown.
        videos: sha256 of every video's file, ascending; empty for scores from elsewhere.
        failed: sha256 of the files that gave no answer; they are in no array.
        belongs_to: what dynvid's own scores were computed from; empty for scores from elsewhere.
    """

    probabilities: NDArray[np.floating]
    labels: NDArray[np.int64] | None = None
    macs: NDArray[np.float64] | None = None
    videos: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    belongs_to: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the ``.npz`` atomically; equal scores give equal bytes.

        Raises:
            ResourceError: If it cannot be written.
        """
        arrays: dict[str, Any] = {"probabilities": self.probabilities}
        for name in ("labels", "macs"):
            if getattr(self, name) is not None:
                arrays[name] = getattr(self, name)
        arrays["videos"], arrays["failed"] = np.array(self.videos, "S64"), np.array(self.failed, "S64")
        arrays["belongs_to"] = np.array(json.dumps(self.belongs_to, sort_keys=True))
        with whole_file(path, "scores", "give another --scores") as file:
            np.savez(file, **arrays)


def read_scores(path: Path) -> Scores:
    """Return the scores of an ``.npz``: ``probabilities`` [K, N, classes]; if known, ``labels`` [N] and ``macs`` [K].

    Raises:
        ScoresError: If it cannot be read, or holds something else.
    """
    expected = "Expected an .npz with probabilities [K, N, classes] and, if known, labels [N] and macs [K]."
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ScoresError(f"scores {str(path)!r} are a single array. {expected}")
            arrays = {name: archive[name] for name in archive.files if name in _KEYS}
    except OSError as error:
        raise ScoresError(
            f"scores {str(path)!r} cannot be read ({error.strerror or type(error).__name__}). {expected}"
        ) from None
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ScoresError(f"scores {str(path)!r} cannot be read ({type(error).__name__}). {expected}") from None
    if "probabilities" not in arrays:
        raise ScoresError(f"scores {str(path)!r} hold no 'probabilities'. {expected}")
    try:
        belongs_to = json.loads(str(arrays.get("belongs_to", "{}")))
    except ValueError:
        raise ScoresError(f"scores {str(path)!r}: 'belongs_to' is not JSON. {expected}") from None
    scores = Scores(
        arrays["probabilities"],
        arrays.get("labels"),
        arrays.get("macs"),
        tuple(_names(arrays.get("videos"))),
        tuple(_names(arrays.get("failed"))),
        belongs_to if isinstance(belongs_to, dict) else {},
    )
    return check_scores(scores, str(path))


def check_scores(scores: Scores, where: str) -> Scores:
    """Return the scores, with labels as int64 and costs as float64, if every number is valid.

    Raises:
        ScoresError: With the first that is not, and their number.
    """
    p, labels, macs = scores.probabilities, scores.labels, scores.macs

    def refuse(what: str) -> ScoresError:
        return ScoresError(f"scores {where!r}: {what}")

    if p.ndim != 3 or p.dtype not in (np.float32, np.float64):
        raise refuse(f"probabilities {p.dtype} {list(p.shape)}, expected float32 or float64 [exits, videos, classes]")
    if 0 in p.shape or p.shape[2] < 2:
        raise refuse(f"probabilities {list(p.shape)}, expected at least one exit, one video and two classes")
    sums = p.sum(axis=2, dtype=np.float64)  # NaN and infinity show here too
    bad = ~(np.abs(sums - 1) <= _TOLERANCE)
    if bad.any() or p.min() < 0:
        if not bad.any():
            bad = p.min(axis=2) < 0
        k, n = np.argwhere(bad)[0]
        raise refuse(
            f"{int(bad.sum())} of {bad.size} answers are not probabilities (NaN, negative, or a sum other than 1), the "
            f"first at exit {k + 1} for video {n} with sum {sums[k, n]:.4g}: give the softmax of the logits"
        )
    if labels is not None:
        if labels.shape != p.shape[1:2] or labels.dtype.kind not in "iu":
            raise refuse(f"labels {labels.dtype} {list(labels.shape)}, expected {p.shape[1]} whole numbers")
        outside = (labels < 0) | (labels >= p.shape[2])
        if outside.any():
            first = int(np.flatnonzero(outside)[0])
            raise refuse(
                f"{int(outside.sum())} labels lie outside the {p.shape[2]} classes, first {labels[first]} of video "
                f"{first}; expected numbers in [0, {p.shape[2]})"
            )
        labels = labels.astype(np.int64)
    if macs is not None:
        macs = check_costs(macs, len(p), f"scores {where!r}: macs", ScoresError)
    return Scores(p, labels, macs, scores.videos, scores.failed, scores.belongs_to)


def check_costs(costs: Any, exits: int, what: str, error: type[Exception]) -> NDArray[np.float64]:
    """Return the cost spent when each exit answers, [exits], if there is one per exit, positive and ascending.

    Raises:
        error: If not.
    """
    found = np.asarray(costs)
    if found.shape != (exits,) or found.dtype.kind not in "iuf":
        raise error(f"{what} {found.dtype} {list(found.shape)}, expected one number for each of {exits} exits")
    ascending: NDArray[np.float64] = found.astype(np.float64)
    if not (np.isfinite(ascending).all() and ascending[0] > 0 and (np.diff(ascending) > 0).all()):
        raise error(f"{what} {ascending.tolist()}, expected positive, ascending numbers: sort the exits in route order")
    return ascending


def _names(array: NDArray[Any] | None) -> list[str]:
    return [] if array is None or array.dtype.kind != "S" else [name.decode("ascii") for name in array.tolist()]
