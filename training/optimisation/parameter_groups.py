"""Which parameters decay and how fast each learns: the groups for an optimizer, and partial BatchNorm."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...grid.errors import NetworkError
from ...models.network import VideoNetwork

GroupStyle = Literal["plain", "tsn"]
_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)
_NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)
_TSN = {  # by kind: factors of the learning rate and of the weight decay
    "weight": (1.0, 1.0),
    "bias": (2.0, 0.0),
    "norm": (1.0, 0.0),
    "classifier weight": (5.0, 1.0),
    "classifier bias": (10.0, 0.0),
}
_PLAIN = {"weight": (1.0, 1.0), "vector": (1.0, 0.0)}


def parameter_groups(network: VideoNetwork, weight_decay: float, style: GroupStyle = "plain") -> list[dict[str, Any]]:
    """Return groups for an optimizer, which together hold every parameter of ``network`` once.

    Besides ``params`` and ``weight_decay`` each has an ``lr_factor``, by which the caller multiplies its learning rate.

    Args:
        network: its frozen parameters are in the groups too.
        weight_decay: of the parameters that decay fully.
        style: ``plain``: parameters of more than one dimension decay, the others do not, and all learn equally fast.
            ``tsn``: as TSN and TSM group them, for RGB frames: weights of convolutions and linear layers decay; their
            biases learn 2 times as fast; parameters of BatchNorm do not decay; the heads' classifiers learn 5 times as
            fast (weights) and 10 times (biases). TSN's group of the first convolution differs for optical flow only.

    Raises:
        NetworkError: If the style is ``tsn``, and a module is of a kind that TSN does not know.
    """
    if style == "plain":
        factors = _PLAIN
        kinds = {name: "weight" if p.ndim > 1 else "vector" for name, p in network.named_parameters()}
    else:
        factors, kinds = _TSN, _tsn_kinds(network)
    members: dict[str, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in network.named_parameters():
        members[kinds[name]].append(parameter)
    return [
        {"params": members[kind], "weight_decay": weight_decay * decay, "lr_factor": rate}
        for kind, (rate, decay) in factors.items()
        if members[kind]
    ]


def _tsn_kinds(network: VideoNetwork) -> dict[str, str]:
    """Return the kind of each parameter by its name."""
    classifiers = {
        id(module) for head in network.heads.values() for module in head.get_submodule("classifiers").modules()
    }
    kinds: dict[str, str] = {}
    owners: dict[int, str] = {}  # the first name of each parameter
    for path, module in network.named_modules():
        for leaf, parameter in module.named_parameters(path, recurse=False):
            own = leaf.removeprefix(f"{path}.")
            if isinstance(module, _NORMS):
                kind = "norm"
            elif isinstance(module, _WEIGHTED) and own in ("weight", "bias"):
                kind = f"classifier {own}" if id(module) in classifiers else own
            else:
                raise NetworkError(
                    f"parameter {leaf} belongs to a {type(module).__name__}: the groups of TSN know those of "
                    "convolutions, linear layers and normalisations. Use the plain groups."
                )
            first = owners.setdefault(id(parameter), leaf)
            if kinds.setdefault(first, kind) != kind:
                raise NetworkError(
                    f"parameter {leaf} is also {first}, and the groups of TSN differ for the two ({kind}, "
                    f"{kinds[first]}): use the plain groups"
                )
    return kinds


def partial_batch_norm(network: nn.Module) -> None:
    """Freeze every BatchNorm but the first: its statistics stay, whatever ``train()`` says, and its parameters (TSN).

    It is meant for small data sets. Call it after a conversion to SyncBatchNorm, which replaces the modules.
    """
    for norm in [module for module in network.modules() if isinstance(module, _BatchNorm)][1:]:
        for parameter in norm.parameters():
            parameter.requires_grad_(False)
        norm.eval()
        norm.register_forward_pre_hook(_stay_in_eval)


def _stay_in_eval(module: nn.Module, _: Any) -> None:
    module.eval()
