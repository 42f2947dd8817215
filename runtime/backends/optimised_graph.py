"""A graph as onnxruntime optimised it for a kind of processor, apart from its weights, which all programs of a process share.

It is kept as numpy's ``.npz``: the ONNX model under ``graph``, and each weight under the sha256 of what it holds, which is its
name in the model, too. So segments that run the same block name the same weights.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

GRAPH = "graph"
_ZIP = b"PK\x03\x04"


class OptimisedGraph(NamedTuple):
    """An ONNX model and the weights that it names, read one by one from where they are kept."""

    model: bytes
    weights: Mapping[str, NDArray[Any]]


def weight_name(value: NDArray[Any]) -> str:
    """Return the name of a weight: the same for the same dtype, shape and contents."""
    return hashlib.sha256(f"{value.dtype.str}{value.shape}".encode() + value.tobytes()).hexdigest()


def pack(model: bytes, weights: Mapping[str, NDArray[Any]]) -> bytes:
    """Return an optimised graph as one sequence of bytes; equal ones as equal bytes."""
    packed = io.BytesIO()
    arrays: dict[str, Any] = {GRAPH: np.frombuffer(model, np.uint8), **weights}
    np.savez(packed, **arrays)
    return packed.getvalue()


def unpack(content: bytes) -> OptimisedGraph | None:
    """Return the optimised graph that ``pack`` made these bytes of; None where they are another thing, like an ONNX model.

    Raises:
        ValueError: If they are cut short or damaged.
    """
    if not content.startswith(_ZIP):
        return None
    try:
        archive = np.load(io.BytesIO(content), allow_pickle=False)
        model: bytes = archive[GRAPH].tobytes()
    except (KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"no optimised graph: {error}") from None
    return OptimisedGraph(model, _Weights(archive))


class _Weights(Mapping[str, NDArray[Any]]):
    """The weights of an archive; each is read when it is asked for."""

    def __init__(self, archive: Any) -> None:
        self._archive = archive
        self._names = [name for name in archive.files if name != GRAPH]

    def __getitem__(self, name: str) -> NDArray[Any]:
        value: NDArray[Any] = self._archive[name]
        return value

    def __iter__(self) -> Any:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
