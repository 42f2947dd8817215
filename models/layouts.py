"""Training checkpoints of every known layout: recognised by keys, configured from shapes, renamed and loaded.

What keys and shapes do not show is asked for, or assumed as in the public code, and said (``Loaded.assumed``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..grid.errors import LabelsError, LayoutError, NetworkError, UsageError
from ..grid.preprocessing import Preprocessing
from ..grid.route import Route, parse_route, static_route
from .config_json import from_json
from .network import NetworkConfig, VideoNetwork
from .public.file_keys import LAYOUTS, FileKeys, detect, likeness, unwrap
from .public.msdnet_keys import read_msdnet
from .public.published import recognised
from .public.resnet_keys import read_resnet
from .registry import build
from .training_checkpoint import load_native, load_weights
from .weights_file import WeightsFile, read_file

_WARNINGS = {  # by (weights were trained with a shift, network shifts)
    (True, True): "the weights were trained with a temporal shift in both directions: the first fold of channels, "
    "which came from the next frame, stays unshifted online. Fine-tune before relying on the accuracy, or give "
    "--static.",
    (True, False): "the weights were trained with a temporal shift, which is off: expect a lower accuracy.",
    (False, True): "the weights were trained without a temporal shift: fine-tune before relying on the accuracy.",
}
_RESNETS = ("torchvision", "mit-tsm", "mmaction2")


@dataclass(frozen=True)
class Loaded:
    """A network in eval mode, and what there is to say about its file.

    Attributes:
        network: with its weights.
        layout: of the file.
        warnings: what to expect of these weights.
        assumed: what the file cannot tell, what was assumed, and the option that says otherwise.
        recognised: what its network is, in words.
        weights: the key of the weights that were taken, if the file has several sets; else None.
    """

    network: VideoNetwork
    layout: str
    warnings: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    recognised: str = ""
    weights: str | None = None


@dataclass(frozen=True)
class Unsaid:
    """What the keys of a public file do not say; None: as the public code has it."""

    shift: bool | None = None
    shift_div: int | None = None
    stride_in_1x1: bool | None = None
    dilated: int | None = None
    static: bool = False


@dataclass(frozen=True)
class PublicFile:
    """What a public file says about its network.

    Attributes:
        network: on the device ``meta``, without weights.
        tensors: of the file, by its own names.
        file_key: maps one of the network's keys to the file's name for it.
    """

    network: VideoNetwork
    tensors: dict[str, Tensor]
    file_key: Callable[[str], str]


def load_training_checkpoint(
    path: Path,
    *,
    layout: str = "auto",
    network: str | None = None,
    classes: int | None = None,
    route: str | None = None,
    shift: bool | None = None,
    num_frames: int | None = None,
    weights: str | None = None,
    labels: Sequence[str] | None = None,
    shift_div: int | None = None,
    stride_in_1x1: bool | None = None,
    dilated: int | None = None,
    static: bool = False,
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
        weights: the key of the weights in the file; by default those that training used, not their average.
        labels: names of the classes, for a file without them.
        shift_div: a shift moves 1/shift_div of the channels; by default the file's own, else 8.
        stride_in_1x1: whether a public ResNet strides in its 1x1 convolutions, as Caffe's; by default not.
        dilated: how many last stages of a public ResNet dilate instead of striding; by default none.
        static: read a public file as the fixed network that it was trained as: TSM shifts both ways.

    Raises:
        TrainingCheckpointError: If the file is not a training checkpoint, or not a safe and finite one.
        LayoutError: If keys or shapes do not fit, or the file is not what the arguments say.
        RouteError: If the route does not fit, or a checkpoint lies on a block without a head.
        UsageError: If an argument is invalid, or says what the file says itself.
        LabelsError: If ``labels`` do not fit.
    """
    if layout not in ("auto", *LAYOUTS):
        raise UsageError(f"layout {layout!r}: expected auto or one of {', '.join(LAYOUTS)}. Change --layout.")
    file = read_file(path)
    tensors, taken, assumed = _take(file, weights)
    try:
        found = detect(tensors) if file.native is None else "native"
    except LayoutError as error:
        raise LayoutError(f"training checkpoint {str(path)!r}: {error}") from None
    if layout not in ("auto", found):
        raise LayoutError(f"wrong layout {layout!r}: {str(path)!r} has the keys of {found!r}. Leave out --layout.")
    unsaid = Unsaid(shift, shift_div, stride_in_1x1, dilated, static)
    if file.native is None:
        public = read_public(path, tensors, found, unsaid)
        model = load_weights(public.network, public.tensors, path, public.file_key)
        assumed += _assumptions(model, found, unsaid, num_frames)
    else:
        model = load_native(path, tensors, file.native)
        _require_said(model, unsaid)
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
    read = static_route if config.static else parse_route
    model.with_route(Route(grid, config.route) if route is None else read(route, grid, config.heads))
    names = _labels(labels, config.labels, config.classes)
    model.grid, model.config = grid, replace(config, grid=grid, route=model.route.cells, labels=names)
    shifts = _was_shifted(config), config.shift.enabled
    is_exact = file.native is not None or (config.static and all(shifts))
    warning = None if is_exact else _WARNINGS.get(shifts)
    words = config.network if file.native is not None else recognised(config.network, config.options)
    return Loaded(model, found, () if warning is None else (warning,), assumed, words, taken)


def _take(file: WeightsFile, key: str | None) -> tuple[dict[str, Tensor], str | None, tuple[str, ...]]:
    """Return one set of weights, its key if there are several, and what to say about that."""
    candidates = file.candidates(likeness if file.native is None else len)
    taken = candidates[0] if key is None else key
    others = [other for other in candidates if other != taken]
    if not others:
        return file.take(taken), None, ()
    said = f"the file holds several sets of weights: took {taken!r}; --weights {' or '.join(others)} takes another"
    return file.take(taken), taken, (said,) if key is None else ()


def read_public(path: Path, tensors: dict[str, Tensor], layout: str, unsaid: Unsaid) -> PublicFile:
    """Return what a public file says about its network.

    Args:
        path: of the file, for messages.
        tensors: by the file's keys.
        layout: which ``detect`` found.
        unsaid: what the keys do not say.

    Raises:
        LayoutError: If it is no network that dynvid computes.
        UsageError: If ``unsaid`` does not fit it.
    """
    try:
        if layout == "native":
            raise LayoutError("its keys are dynvid's, but it has no configuration. Save it with dynvid.")
        keys = unwrap(tensors)
        if layout == "msdnet-pytorch":
            if (unsaid.stride_in_1x1, unsaid.dilated) != (None, None):
                raise UsageError("--stride-in-1x1 and --dilated are for a ResNet, this is an MSDNet: leave them out")
            data, layout_key = read_msdnet(keys)
        else:
            if unsaid.dilated and layout == "mmaction2":
                raise UsageError("--dilated: mmaction2 dilates other convolutions than torchvision, dynvid has no such")
            data, layout_key = read_resnet(layout, keys, bool(unsaid.stride_in_1x1), unsaid.dilated or 0)
        if unsaid.static:  # one input set, so that any number of frames is a multiple
            data |= {"static": True, "input_sets": 1, "frames_per_set": 16}
            data["shift"].pop("start_fold", None)
        data["shift"]["enabled"] = data["shift"]["enabled"] if unsaid.shift is None else unsaid.shift
        if unsaid.shift_div is not None:
            if not data["shift"]["enabled"]:
                raise UsageError(f"--shift-div {unsaid.shift_div}: this network has no shift, leave it out or --shift")
            data["shift"]["div"] = unsaid.shift_div
        if keys.preprocessing:
            data["preprocessing"] = {**data.get("preprocessing", {}), **_normalisation(keys)}
        with torch.device("meta"), warnings.catch_warnings(action="ignore"):  # free, whatever the shapes
            model = build(from_json(data))
    except (LayoutError, NetworkError) as error:
        raise LayoutError(f"training checkpoint {str(path)!r}: {error}") from None
    own = {keys.name(key): tensor for key, tensor in keys.tensors.items()}
    return PublicFile(model, own, lambda key: keys.name(layout_key(key)))


def _normalisation(keys: FileKeys) -> dict[str, Any]:
    """Return ``mean`` and ``std`` of frames in [0, 1], from mmengine's of frames in [0, 255]."""
    values = {name: tensor.flatten().tolist() for name, tensor in keys.preprocessing.items()}
    for name in ("mean", "std"):
        found = values.get(name, [])
        if len(found) != 3 or (name == "std" and min(found) <= 0):
            raise LayoutError(
                f"misshapen {keys.prefix}data_preprocessor.{name}: {found}, expected three values for RGB, every std "
                "above 0"
            )
    scaled = {name: [round(value / 255, 6) for value in of_one] for name, of_one in values.items()}
    if tuple(scaled["mean"]) == Preprocessing().mean[::-1]:
        raise LayoutError(
            f"{keys.prefix}data_preprocessor.mean {scaled['mean']} is that of BGR frames, but dynvid gives RGB ones: swap "
            "the input channels of the first convolution, mean and std, and save again"
        )
    return scaled


def _assumptions(model: VideoNetwork, layout: str, unsaid: Unsaid, num_frames: int | None) -> tuple[str, ...]:
    said = []
    config, words = model.config, recognised(model.config.network, model.config.options)
    if "published" in words:
        said.append(f"recognised {words}. If that is not what you trained, the file has lost layers.")
    if config.shift.enabled and _was_shifted(config):
        if num_frames is None:
            said.append(
                f"the file cannot tell how many frames it was trained on: {model.grid.num_frames} were assumed, 8 are "
                "usual for TSM. Give --frames."
            )
        if unsaid.shift_div is None:
            said.append(
                "the file cannot tell which share of the channels was shifted: an eighth was assumed. Give --shift-div."
            )
    if layout in _RESNETS and unsaid.stride_in_1x1 is None:
        said.append(
            "the file cannot tell where its stages stride: in the 3x3 convolutions was assumed, as torchvision and "
            "PyTorch-style do. Give --stride-in-1x1 (Caffe-style) or --stride-in-3x3."
        )
    if layout == "torchvision" and unsaid.dilated is None:
        said.append("the file cannot tell whether stages are dilated: none was assumed. Give --dilated.")
    return tuple(said)


def _require_said(model: VideoNetwork, unsaid: Unsaid) -> None:
    """Check that what was asked for is what a native file says itself."""
    options, shift = model.config.options, model.config.shift
    if unsaid.static and not model.config.static:
        raise UsageError(
            "--static: the training checkpoint was trained along a route, so it is no fixed network: leave --static out, "
            "or train with static = true"
        )
    own = {"shift_div": shift.div, "stride_in_1x1": options.get("stride_in_1x1", False)}
    own["dilated"] = options.get("dilated", 0)
    for key, its in own.items():
        asked = getattr(unsaid, key)
        if asked not in (None, its):
            name = f"--{key.replace('_', '-')}"
            raise UsageError(f"{name} {asked}: the training checkpoint says {its} itself, leave {name} out")


def _was_shifted(config: NetworkConfig) -> bool:
    """Return whether the keys of a public file show that its weights were trained with a shift."""
    return config.shift.points is not None


def _labels(given: Sequence[str] | None, own: tuple[str, ...] | None, classes: int) -> tuple[str, ...] | None:
    if given is None or own == tuple(given):
        return own
    if own is not None:
        raise LabelsError(f"{len(given)} labels: the training checkpoint has its own, leave --labels out")
    if len(given) != classes:
        raise LabelsError(f"{len(given)} labels for {classes} classes: give --labels with one name a class")
    return tuple(given)
