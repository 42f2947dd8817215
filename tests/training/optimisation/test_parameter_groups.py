"""Every parameter in one group, with the factors of its kind; and BatchNorm that stays as it is."""

from __future__ import annotations

import copy
import importlib.util
from collections import Counter

import pytest
import torch
from samples import ROOT, TINY
from torch import nn

from dynvid.grid.errors import NetworkError
from dynvid.models import registry
from dynvid.models.config_json import from_json
from dynvid.models.network import VideoNetwork
from dynvid.models.registry import build
from dynvid.training.optimisation.parameter_groups import parameter_groups, partial_batch_norm

DECAY = 5e-4
CANCELLED = "blocks.0.0.layers.0.0.bias"  # before a BatchNorm, so that its gradient is rounding only


def published(name: str) -> VideoNetwork:
    with torch.device("meta"):
        return build(from_json({"network": name, "classes": 7}))


def tiny(**keys) -> VideoNetwork:
    return build(from_json({**TINY, **keys}))


def by_factors(network: VideoNetwork, style: str) -> dict[tuple[float, float], list[str]]:
    """The names of the parameters by (lr factor, weight decay); every one of them once."""
    names = {id(p): name for name, p in network.named_parameters()}
    groups = parameter_groups(network, DECAY, style)
    found = Counter(id(p) for group in groups for p in group["params"])
    assert found == Counter(names.keys())
    by = {(g["lr_factor"], g["weight_decay"]): [names[id(p)] for p in g["params"]] for g in groups}
    assert len(by) == len(groups)
    return by


@pytest.mark.parametrize("style", ["plain", "tsn"])
@pytest.mark.parametrize("name", ["msdnet38", "resnet50", "resnet101"])
def test_the_groups_partition_the_parameters_of_the_three_networks(name, style):
    network = published(name)
    by = by_factors(network, style)
    kinds = {path: type(module).__name__ for path, module in network.named_modules()}
    if style == "plain":
        assert set(by) == {(1, DECAY), (1, 0)}
        shapes = {path: p.ndim for path, p in network.named_parameters()}
        assert all(shapes[path] > 1 for path in by[1, DECAY]) and all(shapes[path] == 1 for path in by[1, 0])
        return
    for (rate, decay), paths in by.items():
        for path in paths:
            module, _, leaf = path.rpartition(".")
            expected = {
                ("Conv2d", "weight"): (1, DECAY), ("Conv2d", "bias"): (2, 0), ("BatchNorm2d", "weight"): (1, 0),
                ("BatchNorm2d", "bias"): (1, 0), ("Linear", "weight"): (5, DECAY), ("Linear", "bias"): (10, 0),
            }[kinds[module], leaf]  # fmt: skip
            assert (rate, decay) == expected, path
    # only MSDNet's first convolution has a bias
    assert by.get((2, 0), []) == (["blocks.0.0.layers.0.0.bias"] if name == "msdnet38" else [])


def test_linear_layers_that_are_no_classifiers_learn_like_convolutions():
    network = tiny()
    network.heads["2"].embed.append(nn.Linear(8, 8))
    by = by_factors(network, "tsn")
    assert "heads.2.embed.8.weight" in by[1, DECAY] and "heads.2.embed.8.bias" in by[2, 0]
    assert "heads.2.classifiers.shared.weight" in by[5, DECAY]


def test_an_optimizer_takes_the_groups_and_keeps_the_factor():
    optimizer = torch.optim.SGD(parameter_groups(tiny(), DECAY, "tsn"), 0.1, momentum=0.9)
    factors = [group["lr_factor"] for group in optimizer.param_groups]
    assert factors == [1, 2, 1, 5, 10]
    again = torch.optim.SGD(parameter_groups(tiny(), DECAY, "tsn"), 0.1, momentum=0.9)
    again.load_state_dict(optimizer.state_dict())
    assert [group["lr_factor"] for group in again.param_groups] == factors


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))


def own_network(monkeypatch, extra: nn.Module | None = None) -> VideoNetwork:
    """The example's network, with a module of another kind if one is given."""
    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))
    path = ROOT / "examples" / "own_network" / "mobile_video.py"
    spec = importlib.util.spec_from_file_location("mobile_video_of_groups", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def factory():
        backbone = module.mobile_video(0.35)
        if extra is not None:
            backbone.blocks[2].append(extra)
        return backbone

    registry.register("own", factory)
    return build(from_json({"network": "own", "classes": 3}))


def test_the_networks_of_users_are_grouped_too(monkeypatch):
    network = own_network(monkeypatch)
    assert set(by_factors(network, "plain")) == {(1, DECAY), (1, 0)}
    assert set(by_factors(network, "tsn")) == {(1, DECAY), (1, 0), (5, DECAY), (10, 0)}


@pytest.mark.parametrize("extra", [Scaled(), nn.PReLU()])
def test_a_module_of_unknown_kind_is_refused_by_name_and_the_plain_groups_take_it(monkeypatch, extra):
    network = own_network(monkeypatch, extra)
    name = next(name for name, p in network.named_parameters() if p is next(extra.parameters()))
    with pytest.raises(
        NetworkError, match=rf"parameter {name} belongs to a {type(extra).__name__}: .*Use the plain groups"
    ):
        parameter_groups(network, DECAY, "tsn")
    assert name in by_factors(network, "plain")[1, 0]


def test_a_shared_parameter_has_one_group_or_is_refused():
    network = tiny()
    first, second = (network.heads[block].embed[3] for block in "01")
    second.weight = first.weight
    by_factors(network, "tsn")
    network.heads["1"].classifiers["shared"].weight = first.weight
    shown = r"parameter heads\.1\.classifiers\.shared\.weight is also heads\.0\.embed\.3\.weight, and the groups of TSN"
    with pytest.raises(NetworkError, match=shown):
        parameter_groups(network, DECAY, "tsn")
    by_factors(network, "plain")


# partial BatchNorm


def step(network: VideoNetwork) -> None:
    network.train()
    optimizer = torch.optim.SGD(parameter_groups(network, DECAY), 0.1)
    generator = torch.Generator().manual_seed(1)
    sum(z.square().sum() for z in network(torch.randn(2, 8, 3, 32, 32, generator=generator))).backward()
    optimizer.step()


@pytest.mark.parametrize("copied", [False, True])
def test_every_batch_norm_but_the_first_stays_as_it_is(copied):
    network = tiny()
    partial_batch_norm(network)
    network = copy.deepcopy(network) if copied else network  # as the average of weights copies it
    before = copy.deepcopy(network.state_dict())
    step(network)
    step(network.train())
    norms = [path for path, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms[0] == "blocks.0.0.layers.0.1" and len(norms) > 10
    for key, value in network.state_dict().items():
        if key == CANCELLED:
            continue
        frozen = key.rpartition(".")[0] in norms[1:]
        assert torch.equal(value, before[key]) == frozen, key


def test_without_it_every_batch_norm_learns():
    network = tiny()
    before = copy.deepcopy(network.state_dict())
    step(network)
    same = {key for key, value in network.state_dict().items() if torch.equal(value, before[key])}
    assert same <= {CANCELLED}
