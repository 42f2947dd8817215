"""The INT8 variants of a bundle's subgraphs: from ranges to a bundle, in memory, that also holds them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace

import onnx

from ...grid.bundle import Bundle
from ...grid.errors import StaleRangesError
from ...grid.manifest import Manifest
from .quantized_graph import activations, convolutions, quantise
from .ranges import Ranges
from .scale_groups import ScaleGroups, Tensor

Layers = Mapping[str, Collection[str]]
"""Convolutions by subgraph."""


class QuantizedVariants:
    """Makes INT8 variants. Every tensor gets its scale group's largest value, so that its scale is the same everywhere.

    Args:
        bundle: with fp32 graphs.
        ranges: of that bundle.

    Attributes:
        layers: the convolutions of each subgraph that can be in INT8.
        unscaled: those that cannot: their input is always 0, or not an image.

    Raises:
        StaleRangesError: If the ranges do not fit the bundle's graphs.
        HashError: If a file of the bundle has changed.
    """

    def __init__(self, bundle: Bundle, ranges: Ranges) -> None:
        self._bundle = bundle
        self._whole: dict[str, bytes] = {}  # variants that keep no convolution in fp32
        self._contents = {s.name: bundle.read(s.variant("fp32")) for s in bundle.manifest.subgraphs}
        graphs = {name: onnx.load_model_from_string(content) for name, content in self._contents.items()}
        wires, widest = ScaleGroups(graphs, bundle), defaultdict[Tensor, float](float)
        for name, graph in graphs.items():
            if set(activations(graph)) != set(ranges.largest.get(name, ())):
                raise StaleRangesError(
                    f"ranges of bundle {ranges.bundle_sha256[:8]}… do not have the tensors of {name}: "
                    "run 'dynvid quantize' again"
                )
            for tensor, value in ranges.largest[name].items():
                wire = wires.of(Tensor(name, tensor))
                widest[wire] = max(widest[wire], value)
        self._largest = {
            name: {tensor: widest[wires.of(Tensor(name, tensor))] for tensor in activations(graph)}
            for name, graph in graphs.items()
        }
        found = {name: convolutions(graph, self._largest[name]) for name, graph in graphs.items()}
        self.layers = {name: can for name, (can, _) in found.items()}
        self.unscaled = {name: cannot for name, (_, cannot) in found.items()}

    def bundle(self, kept: Layers) -> Bundle:
        """Return the bundle with INT8 variants, held in memory and not proved.

        Args:
            kept: convolutions that stay in fp32. A subgraph that keeps them all uses its fp32 graph as INT8 variant.

        Raises:
            LintError: If a variant is not what a bundle may hold.
        """
        manifest, subgraphs = self._bundle.manifest, []
        held: dict[str, bytes] = {}
        for subgraph in manifest.subgraphs:
            variants = {p: v for p, v in subgraph.variants.items() if p != "int8"}
            held |= {variant.file: self._bundle.read(variant) for variant in variants.values()}
            plain = variants["fp32"]
            content = self._twin(subgraph.name, frozenset(kept.get(subgraph.name, ())))
            file = f"{subgraph.name}.int8.onnx"
            variants["int8"] = replace(plain, file=file, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
            held[file] = content
            subgraphs.append(replace(subgraph, variants=variants))
        precisions = tuple(dict.fromkeys((*manifest.precisions, "int8")))
        made: Manifest = replace(manifest, subgraphs=tuple(subgraphs), precisions=precisions)
        return Bundle(self._bundle.root, made, hashlib.sha256(made.to_bytes()).hexdigest(), held)

    def _twin(self, name: str, kept: frozenset[str]) -> bytes:
        if kept.issuperset(self.layers[name]):
            return self._contents[name]
        if kept or name not in self._whole:
            plain = self._bundle.manifest.subgraph(name).variant("fp32")
            twin = quantise(self._contents[name], plain, name, self._largest[name], kept)
            if kept:
                return twin
            self._whole[name] = twin
        return self._whole[name]
