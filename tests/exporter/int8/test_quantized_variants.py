"""INT8 twins: the form that strongly typed TensorRT parses, and fp32 where it is wanted."""

import numpy as np
import pytest
from int8_samples import models, quantised, ranges_of
from onnx import TensorProto, numpy_helper

from dynvid.exporter.int8.quantized_variants import QuantizedVariants
from dynvid.exporter.int8.scale_groups import ScaleGroups, Tensor
from dynvid.grid.errors import StaleRangesError


def test_every_pair_has_the_form_that_strongly_typed_tensorrt_parses(int8_bundle):
    convolutions = 0
    for name, model in models(int8_bundle).items():
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        writers = {tensor: node for node in model.graph.node for tensor in node.output}
        for node in model.graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                zero = numpy_helper.to_array(constants[node.input[2]])
                assert zero.dtype == np.int8, name
                assert not zero.any(), name
            if node.op_type == "Conv":
                convolutions += 1
                assert [writers[tensor].op_type for tensor in node.input[:2]] == ["DequantizeLinear"] * 2
                weights = constants[writers[node.input[1]].input[0]]
                assert weights.data_type == TensorProto.INT8
                scales = constants[writers[node.input[1]].input[1]]
                assert list(scales.dims) == [weights.dims[0]]  # one an output channel
                assert constants[node.input[2]].data_type == TensorProto.FLOAT  # no quantised bias
    assert convolutions > 20


def test_twins_have_the_ports_of_fp32_and_the_old_files_stay(tiny_bundle, int8_bundle):
    assert int8_bundle.manifest.precisions == (*tiny_bundle.manifest.precisions, "int8")
    for old, new in zip(tiny_bundle.manifest.subgraphs, int8_bundle.manifest.subgraphs, strict=True):
        twin = new.variant("int8")
        assert (twin.inputs, twin.outputs) == (old.variant("fp32").inputs, old.variant("fp32").outputs)
        for precision in tiny_bundle.manifest.precisions:
            assert int8_bundle.read(new.variant(precision)) == tiny_bundle.read(old.variant(precision))


def test_a_dead_activation_and_what_is_kept_stay_in_fp32(tiny_bundle):
    ranges = ranges_of(tiny_bundle)
    dead = next(iter(ranges.largest["head1"]))
    ranges.largest["head1"] = {name: 0.0 for name in ranges.largest["head1"]}
    wires = ScaleGroups(models(tiny_bundle, "fp32"), tiny_bundle)
    for name, tensors in ranges.largest.items():
        for tensor in tensors:
            if wires.of(Tensor(name, tensor)) == wires.of(Tensor("head1", dead)):
                tensors[tensor] = 0.0
    made = QuantizedVariants(tiny_bundle, ranges)
    kept = made.layers["block2"][0]
    found = models(made.bundle({"block2": [kept], "block0": made.layers["block0"]}))
    assert not list(quantised(found["head1"]))
    assert not list(quantised(found["block0"]))  # wholly kept: its fp32 graph
    assert made.layers["head1"] == ()
    assert len(made.unscaled["head1"]) > 0
    (node,) = [node for node in found["block2"].graph.node if node.name == kept]
    plain = {node.name: node for node in models(tiny_bundle, "fp32")["block2"].graph.node}
    assert node.input[0] == plain[kept].input[0]  # not what others read quantised
    assert node.input[1] in {tensor.name for tensor in found["block2"].graph.initializer}


def test_ranges_of_other_graphs_are_refused(tiny_bundle):
    ranges = ranges_of(tiny_bundle)
    del ranges.largest["block1"][next(iter(ranges.largest["block1"]))]
    with pytest.raises(StaleRangesError, match="block1"):
        QuantizedVariants(tiny_bundle, ranges)
