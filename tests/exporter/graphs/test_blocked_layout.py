"""Features pass between segments in the blocked layout: fewer copies, the same bits, and a segment that does not play along is found."""

from functools import partial

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from samples import RESNET, TINY

from dynvid.benchmarks.measure.contestants import halved
from dynvid.exporter.engines.makers import for_onnxruntime
from dynvid.exporter.engines.segment_graphs import EngineGraphs
from dynvid.exporter.graphs.blocked_layout import block_size, use_blocked_layout
from dynvid.exporter.graphs.fuse import fuse
from dynvid.exporter.graphs.graph import Graph
from dynvid.exporter.graphs.optimise import optimise
from dynvid.exporter.graphs.rewrites import REWRITES, rewrite
from dynvid.exporter.proof.clips import proof_clips
from dynvid.exporter.proof.segment_equivalence import prove_fused
from dynvid.exporter.split.bundle_builder import BundleBuilder
from dynvid.grid.errors import ProofError
from dynvid.grid.manifest import Variant
from dynvid.grid.segments import fused_segments
from dynvid.grid.tensors import TensorSpec
from dynvid.runtime.backends.optimised_graph import OptimisedGraph, unpack
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.execution.executor import Executor
from dynvid.runtime.session import ArraySource

# features of 16, 32 or 64 channels at some ports, and of other numbers at others
NETWORKS = {
    "resnet": RESNET,
    "msdnet": {**TINY, "options": {**TINY["options"], "channels": 32, "growth": 16}},
}


@pytest.fixture(params=NETWORKS)
def bundle(request, exports):
    return exports.bundle(NETWORKS[request.param])


def graphs(bundle, blocked):
    """Return the optimised graph of each segment of the route."""
    segments = fused_segments(bundle.manifest, "fp32")
    return {s: optimise(rewrite(fuse(bundle, s, "fp32"), REWRITES["onnxruntime"]), blocked) for s in segments}


def run(bundle, plans):
    """Return the outputs of every segment for one clip, in the plain layout."""
    grid = bundle.manifest.grid
    (clip,) = proof_clips(1, grid.num_frames, bundle.manifest.preprocessing)
    executor, found = Executor(bundle, open_backend("onnxruntime"), "fp32", plans.__getitem__), []
    for at, plan in zip(executor.walk([ArraySource(clip)]), plans.values(), strict=True):
        outputs = {"logits": at.logits, "probabilities": at.probabilities, **executor.store.read(at.index, at.slots)}
        found.append({port: unpack(plan).plain(port, value) for port, value in outputs.items()})
    return found


def test_blocked_or_plain_the_segments_give_the_same_bits(bundle):
    plain, blocked = graphs(bundle, False), graphs(bundle, True)
    ports = [port for plan in blocked.values() for port in unpack(plan).blocked]
    assert ports and {p.split(".")[0] for p in ports} == {"in", "out"}
    for expected, found in zip(run(bundle, plain), run(bundle, blocked), strict=True):
        assert expected.keys() == found.keys()
        for port, value in expected.items():
            assert np.array_equal(found[port], value), port


def test_features_in_whole_blocks_are_blocked_at_both_ends_and_no_others(bundle):
    for segment, plan in graphs(bundle, True).items():
        ports = (*segment.inputs, *segment.outputs)
        wanted = {s.name for s in ports if ".feature" in s.name and s.shape[2] % 16 == 0}
        assert set(unpack(plan).blocked) == wanted


def without(executor, clip):
    """Return what the last segment of an executor writes for a clip: features or answers."""
    for _ in executor.walk([ArraySource(clip)]):
        pass
    return [value.copy() for value in executor._on_row[len(executor.segments), 0].answers]


def test_segments_without_heads_and_halves_give_the_same_bits(bundle):
    grid, backend = bundle.manifest.grid, open_backend("onnxruntime")
    (clip,) = proof_clips(1, grid.num_frames, bundle.manifest.preprocessing)
    for options in ({"heads": False}, {"route": halved(bundle.manifest.route.full)}):
        plain, blocked = (
            without(Executor(bundle, backend, "fp32", partial(made, bundle, b), **options), clip) for b in (False, True)
        )
        assert plain and all(map(np.array_equal, blocked, plain))


def made(bundle, blocked, segment):
    return optimise(rewrite(fuse(bundle, segment, "fp32"), REWRITES["onnxruntime"]), blocked)


@pytest.mark.parametrize("place", [1, 2])
def test_a_segment_that_keeps_its_batch_takes_and_gives_features_blocked_as_well(bundle, place):
    """Two negations of a feature with its batch: ``one_video`` leaves the batch where it is, so ports are [1, frames, ...]."""
    segment = fused_segments(bundle.manifest, "fp32")[place]
    own = fuse(bundle, segment, "fp32")
    kept = []

    def prepare(graph):
        if graph != own:
            return optimise(rewrite(graph, REWRITES["onnxruntime"]))
        model = onnx.load_model_from_string(graph)
        name = next(spec.name for spec in segment.inputs if len(spec.shape) == 5)
        for node in model.graph.node:
            node.input[:] = ["twice" if tensor == name else tensor for tensor in node.input]
        model.graph.node.insert(0, helper.make_node("Neg", ["minus"], ["twice"], "back"))
        model.graph.node.insert(0, helper.make_node("Neg", [name], ["minus"], "there"))
        kept.append(optimise(rewrite(model.SerializeToString(), REWRITES["onnxruntime"])))
        return kept[-1]

    clips = proof_clips(3, bundle.manifest.grid.num_frames, bundle.manifest.preprocessing)
    figures = prove_fused(EngineGraphs(bundle, "fp32", prepare), clips)
    assert max(*figures["checkpoints"], *figures["handed_on"]) <= 1e-5
    ports = onnx.load_model_from_string(unpack(kept[0]).model).graph
    shapes = {v.name: len(v.type.tensor_type.shape.dim) for v in (*ports.input, *ports.output)}
    assert unpack(kept[0]).blocked and {shapes[port] for port in unpack(kept[0]).blocked} == {5}


@pytest.mark.parametrize("kept", [("block0", "head0"), ("block1", "head1"), ("block0",), ("block1",)])
def test_bundles_of_mixed_precision_are_within_the_bound(exports, kept):
    draft = BundleBuilder(exports.network(NETWORKS["msdnet"]), "0" * 64)
    draft.add("fp32")
    draft.add("fp16", kept)
    bundle = draft.bundle()
    clips = proof_clips(3, bundle.manifest.grid.num_frames, bundle.manifest.preprocessing)
    figures = prove_fused(EngineGraphs(bundle, "fp16", for_onnxruntime), clips)
    assert 0 < max(figures["checkpoints"]) <= 2e-2


def test_what_is_brought_into_another_layout_is_less(bundle):
    def channels(plans):
        """Return the channels of all tensors that are brought into the plain layout, whole tensors or parts."""
        models = [onnx.load_model_from_string(unpack(plan).model) for plan in plans.values()]
        nodes = [node for model in models for node in model.graph.node if node.op_type == "ReorderOutput"]
        return sum(helper.get_node_attr_value(node, "channels") for node in nodes)

    plain, blocked = (channels(graphs(bundle, blocked)) for blocked in (False, True))
    assert blocked < plain


def test_whole_blocks_are_taken_from_a_blocked_tensor_and_the_rest_cut_off():
    """A slice of channels 20 to 40 of 64 takes 16 to 48 blocked, brings 16 to 40 into the plain layout, and cuts out."""
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
    assert helper.get_node_attr_value(brought, "channels") == 24  # 16 to 40; the rest of the block stays behind


def test_a_block_is_as_onnxruntime_lays_it_out():
    size = block_size()
    assert size in (8, 16)
    value = np.arange(2 * 3 * 32 * 5 * 7, dtype=np.float32).reshape(2, 3, 32, 5, 7)
    blocked = value.reshape(2, 3, 32 // size, size, 5, 7).transpose(0, 1, 2, 4, 5, 3).copy().reshape(value.shape)
    graph = OptimisedGraph(b"", {}, ("out.x",), size)
    assert np.array_equal(graph.plain("out.x", blocked), value)
    assert graph.plain("out.y", blocked) is blocked


def small(nodes, constants, ports):
    """Return the model of some nodes and its ports: the first is the input."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ports.items()]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "small", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    specs = [TensorSpec(name, "float32", tuple(shape)) for name, shape in ports.items()]
    return model.SerializeToString(), Variant("", "", 0, (specs[0],), tuple(specs[1:]))


def outputs(content, variant, blocked):
    """Return what a small model computes, optimised, in the plain layout."""
    plan = optimise(content, blocked)
    values = {s.name: np.zeros(s.shape, np.float32) for s in (*variant.inputs, *variant.outputs)}
    rng = np.random.default_rng(0)
    for spec in variant.inputs:
        values[spec.name][:] = rng.standard_normal(spec.shape)
    program = open_backend("onnxruntime").load(plan, variant, "small")
    found = program._session.run(None, {spec.name: values[spec.name] for spec in variant.inputs})
    graph = unpack(plan)
    return [graph.plain(s.name, v[None])[0] for s, v in zip(variant.outputs, found, strict=True)]


def test_a_tensor_with_channels_last_is_left_alone():
    """Slices of axis 1 are of the height there."""
    weight = np.random.default_rng(0).standard_normal((32, 16, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[1, 1]),
        helper.make_node("Transpose", ["y"], ["t"], perm=[0, 2, 3, 1]),
        helper.make_node("Slice", ["t", "a", "b", "c", "c"], ["z"]),
    ]
    ends = {name: np.array([n], np.int64) for name, n in (("a", 1), ("b", 3), ("c", 1))}
    model = small(nodes, {"w": weight, **ends}, {"x": [2, 16, 5, 7], "z": [2, 2, 7, 32]})
    for plain, blocked in zip(outputs(*model, False), outputs(*model, True), strict=True):
        assert np.array_equal(plain, blocked)


def test_one_tensor_behind_two_features_and_an_input_handed_on_as_it_is():
    weight = np.random.default_rng(0).standard_normal((32, 16, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["in.block0.feature0", "w"], ["y"], kernel_shape=[1, 1]),
        *(helper.make_node("Identity", ["y"], [f"out.block1.feature{n}"]) for n in (0, 1)),
        helper.make_node("Identity", ["in.block0.feature0"], ["out.block0.feature0"]),
    ]
    ports = {
        "in.block0.feature0": [2, 16, 5, 7],
        "out.block1.feature0": [2, 32, 5, 7],
        "out.block1.feature1": [2, 32, 5, 7],
        "out.block0.feature0": [2, 16, 5, 7],
    }
    content, variant = small(nodes, {"w": weight}, ports)
    assert len(unpack(optimise(content)).blocked) == 4
    first, second, through = outputs(content, variant, True)
    rng = np.random.default_rng(0)
    value = rng.standard_normal((2, 16, 5, 7)).astype(np.float32)  # a blocked input, as it lies in memory
    x = OptimisedGraph(b"", {}, ("x",), block_size()).plain("x", value[None])[0]
    assert np.array_equal(first, second) and np.array_equal(through, x)
    np.testing.assert_allclose(first, np.einsum("oi,fihw->fohw", weight[:, :, 0, 0], x), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("operator", "numbers", "attributes", "written", "stays"),
    [
        ("Pad", [[1, 0, 0, 0, 0, 0, 0, 0]], {}, [5, 32, 5, 7], True),
        ("Pad", [[-1, 0, 0, 0, 0, 0, 0, 0]], {}, [3, 32, 5, 7], True),
        ("Pad", [[1, 0, 0, 0, 0, 0, 0, 0]], {"mode": "edge"}, [5, 32, 5, 7], False),
        ("Pad", [[0, 16, 0, 0, 0, 0, 0, 0]], {}, [4, 48, 5, 7], False),
        ("Pad", [[0, 0, -1, 0, 0, 0, 0, 0]], {}, [4, 32, 4, 7], False),
        ("Slice", [[0, 0], [2, 16], [0, 1], [1, 1]], {}, [2, 16, 5, 7], True),
        ("Slice", [[0, 0], [4, 16], [2, 1], [1, 1]], {}, [4, 16, 4, 7], False),
        ("Slice", [[0, 0], [2, 16], [0, 1], [1, 2]], {}, [2, 8, 5, 7], False),
        ("Concat", [], {"axis": 0}, [8, 32, 5, 7], True),
        ("Concat", [], {"axis": 2}, [4, 32, 10, 7], False),
    ],
)
def test_what_is_the_same_in_either_layout_stays_blocked(operator, numbers, attributes, written, stays):
    """Between two convolutions: whether all 32 channels are brought into the plain layout."""
    rng = np.random.default_rng(0)
    constants = {f"n{place}": np.array(value) for place, value in enumerate(numbers)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[1, 1]),
        helper.make_node(operator, ["state", "y"] if operator == "Concat" else ["y", *constants], ["z"], **attributes),
        helper.make_node("Conv", ["z", "v"], ["u"], kernel_shape=[1, 1]),
    ]
    frames, channels, *size = written
    constants |= {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in {"w": (32, 16, 1, 1), "v": (16, channels, 1, 1), "state": (4, 32, 5, 7)}.items()
    }
    model = small(nodes, constants, {"x": [4, 16, 5, 7], "u": [frames, 16, *size]})
    (plain,), (blocked,) = outputs(*model, False), outputs(*model, True)
    assert np.array_equal(blocked, plain)
    graph = onnx.load_model_from_string(unpack(optimise(model[0])).model).graph
    brought = [helper.get_node_attr_value(n, "channels") for n in graph.node if n.op_type == "ReorderOutput"]
    assert (32 not in brought) == stays


def test_channels_that_fill_no_block_are_joined_in_the_plain_layout():
    """As on processors whose blocks are of 8: there 24 channels are brought back, and those of a slice were 32."""
    nodes = [
        helper.make_node("ReorderInput", ["x"], ["blocked"], domain="com.microsoft.nchwc"),
        helper.make_node("ReorderOutput", ["blocked"], ["plain"], domain="com.microsoft.nchwc", channels=32),
        helper.make_node("Slice", ["plain", "a", "b", "c", "c"], ["some"]),
        helper.make_node("Concat", ["some", "some"], ["joined"], axis=0),
        helper.make_node("ReorderInput", ["joined"], ["y"], domain="com.microsoft.nchwc"),
    ]
    for stop, inputs in ((24, "some"), (16, "plain.blocked-0-16")):
        constants = {name: np.array([n]) for name, n in (("a", 0), ("b", stop), ("c", 1))}
        content, _ = small(nodes, constants, {"x": [2, 32, 5, 7], "y": [4, stop, 5, 7]})
        graph = Graph.read(content)
        use_blocked_layout(graph)
        assert [list(n.input) for n in graph.nodes if n.op_type == "Concat"] == [[inputs] * 2]


def test_the_same_channels_of_other_frames_are_other_tensors():
    weight = np.random.default_rng(0).standard_normal((32, 16, 1, 1)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[1, 1])]
    bounds = {"first": ([0, 0], [2, 8]), "rest": ([2, 0], [4, 8]), "again": ([2, 0], [4, 7])}
    constants = {"w": weight, "axes": np.array([0, 1]), "steps": np.array([1, 1])}
    for name, ends in bounds.items():
        constants |= {f"{name}.{n}": np.array(end) for n, end in enumerate(ends)}
        nodes.append(helper.make_node("Slice", ["y", f"{name}.0", f"{name}.1", "axes", "steps"], [name]))
    shapes = {"x": [4, 16, 5, 7], "first": [2, 8, 5, 7], "rest": [2, 8, 5, 7], "again": [2, 7, 5, 7]}
    model = small(nodes, constants, shapes)
    for plain, blocked in zip(outputs(*model, False), outputs(*model, True), strict=True):
        assert np.array_equal(plain, blocked)
    graph = onnx.load_model_from_string(unpack(optimise(model[0])).model).graph
    assert sum(node.op_type == "Slice" for node in graph.node) == 2  # of each frame's first block, once


@pytest.mark.parametrize("side", ["all but the first", "the first"])
def test_a_segment_that_does_not_play_along_is_found_by_the_proof(bundle, side):
    first = fused_segments(bundle.manifest, "fp32")[0]
    own = fuse(bundle, first, "fp32")

    def prepare(graph):
        return optimise(rewrite(graph, REWRITES["onnxruntime"]), (graph == own) == (side == "the first"))

    clips = proof_clips(3, bundle.manifest.grid.num_frames, bundle.manifest.preprocessing)
    with pytest.raises(ProofError, match=r"segment2 \(fp32\)"):
        prove_fused(EngineGraphs(bundle, "fp32", prepare), clips)
