"""Native training checkpoints: .pth and .safetensors with the configuration inside, never a pickle that runs code."""

from __future__ import annotations

import json
import pickle
import struct
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..grid.errors import LayoutError, NonFiniteWeightsError, TrainingCheckpointError, UnsafeTrainingCheckpointError
from ..grid.storage.files import whole_file
from .config_json import from_json, to_json
from .network import VideoNetwork
from .registry import build

FORMAT = "dynvid.training_checkpoint.1"
_DTYPES = {torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.uint8}


def save(network: VideoNetwork, path: Path, extra: Mapping[str, Any] | None = None) -> None:
    """Write ``network`` with its configuration to ``path`` (.pth or .safetensors), atomically.

    ``extra`` is JSON that is stored with it (how it was trained); nothing reads it.

    Raises:
        ResourceError: If it cannot be written.
    """
    config = json.dumps({"config": to_json(network.config), "extra": dict(extra or {})}, sort_keys=True)
    state = {key: value.detach().contiguous().clone() for key, value in network.state_dict().items()}
    with whole_file(path, "training checkpoint", "give another place") as file:
        if path.suffix == ".safetensors":
            from safetensors.torch import save as to_bytes

            file.write(to_bytes(state, {"format": FORMAT, "dynvid": config}))
        else:
            torch.save({"format": FORMAT, "dynvid": config, "state_dict": state}, file)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Return the tensors of a training checkpoint, and its native configuration or None.

    The tensors are stored under their keys in the file's ``state_dict`` (or ``model``, ``model_state_dict``, or the
    top level). They are dense, contiguous, and together no larger than the file.

    Raises:
        TrainingCheckpointError: If the file is not a training checkpoint.
        UnsafeTrainingCheckpointError: If it tries to run code, or holds tensors of another kind.
        NonFiniteWeightsError: If weights are NaN or infinite.
    """
    if not path.is_file():
        raise TrainingCheckpointError(f"training checkpoint {str(path)!r} is not a file: give a .pth or .safetensors")
    content, native = (_read_safetensors if path.suffix == ".safetensors" else _read_pth)(path)
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        raise TrainingCheckpointError(
            f"training checkpoint {str(path)!r} holds no tensors: expected a state_dict of weights"
        )
    _require_dense(tensors, path)
    # checked as float32, whose range float64 may exceed
    bad = [key for key, value in tensors.items() if value.is_floating_point() and not value.float().isfinite().all()]
    if bad:
        raise NonFiniteWeightsError(
            f"training checkpoint {str(path)!r} has NaN or infinite weights in {_some(bad)}: training diverged; "
            "use an earlier one"
        )
    return {key: value.contiguous() for key, value in tensors.items()}, native


def load_native(path: Path, tensors: Mapping[str, Tensor], native: Mapping[str, Any]) -> VideoNetwork:
    """Return the network of a native training checkpoint in eval mode.

    Raises:
        LayoutError: If keys are missing, unexpected or misshapen.
        NetworkError: If the configuration inside does not fit.
    """
    return load_weights(build(from_json(native)), tensors, path)


def load_weights(
    network: VideoNetwork, tensors: Mapping[str, Tensor], path: Path, file_key: Callable[[str], str] = str
) -> VideoNetwork:
    """Give ``network`` its weights if all keys and shapes agree; return it in eval mode.

    Args:
        network: its parameters may be on any device, even ``meta``; afterwards they are on the CPU, in their own dtype.
        tensors: by the file's keys.
        path: of the file, for messages.
        file_key: maps one of the network's keys to the file's name for it.

    Raises:
        LayoutError: With every missing, unexpected and misshapen key, as named in the file.
    """
    own = {file_key(key): value for key, value in network.state_dict().items()}
    # BatchNorm counters, which old files lack and inference never reads
    optional = {key for key in own if key.endswith("num_batches_tracked")}
    missing = sorted(set(own) - set(tensors) - optional)
    unexpected = sorted(set(tensors) - set(own))
    misshapen = sorted(
        f"{key} {_kind(tensors[key])} instead of {_kind(own[key])}"
        for key in set(own) & set(tensors)
        if tensors[key].shape != own[key].shape
        or (key not in optional and tensors[key].is_floating_point() != own[key].is_floating_point())
    )
    if missing or unexpected or misshapen:
        parts = [
            f"{len(keys)} {word}: {_some(keys, 1000)}"
            for word, keys in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
            if keys
        ]
        raise LayoutError(
            f"training checkpoint {str(path)!r} does not fit network {network.config.network!r}; "
            f"{'; '.join(parts)}. Check --network and --layout."
        )
    state = network.state_dict()
    for key, value in state.items():
        state[key] = tensors.get(file_key(key), torch.zeros(())).to(value.dtype)
    network.load_state_dict(state, assign=True)
    return network.eval()


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            content = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise TrainingCheckpointError(f"{str(path)!r} is not a safetensors file: {error}") from None
    return content, _configuration(metadata, path)


def _read_pth(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    try:
        with warnings.catch_warnings(action="ignore"):  # such as that about an uncommon pickle protocol
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
        if zipped or ("weights_only" in str(error).lower() and "global" in str(error).lower()):
            reason = str(error).split("\n")[0]
            raise UnsafeTrainingCheckpointError(
                f"training checkpoint {str(path)!r} holds more than tensors and would have to run code to load. "
                f"Save only its state_dict with torch.save, or as .safetensors. (torch: {reason})"
            ) from None
        raise TrainingCheckpointError(_no_checkpoint(path)) from None
    except (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, struct.error):
        # torch's readers raise any of these on foreign bytes
        raise TrainingCheckpointError(_no_checkpoint(path)) from None
    if not isinstance(content, dict):
        raise TrainingCheckpointError(_no_checkpoint(path))
    native = _configuration(content, path)
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content.get(key), dict):
            return content[key], native
    return content, native


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
            f"({_some(odd) or 'shared storage'}): save contiguous, dense tensors of a standard dtype"
        )


def _is_dense(tensor: Tensor) -> bool:
    """Return whether the elements fill a block of memory exactly once, in any order of the axes (channels_last)."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


def _some(keys: list[str], most: int = 8) -> str:
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")
