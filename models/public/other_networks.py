"""What a file's network is that dynvid has not: from its keys, or from the shapes of a ResNet's tensors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from torch import Tensor

_VARIANTS = {  # of a ResNet
    r"\.nl\.|non_local": "a ResNet with non-local blocks, which look at later frames",
    r"layer\d+\.net\.": "a ResNet that pools over time (temporal_pool), which merges frames",
    r"layer\d+\.\d+\.net\.": "a ResNet that shifts whole blocks (shift_place 'block') instead of residual branches",
    r"layer\d+\.\d+\.(se|se_module|se_layer)\.": "a ResNet with squeeze and excitation",
}
_FAMILIES = {
    r"(slow|fast)_path\.": "SlowFast",
    r"features\.\d+\.\d+\.block\.|(^|\.)_blocks\.\d+\._": "EfficientNet",
    r"features\.\d+\.(conv|block)\.\d|layer\d+\.\d+\.conv\.\d+\.conv\.|features\.0\.0\.weight": "MobileNet",
    r"denseblock\d": "DenseNet",
    r"(^|\.)features\.\d+\.weight$": "VGG or AlexNet",
    r"inception|Mixed_\d|conv1_7x7_s2": "Inception",
    r"(^|\.)(attn|self_attn|attention)\.|attn\.(qkv|q|k|v)\.|relative_position_bias": "a transformer",
    r"\.dwconv\.": "ConvNeXt",
}


def other_network(keys: Iterable[str]) -> str | None:
    """Return what network has such keys, with one of them, or None."""
    return _first({**_VARIANTS, **_FAMILIES}, list(keys))


def variant_of_resnet(keys: Iterable[str]) -> str | None:
    """Return what ResNet has such keys besides the usual ones, with one of them, or None."""
    return _first(_VARIANTS, list(keys))


def _first(patterns: Mapping[str, str], keys: list[str]) -> str | None:
    for pattern, what in patterns.items():
        if found := next((key for key in keys if re.search(pattern, key)), None):
            return f"{what}: {found!r}"
    return None


def shaped_otherwise(stem: str, tensors: Mapping[str, Tensor]) -> str | None:
    """Return what network has tensors of such shapes, or None if they may be a plain ResNet's with bottlenecks.

    Args:
        stem: key of the first convolution's weight.
        tensors: of the stages, by names such as ``layer1.0.conv2.weight``, and the first convolution's by ``stem``.
    """
    kernels = {key: value for key, value in tensors.items() if value.ndim >= 4 and value.numel()}
    if 2 * sum(value.ndim == 5 for value in kernels.values()) > len(kernels):
        return f"a network of 3D convolutions: {next(iter(kernels))!r} has shape {_shape(next(iter(kernels.values())))}"
    first = tensors.get(stem)
    if first is not None and first.ndim == 4 and first.shape[1] != 3:
        kind = {10: "optical flow of five frames", 2: "optical flow", 15: "differences of frames"}
        return f"a network on other input than RGB frames: {stem!r} takes {first.shape[1]} channels instead of 3" + (
            f", as one on {kind[first.shape[1]]} does" if first.shape[1] in kind else ""
        )
    groups: Counter[int] = Counter()
    widening: Counter[int] = Counter()
    for key, value in kernels.items():
        if re.search(r"\.conv2\.(conv\.)?weight$", key) and value.shape[1]:
            groups[value.shape[0] // value.shape[1]] += 1
        out = kernels.get(re.sub(r"\.conv2\.", ".conv3.", key))
        if out is not None and out is not value and value.shape[0]:
            widening[out.shape[0] // value.shape[0]] += 1
    most = groups.most_common(1)
    if most and most[0][0] > 1:
        return f"a ResNeXt: its 3x3 convolutions have {most[0][0]} groups"
    wide = widening.most_common(1)
    if wide and wide[0][0] != 4 and wide[0][0] > 0:
        return f"a wide ResNet: its bottlenecks widen {wide[0][0]} times instead of 4"
    return None


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
