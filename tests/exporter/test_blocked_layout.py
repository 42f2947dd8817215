"""Features pass between segments in the blocked layout: fewer copies, the same bits, and a segment that does not play along is found."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from samples import TINY

from dynvid.exporter.blocked_layout import block_size
from dynvid.exporter.fuse import fuse
from dynvid.exporter.fuse_proof import prove_fused
from dynvid.exporter.optimise import optimise
from dynvid.exporter.proof_clips import proof_clips
from dynvid.exporter.rewrites import rewrite
from dynvid.grid.errors import ProofError
from dynvid.grid.fusion import fused_segments
from dynvid.grid.manifest import Variant
from dynvid.grid.tensors import TensorSpec
from dynvid.runtime.backends.base import open_backend
from dynvid.runtime.backends.optimised_graph import OptimisedGraph, unpack
from dynvid.runtime.fused_executor import FusedExecutor

# features of 16, 32 or 64 channels at some ports, and of other numbers at others
NETWORKS = {
    "resnet": {**TINY, "network": "resnet", "options": {"layers": [1, 1, 1, 1], "width": 32}, "input_sets": 2, "route": "0,2 0,3 1,3 1,4", "head": {"style": "linear"}},
    "msdnet": {**TINY, "options": {**TINY["options"], "channels": 32, "growth": 16}},
}  # fmt: skip


@pytest.fixture(params=NETWORKS)
def bundle(request, exports):
    return exports.bundle(NETWORKS[request.param])


def graphs(bundle, blocked):
    """Return the optimised graph of each segment of the route."""
    segments = fused_segments(bundle.manifest, "fp32")
    return {s: optimise(rewrite(fuse(bundle, s, "fp32")), blocked) for s in segments}


def run(bundle, plans):
    """Return the outputs of every segment for one clip, in the plain layout."""
    grid = bundle.manifest.grid
    (clip,) = proof_clips(1, grid.num_frames, bundle.manifest.preprocessing)
    clip = clip[None, list(grid.frame_order)]
    executor, found = FusedExecutor(bundle, open_backend("onnxruntime"), "fp32", plans.__getitem__), []
    for segment, plan in zip(executor.segments, plans.values(), strict=True):
        if segment.frames is not None:
            executor.backend.write(segment.frames, clip[:, segment.start : segment.stop])
        executor.run_spans(segment)
        found.append({port: unpack(plan).plain(port, value.copy()) for port, value in segment.outputs.items()})
    return found


def test_blocked_or_plain_the_segments_give_the_same_bits(bundle):
    plain, blocked = graphs(bundle, False), graphs(bundle, True)
    ports = [port for plan in blocked.values() for port in unpack(plan).blocked]
    assert ports and {p.split(".")[0] for p in ports} == {"in", "out"}
    for expected, found in zip(run(bundle, plain), run(bundle, blocked), strict=True):
        assert expected.keys() == found.keys()
        for port, value in expected.items():
            assert np.array_equal(found[port], value), port


def test_both_ends_of_a_feature_are_blocked(bundle):
    written, read = set(), set()
    for plan in graphs(bundle, True).values():
        for port in unpack(plan).blocked:
            side, name = port.split(".", 1)
            (written if side == "out" else read).add(name)
    assert read and read <= written
    for segment in fused_segments(bundle.manifest, "fp32"):
        for spec in (*segment.inputs, *segment.outputs):
            name = spec.name.split(".", 1)[-1]
            if name in written:
                assert spec.shape[2] % 16 == 0 and ".feature" in spec.name


def test_what_is_brought_into_another_layout_is_less(bundle):
    def channels(plans):
        """Return the channels of all tensors that are brought into the plain layout, whole tensors or parts."""
        models = [onnx.load_model_from_string(unpack(plan).model) for plan in plans.values()]
        nodes = [node for model in models for node in model.graph.node if node.op_type == "ReorderOutput"]
        return sum(helper.get_node_attr_value(node, "channels") for node in nodes)

    plain, blocked = (channels(graphs(bundle, blocked)) for blocked in (False, True))
    assert blocked < plain


def test_whole_blocks_are_taken_from_a_blocked_tensor_and_the_rest_cut_off():
    """A slice of channels 20 to 40 of 64 takes 16 to 48 blocked, brings these into the plain layout, and cuts 4 to 24 out."""
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.standard_normal((64, 16, 1, 1)).astype(np.float32), "w")
    ends = [numpy_helper.from_array(np.array([n], np.int64), name) for name, n in (("a", 20), ("b", 40), ("c", 1))]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[1, 1]),
        helper.make_node("Slice", ["y", "a", "b", "c", "c"], ["z"]),
        helper.make_node("Conv", ["y", "v"], ["u"], kernel_shape=[1, 1]),
    ]
    other = numpy_helper.from_array(rng.standard_normal((16, 64, 1, 1)).astype(np.float32), "v")
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, count, 3, 5])
        for name, count in (("x", 16), ("z", 20), ("u", 16))
    ]
    graph = helper.make_graph(nodes, "slice", ports[:1], ports[1:], [weight, other, *ends])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    specs = [TensorSpec(p.name, "float32", tuple(d.dim_value for d in p.type.tensor_type.shape.dim)) for p in ports]
    found = []
    for content in (model, optimise(model, blocked=False), optimise(model)):
        values = {spec.name: np.zeros(spec.shape, np.float32) for spec in specs}
        values["x"][:] = np.random.default_rng(1).standard_normal(values["x"].shape)
        variant = Variant("", "", len(content), (specs[0],), tuple(specs[1:]))
        program = open_backend("onnxruntime").load(content, variant, "slice")
        program._is_for_one = False  # the first dimension is of frames here
        program.prepare({"x": values["x"]}, {"z": values["z"], "u": values["u"]})()
        found.append(values)
    assert all(np.array_equal(found[0][name], other[name]) for other in found[1:] for name in ("z", "u"))
    optimised = onnx.load_model_from_string(unpack(optimise(model)).model)
    (brought,) = [n for n in optimised.graph.node if n.op_type == "ReorderOutput" and n.output[0] != "u"]
    assert helper.get_node_attr_value(brought, "channels") == 32


def test_a_block_is_as_onnxruntime_lays_it_out():
    size = block_size()
    assert size in (8, 16)
    value = np.arange(2 * 3 * 32 * 5 * 7, dtype=np.float32).reshape(2, 3, 32, 5, 7)
    blocked = value.reshape(2, 3, 32 // size, size, 5, 7).transpose(0, 1, 2, 4, 5, 3).copy().reshape(value.shape)
    graph = OptimisedGraph(b"", {}, ("out.x",), size)
    assert np.array_equal(graph.plain("out.x", blocked), value)
    assert graph.plain("out.y", blocked) is blocked


@pytest.mark.parametrize("side", ["all but the first", "the first"])
def test_a_segment_that_does_not_play_along_is_found_by_the_proof(bundle, side):
    first = fused_segments(bundle.manifest, "fp32")[0]
    own = fuse(bundle, first, "fp32")

    def prepare(graph):
        return optimise(rewrite(graph), (graph == own) == (side == "the first"))

    clips = proof_clips(3, bundle.manifest.grid.num_frames, bundle.manifest.preprocessing)
    with pytest.raises(ProofError, match=r"segment2 \(fp32\)"):
        prove_fused(bundle, "fp32", clips, lambda _: None, prepare)
