"""The networks that dynvid knows by name; add others with ``register`` or through entry points ``dynvid.networks``."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

import torch

from ..grid.errors import NetworkError
from .msdnet import MSDNet, MSDNetOptions
from .network import Backbone, NetworkConfig, VideoNetwork
from .resnet import ResNet, ResNetOptions
from .shift import ShiftConfig, StatefulShift

BackboneFactory = Callable[..., Backbone]

_FACTORIES: dict[str, BackboneFactory] = {
    "msdnet": lambda **options: MSDNet(MSDNetOptions(**options)),
    "msdnet38": lambda: MSDNet(MSDNetOptions()),
    "resnet": lambda **options: ResNet(ResNetOptions(**options)),
    "resnet50": lambda **options: ResNet(ResNetOptions((3, 4, 6, 3), **options)),
    "resnet101": lambda **options: ResNet(ResNetOptions((3, 4, 23, 3), **options)),
}


def register(name: str, factory: BackboneFactory) -> None:
    """Register ``factory(**options)``, which returns a ``Backbone``, as ``name``.

    Raises:
        NetworkError: If the name is taken.
    """
    if name in _FACTORIES:
        raise NetworkError(f"network {name!r} is already registered: choose another name")
    _FACTORIES[name] = factory


def registered() -> dict[str, BackboneFactory]:
    """Return every known network: built-in ones, registered ones, and those of installed packages."""
    found = dict(_FACTORIES)
    for entry in entry_points(group="dynvid.networks"):
        if entry.name not in found:
            found[entry.name] = lambda _entry=entry, **options: _entry.load()(**options)
    return found


def build_backbone(name: str, options: Mapping[str, Any]) -> Backbone:
    """Return the backbone registered as ``name``.

    Raises:
        NetworkError: If the name is unknown or the options do not fit.
    """
    known = registered()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise NetworkError(f"network {name!r}: expected one of {', '.join(sorted(known))}.{hint}")
    try:
        return known[name](**options)
    except TypeError as error:
        raise NetworkError(f"options {dict(options)} do not fit network {name!r}: {error}") from error


def build(config: NetworkConfig) -> VideoNetwork:
    """Return the network that ``config`` describes, with PyTorch's initial weights.

    Raises:
        NetworkError: If the name is unknown or the configuration does not fit.
    """
    network = VideoNetwork(config, build_backbone(config.network, config.options))
    if config.shift.enabled and config.shift.points is not None:
        _require_points(network, config.shift.points)
    return network


def shift_points(network: VideoNetwork, shift: ShiftConfig) -> set[str]:
    """Return the names ``"<block>.<point>"`` of the layers of ``network`` that ``shift`` shifts."""
    crop = network.config.preprocessing.crop
    features: tuple[torch.Tensor, ...] = (torch.empty(1, 3, crop, crop, device="meta"),)
    found: set[str] = set()
    for block, module in enumerate(copy.deepcopy(network.blocks).to("meta").eval()):
        states = StatefulShift(shift, block, 1)
        features = module(features, states)
        found |= set(states.states_out)
    return found


def _require_points(network: VideoNetwork, points: tuple[str, ...]) -> None:
    strange = sorted(set(points) - shift_points(network, network.config.shift))
    if strange:
        raise NetworkError(
            f"shift points {', '.join(strange)} are not among the layers of network {network.config.network!r}: "
            "name them '<block>.<layer>', like the states of its bundle"
        )
