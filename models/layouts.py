"""Training checkpoints of every known layout: recognised by keys, configured from shapes, renamed and loaded.

What keys and shapes do not show follows the public code: strides as in torchvision (v1.5), a shift of an eighth of
the channels, the preprocessing of the data set. Sources: kalviny/MSDNet-PyTorch, pytorch/vision,
mit-han-lab/temporal-shift-module, open-mmlab/mmaction2.
"""

from __future__ import annotations

import itertools
import math
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..grid.errors import LayoutError, NetworkError, UsageError
from ..grid.route import Route, parse_route
from .config_json import from_json
from .msdnet import MSDNetOptions
from .network import VideoNetwork
from .registry import build
from .resnet import ResNetOptions
from .training_checkpoint import load_native, load_weights, read_tensors

_SIGNS = {  # a file has the layout whose pattern most of its keys match
    "native": r"heads\.\d+\.(embed|classifiers)\.",
    "msdnet-pytorch": r"(module\.)?classifier\.\d+\.(m|linear)\.",
    "torchvision": r"(module\.)?(conv1|bn1|layer\d+\.\d+|fc)\.",
    "mit-tsm": r"(module\.)?(base_model|new_fc)\.",
    "mmaction2": r"(module\.)?(backbone\.(conv1|layer\d+)|cls_head)\.",
}
LAYOUTS: tuple[str, ...] = tuple(_SIGNS)
_TRUNKS = {"torchvision": "", "mit-tsm": "base_model.", "mmaction2": "backbone."}
_HEADS = {"torchvision": "fc.", "mit-tsm": "new_fc.", "mmaction2": "cls_head.fc_cls."}
_REFUSED = {
    r"\.nl\.|non_local": "it has non-local blocks, which look at later frames",
    r"layer\d+\.net\.": "it pools over time (temporal_pool), which merges frames",
    r"layer\d+\.\d+\.net\.": "it shifts whole blocks (shift_place 'block') instead of residual branches",
}
_CIFAR = {  # normalisation by number of classes
    10: {"mean": [0.4914, 0.4824, 0.4467], "std": [0.2471, 0.2435, 0.2616]},
    100: {"mean": [0.5071, 0.4867, 0.4408], "std": [0.2675, 0.2565, 0.2761]},
}
_WARNINGS = {  # by (weights were trained with a shift, network shifts)
    (True, True): "the weights were trained with a temporal shift in both directions: the first fold of channels, "
    "which came from the next frame, stays unshifted online. Fine-tune before relying on the accuracy.",
    (True, False): "the weights were trained with a temporal shift, which is off: expect a lower accuracy.",
    (False, True): "the weights were trained without a temporal shift: fine-tune before relying on the accuracy.",
}
_Reading = tuple[
    dict[str, Any], Callable[[str], str]
]  # a configuration; maps one of dynvid's keys to the file's name for it


@dataclass(frozen=True)
class Loaded:
    """A network in eval mode, the layout of its file, and warnings for the user."""

    network: VideoNetwork
    layout: str
    warnings: tuple[str, ...] = ()


def detect(tensors: Mapping[str, Tensor]) -> str:
    """Return the layout, one of ``LAYOUTS``, that the keys match.

    Raises:
        LayoutError: If they match none.
    """
    counts = {layout: sum(bool(re.match(sign, key)) for key in tensors) for layout, sign in _SIGNS.items()}
    layout = max(counts, key=lambda name: counts[name])
    if not counts[layout]:
        some = ", ".join(map(repr, list(tensors)[:5]))
        raise LayoutError(f"keys such as {some} match no known layout: expected one of {', '.join(LAYOUTS)}")
    return layout


def load_training_checkpoint(
    path: Path,
    *,
    layout: str = "auto",
    network: str | None = None,
    classes: int | None = None,
    route: str | None = None,
    shift: bool | None = None,
    num_frames: int | None = None,
) -> Loaded:
    """Return the network of a training checkpoint of any layout, in eval mode and float32.

    Args:
        path: a .pth, .pth.tar or .safetensors file.
        layout: the expected layout, one of ``LAYOUTS``; ``auto``: recognise it by the keys.
        network: the expected network, such as ``resnet50`` or its family ``resnet``.
        classes: the expected number of classes.
        route: a preset or cells; by default the file's own, else ``joint``, else what the heads allow.
        shift: whether to use the online temporal shift; by default as the weights were trained.
        num_frames: l, a multiple of the input sets; by default the file's own, else 16.

    Raises:
        TrainingCheckpointError: If the file is not a training checkpoint, or not a safe and finite one.
        LayoutError: If keys or shapes do not fit, or the file is not what the arguments say.
        RouteError: If the route does not fit, or a checkpoint lies on a block without a head.
        UsageError: If ``layout`` or ``num_frames`` is invalid.
    """
    if layout not in ("auto", *LAYOUTS):
        raise UsageError(f"layout {layout!r}: expected auto or one of {', '.join(LAYOUTS)}. Change --layout.")
    tensors, native = read_tensors(path)
    found = detect(tensors) if native is None else "native"
    if layout not in ("auto", found):
        raise LayoutError(f"wrong layout {layout!r}: {str(path)!r} has the keys of {found!r}. Leave out --layout.")
    model = _load_public(path, tensors, found, shift) if native is None else load_native(path, tensors, native)
    config, grid = model.config, model.grid
    facts = {"network": config.network, "classes": config.classes, "shift": config.shift.enabled}
    family = config.network.rstrip("0123456789")
    asked = {"network": None if network == family else network, "classes": classes, "shift": shift}
    wrong = [f"{key} {asked[key]!r} instead of {its!r}" for key, its in facts.items() if asked[key] not in (None, its)]
    if wrong:
        raise LayoutError(f"training checkpoint {str(path)!r} is not what was requested: {'; '.join(wrong)}")
    num_frames = grid.num_frames if num_frames is None else num_frames
    if num_frames < 1 or num_frames % grid.input_sets:
        raise UsageError(f"{num_frames} frames: expected a multiple of {grid.input_sets}. Change --frames.")
    grid = replace(grid, frames_per_set=num_frames // grid.input_sets)
    model.with_route(Route(grid, config.route) if route is None else parse_route(route, grid, config.heads))
    model.grid, model.config = grid, replace(config, grid=grid, route=model.route.cells)
    warning = _WARNINGS.get((config.shift.start_fold == 1, config.shift.enabled)) if native is None else None
    return Loaded(model, found, () if warning is None else (warning,))


def _load_public(path: Path, tensors: Mapping[str, Tensor], layout: str, shift: bool | None) -> VideoNetwork:
    prefix = "module." if 2 * sum(key.startswith("module.") for key in tensors) > len(tensors) else ""
    try:
        if layout == "native":
            raise LayoutError("its keys are dynvid's, but it has no configuration. Save it with dynvid.")
        read = _read_msdnet if layout == "msdnet-pytorch" else partial(_read_resnet, layout)
        data, file_key = read(tensors, prefix)
        data["shift"]["enabled"] = data["shift"]["enabled"] if shift is None else shift
        with torch.device("meta"), warnings.catch_warnings(action="ignore"):  # free, whatever the shapes
            model = build(from_json(data))
    except (LayoutError, NetworkError) as error:
        raise LayoutError(f"training checkpoint {str(path)!r}: {error}") from None
    return load_weights(model, tensors, path, file_key)


def _classes(tensors: Mapping[str, Tensor], linears: Sequence[str]) -> int:
    """Return the number of rows of the linear layers; any number without them: their keys will be found missing."""
    keys = [f"{linear}{leaf}" for linear in linears for leaf in ("weight", "bias")]
    rows = {key: len(tensors[key]) for key in keys if key in tensors and tensors[key].ndim}
    ranking = Counter(rows.values()).most_common(2) or [(2, 1)]
    if len(ranking) == 2 and ranking[0][1] == ranking[1][1]:
        raise LayoutError(f"misshapen linear layer: its rows differ, {rows}")
    return ranking[0][0]


def _read_resnet(layout: str, tensors: Mapping[str, Tensor], prefix: str) -> _Reading:
    trunk, head = prefix + _TRUNKS[layout], prefix + _HEADS[layout]
    for pattern, trouble in _REFUSED.items():
        if odd := [key for key in tensors if re.search(pattern, key)]:
            raise LayoutError(f"{trouble}: {odd[0]!r}. dynvid has no such network.")
    bottlenecks: dict[int, set[str]] = defaultdict(set)  # by stage
    widths: Counter[int] = Counter()  # majority vote: a misshapen tensor must be reported, not believed
    for key, tensor in tensors.items():
        if match := re.match(re.escape(trunk) + r"layer([1-9])\.(\d+)\.(.+)", key):
            bottlenecks[int(match[1])].add(match[2])
            if re.match(r"(conv|bn)[12]\.", match[3]) and tensor.ndim and tensor.numel():
                widths[len(tensor) // 2 ** (int(match[1]) - 1)] += 1
    if not widths:
        raise LayoutError(f"no ResNet at {trunk + 'layer1.0.conv1'!r}: expected one with bottlenecks")
    if not any(re.search(r"layer\d\.\d+\.conv3\.", key) for key in tensors):
        raise LayoutError("a ResNet of BasicBlocks (no conv3, like ResNet-18 and -34): expected one of bottlenecks")
    layers = tuple(len(bottlenecks[stage]) for stage in sorted(bottlenecks))
    shifts = any(re.search(r"\.conv1\.(conv\.)?net\.", key) for key in tensors)
    places = [(stage, index) for stage, count in enumerate(layers, 1) for index in range(count)]
    plain = partial(_resnet_key, layout, trunk, head, [])
    shifted = [(s, i) for s, i in places if shifts and plain(f"blocks.{s}.{i}.residual.0.weight") not in tensors]
    if layout == "mit-tsm" and any(key.startswith(f"{trunk}fc.") for key in tensors):
        head = f"{trunk}fc."  # trained without dropout
    points = [f"{stage}.conv{index}" for stage, index in shifted]
    return {
        **_named("resnet", ResNetOptions(layers, max(1, widths.most_common(1)[0][0]))),
        "classes": _classes(tensors, [head]),
        "heads": [len(layers)],
        "head": {"style": "linear"},
        "shift": {"enabled": True, "start_fold": 1, "points": points} if shifted else {"enabled": False},
    }, partial(_resnet_key, layout, trunk, head, shifted)


def _resnet_key(layout: str, trunk: str, head: str, shifted: list[tuple[int, int]], own: str) -> str:
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


def _named(family: str, options: MSDNetOptions | ResNetOptions) -> dict[str, Any]:
    known = {"msdnet38": MSDNetOptions(), "resnet50": ResNetOptions(), "resnet101": ResNetOptions((3, 4, 23, 3))}
    published = [name for name, its in known.items() if its == options]
    return {"network": published[0]} if published else {"network": family, "options": asdict(options)}


def _read_msdnet(tensors: Mapping[str, Tensor], prefix: str) -> _Reading:
    # Output channels of the first (0, 1) and second (3, 4) convolution of every "net", by majority of its tensors and
    # its BatchNorm's: a misshapen one must be reported, not believed.
    votes: dict[tuple[str, int], Counter[int]] = defaultdict(Counter)
    for key, tensor in tensors.items():
        match = re.fullmatch(r"(.+)\.([0134])\.\w+", key.removeprefix(prefix))
        if match and tensor.ndim and tensor.numel():
            votes[match[1].removesuffix(".net"), int(match[2]) // 3][len(tensor)] += 1
    outputs = {place: vote.most_common(1)[0][0] for place, vote in votes.items()}

    def row(start: str, end: str = "", conv: int = 0) -> list[int]:
        return [outputs.get((f"{start}.{scale}{end}", conv), 0) for scale in range(10)]

    widths = [width for width in row("blocks.0.0.layers") if width]
    matches = [re.match(r"blocks\.(\d{1,4})\.(\d{1,4})\.(layers\.\d\.conv_|m\.)", name) for name, _ in outputs]
    places = sorted({(int(match[1]), int(match[2])) for match in matches if match})
    if not widths or not places:
        raise LayoutError("no MSDNet at 'blocks.0.0.layers.0', 'blocks.0.1.layers.0' and so on")
    scales, channels = len(widths), math.gcd(*widths)
    factors, bottleneck_factors = [width // channels for width in widths], [1] * scales
    last = max(conv for name, conv in outputs if name.startswith("blocks."))  # 1 with bottlenecks
    layers, growths = Counter[int](), Counter[int]()
    left: list[int] = []  # number of scales that leave each layer
    kept: list[int | None] = []  # channels that leave the transition after each layer, in units of the factors
    for block, place in places:
        at = f"blocks.{block}.{place}"
        if kept and any(reduced := row(f"{at}.m")):
            kept[-1] = max(reduced) // max(factors[-sum(map(bool, reduced)) :])
            continue
        normal, down = (row(f"{at}.layers", kind, last) for kind in (".conv_normal", ".conv_down"))
        layers[block] += 1
        left.append(min(sum(map(bool, normal)), scales))
        kept.append(None)
        for scale, own in enumerate(range(scales - left[-1], scales)):
            growths[(normal[scale] + down[scale]) // factors[own]] += 1
            for kind, wide, source in ((".conv_normal", normal[scale], own), (".conv_down", down[scale], own - 1)):
                if last and wide:  # the inner width is min(channels, factor * wide)
                    inner = outputs.get((f"{at}.layers.{scale}{kind}", 0), 0)
                    bottleneck_factors[source] = max(bottleneck_factors[source], -(-inner // wide))
    growth = max(1, max(growths, key=lambda size: growths[size], default=1))
    unit, reduction = _reduction(channels, growth, kept)
    cifar = any(key.startswith(f"{prefix}blocks.0.0.layers.0.net.") for key in tensors)
    options = MSDNetOptions(
        layers=tuple(layers.values()),
        channels=channels // unit,
        growth=growth // unit,
        growth_factors=tuple(factor * unit for factor in factors),
        bottleneck_factors=tuple(bottleneck_factors),
        bottleneck=last == 1,
        reduction=reduction,
        stem="cifar" if cifar else "imagenet",
    )
    plan = [(options.scales_at(layer)[1], options.reduces_after(layer)) for layer in range(1, len(left) + 1)]
    if plan != list(zip(left, map(bool, kept), strict=True)):
        options = replace(options, prune="min")
    classes = _classes(tensors, [f"{prefix}classifier.{block}.linear." for block in layers])
    embeds = {outputs.get((f"classifier.{block}.m.0", 0)) for block in layers}
    return {
        **_named("msdnet", options),
        "classes": classes,
        "heads": list(range(len(layers))),
        "head": {"width": embeds.pop() if len(embeds) == 1 else None},
        "shift": {"enabled": False},
        "preprocessing": {"short_side": 32, "crop": 32, **_CIFAR.get(classes, {})} if cifar else {},
    }, partial(_msdnet_key, prefix)


def _msdnet_key(prefix: str, own: str) -> str:
    part, block, *_, module, leaf = own.split(".")
    name = "linear" if module == "shared" else f"m.{int(module) // 3}.net.{int(module) % 3}"
    return prefix + (own if part == "blocks" else f"classifier.{block}.{name}.{leaf}")


def _reduction(channels: int, growth: int, kept: Sequence[int | None]) -> tuple[int, float]:
    """Return a divisor of all widths (1 unless the factors had one), and the share that transitions keep."""
    for unit in (divisor for divisor in range(1, channels + 1) if channels % divisor == growth % divisor == 0):
        pairs, width = [], channels // unit
        for keeps in kept:
            width += growth // unit
            if keeps is not None:
                pairs.append((width, keeps // unit))
                width = keeps // unit
        least = max((after / before for before, after in pairs), default=0.0)
        for digits, more in itertools.product(range(1, 8), (0, 1)):
            share = (math.ceil(least * 10**digits - 1e-6) + more) / 10**digits
            if all(math.floor(share * before) == after for before, after in pairs):
                return unit, share
    return 1, 0.5
