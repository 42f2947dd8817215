"""Ranges of a bundle on the proof's clips, and its graphs as onnx sees them."""

import functools

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from dynvid.exporter.int8.range_observers import observe_ranges
from dynvid.exporter.int8.range_pass import largest
from dynvid.exporter.int8.ranges import Ranges
from dynvid.exporter.proof.clips import proof_clips
from dynvid.grid.bundle import Bundle
from dynvid.grid.engines.key import this_processor
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.execution.executor import Executor
from dynvid.runtime.session import ArraySource

NEEDS_VNNI = pytest.mark.skipif(
    "vnni" not in this_processor(), reason="no VNNI, and dynvid refuses OpenVINO's INT8 without: it computes wrongly"
)


@functools.cache
def measured(root):
    """Return the largest activations of a bundle on the proof's clips."""
    bundle = Bundle.open(root)
    watched, manifest = observe_ranges(bundle), bundle.manifest
    executor = Executor(watched.bundle, open_backend("onnxruntime"))
    found = {name: np.zeros(len(tensors), np.float32) for name, tensors in watched.tensors.items()}
    for clip in proof_clips(3, manifest.grid.num_frames, manifest.preprocessing):
        for at in executor.walk([ArraySource(clip)]):
            for name, values in largest(executor, at.index, watched.tensors).items():
                found[name] = np.maximum(found[name], values)
    return {name: dict(zip(watched.tensors[name], found[name].tolist(), strict=True)) for name in found}


def ranges_of(bundle):
    largest = {name: dict(tensors) for name, tensors in measured(bundle.root).items()}
    return Ranges(bundle.sha256, "0" * 64, 40, None, (40,) * len(bundle.manifest.route_cells), largest)


def models(bundle, precision="int8"):
    return {s.name: onnx.load_model_from_string(bundle.read(s.variant(precision))) for s in bundle.manifest.subgraphs}


def quantised(model):
    """Yield each tensor that a graph quantises, with its scale."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            yield node.input[0], float(constants[node.input[1]])
