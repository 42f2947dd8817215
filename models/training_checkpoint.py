"""Native training checkpoints: .pth and .safetensors with the configuration inside, never a pickle that runs code."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..grid.errors import LayoutError
from ..grid.storage.files import whole_file
from .config_json import from_json, to_json
from .network import VideoNetwork
from .registry import build
from .weights_file import FORMAT, read_file, some


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
            file.write(to_pth({"format": FORMAT, "dynvid": config, "state_dict": state}))


def to_pth(content: Mapping[str, Any]) -> bytes:
    """Return the bytes of a .pth file; writing these says what is wrong with a disk, which ``torch.save`` does not."""
    found = io.BytesIO()
    torch.save(dict(content), found)
    return found.getvalue()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Return the tensors of a training checkpoint, and its native configuration or None.

    Of several sets of weights, the one that training used. They are dense, contiguous, and together no larger than the
    file.

    Raises:
        TrainingCheckpointError: If the file is not a training checkpoint.
        UnsafeTrainingCheckpointError: If it tries to run code, or holds tensors of another kind.
        NonFiniteWeightsError: If weights are NaN or infinite.
    """
    file = read_file(path)
    return file.take(file.candidates()[0]), file.native


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
            f"{len(keys)} {word}: {some(keys)}"
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
