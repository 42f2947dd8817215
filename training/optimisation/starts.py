"""A start: a network is given the weights of a file, of a public layout or of another training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor, nn

from ...grid.errors import LayoutError
from ...models.config_json import from_json
from ...models.layouts import Unsaid, read_public
from ...models.network import Head, NetworkConfig, VideoNetwork
from ...models.public.file_keys import detect, likeness
from ...models.public.published import recognised
from ...models.registry import shift_points
from ...models.shift import ShiftConfig
from ...models.weights_file import read_file, some

CLASSIFIER_STD = 0.001
"""Of the weights of new classifiers, as in TSN and TSM: all classes are equally likely at first."""
_OF_IMAGES = ("torchvision", "msdnet-pytorch")  # layouts whose networks never saw a video
_COUNTER = "num_batches_tracked"  # of BatchNorm; old files lack it, and nothing reads it


@dataclass(frozen=True)
class Start:
    """What a network got from a file. Tensors are weights, biases and the statistics of BatchNorm.

    Attributes:
        source: what the file is, in words.
        taken: names of the network's tensors that have the file's values.
        new: names of the network's other tensors.
        unused: the file's names of its other tensors.
        advice: what else there is to know, and what to set for a better start.
    """

    source: str
    taken: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]
    advice: tuple[str, ...]

    def __str__(self) -> str:
        """Return all but the advice on one line."""
        new = f"{len(self.new)} new ({some(list(self.new))})" if self.new else "none new"
        left = f"{len(self.unused)} of the file unused ({some(list(self.unused))})" if self.unused else "none unused"
        return f"{self.source}: {len(self.taken)} tensors taken, {new}, {left}"


@dataclass(frozen=True)
class _Source:
    """A file, seen as a network of dynvid.

    Attributes:
        layout: of the file.
        config: of its network.
        tensors: by dynvid's keys.
        file_key: maps dynvid's keys to the file's.
        beside: the file's names of tensors for which its network has no place.
        fits: whether its network has the backbone of the one to start.
    """

    layout: str
    config: NetworkConfig
    tensors: dict[str, Tensor]
    file_key: Callable[[str], str]
    beside: tuple[str, ...]
    fits: bool

    @property
    def words(self) -> str:
        form = "a native training checkpoint" if self.layout == "native" else f"a file in the layout {self.layout}"
        words = f"{form} of {recognised(self.config.network, self.config.options)}"
        headless = not any(".classifiers." in key for key in self.tensors)
        return words + (", without classifiers" if headless else f", {self.config.classes} classes")


@torch.no_grad()
def start_from(network: VideoNetwork, path: Path) -> Start:
    """Give ``network`` the weights of a file in place, and return what it got.

    The backbone is taken as a whole, and has to fit. In each head:

    - The embedding is taken if all of it fits. Else it is new: He fan-in for convolutions, the rest as it was.
    - The classifiers are taken if the file is native with the same classes in the same order, and the embedding was
      taken. Else they are new: normal with standard deviation 0.001, zero biases. A public file names no classes, so
      nothing shows that its classifiers' are the network's.

    New values are drawn from torch's own generator of the network's device.

    Args:
        network: with PyTorch's initial weights, on any device but ``meta``.
        path: weights for images in a public layout (torchvision, MSDNet-PyTorch), a TSN or TSM training checkpoint
            (MIT, mmaction2), or a native training checkpoint.

    Raises:
        TrainingCheckpointError: If the file is not a training checkpoint, or not a safe and finite one.
        LayoutError: If its backbone is not the network's, with the names of what differs.
        NetworkError: If the configuration in a native file does not fit.
    """
    file = read_file(path)
    candidates = file.candidates(likeness if file.native is None else len)
    tensors = file.take(candidates[0])
    if file.native is None:
        source = _of_public(network, tensors, path)
    else:
        source = _of_native(network, tensors, from_json(file.native))
    own = network.state_dict()
    taken = [key for key in own if key.startswith("blocks.")]
    _require_backbone(network.config, source, {key: own[key] for key in taken}, path)
    same_classes = source.layout == "native" and (source.config.classes, source.config.labels) == (
        network.config.classes,
        network.config.labels,
    )
    for block in map(int, network.heads):
        taken += _start_head(network.head(block), f"heads.{block}.", source.tensors, same_classes)
    for key in taken:
        if key in source.tensors:  # not so for some counters
            own[key].copy_(source.tensors[key])
    several = f"the file holds several sets of weights, {', '.join(candidates)}: {candidates[0]} was taken"
    left = [source.file_key(key) for key in source.tensors if key not in set(taken)]
    return Start(
        source=source.words,
        taken=_without_counters(taken),
        new=_without_counters(key for key in own if key not in set(taken)),
        unused=_without_counters([*left, *source.beside]),
        advice=(
            *([several] if len(candidates) > 1 else []),
            *_about_classes(network.config, source),
            *_about_shift(network, source),
            *_about_normalisation(network.config, source),
        ),
    )


def _of_native(network: VideoNetwork, tensors: dict[str, Tensor], config: NetworkConfig) -> _Source:
    fits = (config.network, config.options) == (network.config.network, network.config.options)
    return _Source("native", config, tensors, str, (), fits)


def _of_public(network: VideoNetwork, tensors: dict[str, Tensor], path: Path) -> _Source:
    try:
        layout = detect(tensors)
    except LayoutError as error:
        raise LayoutError(f"training checkpoint {str(path)!r}: {error}") from None
    public = read_public(path, tensors, layout, Unsaid())
    its = public.network.state_dict()
    names = {key: public.file_key(key) for key in its}
    places = set(names.values())
    found = {key: public.tensors[name] for key, name in names.items() if name in public.tensors}
    beside = tuple(name for name in public.tensors if name not in places)
    fits = _shapes(its) == _shapes(network.state_dict())
    return _Source(layout, public.network.config, found, lambda key: names.get(key, key), beside, fits)


def _shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state.items() if key.startswith("blocks.")}


def _require_backbone(config: NetworkConfig, source: _Source, own: dict[str, Tensor], path: Path) -> None:
    of_file = {key for key in source.tensors if key.startswith("blocks.")}
    names = [source.file_key(key).split(".") for key in of_file]
    depth = 1 + sum(1 for _ in takewhile(lambda words: len(set(words)) == 1, zip(*names, strict=False)))
    parts_of_it = {tuple(name[:depth]) for name in names}  # layer1, or module.layer1
    missing = [source.file_key(key) for key in own if key not in of_file and not key.endswith(_COUNTER)]
    unexpected = [source.file_key(key) for key in of_file if key not in own and not key.endswith(_COUNTER)]
    unexpected += [name for name in source.beside if tuple(name.split(".")[:depth]) in parts_of_it]
    misshapen = [
        f"{source.file_key(key)} {_kind(source.tensors[key])} instead of {_kind(value)}"
        for key, value in own.items()
        if key in of_file and not _fits(key, value, source.tensors[key])
    ]
    if not (missing or unexpected or misshapen):
        return
    parts = [
        f"{len(keys)} {word}: {some(sorted(keys))}"
        for word, keys in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if keys
    ]
    cure = (
        "The file was changed or has lost layers: save it again where it was trained."
        if source.fits
        else "Give weights of the network that you configured, or configure the file's."
    )
    raise LayoutError(
        f"training checkpoint {str(path)!r} cannot start {recognised(config.network, config.options)}: it is "
        f"{source.words}; {'; '.join(parts)}. {cure}"
    )


def _start_head(head: Head, at: str, tensors: dict[str, Tensor], same_classes: bool) -> list[str]:
    """Return the head's keys that are taken from ``tensors``; give the others initial values."""
    taken = _fitting(head.embed, f"{at}embed.", tensors)
    if taken is None:
        for module in head.embed.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    keys = list(taken or ())
    for name, linear in head.classifiers.items():
        assert isinstance(linear, nn.Linear)
        kept = _fitting(linear, f"{at}classifiers.{name}.", tensors) if same_classes and taken is not None else None
        if kept is None:
            nn.init.normal_(linear.weight, std=CLASSIFIER_STD)
            nn.init.zeros_(linear.bias)
        keys += kept or ()
    return keys


def _fitting(module: nn.Module, at: str, tensors: dict[str, Tensor]) -> list[str] | None:
    """Return the keys of a module below ``at`` if ``tensors`` has just these, of these shapes; else None."""
    own = {f"{at}{key}": value for key, value in module.state_dict().items()}
    its = {key for key in tensors if key.startswith(at)}
    needed = {key for key in own if not key.endswith(_COUNTER)}
    if not needed <= its <= set(own) or not all(_fits(key, own[key], tensors[key]) for key in its):
        return None
    return list(own)


def _fits(key: str, own: Tensor, its: Tensor) -> bool:
    same_type = own.is_floating_point() == its.is_floating_point() or key.endswith(_COUNTER)
    return own.shape == its.shape and same_type


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _without_counters(keys: Iterable[str]) -> tuple[str, ...]:
    return tuple(key for key in keys if not key.endswith(_COUNTER))


def _about_classes(config: NetworkConfig, source: _Source) -> tuple[str, ...]:
    its, own = source.config.labels, config.labels
    if source.config.classes != config.classes or (source.layout == "native" and its == own):
        return ()
    if its is None:
        return (f"the file does not name its {config.classes} classes, so its classifiers were not taken",)
    if own is not None and sorted(its) == sorted(own):
        return (
            "the file has the network's classes in another order, so its classifiers were not taken: give labels in "
            "the file's order to keep them",
        )
    return ()


def _about_shift(network: VideoNetwork, source: _Source) -> tuple[str, ...]:
    its, own = source.config.shift, network.config.shift
    if its.enabled and not own.enabled:
        return ("the file was trained with a temporal shift, and the network has none: set shift.enabled = true",)
    if own.enabled and not its.enabled and source.layout not in _OF_IMAGES:
        return ("the file was trained without a temporal shift, and the network has one: it starts below the file",)
    if not (own.enabled and its.enabled):
        return ()
    public = source.layout != "native"
    said = []
    if not public and source.config.static != network.config.static:
        both, one = ("file", "network") if source.config.static else ("network", "file")
        said.append(f"the {both} is static and shifts both ways, the {one} takes from earlier frames only")
    if public and not network.config.static and own.start_fold != its.start_fold:
        said.append(
            "the file was trained with a shift in both directions, and channels of the past frame are its second fold, "
            f"but the network shifts fold {own.start_fold} (0-based): set shift.start_fold = {its.start_fold}"
        )
    known = (
        {field.name for field in fields(ShiftConfig)} - {"enabled", "points"} - ({"start_fold"} if public else set())
    )
    differing = [name for name in sorted(known) if getattr(its, name) != getattr(own, name)]
    for name in differing:
        said.append(
            f"the file was trained with shift.{name} = {getattr(its, name)!r}{' (as its code has it)' if public else ''}, "
            f"and the network has {getattr(own, name)!r}"
        )
    before, now = shift_points(network, its), shift_points(network, own)
    parts = [
        f"{word} {some(sorted(points))}"
        for word, points in (("no longer", before - now), ("newly", now - before))
        if points
    ]
    if parts:
        said.append(
            f"the file was trained with a shift on {len(before)} layers, and the network shifts {len(now)} "
            f"({', '.join(parts)}): set shift.points to the file's layers"
        )
    return tuple(said)


def _about_normalisation(config: NetworkConfig, source: _Source) -> tuple[str, ...]:
    its, own = source.config.preprocessing, config.preprocessing
    if (its.mean, its.std) == (own.mean, own.std):
        return ()
    return (
        f"the file's network takes frames of mean {its.mean}, std {its.std}, and this one of mean {own.mean}, std "
        f"{own.std}: set preprocessing.mean and preprocessing.std to the file's",
    )
