"""Losses over the checkpoints of a route: the sum of cross-entropies, and self-distillation from the last checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...grid.errors import UsageError

CONFIDENT = 0.5
"""The temperature rises while the mean highest probability of the last checkpoint is above this."""
RISE = 1.05


def loss_of(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Return the sum over checkpoints of the mean cross-entropy (paper, section 4.2).

    Args:
        logits: of every checkpoint, each [batch, classes].
        labels: [batch], class indices.
    """
    return torch.stack([nn.functional.cross_entropy(z.float(), labels) for z in logits]).sum()


@dataclass
class SelfDistillation:
    """The loss in which earlier checkpoints also learn from the last one (Phuong and Lampert, 2019).

    The last checkpoint learns from the labels, and is taken as it is by the others: no gradient flows to it from them.

    Attributes:
        share: C, the weight of what the last checkpoint says; the labels have the weight 1 - C, at the last one too.
        temperature: T, by which all logits are divided where checkpoints are compared. It is the only state: whoever
            saves it and sets it again goes on exactly.
    """

    share: float = 0.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Reject impossible numbers."""
        if not 0 < self.share <= 1 or not self.temperature > 0:
            raise UsageError(
                f"self-distillation with share {self.share}, temperature {self.temperature}: expected a share in "
                "(0, 1], and a temperature above 0"
            )

    def loss_of(self, logits: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Return (1 - C) times the sum of cross-entropies, plus C * T^2 times those against the last checkpoint.

        Args:
            logits: of every checkpoint, each [batch, classes].
            labels: [batch], class indices.
        """
        target = (logits[-1].detach().float() / self.temperature).softmax(1)
        total = (1 - self.share) * loss_of(logits, labels)
        for z in logits[:-1]:
            against = nn.functional.cross_entropy(z.float() / self.temperature, target)
            total = total + self.share * self.temperature**2 * against
        return total

    @torch.no_grad()
    def confidence_of(self, logits: Sequence[Tensor]) -> Tensor:
        """Return the mean highest probability of the last checkpoint at the temperature, a scalar."""
        return (logits[-1].float() / self.temperature).softmax(1).amax(1).mean()

    def anneal(self, confidence: float) -> None:
        """Raise the temperature by 5 % if ``confidence`` is above a half.

        Call it once a step, with the mean over the step's whole batch, so that every process has one temperature.
        """
        if confidence > CONFIDENT:
            self.temperature *= RISE
