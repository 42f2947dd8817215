"""Hand an operating point to the referee: its clips as files, and the answer of each clip run alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...grid.errors import ResourceError
from ...grid.manifest import Manifest
from ..measure.clips import Clips
from ..report.report import Scenario
from ..simulation.outcome import Exits
from .loadgen import LoadGenOrder, referee


@dataclass(frozen=True)
class Referee:
    """Settings of the referee.

    Attributes:
        folder: for clips and logs.
        seconds: least duration of Offline and Server.
    """

    folder: Path
    seconds: float = 60.0


def judged(
    order: LoadGenOrder, clips: Clips, manifest: Manifest, probabilities: NDArray[np.float32], exits: Exits
) -> tuple[Scenario, ...]:
    """Return LoadGen's scenarios; the clip file is removed afterwards.

    Args:
        order: names the files to write clips and expected answers to.
        clips: the clips to classify.
        manifest: of the bundle.
        probabilities: of every checkpoint on every clip, [checkpoints, clips, classes].
        exits: [clips], where each leaves when run alone, 1-based.

    Raises:
        ResourceError: If a file cannot be written.
        MissingPackageError: If LoadGen is not installed.
    """
    answers = probabilities[exits - 1, np.arange(len(exits))]
    classes = np.where(np.isfinite(answers).all(axis=1), answers.argmax(axis=1), -1)
    temporal = np.argsort(manifest.grid.frame_order)
    file = Path(order.clips)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        kept = np.lib.format.open_memmap(file, "w+", np.float32, shape=clips.frames.shape)
        for place, clip in enumerate(clips.frames):
            kept[place] = clip[temporal]
        kept.flush()
        np.save(order.expected, np.stack([classes, exits], axis=1).astype(np.int32))
    except OSError as error:
        file.unlink(missing_ok=True)
        raise ResourceError(f"{str(file)!r} cannot be written ({error.strerror}): give another -o") from None
    try:
        return referee(order)
    finally:
        file.unlink()  # it may take gigabytes
