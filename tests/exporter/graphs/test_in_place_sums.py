"""Residuals are added in place: whatever else reads them comes before the sum; nothing else changes."""

import numpy as np
import onnx
import onnxruntime
import pytest
from int8_samples import ranges_of
from samples import RESNET

from dynvid.exporter.graphs.fuse import fuse
from dynvid.exporter.graphs.in_place_sums import in_place_sums
from dynvid.exporter.graphs.rewrites import REWRITES, rewrite
from dynvid.exporter.int8.quantized_variants import QuantizedVariants
from dynvid.grid.segments import fused_segments
from dynvid.runtime.backends.onnxruntime import session_options


@pytest.fixture(scope="module")
def segments(exports):
    """The segments of a ResNet in INT8, each with its fused graph."""
    plain = exports.bundle(RESNET)
    bundle = QuantizedVariants(plain, ranges_of(plain)).bundle({})
    return [(segment, fuse(bundle, segment, "int8")) for segment in fused_segments(bundle.manifest, "int8")]


def read_later(content):
    """Return the tensors that are added, and also read by a node that the sum does not need."""
    graph = onnx.load_model_from_string(content).graph
    writers = {tensor: node for node in graph.node for tensor in node.output}
    found = set()
    for addition in (node for node in graph.node if node.op_type == "Add"):
        needed, names = [addition], set()
        while needed:
            node = needed.pop()
            names.add(node.name)
            needed += [
                writers[tensor] for tensor in node.input if tensor in writers and writers[tensor].name not in names
            ]
        for tensor in addition.input:
            others = [node.name for node in graph.node if tensor in node.input]
            found.update([tensor] if tensor in writers and not names.issuperset(others) else [])
    return found


def test_a_residual_has_no_reader_beside_its_sum(segments):
    others = tuple(one for one in REWRITES["openvino"] if one is not in_place_sums)
    before, after = (
        {segment.name: read_later(rewrite(graph, rewrites)) for segment, graph in segments}
        for rewrites in (others, REWRITES["openvino"])
    )
    assert any(before.values())
    assert not any(after.values())


def test_states_are_the_same_bits(segments):
    noise = np.random.default_rng(0)
    others = tuple(one for one in REWRITES["openvino"] if one is not in_place_sums)
    for _, graph in segments:
        contents = [rewrite(graph, rewrites) for rewrites in (others, REWRITES["openvino"])]
        options = session_options(onnxruntime, 1)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        before, after = (onnxruntime.InferenceSession(content, options) for content in contents)
        feeds = {port.name: noise.random(port.shape, np.float32) for port in before.get_inputs()}
        for one, other in zip(before.run(None, feeds), after.run(None, feeds), strict=True):
            assert np.array_equal(one, other)
