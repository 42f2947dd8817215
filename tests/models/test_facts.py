"""Figures of the paper and of the public implementations that the networks must hit."""

import functools

import numpy as np
import onnx_tool
import onnxruntime
import pytest
import torch

from dynvid.grid.errors import NetworkError, UsageError
from dynvid.models.config_json import from_json, to_json
from dynvid.models.cost import measure_costs
from dynvid.models.registry import build
from dynvid.models.shift import StatefulShift


def network(name, **table):
    with torch.device("meta"):
        return build(from_json({"network": name, "classes": 400, **table}))


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def giga(values, digits):
    return [round(value / 1e9, digits) for value in values]


@functools.cache
def msdnet38(route):
    """Return the paper's network and its costs, which take seconds."""
    net = network("msdnet38", classes=1000, route=route)
    return net, measure_costs(net)


@pytest.mark.parametrize("route", ["depth", "joint"])
def test_msdnet38_has_the_papers_parameters_and_frame_costs(route):
    net, costs = msdnet38(route)
    assert parameters(net) == 62_314_472
    assert giga(costs.paper_macs, 4) == [0.6157, 1.4364, 2.2832, 2.9674, 3.2538]


def test_msdnet38_joint_checkpoints_cost_what_the_paper_counts():
    net, costs = msdnet38("joint")
    route = net.route
    found = [costs.paper_checkpoint(route, k) for k in range(1, 7)]
    assert giga(found, 2) == [2.46, 8.62, 18.27, 23.74, 26.03, 52.06]


def test_paper_cost_does_not_depend_on_the_heads_that_a_route_has():
    assert measure_costs(network("msdnet38", classes=1000, route="full")).paper_macs[4] == pytest.approx(
        3.2538e9, rel=1e-5
    )


@pytest.mark.parametrize(("name", "gmacs"), [("resnet50", 4.0880), ("resnet101", 7.8002)])
def test_resnet_frame_cost(name, gmacs):
    net = network(name, route="full", head={"style": "linear"})
    costs = measure_costs(net)
    assert round((sum(costs.block_macs) + costs.answer_macs[4]) / 1e9, 4) == gmacs
    assert costs.embed_macs == (0,) * 5


def test_resnet50_with_one_linear_head_has_the_public_parameter_count():
    assert parameters(network("resnet50", route="full", head={"style": "linear"})) == 24_327_632


def test_resnet50_joint_paper_costs():
    net = network("resnet50", route="joint")
    costs = measure_costs(net)
    found = [costs.paper_checkpoint(net.route, k) for k in range(1, 5)]
    assert giga(found, 2) == [14.51, 26.22, 32.70, 65.39]


def states(net, sizes):
    """Return the shapes of all shift states, by running the blocks on meta tensors."""
    features = (torch.empty(1, 3, sizes, sizes, device="meta"),)
    shapes = []
    for block, module in enumerate(net.blocks):
        shift = StatefulShift(net.config.shift, block, 1)
        features = module(features, shift)
        shapes += [tuple(s.shape[2:]) for s in shift.states_out.values()]
    return shapes


@pytest.mark.parametrize(
    ("name", "shift", "count", "elements"),
    [
        ("msdnet38", {}, 35, 132_202),
        ("resnet50", {}, 16, 702_464),
        (
            "resnet101",
            {"points": [f"{b}.conv{i}" for b, n in enumerate((3, 4, 23, 3), 1) for i in range(0, n, 2)]},
            18,
            639_744,
        ),
        ("resnet50", {"enabled": False}, 0, 0),
    ],
)
def test_shift_states(name, shift, count, elements):
    found = states(network(name, shift=shift), 224)
    assert len(found) == count
    assert sum(c * h * w for c, h, w in found) == elements


def test_costs_agree_with_an_independent_counter_on_the_exported_graphs(tiny_bundle, tmp_path):
    """Onnx-tool counts convolutions and matrix products of every exported subgraph, at batch 1 and one frame."""
    costs = tiny_bundle.manifest.costs
    for subgraph in tiny_bundle.manifest.subgraphs:
        variant = subgraph.variant("fp32")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(tmp_path / variant.file)  # shapes folded: onnx-tool needs them
        for name in ("batch", "frames"):
            options.add_free_dimension_override_by_name(name, 1)
        onnxruntime.InferenceSession(tiny_bundle.read(variant), options, providers=["CPUExecutionProvider"])
        model = onnx_tool.Model(options.optimized_model_filepath, {"verbose": False})
        model.graph.shape_infer({s.name: np.zeros(s.concrete(1, 1), np.float32) for s in variant.inputs})
        model.graph.profile()
        counted = 0
        for node in model.graph.nodemap.values():
            if node.op_type in ("Conv", "Gemm"):
                biases = int(np.prod(model.graph.tensormap[node.output[0]].get_shape())) if len(node.input) == 3 else 0
                counted += node.macs[0] - biases
        m = subgraph.block
        expected = costs.block_macs[m] if subgraph.kind == "block" else costs.embed_macs[m] + costs.answer_macs[m]
        assert counted == expected


def test_a_configuration_reads_back_as_it_was_written():
    net = network("msdnet38", labels=[str(i) for i in range(400)], shift={"points": ["0.layer1"]})
    assert from_json(to_json(net.config)) == net.config


GOOD = {"network": "msdnet", "classes": 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"classes": "3"}, "classes: '3', expected int"),
        ({"classes": 1}, "1 classes: expected at least 2"),
        ({"labels": [1, 2, 3]}, "expected str"),
        ({"labels": ["a"]}, "1 labels for 3 classes"),
        ({"groups_linked": "no"}, "groups_linked: 'no', expected bool"),
        ({"input_sets": 10**9}, "at most"),
        ({"input_sets": 0}, "at least 1"),
        ({"permutation": "random"}, "expected one of"),
        ({"head": {"width": -1}}, "width -1"),
        ({"head": {"width": "a"}}, "width"),
        ({"head": {"dropout": 7.0}}, "dropout 7.0"),
        ({"head": {"style": "round"}}, "expected one of"),
        ({"shift": {"div": 0}}, "div 0"),
        ({"shift": {"stride": 0}}, "stride 0"),
        ({"options": {"channels": -4}}, "channels -4"),
        ({"options": {"channels": 10**9}}, "channels 1000000000"),
        ({"options": {"reduction": 5}}, "reduction 5"),
        ({"options": {"layers": []}}, "layers"),
        ({"options": {"layers": [0]}}, "layers"),
        ({"options": {"growth": 3, "growth_factors": [1, 1], "bottleneck_factors": [1, 1]}}, "must be even"),
        ({"options": {"depth": 3}}, "do not fit network 'msdnet'"),
        ({"preprocessing": {"crop": 300}}, "crop <= short_side"),
        ({"preprocessing": {"std": [0.0, 1.0, 1.0]}}, "every std above 0"),
        ({"route": "3,4 2,4"}, "may decrease"),
        ({"route": [[3, 4, 1]]}, "expected str"),
        ({"heads": [9]}, "no head on block 9"),
        ({"network": "msdnte"}, "Did you mean"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(change, message):
    with pytest.raises(UsageError, match=message) as caught, torch.device("meta"):
        build(from_json({**GOOD, **change}))
    assert caught.value.exit_code == 2


def test_a_misspelt_shift_point_is_refused_at_once():
    with pytest.raises(NetworkError, match=r"shift points 0\.layer9 are not among"):
        network("msdnet38", shift={"points": ["0.layer1", "0.layer9"]})
