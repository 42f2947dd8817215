"""The manifest of a bundle: everything the runtime knows about a network besides the graphs."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Literal, cast

from .costs import Costs
from .errors import DynvidError, HashError, ManifestError
from .preprocessing import Preprocessing
from .route import Route
from .storage.sealed import SealError, VersionError, seal, unseal
from .storage.strict_json import StrictJsonError, parse
from .tensors import StatePort, TensorSpec
from .topology import Cell, Grid

FORMAT = "dynvid.bundle"
VERSION = (1, 2)
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

    @property
    def route(self) -> Route:
        """The checkpoint route."""
        return Route(self.grid, tuple(Cell(n, m) for n, m in self.route_cells))

    def subgraph(self, name: str) -> Subgraph:
        """Return the subgraph called ``name``."""
        return next(s for s in self.subgraphs if s.name == name)

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


def read_manifest(text: bytes, where: str) -> Manifest:
    """Return the manifest in ``text``; ``where`` names it in errors.

    Raises:
        ManifestError: If it is malformed, of another version, or inconsistent.
        HashError: If a byte has changed since it was written.
    """

    def refuse(reason: str) -> ManifestError:
        return ManifestError(f"manifest of bundle {where!r} is malformed: {reason}. Run 'dynvid export' again.")

    try:
        content, newer = unseal(text, FORMAT, VERSION)
        manifest = parse(Manifest, content, ignore_unknown=newer)
        _check(manifest)
    except VersionError as error:
        raise ManifestError(
            f"bundle {where!r}: {error}: install the dynvid that exported it, or export again"
        ) from None
    except SealError:
        raise HashError(
            f"manifest of bundle {where!r} has changed since export (its sha256 does not fit). Run 'dynvid export' "
            "again."
        ) from None
    except (StrictJsonError, DynvidError) as error:
        raise refuse(str(error)) from None
    return manifest


def _check(manifest: Manifest) -> None:
    """Check that the parts of a manifest refer to one another, which types cannot express."""

    def require(condition: bool, reason: str) -> None:
        if not condition:
            raise StrictJsonError(reason)

    route, grid = manifest.route, manifest.grid
    names = [s.name for s in manifest.subgraphs]
    require(len(set(names)) == len(names), "two subgraphs share a name")
    require(len(manifest.cells) == grid.input_sets, f"cells: {len(manifest.cells)} rows, expected {grid.input_sets}")
    for row in manifest.cells:
        require(len(row) == grid.blocks, f"cells: {len(row)} blocks, expected {grid.blocks}")
        for block, name in enumerate(row):
            needed = block <= max(route.head_blocks)
            require((name is not None) == needed, f"cells: block {block} has subgraph {name!r}")
            fits = name is None or (name in names and manifest.subgraph(name).block == block)
            require(fits, f"cells: {name!r} is not a subgraph of block {block}")
    require(len(manifest.heads) == len(route.cells), "heads: expected one per checkpoint")
    for name, cell in zip(manifest.heads, route.cells, strict=True):
        fits = name in names and manifest.subgraph(name).kind == "head" and manifest.subgraph(name).block == cell.block
        require(fits, f"heads: {name!r} is not a head of block {cell.block}")
    require("fp32" in manifest.precisions, "precisions: fp32 is missing")
    require(manifest.labels is None or len(manifest.labels) == manifest.classes, "labels: expected one per class")
    for cost in dataclasses.astuple(manifest.costs):
        require(len(cost) == grid.blocks, "costs: expected one per block")
    files = []
    for subgraph in manifest.subgraphs:
        require(
            set(subgraph.variants) == set(manifest.precisions), f"{subgraph.name}: variants {list(subgraph.variants)}"
        )
        for variant in subgraph.variants.values():
            files.append(variant.file)
            require(FILE_NAME.fullmatch(variant.file) is not None, f"file name {variant.file!r}")
            inputs, outputs = {s.name for s in variant.inputs}, {s.name for s in variant.outputs}
            for state in subgraph.states:
                require(
                    state.input in inputs and state.output in outputs, f"{subgraph.name}: state {state} has no port"
                )
    require(len(set(files)) == len(files), "two subgraphs share a file")
