"""ResNets of public code (torchvision, MIT TSN/TSM, mmaction2): configured from keys and shapes.

Neither shows where the stride of a stage lies, whether stages are dilated, and which share of the channels a shift
moves. Sources: pytorch/vision, mit-han-lab/temporal-shift-module, open-mmlab/mmaction2.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from functools import partial

from ...grid.errors import LayoutError
from ..resnet import ResNetOptions
from .file_keys import FileKeys
from .other_networks import other_network, shaped_otherwise, variant_of_resnet
from .published import named
from .reading import Reading, classes_of

_TRUNKS = {"torchvision": "", "mit-tsm": "base_model.", "mmaction2": "backbone."}
_HEADS = {"torchvision": "fc.", "mit-tsm": "new_fc.", "mmaction2": "cls_head.fc_cls."}


def read_resnet(layout: str, keys: FileKeys, stride_in_1x1: bool = False, dilated: int = 0) -> Reading:
    """Return what the keys and shapes of a ResNet say.

    Raises:
        LayoutError: If it is no ResNet of bottlenecks, or one that dynvid does not compute.
    """
    tensors, trunk, head = keys.tensors, _TRUNKS[layout], _HEADS[layout]
    _refuse(variant_of_resnet(keys.name(key) for key in tensors))
    bottlenecks: dict[int, set[str]] = defaultdict(set)  # by stage
    widths: Counter[int] = Counter()  # majority vote: a misshapen tensor must be reported, not believed
    for key, tensor in tensors.items():
        if match := re.match(re.escape(trunk) + r"layer([1-9])\.(\d+)\.(.+)", key):
            bottlenecks[int(match[1])].add(match[2])
            if re.match(r"(conv|bn)[12]\.", match[3]) and tensor.ndim and tensor.numel():
                widths[len(tensor) // 2 ** (int(match[1]) - 1)] += 1
    if not widths:
        _refuse(other_network(keys.name(key) for key in tensors))
        raise LayoutError(f"no ResNet at {keys.name(trunk + 'layer1.0.conv1')!r}: expected one with bottlenecks")
    if not any(re.search(r"layer\d\.\d+\.conv3\.", key) for key in tensors):
        raise LayoutError("a ResNet of BasicBlocks (no conv3, like ResNet-18 and -34): expected one of bottlenecks")
    stem = f"{trunk}conv1.{'conv.' if layout == 'mmaction2' else ''}weight"
    own = {keys.name(key): value for key, value in tensors.items() if key == stem or key.startswith(f"{trunk}layer")}
    _refuse(shaped_otherwise(keys.name(stem), own))
    layers = tuple(len(bottlenecks[stage]) for stage in sorted(bottlenecks))
    shifts = any(re.search(r"\.conv1\.(conv\.)?net\.", key) for key in tensors)
    places = [(stage, index) for stage, count in enumerate(layers, 1) for index in range(count)]
    plain = partial(_key, layout, trunk, head, [])
    shifted = [(s, i) for s, i in places if shifts and plain(f"blocks.{s}.{i}.residual.0.weight") not in tensors]
    if layout == "mit-tsm" and any(key.startswith(f"{trunk}fc.") for key in tensors):
        head = f"{trunk}fc."  # trained without dropout
    points = [f"{stage}.conv{index}" for stage, index in shifted]
    width = max(1, widths.most_common(1)[0][0])
    return {
        **named(ResNetOptions(layers, width, stride_in_1x1, dilated)),
        "classes": classes_of(keys, [head]),
        "heads": [len(layers)],
        "head": {"style": "linear"},
        "shift": {"enabled": True, "start_fold": 1, "points": points} if shifted else {"enabled": False},
    }, partial(_key, layout, trunk, head, shifted)


def _key(layout: str, trunk: str, head: str, shifted: list[tuple[int, int]], own: str) -> str:
    *path, module, leaf = own.split(".")
    if path[0] == "heads":
        return head + leaf
    kind, number = ("conv", "bn", "relu")[int(module) % 3], int(module) // 3 + 1
    name = f"conv{number}.{kind}." if layout == "mmaction2" else f"{kind}{number}."
    if path[-1] == "downsample":
        name = f"downsample.{kind}." if layout == "mmaction2" else f"downsample.{module}."
    elif path[1] != "0" and module == "0" and (int(path[1]), int(path[2])) in shifted:
        name += "net."
    return trunk + ("" if path[1] == "0" else f"layer{path[1]}.{path[2]}.") + name + leaf


def _refuse(other: str | None) -> None:
    if other is not None:
        raise LayoutError(f"it is {other}. dynvid has no such network.")
