"""Unsigned activations stand for the same values, and are multiplied as the processor does best."""

import platform

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from dynvid.exporter.engines.makers import for_onnxruntime
from dynvid.exporter.graphs.fuse import fuse
from dynvid.exporter.graphs.rewrites import rewrite
from dynvid.exporter.graphs.uint8_activations import uint8_activations
from dynvid.exporter.proof.clips import proof_clips
from dynvid.grid.segments import fused_full, fused_segments
from dynvid.runtime.backends import onnxruntime as ort_module
from dynvid.runtime.backends.onnxruntime import session_options
from dynvid.runtime.backends.optimised_graph import unpack


def test_unsigned_activations_stand_for_the_same_values(int8_bundle):
    """Without optimisations every pair is computed as written; a clip that the ranges are of clips nowhere."""
    segment = fused_segments(int8_bundle.manifest, "int8")[0]
    graph = fuse(int8_bundle, segment, "int8")
    other = rewrite(graph, (uint8_activations,))
    zero_points = {
        int(numpy_helper.to_array(tensor))
        for tensor in onnx.load_model_from_string(other).graph.initializer
        if tensor.data_type == TensorProto.UINT8
    }
    assert zero_points == {0, 128}
    manifest = int8_bundle.manifest
    (clip,) = proof_clips(1, manifest.grid.num_frames, manifest.preprocessing)
    frames = clip[list(manifest.grid.frame_order)][None, segment.start : segment.stop]
    answers = []
    for content in (graph, other):
        options = session_options(onnxruntime, 1)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        answers.append(onnxruntime.InferenceSession(content, options).run(None, {"frames": frames}))
    assert all(np.array_equal(one, two) for one, two in zip(*answers, strict=True))


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="elsewhere weights stay signed")
@pytest.mark.parametrize(
    ("processor", "weights"),
    [("avx512_vnni", "INT8"), ("avx_vnni", "INT8"), ("avx512f", "UINT8"), ("avx2", "UINT8")],
)
def test_convolutions_multiply_unsigned_bytes_by_signed_ones_where_vnni_does(
    int8_bundle, monkeypatch, processor, weights
):
    monkeypatch.setattr(ort_module, "this_processor", lambda: processor)
    segment = fused_full(int8_bundle.manifest, "int8")
    plan = for_onnxruntime(fuse(int8_bundle, segment, "int8"))
    graph = onnx.load_model_from_string(unpack(plan).model).graph
    dtypes = {tensor.name: TensorProto.DataType.Name(tensor.data_type) for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "QLinearConv"]
    assert {(dtypes[node.input[2]], dtypes[node.input[3]]) for node in convolutions} == {("UINT8", weights)}
