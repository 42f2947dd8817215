"""Rewritten segments compute what the cells compute but for rounding; each rewrite does what it is for; a wrong one is found."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from samples import IN_TEMPORAL_ORDER, RESNET, TINY, UNSHIFTED

from dynvid.exporter.engines.makers import for_onnxruntime, preparation
from dynvid.exporter.engines.segment_graphs import EngineGraphs
from dynvid.exporter.graphs import im2col_frames as joining
from dynvid.exporter.graphs.fuse import fuse
from dynvid.exporter.graphs.im2col_frames import im2col_frames
from dynvid.exporter.graphs.rewrites import REWRITES, flatten_concats, one_video, rewrite, split_concats
from dynvid.exporter.graphs.shift import fold_shift, split_at_shift
from dynvid.exporter.graphs.slice_pushdown import slice_pushdown
from dynvid.exporter.proof.clips import proof_clips
from dynvid.exporter.proof.segment_equivalence import prove_fused
from dynvid.grid.errors import BackendError, ProofError
from dynvid.grid.segments import fused_full, fused_segments
from dynvid.runtime.backends.onnxruntime import session_options
from dynvid.runtime.backends.registry import open_backend

MIDDLE = {**RESNET, "shift": {"start_fold": 1, "div": 4}}
DEEP = {**TINY, "options": {**TINY["options"], "layers": [3, 3], "channels": 32}, "route": "1,0 1,1 3,1"}


def prove(bundle, precision="fp32", rewrites=REWRITES["onnxruntime"]):
    grid = bundle.manifest.grid
    clips = proof_clips(3, grid.num_frames, bundle.manifest.preprocessing)
    graphs = EngineGraphs(bundle, precision, lambda graph: for_onnxruntime(graph, rewrites))
    figures = prove_fused(graphs, clips)
    return max(*figures["checkpoints"], *figures["handed_on"], figures["full"])


def segments_of(bundle, precision="fp32"):
    return (*fused_segments(bundle.manifest, precision), fused_full(bundle.manifest, precision))


def rewritten(bundle, rewrites=REWRITES["onnxruntime"]):
    """Return the graphs of all segments by name."""
    return {
        s.name: onnx.load_model_from_string(rewrite(fuse(bundle, s, "fp32"), rewrites)).graph
        for s in segments_of(bundle)
    }


def count(graph, operator):
    return sum(node.op_type == operator for node in graph.node)


# what they compute


@pytest.mark.parametrize(
    "rewrites",
    [
        (one_video,),
        (fold_shift,),
        (split_concats,),
        (one_video, fold_shift),
        (one_video, split_concats),
        (one_video, fold_shift, slice_pushdown),
        (one_video, split_at_shift),
        (one_video, slice_pushdown, split_at_shift, fold_shift),
        REWRITES["onnxruntime"],
        REWRITES["openvino"],
    ],
    ids=lambda rewrites: " ".join(rewrite.__name__ for rewrite in rewrites),
)
def test_each_rewrite_is_within_the_bound(tiny_bundle, rewrites):
    largest = prove(tiny_bundle, rewrites=rewrites)
    assert largest <= 1e-5
    assert (largest > 0) == (rewrites != (one_video,))  # a sum in another order is rounded otherwise


@pytest.mark.parametrize("flavour", REWRITES)
@pytest.mark.parametrize(
    "config",
    [
        RESNET,
        MIDDLE,
        DEEP,
        UNSHIFTED,
        IN_TEMPORAL_ORDER,
        pytest.param({**TINY, "shift": {"enabled": False}}, marks=pytest.mark.full),
        pytest.param({**TINY, "head": {"style": "linear"}}, marks=pytest.mark.full),
        pytest.param({**TINY, "permutation": "none", "frames_per_set": 1}, marks=pytest.mark.full),
    ],
    ids=[
        "resnet",
        "a shift in the middle",
        "many layers",
        "no shift, a linear layer a checkpoint",
        "in temporal order, linear heads",
        "no shift",
        "linear heads",
        "in temporal order",
    ],
)
def test_other_networks_are_within_the_bound(exports, config, flavour):
    assert prove(exports.bundle(config), rewrites=REWRITES[flavour]) <= 1e-5


def test_half_precision_is_within_its_bound(tiny_bundle):
    assert 0 < prove(tiny_bundle, "fp16") <= 2e-2


# what each does


def test_one_video_has_ports_without_a_batch_and_no_reshape(tiny_bundle):
    for segment, graph in zip(segments_of(tiny_bundle), rewritten(tiny_bundle, (one_video,)).values(), strict=True):
        ports = [*graph.input, *graph.output]
        assert [port.name for port in ports] == [spec.name for spec in (*segment.inputs, *segment.outputs)]
        for port, spec in zip(ports, (*segment.inputs, *segment.outputs), strict=True):
            shape = [d.dim_value for d in port.type.tensor_type.shape.dim]
            assert shape == [1, *spec.shape[1:]][len(spec.shape) == 5 :]
        before = onnx.load_model_from_string(fuse(tiny_bundle, segment, "fp32")).graph
        assert count(before, "Reshape") > 2
        # the head's embeddings, [frames, width] to [1, frames, width]
        assert count(graph, "Reshape") <= 1 and count(graph, "Identity") == 0


def test_a_batch_that_an_operator_needs_stays(tiny_bundle):
    """An operator that is not known to do without: the ports are [1, frames, ...], the results the same."""
    segment = fused_segments(tiny_bundle.manifest, "fp32")[0]
    model = onnx.load_model_from_string(fuse(tiny_bundle, segment, "fp32"))
    graph = model.graph
    for node in graph.node:
        node.input[:] = ["twice" if name == "frames" else name for name in node.input]
    graph.node.insert(0, helper.make_node("Neg", ["minus"], ["twice"], "back"))
    graph.node.insert(0, helper.make_node("Neg", ["frames"], ["minus"], "there"))
    found = rewrite(model.SerializeToString(), REWRITES["onnxruntime"])
    (port,) = [p for p in onnx.load_model_from_string(found).graph.input if p.name == "frames"]
    assert [d.dim_value for d in port.type.tensor_type.shape.dim] == [1, *segment.inputs[0].shape[1:]]
    plain, odd = (
        run(segment, content)
        for content in (rewrite(fuse(tiny_bundle, segment, "fp32"), REWRITES["onnxruntime"]), found)
    )
    for name in plain:
        np.testing.assert_array_equal(plain[name], odd[name])


def test_the_shift_is_folded_into_every_convolution_that_reads_it(exports):
    for config in (RESNET, MIDDLE, TINY):
        bundle = exports.bundle(config)
        full, folded = (rewritten(bundle, r)["full"] for r in ((one_video,), (one_video, fold_shift)))
        shifts = len([s for block in bundle.manifest.subgraphs for s in block.states if block.kind == "block"])
        assert count(folded, "Conv") == count(full, "Conv") + shifts
        assert count(folded, "Concat") == count(full, "Concat") - shifts > -1


def channel_slices(graph):
    """Return how many nodes take channels of an image."""
    axes = {t.name: numpy_helper.to_array(t).ravel() for t in graph.initializer}
    slices = [node for node in graph.node if node.op_type == "Slice" and not node.name.startswith("head")]
    return sum(1 in axes[node.input[3]] for node in slices)


@pytest.mark.parametrize("config", [RESNET, MIDDLE], ids=["resnet", "a shift in the middle"])
def test_what_ends_a_residual_block_is_computed_in_two_and_its_channels_are_never_copied(exports, config):
    bundle = exports.bundle(config)
    folded, split = (
        rewritten(bundle, (one_video, *rewrites, slice_pushdown))["full"]
        for rewrites in ((fold_shift,), (split_at_shift, fold_shift))
    )
    assert channel_slices(folded) > channel_slices(split) == 1  # what the first block reads is pooled, no sum
    assert count(split, "Conv") > count(folded, "Conv")


def test_a_segment_that_sums_nothing_before_its_shift_stays_whole(exports):
    graphs = [rewritten(exports.bundle(RESNET), (one_video, *more))["segment2"] for more in ((), (split_at_shift,))]
    assert graphs[0].node == graphs[1].node


def copied(graph):
    """Return how many numbers are written by concatenations of channels."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    known = onnx.shape_inference.infer_shapes(model).graph
    sizes = {v.name: np.prod([d.dim_value for d in v.type.tensor_type.shape.dim]) for v in known.value_info}
    joins = [node for node in graph.node if node.op_type == "Concat" and node.attribute[0].i == 1]
    return sum(sizes[node.output[0]] for node in joins if node.output[0] in sizes)


def test_a_growing_concatenation_is_not_made(exports):
    bundle = exports.bundle(DEEP)
    before = (one_video, fold_shift)
    plain, split = (rewritten(bundle, rewrites)["full"] for rewrites in (before, (*before, split_concats)))
    assert 0 < copied(split) < copied(plain) / 2
    assert count(split, "Add") > count(plain, "Add") > 0


@pytest.mark.parametrize("rewrites", REWRITES.values(), ids=REWRITES)
@pytest.mark.parametrize("config", [TINY, RESNET, MIDDLE], ids=["msdnet", "resnet", "a shift in the middle"])
def test_the_same_graph_gives_the_same_bytes_and_nothing_unread(exports, config, rewrites):
    bundle = exports.bundle(config)
    for segment in segments_of(bundle):
        fused = fuse(bundle, segment, "fp32")
        found = rewrite(fused, rewrites)
        assert rewrite(fused, rewrites) == found
        graph = onnx.load_model_from_string(found).graph
        read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        assert {t.name for t in graph.initializer} | {n.output[0] for n in graph.node} <= read
        names = [node.name for node in graph.node]
        assert len(set(names)) == len(names) and all(names)


def concatenations(nodes, outputs):
    """Return a model of concatenations, (inputs, output, axis) each, of inputs a, b, c and d [1, 2, 3]."""
    made = [helper.make_node("Concat", i, [o], o, axis=axis) for i, o, axis in nodes]
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 2, 3]) for name in "abcd"]
    written = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(made, "joins", ports, written)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model).SerializeToString()


@pytest.mark.parametrize(
    ("nodes", "outputs", "wanted"),
    [
        ([("ab", "x", 1), ("xc", "y", 1), ("dy", "z", 1)], "z", {"z": "dabc"}),
        ([("ab", "x", 1), ("xc", "y", 1)], "xy", {"x": "ab", "y": "xc"}),
        ([("ab", "x", 1), ("xc", "y", 1), ("xd", "z", 1)], "yz", {"x": "ab", "y": "xc", "z": "xd"}),
        ([("ab", "x", 2), ("cd", "y", 2), ("xy", "z", 1)], "z", {"x": "ab", "y": "cd", "z": "xy"}),
        ([("ab", "x", 1), ("xx", "y", 1)], "y", {"x": "ab", "y": "xx"}),
    ],
    ids=["flat", "an output", "read twice", "another axis", "read twice by one"],
)
def test_a_concatenation_within_another_is_not_made(nodes, outputs, wanted):
    graph = onnx.load_model_from_string(rewrite(concatenations(nodes, outputs), (flatten_concats,))).graph
    assert {node.output[0]: "".join(node.input) for node in graph.node} == wanted


# slices of frames


def shifted(joins, takes, frames=4):
    """Return a model that slices what ``joins`` makes of in.x [frames, 8, 2, 3] and of a state; ``takes``: (start, stop) by output."""
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Slice", ["in.x", "c0", "c5", "one", "one"], ["some"], "channels"),
                joins,
                *(helper.make_node("Slice", ["joined", f"{n}0", f"{n}1", "zero", "one"], [n], n) for n in takes),
            ],
            "shift",
            [
                helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
                for name, shape in (("in.x", [frames, 8, 2, 3]), ("state", [2, 4, 2, 3]))
            ],
            [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in takes],
            [numpy_helper.from_array(np.ones((2, 4, 2, 3), np.float32), "constant")]
            + [
                numpy_helper.from_array(np.array(value, np.int64), name)
                for name, value in {
                    "c0": [1], "c5": [5], "one": [1], "zero": [0], "pads": [2, *[0] * 7], "odd": [2, 1, *[0] * 6],
                    **{f"{n}{end}": [bounds[end]] for n, bounds in takes.items() for end in (0, 1)},
                }.items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )  # fmt: skip
    return onnx.shape_inference.infer_shapes(model).SerializeToString()


WITH_STATE = helper.make_node("Concat", ["state", "some"], ["joined"], "join", axis=0)
WITH_ZEROS = helper.make_node("Pad", ["some", "pads"], ["joined"], "join")


@pytest.mark.parametrize(
    ("joins", "takes", "operators"),
    [
        (WITH_STATE, {"y": (0, -2), "z": (-2, 9)}, ["Slice", "Slice", "Concat"]),
        (WITH_ZEROS, {"y": (0, -2), "z": (-2, 9)}, ["Slice", "Slice", "Pad"]),
        (WITH_STATE, {"y": (1, 3)}, ["Slice", "Slice", "Concat"]),
        (WITH_ZEROS, {"y": (1, 3)}, ["Slice", "Pad"]),
        (WITH_STATE, {"y": (0, 1)}, ["Slice"]),
        (WITH_STATE, {"y": (3, 5)}, ["Slice"]),
        (helper.make_node("Concat", ["some", "state", "some"], ["joined"], axis=-4), {"y": (3, 7)}, ["Slice", "Slice", "Concat"]),
    ],
    ids=["as a shift", "as the first shift", "of both", "of both, zeros", "the state's", "the tensor's", "of three"],
)  # fmt: skip
def test_frames_are_taken_before_they_are_joined(joins, takes, operators):
    plain = shifted(joins, takes)
    found = rewrite(plain, (slice_pushdown,))
    graph = onnx.load_model_from_string(found).graph
    assert sorted(node.op_type for node in graph.node) == sorted(operators)
    assert all(node.input[0] in ("in.x", "state") for node in graph.node if node.op_type == "Slice")
    rng = np.random.default_rng(1)
    feeds = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in (("in.x", (4, 8, 2, 3)), ("state", (2, 4, 2, 3)))}  # fmt: skip
    before, after = (session_of(content).run([*takes], feeds) for content in (plain, found))
    for name, expected, value in zip(takes, before, after, strict=True):
        assert np.array_equal(value, expected), name


@pytest.mark.parametrize(
    ("joins", "takes", "frames"),
    [
        (WITH_STATE, {"y": (0, 9)}, 4),
        (WITH_ZEROS, {"y": (0, 9)}, 4),
        (WITH_ZEROS, {"y": (0, 1)}, 4),
        (WITH_ZEROS, {"y": (0, -1)}, "frames"),
        (helper.make_node("Concat", ["some", "some"], ["joined"], axis=2), {"y": (0, 1)}, 4),
        (helper.make_node("Concat", ["constant", "some"], ["joined"], axis=0), {"y": (0, 1)}, 4),
        (helper.make_node("Pad", ["some", "odd"], ["joined"]), {"y": (0, 3)}, 4),
        (helper.make_node("Pad", ["some", "pads"], ["joined"], mode="edge"), {"y": (0, 3)}, 4),
    ],
    ids=[
        "all",
        "all, with zeros",
        "zeros alone",
        "frames unknown",
        "rows joined",
        "a constant joined",
        "channels padded",
        "not zeros",
    ],
)
def test_another_slice_stays(joins, takes, frames):
    plain, found = (rewrite(shifted(joins, takes, frames), rewrites) for rewrites in ((), (slice_pushdown,)))
    assert onnx.load_model_from_string(found).graph.node == onnx.load_model_from_string(plain).graph.node


@pytest.mark.parametrize("config", [RESNET, MIDDLE, TINY])
def test_no_segment_takes_frames_of_what_it_has_joined(exports, config):
    bundle = exports.bundle(config)
    without, with_it = (one_video,), (one_video, slice_pushdown)
    assert prove(bundle, rewrites=with_it) == prove(bundle, rewrites=without)  # nothing is computed otherwise

    def taken(rewrites):
        """Return how many slices take frames of a tensor that was joined, in all segments."""
        found = 0
        for graph in rewritten(bundle, rewrites).values():
            joins = [n for n in graph.node if n.op_type == "Pad" or (n.op_type == "Concat" and not n.attribute[0].i)]
            joined = {n.output[0] for n in joins if "head" not in n.name}
            first = {t.name for t in graph.initializer if list(t.dims) == [1] and not numpy_helper.to_array(t)[0]}
            found += sum(n.op_type == "Slice" and n.input[0] in joined and n.input[3] in first for n in graph.node)
        return found

    assert taken(with_it) == 0 < taken(without)


# convolutions of all frames at once


def convolution(read, weight, relu=True, more=(), **attributes):
    """Return a model of one convolution, with a ReLU; ``more`` are also outputs."""
    rng = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(rng.standard_normal(weight, dtype=np.float32), "weight"),
        numpy_helper.from_array(rng.standard_normal(weight[0], dtype=np.float32), "bias"),
    ]
    nodes = [helper.make_node("Conv", ["in.x", "weight", "bias"], ["convolved"], "conv", **attributes)]
    nodes += [helper.make_node("Relu" if relu else "Neg", ["convolved"], ["out.y"], "after")]
    (port,) = [helper.make_tensor_value_info("in.x", onnx.TensorProto.FLOAT, read)]
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("out.y", *more)]
    graph = helper.make_graph(nodes, "one", [port], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model).SerializeToString()


def session_of(content):
    return onnxruntime.InferenceSession(
        content, session_options(onnxruntime, 1), providers=["CPUExecutionProvider"], enable_fallback=False
    )


def outputs_of(content, read):
    return session_of(content).run(None, {"in.x": np.random.default_rng(1).standard_normal(read, dtype=np.float32)})


@pytest.fixture
def however_small(monkeypatch):
    """Let convolutions be joined that have next to no weights."""
    monkeypatch.setattr(joining, "_MANY_BYTES", 1)


@pytest.mark.parametrize(
    ("read", "weight", "how"),
    [
        ((3, 4, 4, 4), (6, 4, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ((3, 4, 4, 4), (6, 4, 3, 3), {}),
        ((3, 4, 3, 5), (6, 4, 2, 3), {"pads": [0, 2, 1, 0], "strides": [2, 3]}),
        ((1, 4, 2, 2), (6, 4, 5, 5), {"pads": [2, 2, 2, 2]}),
        ((3, 4, 4, 4), (6, 4, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2], "relu": False}),
        ((3, 4, 4, 4), (6, 4, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2], "more": ["convolved"]}),
    ],
    ids=["as a head's", "no edges", "uneven", "one frame", "no ReLU", "read before the ReLU, too"],
)
def test_a_convolution_of_few_pixels_sees_all_frames_at_once(however_small, read, weight, how):
    plain = convolution(read, weight, **how)
    joined = rewrite(plain, (im2col_frames,))
    shapes = [list(t.dims)[2:] for t in onnx.load_model_from_string(joined).graph.initializer if len(t.dims) == 4]
    assert shapes == [[1, 1]]
    for expected, found in zip(outputs_of(plain, read), outputs_of(joined, read), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("read", "weight", "how"),
    [
        ((3, 4, 8, 8), (6, 4, 3, 3), {"pads": [1, 1, 1, 1]}),
        ((3, 4, 2, 2), (6, 4, 1, 1), {}),
        ((3, 4, 4, 4), (6, 2, 3, 3), {"group": 2}),
        ((3, 4, 4, 4), (6, 4, 2, 2), {"dilations": [2, 2]}),
        ((3, 4, 4, 4), (6, 4, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        (("batch", 4, 4, 4), (6, 4, 3, 3), {}),
    ],
    ids=["many pixels", "1x1", "grouped", "dilated", "padded by name", "frames unknown"],
)
def test_another_convolution_stays(however_small, read, weight, how):
    plain = convolution(read, weight, **how)
    assert rewrite(plain, (im2col_frames,)) == rewrite(plain, ())


def test_what_is_joined_follows_from_the_weights(monkeypatch):
    few, many = ((3, 4, size, size) for size in (4, 8))

    def joins(read):
        plain = convolution(read, (6, 4, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2])
        return rewrite(plain, (im2col_frames,)) != rewrite(plain, ())

    assert (joins(few), joins(many)) == (False, False)
    size = 6 * 4 * 9 * 4
    for name, wanted in (("_MANY_BYTES", (True, False)), ("_BYTES_OF_MEMORY", (True, True))):
        monkeypatch.setattr(joining, name, size)
        assert (joins(few), joins(many)) == wanted
        monkeypatch.setattr(joining, name, size + 1)
        assert (joins(few), joins(many)) == (False, False)


def test_the_heads_of_an_msdnet_are_joined(however_small, tiny_bundle):
    assert 0 < prove(tiny_bundle, rewrites=(one_video, im2col_frames)) <= 1e-5
    plain, joined = (rewritten(tiny_bundle, (one_video, *more))["full"] for more in ((), (im2col_frames,)))
    assert count(joined, "Gather") >= 2 and count(plain, "Gather") == 0
    assert count(joined, "Conv") == count(plain, "Conv")


# the proof sees them


def lose_a_channel(graph):
    name = next(n.input[1] for n in graph.nodes if n.op_type == "Conv" and ".without." in n.input[1])
    weight = numpy_helper.to_array(graph.constants[name]).copy()
    weight[:, -1] = 0
    graph.constants[name] = numpy_helper.from_array(weight, name)


def take_the_shift_of_another_place(graph):
    name = next(n.input[1] for n in graph.nodes if n.op_type == "Conv" and ".without." in n.input[1])
    weight = numpy_helper.to_array(graph.constants[name])
    graph.constants[name] = numpy_helper.from_array(np.ascontiguousarray(weight[:, ::-1]), name)


def see_another_pixel(graph):
    name = next(n.input[1] for n in graph.nodes if n.op_type == "Gather")
    graph.constants[name] = numpy_helper.from_array(np.roll(numpy_helper.to_array(graph.constants[name]), 1), name)


def take_the_channels_of_another_place(graph):
    for name in [n.input[1] for n in graph.nodes if n.op_type == "Conv" and ".0.but." in n.input[1]]:
        weight = numpy_helper.to_array(graph.constants[name])
        graph.constants[name] = numpy_helper.from_array(np.ascontiguousarray(weight[::-1]), name)


def test_a_wrong_split_is_found(however_small, exports):
    with pytest.raises(ProofError, match=r"\(fp32\)"):
        prove(exports.bundle(RESNET), rewrites=(one_video, split_at_shift, take_the_channels_of_another_place))


@pytest.mark.parametrize("fault", [lose_a_channel, take_the_shift_of_another_place, see_another_pixel])
def test_a_wrong_rewrite_is_found(however_small, tiny_bundle, fault):
    with pytest.raises(ProofError, match=r"segment1 \(fp32\)"):
        prove(tiny_bundle, rewrites=(one_video, fold_shift, im2col_frames, fault))


def test_each_backend_has_its_own_rewrites_and_tensorrt_keeps_the_fused_graph(exports):
    bundle = exports.bundle(RESNET)
    graph = fuse(bundle, fused_full(bundle.manifest, "fp32"), "fp32")
    assert (
        preparation("openvino")(graph)
        == rewrite(graph, REWRITES["openvino"])
        != rewrite(graph, REWRITES["onnxruntime"])
    )
    assert [preparation(flavour)(graph) == graph for flavour in ("tensorrt", "tensorrt-rtx")] == [True] * 2


# on onnxruntime


def run(segment, content, batch=1, spoil=lambda name, shape: shape):
    """Return the outputs of a segment on noise."""
    rng = np.random.default_rng(0)
    program = open_backend("onnxruntime").load(content, segment, segment.name)
    shapes = {s.name: spoil(s.name, s.concrete(batch, 1)) for s in (*segment.inputs, *segment.outputs)}
    inputs = {s.name: rng.standard_normal(shapes[s.name]).astype(s.dtype) for s in segment.inputs}
    outputs = {s.name: np.zeros(shapes[s.name], s.dtype) for s in segment.outputs}
    program.prepare(inputs, outputs)()
    return outputs


def test_videos_of_a_graph_for_one_run_in_turn(tiny_bundle):
    segment = fused_segments(tiny_bundle.manifest, "fp32")[0]
    fused = fuse(tiny_bundle, segment, "fp32")
    expected, found = (run(segment, content, batch=3) for content in (fused, rewrite(fused, REWRITES["onnxruntime"])))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-5 * values.std())
        assert not np.array_equal(found[name][0], found[name][1])


@pytest.mark.parametrize(
    ("port", "change"),
    [
        ("frames", lambda shape: (shape[0] + 1, *shape[1:])),
        ("frames", lambda shape: (shape[0], shape[1] * shape[2], *shape[3:])),
        ("out.block0.feature0", lambda shape: (shape[0], shape[2], shape[1], *shape[3:])),
    ],
    ids=["more videos", "frames joined to channels", "frames and channels swapped"],
)
def test_only_the_batch_may_be_left_out_of_a_port(tiny_bundle, port, change):
    segment = fused_segments(tiny_bundle.manifest, "fp32")[0]
    content = rewrite(fuse(tiny_bundle, segment, "fp32"), REWRITES["onnxruntime"])
    with pytest.raises(BackendError, match=rf"segment1: tensor of port {port} has shape .*, expected 2 times"):
        run(segment, content, 2, lambda name, shape: change(shape) if name == port else shape)


# big networks


@pytest.mark.full
@pytest.mark.parametrize("name", ["msdnet38", "resnet50"])
def test_the_rewritten_segments_of_big_networks_are_within_the_bounds(exports, name):
    bundle = exports.bundle({"network": name, "classes": 400, "route": "joint"}, ("fp32", "fp16"))
    assert 0 < prove(bundle) <= 1e-4
    assert 0 < prove(bundle, "fp16") <= 2e-2


@pytest.mark.full
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_rewritten_segments_of_the_demonstration_are_within_the_bounds(exports, precision):
    assert 0 < prove(exports.demonstration(), precision) <= {"fp32": 1e-4, "fp16": 2e-2}[precision]
