"""Gradient equilibrium (Li et al., 2019, "Improved Techniques for Training Adaptive Deep Networks")."""

from __future__ import annotations

from torch import Tensor

from ...grid.route import Route


class GradientEquilibrium:
    """A ``branch`` for ``VideoNetwork.forward`` that gives every block the mean gradient of the checkpoints after it.

    In a sum of losses the early blocks get the sum of all checkpoints' gradients, and they grow with their number. Here
    the gradient of a block's last feature is divided by the number of checkpoints on this and later blocks, and the
    part that came through later blocks is first multiplied by theirs. So it is the mean over these checkpoints. Only
    the coarsest scale of MSDNet is scaled, and neither logits nor the heads' gradients change.
    """

    def __init__(self, route: Route) -> None:
        blocks = [checkpoint.cell.block for checkpoint in route.checkpoints]
        self._counts = {
            block: (sum(other >= block for other in blocks), sum(other > block for other in blocks)) for block in blocks
        }

    def __call__(self, block: int, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``feature`` for the head on ``block``, and for the next block."""
        following, later = self._counts[block]
        mean = _scaled(feature, 1 / following)
        return mean, _scaled(mean, later)


def _scaled(x: Tensor, factor: float) -> Tensor:
    """Return ``x``, whose gradient is multiplied by ``factor`` on its way back."""
    if not x.requires_grad:
        return x
    same = x.view_as(x)
    same.register_hook(lambda gradient: gradient * factor)
    return same
