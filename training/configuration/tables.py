"""The tables of a configuration beside the recipe: what to train on, and how to run."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

from ...grid.errors import UsageError
from ...runtime.video.decoder import DECODE_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Data:
    """The clips. Paths are relative to the configuration's folder.

    Attributes:
        folder: what ``dynvid data -o`` wrote: lists and classes.
        train: list of clips, instead of the folder's; ``validation`` likewise. Without one for validation, the
            held-out clips are used.
        classes: file of the classes' names in the order of their numbers; otherwise the folder's, the network's
            labels, or the sorted labels of the training clips.
        held_out: share of the training clips that is not trained on, by whole groups, for choosing thresholds.
    """

    folder: str | None = None
    train: str | None = None
    validation: str | None = None
    classes: str | None = None
    held_out: float = 0.05

    def __post_init__(self) -> None:
        """Require clips."""
        if self.folder is None and self.train is None:
            raise UsageError(
                "[data] names no clips: give folder, which 'dynvid data SOURCE -o FOLDER' writes, or train, a list of "
                "clips"
            )
        if not 0 <= self.held_out < 1:
            raise UsageError(f"data.held_out {self.held_out}: expected a share in [0, 1)")


@dataclass(frozen=True, slots=True)
class Run:
    """How to compute and what to write. A run may go on with other values than it began with.

    Attributes:
        device: ``cpu``, ``cuda``, ``cuda:1`` and so on; ``auto``: the GPU if there is one.
        workers: number of decoders that read ahead; ``auto``: the cores divided among the machine's
            processes, at most 8; 0: none.
        threads: of PyTorch on the CPU; ``auto``: PyTorch's own choice.
        log_steps: steps from one line of the log to the next; ``save_steps``: from one saved state to the next.
        evaluate_epochs: epochs from one measured accuracy to the next.
        tensorboard: whether to write for TensorBoard; ``auto``: if it is installed.
        decode_timeout_s: most CPU time for decoding one clip.
    """

    device: str = "auto"
    workers: int | Literal["auto"] = "auto"
    threads: int | Literal["auto"] = "auto"
    log_steps: int = 50
    save_steps: int = 500
    evaluate_epochs: float = 1.0
    tensorboard: bool | Literal["auto"] = "auto"
    decode_timeout_s: float = DECODE_TIMEOUT_S

    def __post_init__(self) -> None:
        """Reject values outside their ranges."""
        for name, least, most in (
            ("workers", 0, 256),
            ("threads", 1, 1024),
            ("log_steps", 1, sys.maxsize),
            ("save_steps", 1, sys.maxsize),
        ):
            value = getattr(self, name)
            if value != "auto" and not least <= value <= most:
                limit = f"at least {least}" if most == sys.maxsize else f"{least} to {most}"
                raise UsageError(f"run.{name} {value}: expected {limit}")
        for name in ("evaluate_epochs", "decode_timeout_s"):
            if not getattr(self, name) > 0:
                raise UsageError(f"run.{name} {getattr(self, name)}: expected above 0")
