"""Read a manifest: its seal, its types, and every statement against every other, so that nothing later meets a contradiction."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from .errors import DynvidError, HashError, ManifestError
from .manifest import FILE_NAME, FORMAT, VERSION, Manifest, Subgraph
from .manifest_parts import Int8Part, NetworkPart, ReasonPart, RoundingPart
from .manifest_ports import check_blocks, check_heads, require
from .preprocessing import Preprocessing
from .storage.sealed import SealError, VersionError, unseal
from .storage.strict_json import StrictJsonError, parse
from .topology import Grid

_SHA256 = re.compile(r"[0-9a-f]{64}")


def read_manifest(text: bytes, where: str) -> Manifest:
    """Return the manifest in ``text``; ``where`` names it in errors.

    Raises:
        ManifestError: If it is malformed, of another version, or contradicts itself.
        HashError: If a byte has changed since it was written.
    """

    def refuse(reason: str) -> ManifestError:
        return ManifestError(f"manifest of bundle {where!r} is malformed: {reason}. Run 'dynvid export' again.")

    try:
        content, newer = unseal(text, FORMAT, VERSION)
        return manifest_of(content, newer)
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


def manifest_of(content: dict[str, Any], newer: bool = False) -> Manifest:
    """Return the manifest with these contents, which ``newer`` minor versions may add to.

    Raises:
        StrictJsonError, DynvidError: If a type does not fit, or one statement contradicts another.
    """
    manifest = parse(Manifest, content, ignore_unknown=newer)
    for name, kind in (("grid", Grid), ("preprocessing", Preprocessing)):  # their defaults are not a bundle's
        for field in dataclasses.fields(kind):
            require(field.name in content[name], f"{name}: key {field.name!r} is missing")
    network = parse(NetworkPart, manifest.network, ignore_unknown=newer)
    _check_counts(manifest, network)
    _check_cells(manifest, network)
    for subgraph in manifest.subgraphs:
        _check_files(subgraph, manifest)
    for precision in manifest.precisions:
        check_blocks(manifest, network, precision)
        check_heads(manifest, precision)
    _check_proof(manifest)
    return manifest


def _check_counts(manifest: Manifest, network: NetworkPart) -> None:
    grid, classes = manifest.grid, manifest.classes
    require(classes >= 2, f"classes: {classes}, expected at least 2")
    require(manifest.labels is None or len(manifest.labels) == classes, "labels: expected one per class")
    for name in ("parameters", "opset"):
        require(getattr(manifest, name) >= 1, f"{name}: {getattr(manifest, name)}, expected at least 1")
    found = manifest.source_sha256
    require(_SHA256.fullmatch(found) is not None, f"source_sha256: {found[:20]!r}, expected 64 hexadecimal digits")
    require("fp32" in manifest.precisions, "precisions: fp32 is missing")
    require(len(set(manifest.precisions)) == len(manifest.precisions), "precisions: one is there twice")
    for field in dataclasses.fields(manifest.costs):
        cost = getattr(manifest.costs, field.name)
        require(len(cost) == grid.blocks, "costs: expected one per block")
        require(min(cost) >= 0, f"costs: {field.name} holds {min(cost)}, expected at least 0")
    require(sum(manifest.costs.block_macs) > 0, "costs: the blocks cost nothing")
    paper = manifest.costs.paper_macs
    require(sorted(paper) == list(paper), "costs: paper_macs fall, expected those of all blocks up to each")
    heads, shift = network.heads, network.shift
    require(
        list(heads) == sorted(set(heads)) and set(manifest.route.head_blocks) <= set(heads) <= set(range(grid.blocks)),
        f"network: heads {list(heads)}, expected blocks of the grid in order, with those of the route",
    )
    require(
        shift.div >= 1 and shift.stride >= 1 and 0 <= shift.start_fold < shift.div,
        f"network: shift div {shift.div}, start_fold {shift.start_fold}, stride {shift.stride}",
    )
    if manifest.static:
        require(manifest.route == manifest.route.full, f"static: it has {len(manifest.route_cells)} checkpoints")
        require(manifest.route.cells[0].input_set == grid.input_sets - 1, "static: it does not see all frames")
        require(grid.permutation == "none", f"static: its permutation is {grid.permutation!r}, expected 'none'")
        states = [state.input for s in manifest.subgraphs for state in s.states]
        require(not states, f"static: it has states {', '.join(states[:3])}")
    for block in range(grid.blocks):
        counted = manifest.costs.answer_macs[block] > 0
        require(counted == (block in heads), f"costs: answer_macs of block {block}, network.heads {list(heads)}")


def _check_cells(manifest: Manifest, network: NetworkPart) -> None:
    route, grid = manifest.route, manifest.grid
    names = [s.name for s in manifest.subgraphs]
    require(len(set(names)) == len(names), "two subgraphs share a name")
    require(len(manifest.cells) == grid.input_sets, f"cells: {len(manifest.cells)} rows, expected {grid.input_sets}")
    for row in manifest.cells:
        require(len(row) == grid.blocks, f"cells: {len(row)} blocks, expected {grid.blocks}")
        for block, name in enumerate(row):
            needed = block <= max(route.head_blocks)
            require((name is not None) == needed, f"cells: block {block} has subgraph {name!r}")
            found = manifest.subgraph(name) if name in names else None
            fits = name is None or (found is not None and (found.kind, found.block) == ("block", block))
            require(fits, f"cells: {name!r} is not a subgraph of block {block}")
        require(row == manifest.cells[0], "cells: the rows differ, but all cells of a block share its subgraph")
    require(len(manifest.heads) == len(route.cells), "heads: expected one per checkpoint")
    of_block: dict[int, set[str]] = {}
    for name, cell in zip(manifest.heads, route.cells, strict=True):
        found = manifest.subgraph(name) if name in names else None
        fits = found is not None and (found.kind, found.block) == ("head", cell.block)
        require(fits, f"heads: {name!r} is not a head of block {cell.block}")
        of_block.setdefault(cell.block, set()).add(name)
    for block, found_heads in of_block.items():
        count = sum(cell.block == block for cell in route.cells)
        expected = 1 if network.head.share_classifier else count
        require(
            len(found_heads) == expected, f"heads: {len(found_heads)} of block {block}, expected {expected} "
            f"(network.head.share_classifier {network.head.share_classifier})"
        )  # fmt: skip
    unused = set(names) - {*manifest.cells[0], *manifest.heads}
    require(not unused, f"subgraphs: no cell and no checkpoint uses {', '.join(sorted(unused))}")
    places = {f"{s.kind}{s.block}" for s in manifest.subgraphs} if "fp16" in manifest.precisions else set()
    require(
        set(manifest.fp32_only) <= places and len(set(manifest.fp32_only)) == len(manifest.fp32_only),
        f"fp32_only: {list(manifest.fp32_only)}, expected blocks and heads of the fp16 set, each once",
    )
    files = [variant.file for s in manifest.subgraphs for variant in s.variants.values()]
    require(len(set(files)) == len(files), "two subgraphs share a file")


def _check_files(subgraph: Subgraph, manifest: Manifest) -> None:
    name, precisions = subgraph.name, manifest.precisions
    require(set(subgraph.variants) == set(precisions), f"{name}: variants {list(subgraph.variants)}")
    require(subgraph.range >= 0, f"{name}: range {subgraph.range}, expected at least 0")
    for variant in subgraph.variants.values():
        require(FILE_NAME.fullmatch(variant.file) is not None, f"file name {variant.file!r}")
        require(_SHA256.fullmatch(variant.sha256) is not None, f"{name}: sha256 {variant.sha256[:20]!r}")
        require(variant.bytes >= 1, f"{name}: {variant.bytes} bytes, expected at least 1")
        for ports in (variant.inputs, variant.outputs):
            found = [port.name for port in ports]
            require(len(set(found)) == len(found), f"{name}: two ports share a name")
            for port in ports:
                sizes = [size for size in port.shape if isinstance(size, int)]
                require(port.shape[:1] == ("batch",), f"{name}: port {port.name} does not begin with the batch")
                require(all(size >= 1 for size in sizes), f"{name}: port {port.name} has shape {list(port.shape)}")
        shapes = [(port.name, port.shape) for port in (*variant.inputs, *variant.outputs)]
        plain = subgraph.variants["fp32"]
        same = shapes == [(port.name, port.shape) for port in (*plain.inputs, *plain.outputs)]
        require(same, f"{name}: the ports of {variant.file} are not those of {plain.file}")


def _check_proof(manifest: Manifest) -> None:
    proof, checkpoints = manifest.proof, len(manifest.route_cells)
    ports = {s.name: {port.name for port in s.variants["fp32"].outputs} for s in manifest.subgraphs}
    if "rounding" in proof:
        rounding = parse(RoundingPart, proof["rounding"], ignore_unknown=True)
        counted = len(rounding.checkpoints)
        require(counted in (0, checkpoints), f"proof.rounding: {counted} checkpoints, expected {checkpoints}")
        known = all(set(figures) <= ports.get(name, set()) for name, figures in rounding.tensors.items())
        require(known, "proof.rounding: it has tensors that no subgraph writes")
        figures = [*rounding.checkpoints, *(f for of_one in rounding.tensors.values() for f in of_one.values())]
        require(all(figure >= 0 for figure in figures), "proof.rounding: a figure is below 0")
    if "fp32_only" in proof:
        require(isinstance(proof["fp32_only"], dict), "proof.fp32_only: expected an object")
        for reason in proof["fp32_only"].values():
            parse(ReasonPart, reason, ignore_unknown=True)
        kept = sorted(proof["fp32_only"])
        require(kept == sorted(manifest.fp32_only), f"proof.fp32_only: {kept}, but fp32_only is {manifest.fp32_only}")
    if "int8" in proof:
        require("int8" in manifest.precisions, "proof.int8: there are no INT8 graphs")
        int8 = parse(Int8Part, proof["int8"], ignore_unknown=True)
        counts = {len(row) for row in (int8.drop, int8.agreement, int8.accuracy, int8.accuracy_fp32) if row is not None}
        require(counts == {checkpoints}, f"proof.int8: figures of {counts} checkpoints, expected {checkpoints}")
        require(set(int8.fp32_layers) <= set(int8.layers) <= set(ports), "proof.int8: it has other subgraphs")
