"""A file of weights, read without running code: its sets of tensors by their keys, and dynvid's configuration if it has one."""

from __future__ import annotations

import json
import pickle
import re
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..grid.errors import NonFiniteWeightsError, TrainingCheckpointError, UnsafeTrainingCheckpointError, UsageError

FORMAT = "dynvid.training_checkpoint.1"
TOP = "."
"""The key of tensors that lie in the file itself, not in a dictionary within."""
EMA_BUFFERS = "ema_"
"""The key of averaged weights that lie among the others, named ``ema_backbone_conv1_conv_weight``, as mmcv writes them."""
_PLAIN = ("state_dict", "model_state_dict", "model", TOP, "net", "network", "weights", "params")
_AVERAGED = re.compile(r"(^|[._])(ema|averaged|shadow|teacher)")
_DEPTH = 3
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.")
_DTYPES = {torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.uint8}


@dataclass(frozen=True)
class WeightsFile:
    """What a file holds.

    Attributes:
        path: of the file.
        sets: tensors by their names, by the key of their dictionary (``state_dict``, ``model.ema``); those that
            training used come before averaged ones.
        native: dynvid's configuration, if dynvid wrote the file.
    """

    path: Path
    sets: dict[str, dict[str, Tensor]]
    native: dict[str, Any] | None

    def candidates(self, likeness: Callable[[Mapping[str, Tensor]], int] = len) -> list[str]:
        """Return the keys of the sets that may be a network's weights, the preferred one first.

        ``likeness`` counts the tensors of a set that look like a network's. A set with less than half of the most is
        something else, such as an optimizer's state or a loss.
        """
        counts = {key: likeness(tensors) for key, tensors in self.sets.items()}
        most = max(counts.values(), default=0)
        return [key for key, count in counts.items() if 2 * count >= most]

    def take(self, key: str) -> dict[str, Tensor]:
        """Return the tensors under ``key``, contiguous.

        Raises:
            UsageError: If there are none.
            UnsafeTrainingCheckpointError: If one is not a plain, dense tensor, or they are larger than the file.
            NonFiniteWeightsError: If weights are NaN or infinite.
        """
        if key not in self.sets:
            raise UsageError(
                f"weights {key!r}: {str(self.path)!r} holds weights under {', '.join(self.sets)}. Change --weights."
            )
        tensors = self.sets[key]
        _require_dense(tensors, self.path)
        # checked as float32, whose range float64 may exceed
        bad = [k for k, value in tensors.items() if value.is_floating_point() and not value.float().isfinite().all()]
        if bad:
            raise NonFiniteWeightsError(
                f"training checkpoint {str(self.path)!r} has NaN or infinite weights in {some(bad, 8)}: training "
                "diverged; use an earlier one"
            )
        return {k: value.contiguous() for k, value in tensors.items()}


def read_file(path: Path) -> WeightsFile:
    """Return the sets of weights in a .pth or .safetensors file; there is at least one.

    Raises:
        TrainingCheckpointError: If the file is not a training checkpoint.
        UnsafeTrainingCheckpointError: If it would have to run code to load.
    """
    if not path.is_file():
        raise TrainingCheckpointError(f"training checkpoint {str(path)!r} is not a file: give a .pth or .safetensors")
    shard = _SHARD.search(path.name)
    if shard is not None and int(shard[2]) > 1:
        raise TrainingCheckpointError(
            f"{str(path)!r} is part {int(shard[1])} of {int(shard[2])} of a sharded training checkpoint: load all parts "
            "where it was trained, and save the state_dict as one file"
        )
    content, native = (_read_safetensors if path.suffix == ".safetensors" else _read_pth)(path)
    if isinstance(content.get("weight_map"), dict):
        raise _index(path)
    found = dict(_sets(content, "", 0))
    order = {key: place for place, key in enumerate(_PLAIN)}
    keys = sorted(found, key=lambda key: (bool(_AVERAGED.search(key)), order.get(key, len(order))))
    sets = {key: found[key] for key in keys}
    if not sets:
        raise TrainingCheckpointError(
            f"training checkpoint {str(path)!r} holds no tensors: expected a state_dict of weights"
        )
    for key, tensors in list(sets.items()):
        averaged = {name: f"ema_{name.replace('.', '_')}" for name in tensors}
        if any(other in tensors for other in averaged.values()):
            sets[key] = {name: value for name, value in tensors.items() if name not in averaged.values()}
            sets.setdefault(EMA_BUFFERS, {n: tensors.get(averaged[n], v) for n, v in sets[key].items()})
    return WeightsFile(path, sets, native)


def some(keys: list[str], most: int = 5) -> str:
    """Return the first ``most`` keys, and how many more there are."""
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")


def _sets(content: Mapping[Any, Any], key: str, depth: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    if tensors:
        yield key or TOP, tensors
    for name, value in named.items() if depth < _DEPTH else ():
        if isinstance(value, dict) and not name.startswith("optim"):
            yield from _sets(value, f"{key}.{name}" if key else name, depth + 1)


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            content = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise TrainingCheckpointError(f"{str(path)!r} is not a safetensors file: {error}") from None
    return content, _configuration(metadata, path)


class _Inert:
    """Stands for what lies beside the weights and is never used: it takes anything and does nothing."""

    def __new__(cls, *_: object) -> _Inert:
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        pass


# The scalars of both numpys, a loss or a learning rate, and the arguments of the training script. Nothing of numpy or
# argparse is called.
_INERT: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Inert, name)
    for name in (
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "_codecs.encode",  # in old protocols, the bytes of a scalar
        "argparse.Namespace",
    )
]


def _read_pth(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    with path.open("rb") as file:
        if file.read(1) == b"{" and b'"weight_map"' in file.read():
            raise _index(path)
    try:
        # warnings such as that about an uncommon pickle protocol
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(_INERT):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refusal(path, str(error)) from None
    except (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, struct.error):
        # torch's readers raise any of these on foreign bytes
        raise TrainingCheckpointError(_no_checkpoint(path)) from None
    if not isinstance(content, dict):
        raise TrainingCheckpointError(_no_checkpoint(path))
    return content, _configuration(content, path)


def _refusal(path: Path, reason: str) -> TrainingCheckpointError:
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    unknown = re.search(r"GLOBAL (\S+) ", reason)
    if not zipped and not ("weights_only" in reason.lower() and "global" in reason.lower()):
        return TrainingCheckpointError(_no_checkpoint(path))
    what = f"{unknown[1]!r} beside its weights" if unknown else "more than tensors"
    is_module = unknown is not None and unknown[1].startswith("torch.nn.")
    state = ".state_dict()" if is_module else "['state_dict']"
    return UnsafeTrainingCheckpointError(
        f"training checkpoint {str(path)!r} holds {what} and would have to run code to load. Save only its state_dict "
        "with torch.save, or as .safetensors. Where it was trained, if you trust it: "
        f"weights = torch.load({path.name!r}, weights_only=False){state}; torch.save(weights, 'clean.pth')"
        + ("" if unknown else f" (torch: {reason.strip().splitlines()[-1].strip()})")
    )


def _index(path: Path) -> TrainingCheckpointError:
    return TrainingCheckpointError(
        f"{str(path)!r} is the index of a sharded training checkpoint and holds no weights: load all parts where it was "
        "trained, and save the state_dict as one file"
    )


def _no_checkpoint(path: Path) -> str:
    return f"{str(path)!r} is not a training checkpoint: expected a file written by torch.save (.pth) or safetensors"


def _configuration(content: Mapping[str, Any], path: Path) -> dict[str, Any] | None:
    if "dynvid" not in content:
        return None
    if content.get("format") != FORMAT:
        raise TrainingCheckpointError(
            f"training checkpoint {str(path)!r} has format {content.get('format')!r}, but this dynvid reads "
            f"{FORMAT!r}: use the dynvid that wrote it"
        )
    try:
        config = json.loads(content["dynvid"])["config"]
    except (ValueError, KeyError, TypeError):
        config = None
    if not isinstance(config, dict):
        raise TrainingCheckpointError(f"training checkpoint {str(path)!r} has a damaged configuration inside")
    return config


def _require_dense(tensors: Mapping[str, Tensor], path: Path) -> None:
    odd = [
        key
        for key, value in tensors.items()
        if value.layout != torch.strided
        or value.is_quantized
        or value.device.type != "cpu"
        or value.dtype not in _DTYPES
        or not _is_dense(value)
    ]
    total = sum(value.numel() * value.element_size() for key, value in tensors.items() if key not in odd)
    if odd or total > path.stat().st_size * 1.01:
        raise UnsafeTrainingCheckpointError(
            f"training checkpoint {str(path)!r} holds tensors that are not plain dense ones "
            f"({some(odd, 8) or 'shared storage'}): save contiguous, dense tensors of a standard dtype"
        )


def _is_dense(tensor: Tensor) -> bool:
    """Return whether the elements fill a block of memory exactly once, in any order of the axes (channels_last)."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True
