"""Quantised values stay quantised while they are moved, and stay what they were."""

import numpy as np
import onnx
import onnxruntime
from int8_samples import ranges_of
from onnx import helper, numpy_helper
from samples import RESNET

from dynvid.exporter.graphs.fuse import fuse
from dynvid.exporter.graphs.quantised_moves import quantised_moves
from dynvid.exporter.graphs.rewrites import one_video, rewrite
from dynvid.exporter.int8.quantized_variants import QuantizedVariants
from dynvid.exporter.proof.clips import proof_clips
from dynvid.grid.segments import fused_segments
from dynvid.runtime.backends.onnxruntime import session_options


def run(content, feeds):
    """Return a graph's outputs, computed as it is written."""
    options = session_options(onnxruntime, 1)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(content, options).run(None, feeds)


def nodes(content):
    return onnx.load_model_from_string(content).graph.node


def test_a_segment_computes_the_same_bits_and_quantises_nothing_twice(exports):
    plain = exports.bundle(RESNET)
    bundle = QuantizedVariants(plain, ranges_of(plain)).bundle({})
    segment, manifest = fused_segments(bundle.manifest, "int8")[0], bundle.manifest
    graph = fuse(bundle, segment, "int8")
    before, after = (rewrite(graph, (one_video, *more)) for more in ((), (quantised_moves,)))
    pairs = [sum(node.op_type == "QuantizeLinear" for node in nodes(content)) for content in (before, after)]
    assert pairs[1] < pairs[0]
    (clip,) = proof_clips(1, manifest.grid.num_frames, manifest.preprocessing)
    frames = clip[list(manifest.grid.frame_order)][segment.start : segment.stop]
    for one, two in zip(run(before, {"frames": frames}), run(after, {"frames": frames}), strict=True):
        assert np.array_equal(one, two)


def quantised(made, scales):
    """Return a model of these nodes, from x to y [2, 4, 4, 4], with int8 zero points "zero" and scales by name."""
    ports = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 4, 4, 4])]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)]
    constants = [numpy_helper.from_array(np.float32(scale), name) for name, scale in scales.items()]
    constants.append(numpy_helper.from_array(np.int8(0), "zero"))
    graph = helper.make_graph(made, "moves", ports, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model).SerializeToString()


def pair(source, written, scale):
    return [
        helper.make_node("QuantizeLinear", [source, scale, "zero"], [f"{written}.q"], f"{written}.quantise"),
        helper.make_node("DequantizeLinear", [f"{written}.q", scale, "zero"], [written], f"{written}.dequantise"),
    ]


def joined(second):
    """Return a model that quantises x, joins it with itself, quantises that by another scale, and adds it to itself."""
    made = [
        *pair("x", "a", "one"),
        helper.make_node("Concat", ["a", "a"], ["b"], "join", axis=1),
        *pair("b", "c", "two"),
        helper.make_node("Add", ["c", "c"], ["y"], "sum"),
    ]
    return quantised(made, {"one": 0.5, "two": second})


def test_only_the_same_scale_changes_nothing():
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 4), dtype=np.float32)
    for second, kept in ((0.5, 1), (0.25, 2)):
        found = rewrite(joined(second), (quantised_moves,))
        assert sum(node.op_type == "QuantizeLinear" for node in nodes(found)) == kept
        assert np.array_equal(*(run(content, {"x": x})[0] for content in (joined(second), found)))


def test_what_is_pooled_is_quantised_before():
    made = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        *pair("p", "a", "one"),
        helper.make_node("Add", ["a", "a"], ["y"], "sum"),
    ]
    plain = quantised(made, {"one": 0.3})
    found = rewrite(plain, (quantised_moves,))
    assert [node.op_type for node in nodes(found)] == ["Relu", "QuantizeLinear", "DequantizeLinear", "MaxPool", "Add"]
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 4), dtype=np.float32)
    assert np.array_equal(*(run(content, {"x": x})[0] for content in (plain, found)))
