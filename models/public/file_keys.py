"""The keys of a file without the wrappers around the network, and the layout that they have."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ...grid.errors import LayoutError
from .other_networks import other_network

_SIGNS = {  # a file has the layout whose pattern most of its keys match
    "native": r"heads\.\d+\.(embed|classifiers)\.",
    "msdnet-pytorch": r"classifier\.\d+\.(m|linear)\.",
    "torchvision": r"(conv1|bn1|layer\d+\.\d+|fc)\.",
    "mit-tsm": r"(base_model|new_fc)\.",
    "mmaction2": r"(backbone\.(conv1\.(conv|bn)|layer\d+\.\d+\.(conv\d|downsample)\.(conv|bn))|cls_head)\.",
}
LAYOUTS: tuple[str, ...] = tuple(_SIGNS)
_INSIDE = re.compile(r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")  # anywhere in a key
_COUNTERS = {"n_averaged", "steps"}  # how often weights were averaged: torch's AveragedModel, mmengine's EMAHook
_PREPROCESSING = re.compile(r"data_preprocessor\.(mean|std)")


@dataclass(frozen=True)
class FileKeys:
    """The tensors of a file by their keys in the layout.

    Attributes:
        tensors: without wrappers such as ``module.``, counters of averaging, and preprocessing.
        prefix: what most keys of the file begin with.
        names: the file's own names of the tensors.
        preprocessing: ``mean`` and ``std`` of mmengine's data preprocessor, if they are there.
    """

    tensors: dict[str, Tensor]
    prefix: str = ""
    names: dict[str, str] = field(default_factory=dict)
    preprocessing: dict[str, Tensor] = field(default_factory=dict)

    def name(self, key: str) -> str:
        """Return the file's name of a key, or what it would be."""
        return self.names.get(key, self.prefix + key)


def unwrap(tensors: Mapping[str, Tensor]) -> FileKeys:
    """Return the keys without what wraps the network: DataParallel, torch.compile, Lightning's module, and so on.

    A wrapper puts one word before more than half of the keys. It is taken off only where that shows a known layout.

    Raises:
        LayoutError: If two keys are one without their wrappers.
    """
    kept = {key: _INSIDE.sub("", key) for key in tensors}
    prefix = _prefix(list(kept.values()))
    found: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    preprocessing: dict[str, Tensor] = {}
    for key, inner in kept.items():
        short = inner.removeprefix(prefix)
        if short in _COUNTERS and tensors[key].ndim == 0:
            continue
        if match := _PREPROCESSING.fullmatch(short):
            preprocessing[match[1]] = tensors[key]
            continue
        if short in names:
            raise LayoutError(f"keys {names[short]!r} and {key!r} name one tensor: save the network's state_dict only")
        found[short], names[short] = tensors[key], key
    return FileKeys(found, prefix, names, preprocessing)


def likeness(tensors: Mapping[str, Tensor]) -> int:
    """Return how many keys look like those of a known layout, whatever wraps them."""
    return _most(_bare(tensors))


def detect(tensors: Mapping[str, Tensor]) -> str:
    """Return the layout, one of ``LAYOUTS``, that the keys match, whatever wraps them.

    Raises:
        LayoutError: If they match none.
    """
    counts = _counts(_bare(tensors))
    layout = max(counts, key=lambda name: counts[name])
    if not counts[layout]:
        if (other := other_network(tensors)) is not None:
            raise LayoutError(f"it is {other}. dynvid has no such network.")
        shown = ", ".join(map(repr, list(tensors)[:5]))
        raise LayoutError(f"keys such as {shown} match no known layout: expected one of {', '.join(LAYOUTS)}")
    return layout


def _bare(tensors: Mapping[str, Tensor]) -> list[str]:
    keys = [_INSIDE.sub("", key) for key in tensors]
    prefix = _prefix(keys)
    return [key.removeprefix(prefix) for key in keys]


def _prefix(keys: list[str]) -> str:
    """Return the words before most keys without which most of them have a layout; the fewest that do."""
    prefix, found = "", {"": _most(keys)}
    while True:
        inside = [key[len(prefix) :].split(".") for key in keys if key.startswith(prefix)]
        words = Counter(path[0] for path in inside if len(path) > 1).most_common(1)
        if not words or 2 * words[0][1] <= len(keys):
            return max(found, key=lambda known: found[known])
        prefix += f"{words[0][0]}."
        found[prefix] = _most([key.removeprefix(prefix) for key in keys])


def _most(keys: list[str]) -> int:
    return max(_counts(keys).values())


def _counts(keys: Iterable[str]) -> dict[str, int]:
    keys = list(keys)
    return {layout: sum(bool(re.match(sign, key)) for key in keys) for layout, sign in _SIGNS.items()}
