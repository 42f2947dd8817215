"""Gradients of a block's last feature, by hand: each exit's own, and their mean."""

from __future__ import annotations

import pytest
import torch
from public_layouts import network
from torch import Tensor

from dynvid.grid.route import Route
from dynvid.grid.topology import Cell
from dynvid.models.network import VideoNetwork
from dynvid.training.optimisation.gradient_equilibrium import GradientEquilibrium
from dynvid.training.optimisation.losses import loss_of

CHAIN = {"layers": [1, 1, 1, 1], "width": 8}  # one feature a block
SCALES = {"layers": [1, 1, 1], "channels": 8, "growth": 4, "growth_factors": [1, 2], "bottleneck_factors": [1, 2]}
LABELS = torch.tensor([1, 4])


class Watched:
    """A branch that keeps what goes in and out of a block's branch, around another branch if there is one."""

    def __init__(self, inner=None) -> None:
        self.inner = inner
        self.features: dict[int, Tensor] = {}
        self.onward: dict[int, Tensor] = {}

    def __call__(self, block: int, feature: Tensor) -> tuple[Tensor, Tensor]:
        read, onward = (feature, feature) if self.inner is None else self.inner(block, feature)
        feature.retain_grad()
        self.features[block], self.onward[block] = feature, onward
        return read, onward


def chain(route: str = "0,2 1,2 1,3 1,4") -> VideoNetwork:
    model = network("resnet", CHAIN, input_sets=2, frames_per_set=2, route=route, heads=[2, 3, 4]).double()
    return model.eval()


def video(model: VideoNetwork) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(2, model.grid.num_frames, 3, 32, 32, generator=generator, dtype=torch.float64)


def each_exits_gradients(model: VideoNetwork) -> list[dict[int, Tensor]]:
    """The gradient of every exit's own loss with respect to each block's feature; zero for blocks after it."""
    watched, gradients = Watched(), []
    logits = model(video(model), watched)
    for z in logits:
        loss = torch.nn.functional.cross_entropy(z, LABELS)
        found = torch.autograd.grad(loss, list(watched.features.values()), retain_graph=True, allow_unused=True)
        gradients.append({b: g for b, g in zip(watched.features, found, strict=True) if g is not None})
    return gradients


@pytest.mark.parametrize("route", ["0,2 1,2 1,3 1,4", "1,2 1,4", "0,4 1,4", "1,3"])
def test_a_block_gets_the_mean_gradient_of_the_exits_on_it_and_after_it(route):
    model = chain(route)
    exits = each_exits_gradients(model)
    watched = Watched(GradientEquilibrium(model.route))
    loss_of(model(video(model), watched), LABELS).backward()
    for block, feature in watched.features.items():
        later = [e[block] for e, cell in zip(exits, model.route.cells, strict=True) if cell.block >= block]
        # loss_of computes in float32
        torch.testing.assert_close(feature.grad, sum(later) / len(later), rtol=1e-4, atol=1e-9)


def test_nothing_flows_back_from_behind_the_last_exit():
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    route = Route(chain().grid, (Cell(0, 2), Cell(1, 2)))
    read, onward = GradientEquilibrium(route)(2, x)
    onward.sum().backward(retain_graph=True)
    assert x.grad.tolist() == [0, 0, 0]
    read.sum().backward()
    assert x.grad.tolist() == [0.5, 0.5, 0.5]


def test_heads_learn_as_before_and_so_do_logits():
    model = chain()
    gradients = []
    for branch in (None, GradientEquilibrium(model.route)):
        model.zero_grad()
        logits = model(video(model), branch)
        loss_of(logits, LABELS).backward()
        gradients.append((logits, {name: p.grad.clone() for name, p in model.named_parameters()}))
    (before, plain), (after, balanced) = gradients
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    for name, gradient in plain.items():
        # the last block has one exit, whose mean is itself
        assert torch.equal(gradient, balanced[name]) == name.startswith(("heads.", "blocks.4.")), name


def test_only_the_coarsest_scale_is_scaled():
    model = network("msdnet", SCALES, input_sets=2, route="depth", heads=[0, 1, 2]).double().eval()
    finer, coarse = [], []
    for branch in (None, GradientEquilibrium(model.route)):
        kept: list[tuple[Tensor, ...]] = []
        hook = model.blocks[0].register_forward_hook(lambda _, __, out, kept=kept: kept.append(out))
        watched = Watched(branch)
        logits = model(video(model), watched)
        hook.remove()
        # what goes on from block 0, by a loss that only the last exit has: the finer scale's share is untouched
        fine, coarsest = kept[0]
        loss = torch.nn.functional.cross_entropy(logits[1], LABELS)
        one, other = torch.autograd.grad(loss, [fine, coarsest])
        finer.append(one)
        coarse.append(other)
    # block 1 has 2 exits on it and after it, block 0 has 3: 1/2 behind block 1, and 2/3 of that at block 0
    torch.testing.assert_close(finer[1], finer[0] / 2)
    torch.testing.assert_close(coarse[1], coarse[0] / 2 * 2 / 3)
    assert finer[0].abs().sum() > 0


def test_without_gradients_the_branch_is_the_identity():
    model = chain()
    with torch.no_grad():
        plain = model(video(model))
        assert all(map(torch.equal, plain, model(video(model), GradientEquilibrium(model.route))))
