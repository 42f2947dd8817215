"""Fused segments compute what the cells compute, bit for bit in fp32; a fault in one is found."""

import dataclasses
import hashlib
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.utils import Extractor
from samples import IN_TEMPORAL_ORDER, TINY, TWO_BLOCKS, UNSHIFTED, every_monotone_route

from dynvid.exporter.engines import segment_graphs as engine_graphs
from dynvid.exporter.engines.segment_graphs import EngineGraphs
from dynvid.exporter.graphs.fuse import fuse
from dynvid.exporter.proof.clips import proof_clips
from dynvid.exporter.proof.segment_equivalence import prove_fused
from dynvid.exporter.split.bundle_builder import BundleBuilder
from dynvid.grid.bundle import Bundle
from dynvid.grid.errors import HashError, LintError, ProofError
from dynvid.grid.segments import fused_full, fused_segments

NETWORKS = {name: {"network": name, "classes": 400, "route": "joint"} for name in ("msdnet38", "resnet50")}


def clips_of(bundle, count=3):
    return proof_clips(count, bundle.manifest.grid.num_frames, bundle.manifest.preprocessing)


def prove(bundle, precision="fp32", count=3):
    return prove_fused(EngineGraphs(bundle, precision), clips_of(bundle, count))


def on_route(bundle, cells, linked=True):
    """Return the bundle with another route and another border; its subgraphs fit them all."""
    manifest = bundle.manifest
    grid = dataclasses.replace(manifest.grid, groups_linked=linked)
    heads = tuple(f"head{block}" for _, block in cells)
    cells = tuple((n, m) for n, m in cells)
    return dataclasses.replace(
        bundle, manifest=dataclasses.replace(manifest, grid=grid, route_cells=cells, heads=heads, proof={})
    )


def segments_of(bundle, precision="fp32"):
    return (*fused_segments(bundle.manifest, precision), fused_full(bundle.manifest, precision))


def graphs_of(bundle, precision="fp32"):
    return {
        s.name: onnx.load_model_from_string(fuse(bundle, s, precision)).graph for s in segments_of(bundle, precision)
    }


def largest(figures):
    return max(*figures["checkpoints"], *figures["handed_on"], figures["full"])


# what they compute


def routes_of(bundle, sets, blocks):
    """Return every route of the first input sets and blocks."""
    grid = bundle.manifest.grid
    return [r for r in every_monotone_route(grid) if r.cells[-1] <= (sets - 1, blocks) and max(r.head_blocks) < blocks]


@pytest.mark.parametrize(("linked", "sets", "count"), [(True, 2, 11), (False, 3, 31)])
def test_on_every_route_of_a_small_grid_fused_equals_cells_to_the_last_bit(tiny_bundle, linked, sets, count):
    """2 blocks; where the groups part, the border lies after set 2."""
    routes = routes_of(tiny_bundle, sets, 2)
    assert len(routes) == count and tiny_bundle.manifest.grid.input_sets == 4
    for route in routes:
        assert largest(prove(on_route(tiny_bundle, route.cells, linked), count=1)) == 0.0


@pytest.mark.full
@pytest.mark.parametrize("linked", [True, False])
def test_on_every_route_of_the_whole_grid_fused_equals_cells_to_the_last_bit(tiny_bundle, linked):
    routes = routes_of(tiny_bundle, 4, 3)
    assert len(routes) == len(every_monotone_route(tiny_bundle.manifest.grid)) > 300
    for route in routes:
        assert largest(prove(on_route(tiny_bundle, route.cells, linked), count=1)) == 0.0


TOGETHER = {
    "no shift, a linear layer a checkpoint": UNSHIFTED,
    "in temporal order, linear heads": IN_TEMPORAL_ORDER,
    "stride 3": {**TWO_BLOCKS, "groups_linked": True, "shift": {"stride": 3}},
}
ALONE = {
    "a linear layer a checkpoint": {**TINY, "head": {"width": 8, "share_classifier": False}},
    "linear heads": {**TINY, "head": {"style": "linear"}},
    "no shift": {**TINY, "shift": {"enabled": False}},
    "in temporal order": {**TINY, "permutation": "none", "frames_per_set": 1},
}


@pytest.mark.parametrize(
    "config", [*TOGETHER.values(), *(pytest.param(c, marks=pytest.mark.full) for c in ALONE.values())],
    ids=[*TOGETHER, *ALONE],
)  # fmt: skip
def test_other_configurations_fuse_to_the_last_bit(exports, config):
    assert largest(prove(exports.bundle(config))) == 0.0


def test_half_precision_stays_within_its_bound(tiny_bundle):
    figures = prove(tiny_bundle, "fp16")
    assert len(figures["checkpoints"]) == len(figures["handed_on"]) == 4
    assert largest(figures) <= min(figures["bounds"]) == max(figures["bounds"]) == 2e-2


# what they hold


@pytest.mark.parametrize("linked", [True, False])
def test_all_that_a_graph_holds_is_read(tiny_bundle, linked):
    bundle = on_route(tiny_bundle, [(1, 0), (1, 1), (2, 2), (3, 2)], linked)
    for segment in segments_of(bundle):
        graph = onnx.load_model_from_string(fuse(bundle, segment, "fp32")).graph
        assert [v.name for v in graph.input] == [s.name for s in segment.inputs]
        assert [v.name for v in graph.output] == [s.name for s in segment.outputs]
        read = {name for node in graph.node for name in node.input}
        written = [name for node in graph.node for name in node.output]
        assert len(set(written)) == len(written)
        assert {v.name for v in (*graph.input, *graph.initializer)} <= read
        assert set(written) <= read | {v.name for v in graph.output}
        names = [node.name for node in graph.node]
        assert len(set(names)) == len(names) and all(names)


def test_spans_of_a_block_share_its_weights(tiny_bundle):
    def weights(graph):
        return sorted(t.name for t in graph.initializer if len(t.dims) == 4)

    def convolutions(graph):
        return sum(node.op_type == "Conv" for node in graph.node)

    one, two = (graphs_of(on_route(tiny_bundle, [(3, 2)], linked))["full"] for linked in (True, False))
    assert weights(one) == weights(two) and len(set(weights(one))) == len(weights(one)) > 6
    # the head, two convolutions of conv style, runs once
    assert convolutions(two) - 2 == 2 * (convolutions(one) - 2)


def test_only_the_batch_is_dynamic(tiny_bundle):
    for graph in graphs_of(tiny_bundle).values():
        assert not [node for node in graph.node if node.op_type in ("Shape", "Gather", "Expand", "Cast")]
        constants = {t.name: numpy_helper.to_array(t).tolist() for t in graph.initializer}
        assert all(node.input[1] in constants for node in graph.node if node.op_type == "Reshape")


def test_a_block_reads_the_rows_that_the_block_before_wrote(tiny_bundle):
    """No reshape to frames at the end of one and back to rows at the start of the other."""
    graph = graphs_of(tiny_bundle)["full"]
    for block in (1, 2):
        crossing = [
            n for n in graph.node if n.name.startswith(f"block{block}.") and f"block{block - 1}.0-4/" in str(n.input)
        ]
        assert crossing and all(node.op_type != "Reshape" for node in crossing)
    reshapes = {node.output[0] for node in graph.node if node.op_type == "Reshape"}
    assert not [node for node in graph.node if node.op_type == "Reshape" and node.input[0] in reshapes]


def test_what_nobody_reads_is_left_out(tiny_bundle):
    """A route that ends on block 0: its head reads the coarse scale, and nobody the fine one."""
    bundle = on_route(tiny_bundle, [(1, 0), (3, 0)])
    variant = bundle.manifest.subgraph("block0").variant("fp32")
    block = onnx.load_model_from_string(bundle.read(variant))
    coarse = [spec.name for spec in variant.outputs if "feature" in spec.name][-1]
    needed = Extractor(block).extract_model([v.name for v in block.graph.input], [coarse]).graph
    weights = {f"block0/{t.name}" for t in needed.initializer if len(t.dims) == 4}
    assert len(weights) < len([t for t in block.graph.initializer if len(t.dims) == 4])
    for graph in graphs_of(bundle).values():
        assert {t.name for t in graph.initializer if t.name.startswith("block0/") and len(t.dims) == 4} == weights
        assert all("feature" not in value.name for value in (*graph.input, *graph.output))


@pytest.mark.parametrize("name", ["segment1", "segment3", "full"])
def test_the_same_bundle_gives_the_same_bytes_and_they_name_no_place(tiny_bundle, name):
    segment = next(s for s in segments_of(tiny_bundle) if s.name == name)
    content = fuse(tiny_bundle, segment, "fp32")
    assert fuse(tiny_bundle, segment, "fp32") == content
    assert b"/home" not in content and b"/root" not in content and b".py" not in content
    model = onnx.load_model_from_string(content)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
    assert model.producer_name == "dynvid" and not model.metadata_props and not model.graph.value_info
    assert all(not n.metadata_props and not n.doc_string for n in model.graph.node)


def types_of(graph):
    """Return the dtypes of all floating-point tensors by the part that writes them."""
    known = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
    values = {v.name: v.type.tensor_type.elem_type for v in (*known.graph.value_info, *known.graph.output)}
    found = {}
    for node in graph.node:
        for name in node.output:
            if values[name] in (TensorProto.FLOAT, TensorProto.FLOAT16):
                found.setdefault(node.name.split("/")[0].split(".")[0], set()).add(values[name])
    return found


def test_half_precision_graphs_keep_their_dtypes(tiny_bundle):
    for graph in graphs_of(tiny_bundle, "fp16").values():
        for part, dtypes in types_of(graph).items():
            if part.startswith("block"):
                assert dtypes == {TensorProto.FLOAT16}
        for tensor in graph.initializer:
            if "linear" in tensor.name or tensor.name == "frame_weights":
                assert tensor.data_type == TensorProto.FLOAT
            elif len(tensor.dims) == 4:
                assert tensor.data_type == TensorProto.FLOAT16


def test_a_block_kept_in_fp32_is_fused_in_fp32(exports):
    draft = BundleBuilder(exports.network(TWO_BLOCKS), "0" * 64)
    draft.add("fp32")
    draft.add("fp16", ["block0"])
    bundle = draft.bundle()
    types = types_of(graphs_of(bundle, "fp16")["full"])
    assert types["block0"] == {TensorProto.FLOAT} and TensorProto.FLOAT16 in types["block1"]
    assert largest(prove(bundle, "fp16")) <= 2e-2


# what is refused


def changed(bundle, name, change):
    """Return the bundle with the fp32 graph of one subgraph changed."""
    subgraph = bundle.manifest.subgraph(name)
    files = {v.file: bundle.read(v) for s in bundle.manifest.subgraphs for v in s.variants.values()}
    variant = subgraph.variant("fp32")
    model = onnx.load_model_from_string(files[variant.file])
    change(model.graph)
    content = model.SerializeToString()
    variant = dataclasses.replace(variant, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    subgraphs = tuple(
        dataclasses.replace(s, variants={**s.variants, "fp32": variant}) if s.name == name else s
        for s in bundle.manifest.subgraphs
    )
    manifest = dataclasses.replace(bundle.manifest, subgraphs=subgraphs)
    return Bundle(bundle.root, manifest, "", {**files, variant.file: content})


def state_of(graph):
    (port,) = [i.name for i in graph.input if i.name.startswith("state_in")]
    return port


def copy_state(graph):
    rewire(graph, state_of(graph), "copied")
    graph.node.insert(0, helper.make_node("Identity", [state_of(graph)], ["copied"], "node_odd"))


def add_to_state(graph):
    graph.initializer.append(numpy_helper.from_array(np.float32(0), "nothing"))
    rewire(graph, state_of(graph), "sum")
    graph.node.insert(0, helper.make_node("Add", [state_of(graph), "nothing"], ["sum"], "node_odd"))


def join_state_last(graph):
    node = next(n for n in graph.node if n.op_type == "Concat" and state_of(graph) in n.input)
    node.input[:], node.name = node.input[::-1], "node_odd"


def join_in_two_pieces(graph):
    node = next(n for n in graph.node if n.op_type == "Concat" and state_of(graph) in n.input)
    new, place = node.input[1], list(graph.node).index(node)
    for name, value in {"zero": 0, "one": 1, "all": 99}.items():
        graph.initializer.append(numpy_helper.from_array(np.array([value]), name))
    graph.node.insert(place, helper.make_node("Slice", [new, "zero", "one", "one"], ["first"]))
    graph.node.insert(place, helper.make_node("Slice", [new, "one", "all", "one"], ["others"]))
    node.input[1:], node.name = ["first", "others"], "node_odd"


@pytest.mark.parametrize("change", [copy_state, add_to_state, join_state_last, join_in_two_pieces])
def test_a_state_that_is_read_in_another_way_is_refused(tiny_bundle, change):
    odd = changed(tiny_bundle, "block1", change)
    first, second, *_ = fused_segments(odd.manifest, "fp32")
    fuse(odd, first, "fp32")
    with pytest.raises(LintError, match=r"block1\.0-2: operator \w+ \(node_odd\) reads the state state_in\.1"):
        fuse(odd, second, "fp32")


def test_a_reshape_that_writes_an_output_stays(tiny_bundle):
    """A block that hands rows on as frames, back and forth: only what no port names is left out."""

    def back_and_forth(graph):
        out = graph.output[0]
        rows = [d.dim_value for d in out.type.tensor_type.shape.dim][2:]
        graph.initializer.append(numpy_helper.from_array(np.array([-1, *rows]), "rows"))
        graph.node.append(helper.make_node("Shape", ["plain"], ["same"]))
        for node in graph.node:
            node.output[:] = ["bare" if name == out.name else name for name in node.output]
        graph.node.insert(len(graph.node) - 1, helper.make_node("Relu", ["bare"], ["plain"]))
        graph.node.append(helper.make_node("Reshape", ["plain", "rows"], ["forth"]))
        graph.node.append(helper.make_node("Reshape", ["forth", "same"], [out.name]))

    bundle = changed(tiny_bundle, "block0", back_and_forth)
    nodes = graphs_of(bundle)["segment1"].node
    (last,) = [node for node in nodes if "out.block0.feature0" in node.output]
    assert last.op_type == "Reshape"
    assert largest(prove(bundle)) == 0.0


def test_cells_that_do_not_fit_together_are_refused(tiny_bundle):
    def other_size(graph):
        """A block for three frames only."""
        node = next(n for n in graph.node if n.op_type == "Reshape" and n.input[0] in [i.name for i in graph.input])
        graph.initializer.append(
            numpy_helper.from_array(
                np.array(
                    [3, *numpy_helper.to_array(next(t for t in graph.initializer if t.name == node.input[1]))[1:]]
                ),
                "three",
            )
        )
        node.input[1] = "three"

    odd = changed(tiny_bundle, "block0", other_size)
    with pytest.raises(LintError, match=r"cells do not fit together: .*\. Export again\."):
        fuse(odd, segments_of(odd)[0], "fp32")


def test_a_changed_file_is_refused(tiny_bundle):
    variant = tiny_bundle.manifest.subgraph("block0").variant("fp32")
    files = {v.file: tiny_bundle.read(v) for s in tiny_bundle.manifest.subgraphs for v in s.variants.values()}
    held = dataclasses.replace(tiny_bundle, held={**files, variant.file: files[variant.file] + b"\0"})
    with pytest.raises(HashError, match="has changed since export"):
        fuse(held, segments_of(held)[0], "fp32")


# what the proof sees


def rewire(graph, old, new):
    """Let every node that reads ``old`` read ``new``."""
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


def lose_state(graph):
    port = next(i.name for i in graph.input if ".state." in i.name)
    graph.initializer.append(numpy_helper.from_array(np.float32(0), "nothing"))
    rewire(graph, port, "lost")
    graph.node.insert(0, helper.make_node("Mul", [port, "nothing"], ["lost"]))


def swap_frames(graph):
    """Join the new frames before those that waited."""
    node = next(n for n in graph.node if n.op_type == "Concat" and re.match(r"in\..*feature", n.input[0]))
    node.input[:] = node.input[::-1]


def slice_a_set_late(graph):
    """Start the second span of a block one set too late."""
    node = next(n for n in graph.node if n.op_type == "Slice" and n.input[0] == "frames" and n.input[1] == "int64.4")
    graph.initializer.append(numpy_helper.from_array(np.array([2]), "two"))
    graph.initializer.append(numpy_helper.from_array(np.array([6]), "six"))
    node.input[1], node.input[2] = "two", "six"


def swap_states(graph):
    """Hand the states of two spans on in the wrong order: the first one's for the last one's."""
    out = next(o.name for o in graph.output if ".state." in o.name)
    port = out.replace("out.", "in.")
    node = next(n for n in graph.node if out in n.output)
    node.output[0] = "unread"
    graph.node.append(helper.make_node("Identity", [port], [out]))


def hand_on_an_earlier_state(graph):
    """Take the state one frame too early."""
    out = next(o.name for o in graph.output if ".state." in o.name)
    node = next(n for n in graph.node if out in n.output)
    graph.initializer.append(numpy_helper.from_array(np.array([-2]), "minus two"))
    graph.initializer.append(numpy_helper.from_array(np.array([-1]), "minus one"))
    node.input[1], node.input[2] = "minus two", "minus one"


def average_fewer_frames(graph):
    weights = next(t for t in graph.initializer if t.name == "frame_weights")
    values = numpy_helper.to_array(weights).copy()
    values[..., -1] = 0
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))


def forget_embeddings(graph):
    port = next(i.name for i in graph.input if i.name.endswith("embeddings"))
    graph.initializer.append(numpy_helper.from_array(np.float32(0), "nothing"))
    rewire(graph, port, "lost")
    graph.node.insert(0, helper.make_node("Mul", [port, "nothing"], ["lost"]))


def couple(graph):
    """Let every video see a little of its neighbours: far below the bound, but not zero."""
    node = next(n for n in graph.node if "logits" in n.output)
    node.output[0] = "own"
    graph.initializer.append(numpy_helper.from_array(np.array([0]), "batch_axis"))
    graph.initializer.append(numpy_helper.from_array(np.float32(1e-6), "little"))
    graph.node.append(helper.make_node("ReduceSum", ["own", "batch_axis"], ["sum"], keepdims=1))
    graph.node.append(helper.make_node("Mul", ["sum", "little"], ["some"]))
    graph.node.append(helper.make_node("Add", ["own", "some"], ["logits"]))
    softmax = next(n for n in graph.node if n.op_type == "Softmax")
    graph.node.remove(softmax)
    graph.node.append(softmax)


def poison(graph):
    node = next(n for n in graph.node if "logits" in n.output)
    node.output[0] = "clean"
    graph.initializer.append(numpy_helper.from_array(np.float32("nan"), "nan"))
    graph.node.append(helper.make_node("Mul", ["clean", "nan"], ["logits"]))
    softmax = next(n for n in graph.node if n.op_type == "Softmax")
    graph.node.remove(softmax)
    graph.node.append(softmax)


FAULTS = [
    ("segment2", lose_state, r"segment2 \(fp32\), logits"),
    ("segment2", swap_frames, r"segment2 \(fp32\), logits"),
    ("segment3", swap_frames, r"segment3 \(fp32\), out\.block1\.feature0"),
    ("segment3", forget_embeddings, r"segment3 \(fp32\), logits"),
    ("segment2", swap_states, r"segment2 \(fp32\), out\.block0\.state"),
    ("segment1", hand_on_an_earlier_state, r"segment1 \(fp32\), out\.block0\.state"),
    ("segment4", average_fewer_frames, r"segment4 \(fp32\), logits"),
    ("segment3", couple, r"segment3 \(fp32\): a video alone and among others differ in"),
    ("segment3", poison, r"segment3 \(fp32\), logits: inf|nan"),
    ("full", average_fewer_frames, r"full \(fp32\), logits"),
    ("full", couple, r"full \(fp32\): a video alone and among others differ in"),
    ("full", slice_a_set_late, r"full \(fp32\), logits"),
]


@pytest.mark.parametrize(
    ("name", "fault", "message"), FAULTS, ids=[f"{name}-{fault.__name__}" for name, fault, _ in FAULTS]
)
def test_a_wrong_graph_is_found(tiny_bundle, monkeypatch, name, fault, message):
    def faulty(bundle, segment, precision):
        content = fuse(bundle, segment, precision)
        if segment.name != name:
            return content
        model = onnx.load_model_from_string(content)
        fault(model.graph)
        return model.SerializeToString()

    # at (2,1) block 1 joins frames that waited with new ones, at (3,1) they are joined to wait; full has two spans a block
    bundle = on_route(tiny_bundle, [(1, 0), (2, 1), (3, 1), (3, 2)], linked=name != "full")
    prove(bundle)
    monkeypatch.setattr(engine_graphs, "fuse", faulty)
    with pytest.raises(ProofError, match=message):
        prove(bundle)


# what TensorRT-RTX builds of them


@pytest.mark.parametrize("target", ["SM86", "SM89"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["segment1", "segment2", "segment3", "segment4", "full"])
def test_tensorrt_rtx_builds_every_segment(tiny_bundle, name, precision, target):
    trt = pytest.importorskip("tensorrt_rtx")
    segment = next(s for s in segments_of(tiny_bundle, precision) if s.name == name)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(fuse(tiny_bundle, segment, precision)), [
        parser.get_error(i).desc() for i in range(parser.num_errors)
    ]
    assert [network.get_input(i).name for i in range(network.num_inputs)] == [s.name for s in segment.inputs]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    assert config.set_compute_capability(getattr(trt.ComputeCapability, target), 0)
    profile = builder.create_optimization_profile()
    for spec in segment.inputs:
        profile.set_shape(spec.name, *(spec.concrete(batch, 1) for batch in (1, 2, 4)))
    assert config.add_optimization_profile(profile) == 0
    plan = builder.build_serialized_network(network, config)
    assert plan is not None and plan.nbytes > 1000


# big networks


@pytest.mark.full
@pytest.mark.parametrize("name", [*NETWORKS, "demonstration"])
def test_the_segments_of_big_networks_equal_their_cells(exports, name):
    bundle = exports.demonstration() if name == "demonstration" else exports.bundle(NETWORKS[name], ("fp32", "fp16"))
    assert largest(prove(bundle)) == 0.0
    figures = prove(bundle, "fp16")
    print(f"{name} fp16: logits {figures['checkpoints']} handed on {figures['handed_on']} full {figures['full']}")
    assert largest(figures) <= 2e-2
