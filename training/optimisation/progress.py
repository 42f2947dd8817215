"""What a run says while it goes on: loss, rate, times, and whether the device waits for clips."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from ...grid.errors import UsageError
from ..configuration.schedule import Schedule
from ..configuration.tables import Run
from .curves import can_draw, draw_curves
from .evaluation import Evaluation
from .run_folder import RunFolder

LOG = logging.getLogger("dynvid")

Report = Callable[[Mapping[str, Any]], None]

_WAITS = 0.3  # share of the time from which the device waits too long for clips
_HIGH = 1.5  # a first loss so many times that of guessing is too high


class Progress:
    """The lines of the log and the rows of the results, on the process that writes.

    Attributes:
        losses: of the steps since the last line.
    """

    def __init__(
        self, schedule: Schedule, run: Run, folder: RunFolder, report: Report, step: int, losses: list[float]
    ) -> None:
        """Go on after ``step``, with the losses since the last line."""
        self._schedule, self._run, self._folder, self._report = schedule, run, folder, report
        self.losses = losses
        self._data_s = self._step_s = 0.0
        self._timed = 0  # steps since the last line, in this process
        self._mark = time.monotonic()
        self._warned = False
        self._board: Any = None
        installed = find_spec("tensorboard") is not None
        if run.tensorboard is True and not installed:
            raise UsageError("run.tensorboard true, but it is not installed: pip install tensorboard, or leave it out")
        if installed and run.tensorboard is not False:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(folder.path / "tensorboard", purge_step=step + 1)

    def waited(self) -> None:
        """Note that a batch has come."""
        self._data_s += self._lap()

    def stepped(self, step: int, loss: float, rate: float, guess: float | None) -> None:
        """Note that ``step`` steps are complete.

        Args:
            step: number of steps.
            loss: of the last one.
            rate: its learning rate.
            guess: loss of a network that only guesses; None if this one has learnt something before.
        """
        self._step_s += self._lap()
        self._timed += 1
        self.losses.append(loss)
        LOG.debug(f"training: step {step}/{self._schedule.steps}")
        if step == 1 and guess is not None and loss > _HIGH * guess:
            LOG.warning(
                f"the first loss is {loss:.3g}, but guessing gives {guess:.3g}: expected about that. Check the weights that "
                "the network starts from, and the mean and std of its preprocessing."
            )
        if step % self._run.log_steps == 0 or step == self._schedule.steps:
            self._line(step, rate)

    def measured(self, step: int, found: Evaluation) -> None:
        """Note the accuracy after ``step`` steps."""
        row: dict[str, Any] = {"epoch": round(self._schedule.epoch(step), 4), "step": step}
        row |= {f"accuracy_{number}": round(value, 5) for number, value in enumerate(found.accuracy, 1)}
        row["accuracy_mean"] = round(found.mean, 5)
        self._folder.result(row)
        self._report(row)
        if self._board is not None:
            for name, value in row.items():
                if name.startswith("accuracy"):
                    self._board.add_scalar(f"validation/{name}", value, step)
        if can_draw():
            draw_curves(self._folder.path / "curves.png", self._folder.lines(), self._folder.results())
        self._mark = time.monotonic()

    def resume(self) -> None:
        """Measure times from now on."""
        self._mark = time.monotonic()

    def close(self) -> None:
        """Write what TensorBoard still holds."""
        if self._board is not None:
            self._board.close()

    def _line(self, step: int, rate: float) -> None:
        data_s, step_s = self._data_s / self._timed, self._step_s / self._timed
        line = {
            "step": step,
            "steps": self._schedule.steps,
            "epoch": round(self._schedule.epoch(step), 4),
            "loss": round(math.fsum(self.losses) / len(self.losses), 5),
            "learning_rate": float(f"{rate:.6g}"),
            "data_s": round(data_s, 4),
            "step_s": round(step_s, 4),
        }
        self._folder.log(line)
        self._report(line)
        if self._board is not None:
            for name in ("loss", "learning_rate", "data_s", "step_s"):
                self._board.add_scalar(f"train/{name}", line[name], step)
        share = data_s / (data_s + step_s)
        if share > _WAITS and self._timed > 1 and not self._warned:
            self._warned = True
            LOG.warning(
                f"{share:.0%} of the time the device waits for clips: raise run.workers, store the videos with a short "
                "side of 256 pixels, or train on extracted frames"
            )
        self.losses, self._data_s, self._step_s, self._timed = [], 0.0, 0.0, 0

    def _lap(self) -> float:
        now = time.monotonic()
        lap, self._mark = now - self._mark, now
        return lap
