"""The recipe: how weights are found. Everything here changes the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...grid.errors import UsageError
from ..batches.augmentation import SCALES, Augmentation, Crops, Flip, Frames


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. The defaults are the paper's for Kinetics-400 (section 4.2), with TSN's windows.

    But no clip is mirrored unless the recipe says so: whether that changes its class, only its user knows.

    Attributes:
        preset: the recipe that this one began with, by the name of its data set.
        epochs: how often every training clip is seen; ``batch``: clips a step, on all devices together.
        learning_rate: for a batch of ``learning_rate_batch``; for another one, it is scaled in proportion.
        optimizer: ``sgd`` with ``momentum``, or ``adamw``.
        parameter_groups: ``plain``: no weight decay on biases and normalisation; ``tsn``: TSN's rates of learning.
        schedule: ``step``: a tenth from each of the ``milestones`` on; ``cosine``: to zero. Both in epochs, after
            ``warmup_epochs`` of linear growth.
        clip_norm: bound on the norm of the gradient.
        dropout: before the heads' linear layers.
        partial_batch_norm: whether every BatchNorm but the first keeps its statistics (TSN, for small data sets).
        sync_batch_norm: whether devices share their statistics; ``auto``: where one sees fewer than 32 images a step.
        gradient_equilibrium: whether a gradient is the mean, not the sum, over later checkpoints (IMTA, 2019).
        distillation: weight of what earlier checkpoints learn from the last one; 0 for nothing (Phuong and Lampert,
            2019).
        frames, crops, scales, flip: as ``Augmentation``.
        precision: of the computation: ``fp32``, or ``bf16`` or ``fp16`` under autocast.
        accumulate: parts of a batch that are computed one after the other on a device.
        recompute: whether blocks are computed a second time instead of keeping what their gradient needs.
        average: decay of the exponential moving average of the weights, which is what is kept; 0 for none.
        initial: training checkpoint to start from.
        seed: of initial weights, order, augmentation and dropout.
    """

    preset: str | None = None
    epochs: float = 50.0
    batch: int = 128
    learning_rate: float = 0.01
    learning_rate_batch: int = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    parameter_groups: Literal["plain", "tsn"] = "plain"
    schedule: Literal["step", "cosine"] = "step"
    milestones: tuple[float, ...] = (25.0, 35.0, 45.0)
    warmup_epochs: float = 0.0
    clip_norm: float = 20.0
    dropout: float = 0.5
    partial_batch_norm: bool = False
    sync_batch_norm: Literal["auto", "on", "off"] = "auto"
    gradient_equilibrium: bool = False
    distillation: float = 0.0
    frames: Frames = "segments"
    crops: Crops = "tsn"
    scales: tuple[float, ...] = SCALES
    flip: Flip = "off"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accumulate: int = 1
    recompute: bool = False
    average: float = 0.0
    initial: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject values outside their ranges."""
        for name, expected, fits in (
            ("epochs", "above 0, at most 1e6", 0 < self.epochs <= 1e6),
            ("batch", "1 to 1000000", 1 <= self.batch <= 1_000_000),
            ("learning_rate", "above 0", self.learning_rate > 0),
            ("learning_rate_batch", "at least 1", self.learning_rate_batch >= 1),
            ("momentum", "in [0, 1)", 0 <= self.momentum < 1),
            ("weight_decay", "0 or more", self.weight_decay >= 0),
            ("milestones", "growing numbers of epochs", list(self.milestones) == sorted(set(self.milestones))),
            ("warmup_epochs", "from 0 to the number of epochs", 0 <= self.warmup_epochs < self.epochs),
            ("clip_norm", "above 0", self.clip_norm > 0),
            ("dropout", "in [0, 1)", 0 <= self.dropout < 1),
            ("distillation", "in [0, 1]", 0 <= self.distillation <= 1),
            ("scales", "shares in (0, 1]", bool(self.scales) and all(0 < scale <= 1 for scale in self.scales)),
            ("accumulate", "at least 1", self.accumulate >= 1),
            ("average", "in [0, 1)", 0 <= self.average < 1),
            ("seed", "0 to 4294967295", 0 <= self.seed < 2**32),
        ):
            if not fits:
                raise UsageError(f"recipe.{name} {getattr(self, name)}: expected {expected}")

    @property
    def scaled_rate(self) -> float:
        """The learning rate for this batch (Goyal et al., 2017)."""
        return self.learning_rate * self.batch / self.learning_rate_batch

    @property
    def augmentation(self) -> Augmentation:
        """How training clips are looked at."""
        return Augmentation(self.frames, self.crops, self.scales, self.flip)
