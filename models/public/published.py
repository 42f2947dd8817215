"""A network's published name, if it has one, and words for what it is."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..msdnet import MSDNetOptions
from ..resnet import ResNetOptions

_RESNETS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
_VARIATIONS = ("stride_in_1x1", "dilated")  # of a ResNet, which its keys do not show


def named(options: MSDNetOptions | ResNetOptions) -> dict[str, Any]:
    """Return ``network`` and ``options`` of a configuration, with the published name if there is one."""
    if isinstance(options, MSDNetOptions):
        if options == MSDNetOptions():
            return {"network": "msdnet38"}
        return {"network": "msdnet", "options": asdict(options)}
    plain = ResNetOptions()
    every = asdict(options)
    unusual = {key: every[key] for key in _VARIATIONS if every[key] != getattr(plain, key)}
    names = [name for name, layers in _RESNETS.items() if (layers, plain.width) == (options.layers, options.width)]
    if names:
        return {"network": names[0], "options": unusual}
    return {"network": "resnet", "options": {"layers": options.layers, "width": options.width, **unusual}}


def recognised(network: str, options: dict[str, Any]) -> str:
    """Return what a public file's network is, in words: its published name, or its shape and that it has none."""
    if network == "resnet":
        known = ResNetOptions(**options)
        if (known.layers, known.width) == ((3, 8, 36, 3), ResNetOptions().width):
            return "resnet152"
        width = "" if known.width == ResNetOptions().width else f" of width {known.width}"
        return f"a ResNet with stages {' '.join(map(str, known.layers))}{width}, not a published one"
    if network == "msdnet":
        layers = MSDNetOptions(**options).layers
        return f"an MSDNet with blocks of {' '.join(map(str, layers))} layers, not the published msdnet38"
    return network
