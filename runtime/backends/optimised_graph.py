"""A graph that onnxruntime optimised for a kind of processor, stored apart from its weights, which a process shares.

The format is numpy's ``.npz``: the ONNX model under ``graph``, and each weight under the sha256 of its contents,
which is also its name in the model. So segments that run the same block name the same weights. ``blocked`` holds the
names of the ports that carry features in onnxruntime's blocked layout, and ``block`` the number of channels in a
block.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..video.npy_header import ONE_HEADER

_GRAPH, _BLOCKED, _BLOCK = "graph", "blocked", "block"
_ZIP = b"PK\x03\x04"


class OptimisedGraph(NamedTuple):
    """An ONNX model and the weights that it names, loaded on demand.

    Attributes:
        model: ONNX.
        weights: by name.
        blocked: ports [batch, frames, channels, height, width] whose memory layout is
            [batch, frames, channels / block, height, width, block].
        block: channels per block.
    """

    model: bytes
    weights: Mapping[str, NDArray[Any]]
    blocked: tuple[str, ...]
    block: int

    def plain(self, port: str, value: NDArray[Any]) -> NDArray[Any]:
        """Return the value of a port [batch, frames, channels, height, width] in the plain layout."""
        if port not in self.blocked:
            return value
        batch, frames, channels, height, width = value.shape
        blocks = value.reshape(batch, frames, channels // self.block, height, width, self.block)
        return np.ascontiguousarray(blocks.transpose(0, 1, 2, 5, 3, 4)).reshape(value.shape)


def weight_name(value: NDArray[Any]) -> str:
    """Return the name of a weight: the same for the same dtype, shape and contents."""
    return hashlib.sha256(f"{value.dtype.str}{value.shape}".encode() + value.tobytes()).hexdigest()


def pack(graph: OptimisedGraph) -> bytes:
    """Serialise an optimised graph; equal graphs give equal bytes."""
    packed = io.BytesIO()
    arrays: dict[str, Any] = {
        _GRAPH: np.frombuffer(graph.model, np.uint8),
        _BLOCKED: np.array(graph.blocked, np.str_),
        _BLOCK: np.array(graph.block),
        **graph.weights,
    }
    np.savez(packed, **arrays)
    return packed.getvalue()


def unpack(content: bytes) -> OptimisedGraph | None:
    """Return the optimised graph that ``pack`` serialised; None for other content, such as an ONNX model.

    Raises:
        ValueError: If the content is truncated or damaged.
    """
    if not content.startswith(_ZIP):
        return None
    try:
        with ONE_HEADER:
            archive = np.load(io.BytesIO(content), allow_pickle=False)
            model, blocked, block = archive[_GRAPH].tobytes(), archive[_BLOCKED].tolist(), int(archive[_BLOCK])
    except (KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"no optimised graph: {error}") from None
    return OptimisedGraph(model, _Weights(archive), tuple(blocked), block)


class _Weights(Mapping[str, NDArray[Any]]):
    """The weights of an archive, each read on access."""

    def __init__(self, archive: Any) -> None:
        self._archive = archive
        self._names = [name for name in archive.files if name not in (_GRAPH, _BLOCKED, _BLOCK)]

    def __getitem__(self, name: str) -> NDArray[Any]:
        try:
            with ONE_HEADER:
                value: NDArray[Any] = self._archive[name]
        except zipfile.BadZipFile as error:
            raise ValueError(f"weight {name[:8]} of an optimised graph: {error}") from None
        return value

    def __iter__(self) -> Any:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
