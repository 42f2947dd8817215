"""When a run ends, and how fast it learns at each step."""

from __future__ import annotations

import math

from .recipe import Recipe


class Schedule:
    """A recipe's epochs as steps.

    Attributes:
        steps: number of steps of the whole run.
    """

    def __init__(self, recipe: Recipe, clips: int) -> None:
        """Take the number of training clips."""
        self._recipe, self._clips = recipe, clips
        self.steps = max(1, round(recipe.epochs * clips / recipe.batch))

    def epoch(self, step: int) -> float:
        """Return how many epochs are complete before a step (0-based)."""
        return step * self._recipe.batch / self._clips

    def rate(self, step: int) -> float:
        """Return the learning rate of a step (0-based)."""
        recipe, epoch, full = self._recipe, self.epoch(step), self._recipe.scaled_rate
        if epoch < recipe.warmup_epochs:
            return full * self.epoch(step + 1) / (recipe.warmup_epochs + self.epoch(1))
        if recipe.schedule == "cosine":
            done = (epoch - recipe.warmup_epochs) / (self.epoch(self.steps) - recipe.warmup_epochs)
            return full * 0.5 * (1 + math.cos(math.pi * done))
        return full * 0.1 ** sum(epoch >= milestone for milestone in recipe.milestones)
