"""MSDNets of public code (kalviny/MSDNet-PyTorch), of any configuration: everything but the data set is in the shapes."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from ...grid.errors import LayoutError
from ..msdnet import MSDNetOptions
from .file_keys import FileKeys
from .published import named
from .reading import Reading, classes_of

_CIFAR = {  # normalisation by number of classes
    10: {"mean": [0.4914, 0.4824, 0.4467], "std": [0.2471, 0.2435, 0.2616]},
    100: {"mean": [0.5071, 0.4867, 0.4408], "std": [0.2675, 0.2565, 0.2761]},
}


def read_msdnet(keys: FileKeys) -> Reading:
    """Return what the keys and shapes of an MSDNet say.

    Raises:
        LayoutError: If it is no MSDNet.
    """
    tensors = keys.tensors
    # Output channels of the first (0, 1) and second (3, 4) convolution of every "net", by majority of its tensors and
    # its BatchNorm's: a misshapen one must be reported, not believed.
    votes: dict[tuple[str, int], Counter[int]] = defaultdict(Counter)
    for key, tensor in tensors.items():
        match = re.fullmatch(r"(.+)\.([0134])\.\w+", key)
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
    cifar = any(key.startswith("blocks.0.0.layers.0.net.") for key in tensors)
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
    classes = classes_of(keys, [f"classifier.{block}.linear." for block in layers])
    embeds = {outputs.get((f"classifier.{block}.m.0", 0)) for block in layers}
    return {
        **named(options),
        "classes": classes,
        "heads": list(range(len(layers))),
        "head": {"width": embeds.pop() if len(embeds) == 1 else None},
        "shift": {"enabled": False},
        "preprocessing": {"short_side": 32, "crop": 32, **_CIFAR.get(classes, {})} if cifar else {},
    }, _key


def _key(own: str) -> str:
    part, block, *_, module, leaf = own.split(".")
    name = "linear" if module == "shared" else f"m.{int(module) // 3}.net.{int(module) % 3}"
    return own if part == "blocks" else f"classifier.{block}.{name}.{leaf}"


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
