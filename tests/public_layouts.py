"""Small networks in the words of the public layouts, and weights as people bring them: any initialisation, and sure answers."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from dynvid.exporter.proof.clips import proof_clips
from dynvid.models.config_json import from_json
from dynvid.models.network import VideoNetwork, initialise
from dynvid.models.registry import build

PIXELS = {"short_side": 32, "crop": 32}
EVERY = ["1.conv0", "2.conv0", "2.conv1", "3.conv0", "3.conv1", "3.conv2", "4.conv0"]
EVEN = [point for point in EVERY if point[-1] in "02"]
SMALL_RESNET = {"layers": [1, 2, 3, 1], "width": 8}
SMALL_MSDNET = {"layers": [1, 2], "channels": 8, "growth": 4, "growth_factors": [1, 2], "bottleneck_factors": [1, 2]}


def network(name: str, options: dict, **keys) -> VideoNetwork:
    keys = {"classes": 5, "frames_per_set": 1, "shift": {"enabled": False}, "preprocessing": PIXELS, **keys}
    return initialise(build(from_json({"network": name, "options": options, **keys})), seed=3)


def resnet(points: list[str] = (), classes: int = 5, **options) -> VideoNetwork:
    shift = {"start_fold": 1, "points": points} if points else {"enabled": False}
    options = {**SMALL_RESNET, **options}
    return network("resnet", options, classes=classes, heads=[4], head={"style": "linear"}, shift=shift)


def frames(model: VideoNetwork, pixels: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(2, model.grid.num_frames, 3, pixels, pixels, generator=generator)


# dynvid's keys in the words of each layout


def as_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    modules = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3", "7": "bn3"}
    renamed = {}
    for key, value in state.items():
        key = re.sub(r"heads\.\d\.classifiers\.shared", "fc", key)
        key = re.sub(r"blocks\.0\.net\.(\d)", lambda m: modules[m[1]], key)
        key = re.sub(r"residual\.(\d)", lambda m: modules[m[1]], key)
        renamed[re.sub(r"blocks\.(\d)", r"layer\1", key)] = value
    return renamed


def as_mit(state: dict[str, Tensor], points: list[str]) -> dict[str, Tensor]:
    shifted = {f"layer{point[0]}.{point[-1]}.conv1.weight" for point in points}
    renamed = {}
    for key, value in as_torchvision(state).items():
        key = key.replace(".weight", ".net.weight") if key in shifted else key
        renamed["module." + (f"new_{key}" if key.startswith("fc.") else f"base_model.{key}")] = value
    return renamed


def as_mmaction2(state: dict[str, Tensor], points: list[str]) -> dict[str, Tensor]:
    shifted = {f"backbone.layer{point[0]}.{point[-1]}.conv1.conv.weight" for point in points}
    renamed = {}
    for key, value in as_torchvision(state).items():
        for old in "123":
            key = key.replace(f"conv{old}", f"conv{old}.conv").replace(f"bn{old}", f"conv{old}.bn")
        key = key.replace("downsample.0", "downsample.conv").replace("downsample.1", "downsample.bn")
        key = key.replace("fc.", "cls_head.fc_cls.") if key.startswith("fc.") else f"backbone.{key}"
        renamed[key.replace(".weight", ".net.weight") if key in shifted else key] = value
    return renamed


def as_msdnet(state: dict[str, Tensor], prefix: str = "module.") -> dict[str, Tensor]:
    modules = {"embed.0": "m.0.net.0", "embed.1": "m.0.net.1", "embed.3": "m.1.net.0", "embed.4": "m.1.net.1"}
    renamed = {}
    for key, value in state.items():
        for old, new in {**modules, "classifiers.shared": "linear"}.items():
            key = re.sub(rf"heads\.(\d)\.{re.escape(old)}", rf"classifier.\1.{new}", key)
        renamed[prefix + key] = value
    return renamed


NAMES = {
    "msdnet-pytorch": lambda state, points: as_msdnet(state),
    "torchvision": lambda state, points: as_torchvision(state),
    "mit-tsm": as_mit,
    "mmaction2": as_mmaction2,
}


# weights

INITIALISATIONS = ("default", "fan_in", "fan_out")


@torch.no_grad()
def weigh(model: VideoNetwork, how: str, measured: bool = True, seed: int = 0) -> VideoNetwork:
    """Give a network other weights: PyTorch's default, or He's; BatchNorm statistics of one batch, unless not ``measured``."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            module.reset_parameters()
        if isinstance(module, nn.Conv2d) and how != "default":
            nn.init.kaiming_normal_(module.weight, mode=how, nonlinearity="relu")
    if measured:
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None  # the one batch alone
        model.train()
        model(torch.from_numpy(proof_clips(2, model.grid.num_frames, model.config.preprocessing, seed=99)))
        for norm in norms:
            norm.momentum = 0.1
    return model.eval()


@torch.no_grad()
def make_sure(model: VideoNetwork, highest: float = 0.99) -> VideoNetwork:
    """Scale the last layers until the highest probability of the last checkpoint is ``highest``, as trained networks' are."""
    clips = proof_clips(4, model.grid.num_frames, model.config.preprocessing, seed=98)
    logits = model(torch.from_numpy(clips))[-1].double()
    low, high = 0.0, 1e9
    for _ in range(100):
        middle = (low + high) / 2
        below = torch.softmax(logits * middle, 1).max() < highest
        low, high = (middle, high) if below else (low, middle)
    for head in model.heads.values():
        for linear in head.classifiers.values():
            linear.weight *= high
            linear.bias *= high
    return model
