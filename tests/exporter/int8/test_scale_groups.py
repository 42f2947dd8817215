"""One scale a wire: tensors that are one value, in whichever subgraphs, are quantised alike."""

from collections import defaultdict

from int8_samples import models, quantised

from dynvid.exporter.int8.scale_groups import ScaleGroups, Tensor


def test_a_wire_has_one_scale_in_every_subgraph(tiny_bundle, int8_bundle):
    wires = ScaleGroups(models(tiny_bundle, "fp32"), tiny_bundle)
    scales = defaultdict(set)
    places = defaultdict(set)
    for name, model in models(int8_bundle).items():
        for tensor, scale in quantised(model):
            scales[wires.of(Tensor(name, tensor))].add(scale)
            places[wires.of(Tensor(name, tensor))].add(name)
    assert all(len(found) == 1 for found in scales.values())
    assert len(scales) > 5
    assert any(len(found) > 1 for found in places.values())  # a feature, on both sides of a boundary


def test_states_and_features_are_wires(tiny_bundle):
    wires = ScaleGroups(models(tiny_bundle, "fp32"), tiny_bundle)
    block = tiny_bundle.manifest.subgraph("block1")
    for state in block.states:
        assert wires.of(Tensor("block1", state.input)) == wires.of(Tensor("block1", state.output))
    for spec in block.variant("fp32").inputs:
        if spec.name.startswith("block0."):
            assert wires.of(Tensor("block0", spec.name)) == wires.of(Tensor("block1", spec.name))
    ends = {
        wires.of(Tensor("block0", spec.name))
        for spec in tiny_bundle.manifest.subgraph("block0").variant("fp32").outputs
    }
    assert wires.of(Tensor("block0", "frames")) not in ends
