"""What an exported graph may and may not hold."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from samples import RESNET, TINY
from shared_graphs import SharedGraphs

from dynvid.exporter.export import export
from dynvid.exporter.graphs.lint import lint
from dynvid.exporter.proof.reference import FP16_LIMIT, observe
from dynvid.exporter.split.bundle_builder import BundleBuilder, key_of
from dynvid.exporter.split.half_precision import in_half, may_be_rounded
from dynvid.exporter.split.onnx_graph import to_onnx
from dynvid.exporter.split.subgraphs import split
from dynvid.grid.errors import LintError
from dynvid.grid.tensors import TensorSpec

X = TensorSpec("x", "float32", ("batch", 4))
Y = TensorSpec("y", "float32", ("batch", 4))


def value(spec, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(spec.name, dtype, list(spec.shape))


def model(nodes, initializers=(), inputs=(X,), outputs=(Y,), **options):
    graph = helper.make_graph(nodes, "g", [value(s) for s in inputs], [value(s) for s in outputs], list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10, **options)


def axes(*values):
    return helper.make_tensor("axes", TensorProto.INT64, [len(values)], values)


def test_a_plain_graph_passes():
    lint(model([helper.make_node("Relu", ["x"], ["y"])]), "plain", (X,), (Y,))
    lint(
        model(
            [helper.make_node("ReduceMean", ["x", "axes"], ["m"]), helper.make_node("Sub", ["x", "m"], ["y"])],
            [axes(1)],
        ),
        "rows",
        (X,),
        (Y,),
    )


THEN = helper.make_graph(
    [helper.make_node("Relu", ["x"], ["t"])], "t", [], [helper.make_tensor_value_info("t", 1, ["batch", 4])]
)
ELSE = helper.make_graph(
    [helper.make_node("Abs", ["x"], ["e"])], "e", [], [helper.make_tensor_value_info("e", 1, ["batch", 4])]
)
COUPLING = {
    "ReduceMean over the batch": ([helper.make_node("ReduceMean", ["x", "axes"], ["m"]), helper.make_node("Sub", ["x", "m"], ["y"])], [axes(0)], "reduces over the batch"),
    "ReduceMax over everything": ([helper.make_node("ReduceMax", ["x"], ["m"]), helper.make_node("Sub", ["x", "m"], ["y"])], [], "reduces over the batch"),
    "ReduceSum over the batch": ([helper.make_node("ReduceSum", ["x", "axes"], ["m"]), helper.make_node("Sub", ["x", "m"], ["y"])], [axes(1, 0)], "reduces over the batch"),
    "ArgMax over the batch": ([helper.make_node("ArgMax", ["x"], ["m"], axis=0), helper.make_node("Cast", ["m"], ["c"], to=1), helper.make_node("Add", ["x", "c"], ["y"])], [], "reduces over the batch"),
    "DynamicQuantizeLinear": ([helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])], [], "operator DynamicQuantizeLinear"),
    "If": ([helper.make_node("If", ["c"], ["y"], then_branch=THEN, else_branch=ELSE)], [helper.make_tensor("c", TensorProto.BOOL, [], [True])], "operator If"),
    "passed through": ([helper.make_node("Relu", ["x"], ["unused"])], [], "passed through|is not output"),
}  # fmt: skip


@pytest.mark.parametrize("name", COUPLING)
def test_an_operator_that_couples_videos_or_hides_control_flow_is_refused(name):
    nodes, initializers, message = COUPLING[name]
    inputs, outputs = ((X,), (X,)) if name == "passed through" else ((X,), (Y,))
    with pytest.raises(LintError, match=message):
        lint(model(nodes, initializers, inputs, outputs), "coupling", inputs, outputs)


def test_external_data_is_refused():
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [4], [1, 2, 3, 4])
    odd = model([helper.make_node("Add", ["x", "w"], ["y"])], [tensor])
    tensor = odd.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    with pytest.raises(LintError):
        lint(odd, "external", (X,), (Y,))


def test_a_custom_domain_is_refused():
    odd = model([helper.make_node("Relu", ["x"], ["y"])])
    odd.opset_import.append(helper.make_opsetid("com.custom", 1))
    with pytest.raises(LintError, match=r"operator domain 'com\.custom'"):
        lint(odd, "custom", (X,), (Y,))


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ((TensorSpec("z", "float32", ("batch", 4)),), (Y,)),
        ((TensorSpec("x", "float16", ("batch", 4)),), (Y,)),
        ((X,), (TensorSpec("y", "float32", (2, 4)),)),
        ((X,), (TensorSpec("y", "float32", ("frames", 4)),)),
        ((X, Y), (Y,)),
    ],
)
def test_ports_other_than_the_declared_ones_are_refused(inputs, outputs):
    with pytest.raises(LintError, match="the export changed a port"):
        lint(model([helper.make_node("Relu", ["x"], ["y"])]), "ports", inputs, outputs)


def test_a_block_that_couples_videos_does_not_export(tiny_network):
    part = split(tiny_network, "fp32")[0]

    class Coupling(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, *tensors):
            first, *others = self.inner(*tensors)
            return first - first.mean(0, keepdim=True), *others

    object.__setattr__(part, "module", Coupling(part.module))
    with pytest.raises(LintError, match="reduces over the batch"):
        to_onnx(part)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_graphs_are_typed_as_declared(tiny_bundle, precision):
    for subgraph in tiny_bundle.manifest.subgraphs:
        graph = onnx.load_model_from_string(tiny_bundle.read(subgraph.variant(precision))).graph
        floats = {t.data_type for t in graph.initializer} & {TensorProto.FLOAT, TensorProto.FLOAT16}
        if subgraph.kind == "block":
            assert floats == {TensorProto.FLOAT if precision == "fp32" else TensorProto.FLOAT16}
            assert not [n for n in graph.node if n.op_type == "Cast"]
        assert not [n for n in graph.node if n.op_type == "BatchNormalization"]
        assert all(not n.metadata_props and not n.doc_string for n in graph.node)


def test_features_have_one_dtype_where_they_are_written_and_where_they_are_read(exports):
    network = exports.network(TINY)
    for kept in ((), ("block0",), ("block1",), ("block2",), ("block0", "block2"), ("head1",)):
        written, read = {}, {}
        for part in split(network, "fp16", kept):
            written |= {s.name: s.dtype for s in part.outputs if "feature" in s.name}
            for spec in part.inputs:
                if "feature" in spec.name:
                    assert read.setdefault(spec.name, spec.dtype) == spec.dtype
            expected = "float32" if part.name in kept else "float16"
            if part.kind == "block":
                assert {s.dtype for s in part.inputs if s.name.startswith("state")} == {expected}
        assert all(written[name] == dtype for name, dtype in read.items())
        assert ("float32" in written.values()) == any(name.startswith("block") for name in kept)


def test_a_subgraph_kept_in_fp32_among_half_ones_still_agrees(exports, tmp_path, monkeypatch):
    network = exports.network(TINY)

    def observed(*arguments):
        seen = observe(*arguments)
        return dataclasses.replace(seen, ranges={**seen.ranges, "block1": 2 * FP16_LIMIT})

    monkeypatch.setattr("dynvid.exporter.proof.reference.observe", observed)
    bundle = export(network, tmp_path / "b", source_sha256="0" * 64)
    assert bundle.manifest.fp32_only == ("block1",)
    variant = bundle.manifest.subgraph("block1").variant("fp16")
    graph = onnx.load_model_from_string(bundle.read(variant)).graph
    assert {t.data_type for t in graph.initializer} & {1, 10} == {TensorProto.FLOAT}
    assert max(bundle.manifest.proof["fp16"]["checkpoints"]) <= 2e-2


CASTS = {"half throughout": ((), "block1"), "half to fp32": (("block1",), "block0"),
         "half from fp32": (("block0",), "block1"), "half head": ((), "head2"), "half head from fp32": (("block2",), "head2"),
         "fp32 head from half": (("head2",), "head2")}  # fmt: skip


@pytest.mark.parametrize(
    ("table", "case"), [*((TINY, case) for case in CASTS), (RESNET, "half throughout"), (RESNET, "half head")]
)
def test_a_graph_made_half_of_its_fp32_graph_is_what_torch_exports_of_the_half_module(exports, table, case):
    """But for what was folded into weights: in fp32 here, in half precision there; and for where a tensor is cast."""
    kept, name = CASTS[case]
    network = exports.network(table)
    whole, half = ({p.place: p for p in split(network, *options)}[name] for options in (("fp32",), ("fp16", kept)))
    assert key_of(whole) != key_of(half)
    assert may_be_rounded(half)
    made, exported = (
        onnx.load_model_from_string(content).graph for content in (in_half(to_onnx(whole), half), to_onnx(half))
    )
    assert sorted(node.op_type for node in made.node) == sorted(node.op_type for node in exported.node)
    for part in ("input", "output", "value_info"):
        assert [str(x) for x in getattr(made, part)] == [str(x) for x in getattr(exported, part)]
    if case == "half throughout":
        assert [str(node) for node in made.node] == [str(node) for node in exported.node]
    ours, theirs = ({tensor.name: tensor for tensor in graph.initializer} for graph in (made, exported))
    assert ours.keys() == theirs.keys()
    for tensor, other in ((ours[name], theirs[name]) for name in ours):
        assert (tensor.data_type, tensor.dims) == (other.data_type, other.dims)
        left, right = (numpy_helper.to_array(t).astype(np.float64) for t in (tensor, other))
        assert np.abs(left - right).max() <= 4e-3 * max(1.0, np.abs(right).max())


def test_a_weight_that_both_precisions_read_is_held_in_both(exports):
    parts = [{p.place: p for p in split(exports.network(TINY), precision)}["head1"] for precision in ("fp32", "fp16")]
    model = onnx.load_model_from_string(to_onnx(parts[0]))
    model.graph.initializer.append(numpy_helper.from_array(np.float32([0.1]), "both"))
    embedded = next(node for node in model.graph.node if node.op_type == "Relu")
    logits = next(node for node in model.graph.node if "logits" in node.output)
    for node, at in ((embedded, "after_relu"), (logits, "logits")):
        own = node.output[0]
        node.output[0] = f"{own}.less"
        for other in model.graph.node:
            if other is not node:
                for index, value in enumerate(other.input):
                    other.input[index] = at if value == own else value
        model.graph.node.insert(
            list(model.graph.node).index(node) + 1, helper.make_node("Add", [f"{own}.less", "both"], [at], f"add_{at}")
        )
    graph = onnx.load_model_from_string(in_half(model.SerializeToString(), parts[1])).graph
    added = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "Add"}
    dtypes = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert dtypes[added["after_relu"]] == TensorProto.FLOAT16
    assert dtypes[added["logits"]] == TensorProto.FLOAT


def test_what_a_block_says_to_compute_in_fp32_stays_fp32(exports):
    """The fp32 graph does not show it, so such a block is exported of its half module."""

    class Island(torch.nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, features, shift):
            return tuple((feature.float() * 1.5).type_as(feature) for feature in self.block(features, shift))

    network = exports.network(TINY)
    network.blocks[1] = Island(network.blocks[1])
    draft = BundleBuilder(network, "0" * 64)
    draft.add("fp32")
    draft.add("fp16")
    bundle = draft.bundle()
    graph = onnx.load_model_from_string(bundle.read(bundle.manifest.subgraph("block1").variant("fp16"))).graph
    assert [node.op_type for node in graph.node].count("Cast") >= 2


@pytest.mark.parametrize("table", [TINY, pytest.param(RESNET, marks=pytest.mark.full)])
def test_the_graphs_that_tests_share_are_what_torch_exports(exports, tmp_path, table):
    """With the weights of one network put into the graphs of another: the same bytes, and torch was asked once."""
    asked = []
    shared = SharedGraphs(tmp_path, lambda part: asked.append(part.name) or to_onnx(part))
    parts = [split(exports.network(table, seed), "fp32")[-2:] for seed in (0, 1)]
    for part in parts[0]:
        shared(part)
    assert len(asked) == 2
    for part in parts[1]:
        assert shared(part) == to_onnx(part)
    assert len(asked) == 2


def test_a_graph_whose_weights_torch_folds_is_not_shared(exports, tmp_path):
    """What stands in no graph by its name cannot be put in: such a module has a graph of its own."""

    def folded(part):
        model = onnx.load_model_from_string(to_onnx(part))
        model.graph.initializer[0].name = "folded"
        asked.append(part.name)
        return model.SerializeToString()

    asked = []
    shared = SharedGraphs(tmp_path, folded)
    heads = [split(exports.network(TINY, seed), "fp32")[-1] for seed in (0, 1, 1)]
    content = [shared(head) for head in heads]
    assert len(asked) == 2 and content[0] != content[1] == content[2]
