"""Build a bundle in memory: a network's subgraphs and their graphs, one precision after another."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ...grid.bundle import Bundle
from ...grid.manifest import Manifest, Precision, Stored, Subgraph, Variant
from ...grid.tensors import TensorSpec
from ...models.config_json import to_json
from ...models.cost import measure_costs
from ...models.network import VideoNetwork
from .half_precision import in_half, may_be_rounded
from .onnx_graph import OPSET, to_onnx
from .subgraphs import SubgraphModule, head_name, split

LOG = logging.getLogger("dynvid")

Key = tuple[str, Precision, tuple[TensorSpec, ...], tuple[TensorSpec, ...]]


class BundleBuilder:
    """Collects what ``add`` has exported so far.

    Args:
        network: in eval mode, fp32.
        source_sha256: of the training checkpoint.
        weights: the key of the network's weights in the training checkpoint, if it has several sets.

    Attributes:
        parts: the modules of each precision; fp32 comes first.
        network: as given.
        ranges: largest activation of every block and head, by name (``block0``, ``head0``); set it before writing the
            bundle.
    """

    def __init__(self, network: VideoNetwork, source_sha256: str, weights: str | None = None) -> None:
        self.parts: dict[Stored, list[SubgraphModule]] = {}
        self.network = network
        self.ranges: Mapping[str, float] = {}
        self._source_sha256 = source_sha256
        self._weights = weights
        self._fp32_only: tuple[str, ...] = ()
        self._graphs: dict[Key, bytes] = {}

    def add(self, precision: Stored, fp32_only: Sequence[str] = ()) -> None:
        """Split and export in ``precision``, with the blocks and heads ``fp32_only`` left in fp32.

        Adding a precision again replaces it. A graph with the same precision and ports is not exported again.

        Raises:
            LintError: If a graph is not what it should be.
        """
        self.parts[precision] = split(self.network, precision, fp32_only)
        self._fp32_only = tuple(fp32_only)
        new = [part for part in self.parts[precision] if key_of(part) not in self._graphs]
        whole = {part.name: key_of(part) for part in self.parts["fp32"]}
        for number, part in enumerate(new, 1):
            LOG.info(f"exporting {precision} {number}/{len(new)}: {part.name}")
            made = precision == "fp16" and may_be_rounded(part)
            self._graphs[key_of(part)] = in_half(self._graphs[whole[part.name]], part) if made else to_onnx(part)

    def bundle(self) -> Bundle:
        """Return the bundle of everything added, held in memory, without a proof."""
        files: dict[str, bytes] = {}
        variants: dict[str, dict[str, Variant]] = {}
        for precision, parts in self.parts.items():
            for part in parts:
                content = self._graphs[key_of(part)]
                file = f"{part.name}.onnx" if precision == "fp32" else f"{part.name}.{precision}.onnx"
                files[file] = content
                variants.setdefault(part.name, {})[precision] = Variant(
                    file, hashlib.sha256(content).hexdigest(), len(content), part.inputs, part.outputs
                )
        return Bundle(Path("(unwritten)"), self._manifest(variants), "", files)

    def _manifest(self, variants: Mapping[str, dict[str, Variant]]) -> Manifest:
        parts = self.parts["fp32"]
        return Manifest(
            **facts_of(self.network, parts),
            subgraphs=tuple(
                Subgraph(
                    part.name,
                    part.kind,
                    part.block,
                    part.states,
                    variants[part.name],
                    float(f"{self.ranges.get(part.place, 0.0):.4g}"),
                )
                for part in parts
            ),
            precisions=tuple(self.parts),
            fp32_only=self._fp32_only,
            opset=OPSET,
            source_sha256=self._source_sha256,
            versions=_versions(),
            proof={},
            weights=self._weights,
        )


def facts_of(network: VideoNetwork, parts: Sequence[SubgraphModule]) -> dict[str, Any]:
    """Return the entries of a manifest that follow from the network alone; ``parts`` are its subgraphs."""
    config = network.config
    blocks = {part.block: part.name for part in parts if part.kind == "block"}
    model = to_json(config)
    return {
        "network": {key: model[key] for key in ("network", "options", "heads", "shift", "head")},
        "classes": config.classes,
        "labels": config.labels,
        "parameters": sum(p.numel() for p in network.parameters()),
        "grid": network.grid,
        "route_cells": tuple((c.input_set, c.block) for c in network.route.cells),
        "preprocessing": config.preprocessing,
        "costs": measure_costs(network),
        "cells": (tuple(blocks.get(m) for m in range(network.grid.blocks)),) * network.grid.input_sets,
        "heads": tuple(head_name(network, c.index) for c in network.route.checkpoints),
        "static": config.static,
    }


def key_of(part: SubgraphModule) -> Key:
    """Return what distinguishes the graphs of a subgraph: its precision and the dtypes of its ports."""
    return part.name, part.precision, part.inputs, part.outputs


def _versions() -> dict[str, str]:
    found = {}
    for name in ("dynvid", "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
