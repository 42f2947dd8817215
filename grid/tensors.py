"""Tensors and state ports of a subgraph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

DType = Literal["float32", "float16"]
Dimension = int | Literal["batch", "frames"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a subgraph: its name, dtype and shape; ``"batch"`` and ``"frames"`` are dynamic."""

    name: str
    dtype: DType
    shape: tuple[Dimension, ...]

    def concrete(self, batch: int, frames: int) -> tuple[int, ...]:
        """Return the shape as numbers."""
        sizes = {"batch": batch, "frames": frames}
        return tuple(sizes[d] if isinstance(d, str) else d for d in self.shape)


@dataclass(frozen=True, slots=True)
class StatePort:
    """A pair of ports: the next call for the same video reads from ``input`` what a call wrote to ``output``.

    It is zeros at the start of a video.
    """

    input: str
    output: str


class Ports(Protocol):
    """The inputs and outputs, in order, of a graph or engine."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that a call reads."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that a call writes."""
        ...
