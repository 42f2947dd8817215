"""From a network to a proved bundle on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..grid.bundle import Bundle, write_bundle
from ..grid.manifest import Manifest, Precision, Variant
from ..grid.manifest import Subgraph as ManifestSubgraph
from ..models.config_json import to_json
from ..models.cost import measure_costs
from ..models.network import VideoNetwork
from ..runtime.backends.base import open_backend
from .onnx_graph import OPSET, to_onnx
from .proof import PROOF_CLIPS, prove
from .proof_clips import proof_clips
from .ranges import FP16_LIMIT, measure_ranges
from .subgraphs import Subgraph, head_name, split

Report = Callable[[str], None]


class UnwrittenBundle(Bundle):
    """A bundle whose files are still in memory."""

    def __init__(self, manifest: Manifest, files: dict[str, bytes]) -> None:
        super().__init__(Path("(unwritten)"), manifest, hashlib.sha256(manifest.to_bytes()).hexdigest())
        object.__setattr__(self, "files", files)

    def read(self, variant: Variant) -> bytes:
        """Return the bytes of a subgraph's file."""
        files: dict[str, bytes] = self.__dict__["files"]
        return files[variant.file]


def export(
    network: VideoNetwork,
    root: Path,
    *,
    source_sha256: str,
    precisions: Sequence[Precision] = ("fp32", "fp16"),
    range_clips: NDArray[np.float32] | None = None,
    report: Report = lambda _: None,
) -> Bundle:
    """Split ``network`` along its route, export every unique subgraph, prove the result, and write it to ``root``.

    Args:
        network: in eval mode, fp32, with the route to export.
        root: the bundle's folder; an older bundle there is replaced only by a proved one.
        source_sha256: of the training checkpoint.
        precisions: fp32, and fp16 unless declined.
        range_clips: preprocessed videos in temporal order, [videos, l, 3, crop, crop], whose activations decide what
            may be fp16; None for the proof's clips.
        report: gets a line about each step.

    Raises:
        LintError, ProofError: If the export is not what it should be; nothing is written then.
        ResourceError, InputRefusedError: If ``root`` cannot be written.
    """
    config = network.config
    clips = proof_clips(PROOF_CLIPS, config.grid.num_frames, config.preprocessing)
    ranges: dict[str, float] = {}
    if "fp16" in precisions:
        report("ranges of activations")
        ranges = measure_ranges(network, map(torch.from_numpy, clips if range_clips is None else range_clips))
    fp32_only = sorted(name for name, value in ranges.items() if value > FP16_LIMIT)
    parts: dict[Precision, list[Subgraph]] = {}
    files: dict[str, bytes] = {}
    variants: dict[str, dict[str, Variant]] = {}
    for precision in precisions:
        parts[precision] = split(network, precision, fp32_only)
        for part in parts[precision]:
            report(f"exporting {part.name} {precision}")
            content = to_onnx(part)
            file = f"{part.name}.onnx" if precision == "fp32" else f"{part.name}.{precision}.onnx"
            files[file] = content
            variants.setdefault(part.name, {})[precision] = Variant(
                file, hashlib.sha256(content).hexdigest(), len(content), part.inputs, part.outputs
            )
    blocks = {part.block: part.name for part in parts["fp32"] if part.kind == "block"}
    own_range = {name.split(".")[0]: value for name, value in ranges.items()}
    model = to_json(config)
    manifest = Manifest(
        network={key: model[key] for key in ("network", "options", "heads", "shift", "head")},
        classes=config.classes,
        labels=config.labels,
        parameters=sum(p.numel() for p in network.parameters()),
        grid=network.grid,
        route_cells=tuple((c.input_set, c.block) for c in network.route.cells),
        preprocessing=config.preprocessing,
        costs=measure_costs(network),
        subgraphs=tuple(
            ManifestSubgraph(
                part.name,
                part.kind,
                part.block,
                part.states,
                variants[part.name],
                float(f"{own_range.get(f'{part.kind}{part.block}', 0.0):.4g}"),
            )
            for part in parts["fp32"]
        ),
        cells=(tuple(blocks.get(m) for m in range(network.grid.blocks)),) * network.grid.input_sets,
        heads=tuple(head_name(network, c.index) for c in network.route.checkpoints),
        precisions=tuple(precisions),
        fp32_only=tuple(fp32_only),
        opset=OPSET,
        source_sha256=source_sha256,
        versions={name: version(name) for name in ("dynvid", "torch", "onnx", "onnxscript", "onnxruntime")},
        proof={},
    )
    figures: dict[str, Any] = prove(
        network, parts, UnwrittenBundle(manifest, files), open_backend("onnxruntime"), clips, report
    )
    report("writing")
    return write_bundle(root, replace(manifest, proof=figures), files)
