"""The temporal shift, as a function that the caller passes to every block.

A block calls ``shift(rows, point)`` wherever its network shifts. The caller chooses what happens there. The online
shift (paper, section 3.2.2) takes from earlier frames only: over a whole video at once (``WholeShift``, for training
and the reference), or over a piece of it with explicit state (``StatefulShift``, for the exported subgraphs). TSM's own
shift also takes from later frames, so it needs the whole video (``TwoWayShift``, for static networks).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..grid.errors import NetworkError


@dataclass(frozen=True, slots=True)
class ShiftConfig:
    """Which channels move from one frame to the next, and where.

    Attributes:
        enabled: False for a network without temporal modelling.
        div: a shift moves ``fold = channels // div`` channels; twice as many in a static network.
        start_fold: the moved channels are ``[start_fold * fold, (start_fold + 1) * fold)``: 0 by default; 1 in TSM's
            layouts, which trained those channels on the previous frame.
        stride: the frame at position t takes from position ``t - stride``; in a static network also from ``t + stride``.
        points: names ``"<block>.<point>"`` of the shifted layers, or None for all that the network has.
    """

    enabled: bool = True
    div: int = 8
    start_fold: int = 0
    stride: int = 1
    points: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Reject impossible folds and strides."""
        if self.div < 1 or self.stride < 1 or not 0 <= self.start_fold < self.div:
            raise NetworkError(
                f"shift div {self.div}, start_fold {self.start_fold}, stride {self.stride}: expected div >= 1, "
                "0 <= start_fold < div, stride >= 1"
            )

    def shifts(self, name: str) -> bool:
        """Return whether the layer ``name`` is shifted."""
        return self.enabled and (self.points is None or name in self.points)


class Shift(ABC):
    """The function that a block calls where its network shifts; it moves ``folds`` folds of channels."""

    folds = 1

    def __init__(self, config: ShiftConfig, block: int, frames: int) -> None:
        self.config = config
        self.block = block
        self.frames = frames

    def __call__(self, rows: Tensor, point: str) -> Tensor:
        """Return ``rows`` with the moved channels taken from frames ``stride`` positions away.

        Args:
            rows: a layer's input, [batch * frames, channels, height, width], with the frames of a video together.
            point: the layer's name, unique within its block.

        Raises:
            NetworkError: If ``fold`` is 0.
        """
        name = f"{self.block}.{point}"
        if not self.config.shifts(name):
            return rows
        fold = rows.shape[1] // self.config.div
        if fold == 0:
            raise NetworkError(
                f"layer {name} has {rows.shape[1]} channels, but shift div is {self.config.div}: nothing would move. "
                "Give a smaller div, or leave the layer out of shift.points."
            )
        start, stop = self.config.start_fold * fold, (self.config.start_fold + self.folds) * fold
        moving = rows[:, start:stop].unflatten(0, (-1, self.frames))  # [batch, frames, folds * fold, H, W]
        moved = self.taken(name, moving).flatten(0, 1)
        return torch.cat([rows[:, :start], moved, rows[:, stop:]], dim=1)

    @abstractmethod
    def taken(self, name: str, moving: Tensor) -> Tensor:
        """Return, for each frame, the channels that it takes from others, [batch, frames, folds * fold, height, width]."""


class WholeShift(Shift):
    """The shift over a whole video: zeros at its start, and after ``border`` if the groups are separate."""

    def __init__(self, config: ShiftConfig, block: int, frames: int, border: int | None = None) -> None:
        super().__init__(config, block, frames)
        self.border = border

    def taken(self, name: str, moving: Tensor) -> Tensor:
        """Return the channels moved down by ``stride`` frames within each group."""
        cut = self.frames if self.border is None else self.border
        groups = [g for g in (moving[:, :cut], moving[:, cut:]) if g.shape[1]]
        return torch.cat([self._down(group) for group in groups], dim=1)

    def _down(self, group: Tensor) -> Tensor:
        stride = min(self.config.stride, group.shape[1])
        return torch.cat([torch.zeros_like(group[:, :stride]), group[:, : group.shape[1] - stride]], dim=1)


class TwoWayShift(Shift):
    """TSM's shift over a whole video (Lin et al., 2019): one fold from the next frame, one from the frame before.

    With ``start_fold`` 0 these are ``[0, fold)`` and ``[fold, 2 * fold)``. Zeros at both ends of the video.
    """

    folds = 2

    def taken(self, name: str, moving: Tensor) -> Tensor:
        """Return the first fold moved up by ``stride`` frames, and the second moved down."""
        stride = min(self.config.stride, self.frames)
        up, down = moving.chunk(2, dim=2)
        later = nn.functional.pad(up[:, stride:], (*[0] * 6, 0, stride))  # zeros after the last frame
        earlier = nn.functional.pad(down[:, : self.frames - stride], (*[0] * 6, stride, 0))
        return torch.cat([later, earlier], dim=2)


class StatefulShift(Shift):
    """The shift over a few frames of a video, with the state of the earlier frames as an explicit tensor.

    ``states_in`` and ``states_out`` map a layer's name to [batch, stride, fold, height, width].
    """

    def __init__(
        self, config: ShiftConfig, block: int, frames: int, states_in: dict[str, Tensor] | None = None
    ) -> None:
        super().__init__(config, block, frames)
        self.states_in = states_in
        self.states_out: dict[str, Tensor] = {}

    def taken(self, name: str, moving: Tensor) -> Tensor:
        """Return the state, then all but the last ``stride`` frames, which become the new state."""
        if name in self.states_out:
            raise NetworkError(f"shift point {name} is used twice in one pass: give every shifted layer its own name")
        if self.states_in is None:  # the first frames of a video
            state = torch.zeros_like(moving[:, :1]).repeat(1, self.config.stride, 1, 1, 1)
        else:
            state = self.states_in[name]
        # slice and concat, never assign to slices, which exports as a constant
        history = torch.cat([state, moving], dim=1)
        self.states_out[name] = history[:, -self.config.stride :]
        return history[:, : -self.config.stride]
