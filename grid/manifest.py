"""The manifest of a bundle: everything the runtime knows about a network besides the graphs."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Literal, cast

from .costs import Costs
from .preprocessing import Preprocessing
from .route import Route
from .storage.sealed import seal
from .tensors import Dimension, StatePort, TensorSpec
from .topology import Cell, Grid

FORMAT = "dynvid.bundle"
VERSION = (1, 3)
Stored = Literal["fp32", "fp16", "int8"]
"""Precision of the graphs in a bundle."""
Precision = Literal[Stored, "bf16", "int8-bf16"]
"""Precision to compute in: bf16 runs the fp32 graphs in bf16, int8-bf16 the fp32 rest of INT8 graphs."""
IN_BF16: dict[Precision, Stored] = {"bf16": "fp32", "int8-bf16": "int8"}
"""The graphs used by each precision that has none of its own; OpenVINO runs them."""
FILE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}\.onnx")


@dataclass(frozen=True)
class Variant:
    """One precision of a subgraph: its file, and its ports in order."""

    file: str
    sha256: str
    bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Subgraph:
    """One unique subgraph, run by every cell of its block. ``range`` is its largest measured activation."""

    name: str
    kind: Literal["block", "head"]
    block: int
    states: tuple[StatePort, ...]
    variants: dict[str, Variant]
    range: float

    def variant(self, precision: Precision) -> Variant:
        """Return the variant that is run in ``precision``."""
        return self.variants[graphs_of(precision)]


@dataclass(frozen=True)
class Manifest:
    """The contents of ``manifest.json``.

    Attributes:
        network: name, options, heads, shift and head configuration, as in a training checkpoint.
        cells: the subgraph of cell (n, m) is ``cells[n][m]``; None for blocks that the route never reaches.
        heads: the subgraph that answers at each checkpoint.
        fp32_only: blocks and heads that stay fp32 in the fp16 set. ``proof["fp32_only"]`` says why: each one's
            measured range, its own error, or the route's.
        source_sha256: of the training checkpoint.
        proof: the figures of the export's proof (exporter.proof); since 1.1 also ``rounding``, the reference's own
            rounding.
        weights: the key of the weights in the training checkpoint, if it has several sets; since 1.2.
        static: whether it is a fixed network (TSN, or TSM shifted both ways): one checkpoint, one call of all frames, no
            states; since 1.3.
    """

    network: dict[str, Any]
    classes: int
    labels: tuple[str, ...] | None
    parameters: int
    grid: Grid
    route_cells: tuple[tuple[int, int], ...]
    preprocessing: Preprocessing
    costs: Costs
    subgraphs: tuple[Subgraph, ...]
    cells: tuple[tuple[str | None, ...], ...]
    heads: tuple[str, ...]
    precisions: tuple[Stored, ...]
    fp32_only: tuple[str, ...]
    opset: int
    source_sha256: str
    versions: dict[str, str]
    proof: dict[str, Any]
    weights: str | None = None
    static: bool = False

    @property
    def route(self) -> Route:
        """The checkpoint route."""
        return Route(self.grid, tuple(Cell(n, m) for n, m in self.route_cells))

    @property
    def frames(self) -> Dimension:
        """The size of the frame axis of its subgraphs: any number, or all l frames if it is static."""
        return self.grid.num_frames if self.static else "frames"

    def subgraph(self, name: str) -> Subgraph:
        """Return the subgraph called ``name``."""
        return next(s for s in self.subgraphs if s.name == name)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of its classes: their numbers where it has none."""
        return tuple(map(str, range(self.classes))) if self.labels is None else self.labels

    def label(self, class_index: int) -> str:
        """Return the name of a class, or its number if the bundle has no names."""
        return str(class_index) if self.labels is None else self.labels[class_index]

    @property
    def gains_by_fp16(self) -> bool:
        """Whether any block computes in half precision in the fp16 set."""
        blocks = {f"block{s.block}" for s in self.subgraphs if s.kind == "block"}
        return "fp16" in self.precisions and not blocks <= set(self.fp32_only)

    def to_bytes(self) -> bytes:
        """Return ``manifest.json``: canonical JSON that carries the sha256 of its own other contents."""
        return seal(dataclasses.asdict(self), FORMAT, VERSION)


def graphs_of(precision: Precision) -> Stored:
    """Return the precision of the graphs that ``precision`` runs."""
    return cast(Stored, IN_BF16.get(precision, precision))
