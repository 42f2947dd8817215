"""Static networks, TSM and TSN, are exported, proved and fused; a wrong shift is found, and what is dynamic stays."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from planted_faults import scale_weight, with_graph
from public_layouts import EVEN, NAMES, resnet, weigh
from samples import RESNET
from static_samples import STATIC

from dynvid.exporter.engines.build import build_engines
from dynvid.exporter.export import export, prove_again, verify_structure
from dynvid.exporter.proof.clips import proof_clips
from dynvid.exporter.proof.equivalence import PROOF_CLIPS, prove
from dynvid.exporter.proof.reference import Reference
from dynvid.exporter.proof.segment_equivalence import prove_segments
from dynvid.exporter.split.subgraphs import split
from dynvid.grid.errors import BlindProofError, ProofError
from dynvid.grid.storage.files import sha256_of
from dynvid.models.layouts import load_training_checkpoint
from dynvid.runtime.backends.registry import open_backend

BOTH = ("fp32", "fp16")
EACH = [pytest.param(name, marks=[pytest.mark.full] if name == "TSN on resnet" else []) for name in STATIC]


@pytest.mark.parametrize("name", EACH)
def test_a_static_network_is_exported_and_proved_again(exports, name):
    bundle = exports.bundle(STATIC[name], BOTH)
    manifest, proof = bundle.manifest, bundle.manifest.proof
    assert manifest.static and manifest.route == manifest.route.full
    assert len(proof["fp32"]["checkpoints"]) == 1 and proof["fp32"]["checkpoints"][0] <= 1e-4
    assert prove_again(bundle, exports.training_checkpoint(STATIC[name])) == proof


@pytest.mark.parametrize("name", EACH)
def test_its_subgraphs_take_all_frames_and_have_no_states(exports, name):
    bundle = exports.bundle(STATIC[name], BOTH)
    verify_structure(bundle)
    for subgraph in bundle.manifest.subgraphs:
        assert subgraph.states == ()
        for variant in subgraph.variants.values():
            assert not [port for port in (*variant.inputs, *variant.outputs) if "frames" in port.shape]
            assert not [port.name for port in (*variant.inputs, *variant.outputs) if port.name.startswith("state")]
    (segment,) = bundle.manifest.route.segments
    sets = bundle.manifest.grid.input_sets
    assert [(span.start, span.stop) for span in segment.spans] == [(0, sets)] * bundle.manifest.grid.blocks


@pytest.mark.parametrize("name", EACH)
def test_the_proof_says_what_does_not_apply(exports, name):
    proof = exports.bundle(STATIC[name], BOTH).manifest.proof
    shifts = name.startswith("TSM")
    assert set(proof["does_not_apply"]) == {"one-frame calls", "lost states", "exits"} | (
        set() if shifts else {"frames reversed"}
    )
    assert proof["sees"]["states"] == 0
    assert (proof["sees"]["frames_reversed"] > proof["sees"]["required"]) == shifts


@pytest.mark.parametrize("name", EACH)
def test_it_is_fused_and_proved(exports, name, tmp_path):
    for precision in BOTH:
        rows = build_engines(
            exports.bundle(STATIC[name], BOTH), tmp_path / "e", "onnxruntime", precision, prove=prove_segments
        )
        assert [row.error for row in rows] == [None] * len(rows)


@pytest.mark.parametrize(
    ("layout", "points"),
    [pytest.param("torchvision", [], id="TSN", marks=pytest.mark.full), pytest.param("mit-tsm", EVEN, id="TSM")],
)
def test_a_public_file_goes_the_whole_way(tmp_path, layout, points):
    model = weigh(resnet(points), "fan_out")
    path = tmp_path / "a.pth"
    torch.save(NAMES[layout](model.state_dict(), points), path)
    network = load_training_checkpoint(path, static=True, num_frames=3).network
    bundle = export(network, tmp_path / "b", source_sha256=sha256_of(path), precisions=("fp32",))
    assert prove_again(bundle, path) == bundle.manifest.proof
    rows = build_engines(bundle, tmp_path / "b.engines", "onnxruntime", prove=prove_segments)
    assert [row.error for row in rows] == [None] * len(rows)


def test_a_network_with_a_route_says_that_it_is_not_static(exports):
    manifest = exports.bundle(RESNET).manifest
    assert json.loads(manifest.to_bytes())["static"] is False
    assert "does_not_apply" not in manifest.proof and manifest.proof["sees"]["states"] > 0


# planted faults, each in one layer of one block


def shift_nodes(graph):
    """Return the first shift's nodes: Split, then Slice and Pad of what comes from later and from earlier, and Concat."""
    nodes = list(graph.node)
    cut = next(node for node in nodes if node.op_type == "Split")
    slices = [next(n for n in nodes if n.op_type == "Slice" and n.input[0] == half) for half in cut.output]
    pads = [next(n for n in nodes if n.op_type == "Pad" and n.input[0] == taken.output[0]) for taken in slices]
    (joined,) = (n for n in nodes if n.op_type == "Concat" and n.input[0] == pads[0].output[0])
    return cut, slices, pads, joined


def constant(graph, name, value):
    graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    return name


def swap_directions(graph):
    """Take the first fold from the frame before, and the second from the next."""
    cut, slices, pads, joined = shift_nodes(graph)
    for node, half in zip(slices, reversed(cut.output), strict=True):
        node.input[0] = half
    joined.input[:] = [pads[1].output[0], pads[0].output[0]]


def drop_shift(graph):
    """Leave every frame its own channels."""
    cut, _, _, joined = shift_nodes(graph)
    joined.input[:] = cut.output


def drop_later(graph):
    """Leave every frame its own first fold, as the online shift does."""
    cut, _, pads, joined = shift_nodes(graph)
    joined.input[:] = [cut.output[0], pads[1].output[0]]


def shift_two_frames(graph):
    """Take the first fold from two frames on."""
    _, slices, pads, _ = shift_nodes(graph)
    slices[0].input[1] = constant(graph, "planted.start", [2])
    pads[0].input[1] = constant(graph, "planted.pads", [*[0] * 6, 2, *[0] * 3])


def repeat_the_edge(graph):
    """Give the last frame its own channels again in place of zeros."""
    _, slices, _, joined = shift_nodes(graph)
    for name, value in (("edge", [-1]), ("end", [10**6]), ("axis", [1])):
        constant(graph, f"planted.{name}", value)
    source, place = slices[0].input[0], list(graph.node).index(joined)
    edge = onnx.helper.make_node("Slice", [source, "planted.edge", "planted.end", "planted.axis"], ["edge"])
    padded = onnx.helper.make_node("Concat", [slices[0].output[0], "edge"], ["edged"], axis=1)
    joined.input[0] = "edged"
    graph.node.insert(place, padded)
    graph.node.insert(place, edge)


FAULTS = [swap_directions, drop_shift, drop_later, shift_two_frames, repeat_the_edge]


@pytest.fixture(scope="module")
def references(exports):
    """Return each TSM's network and reference."""
    found = {}
    for name in STATIC:
        if name.startswith("TSM"):
            network = exports.network(STATIC[name])
            clips = proof_clips(PROOF_CLIPS, network.grid.num_frames, network.config.preprocessing)
            found[name] = network, Reference(network, clips)
    return found


def run_proof(network, reference, bundle):
    return prove(network, {"fp32": split(network, "fp32")}, bundle, open_backend("onnxruntime"), reference)


@pytest.mark.parametrize("name", [name for name in STATIC if name.startswith("TSM")])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("block", ["block1", "block2"])
def test_a_wrong_shift_is_found(exports, references, name, fault, block):
    network, reference = references[name]
    wrong = with_graph(exports.bundle(STATIC[name], BOTH), block, fault)
    with pytest.raises(ProofError, match=rf"proof failed: {block} \(fp32"):
        run_proof(network, reference, wrong)


def test_a_wrong_head_is_found(exports, references):
    network, reference = references["TSM on resnet"]
    wrong = with_graph(exports.bundle(STATIC["TSM on resnet"], BOTH), "head4", scale_weight)
    with pytest.raises(ProofError, match=r"proof failed: head4 \(fp32"):
        run_proof(network, reference, wrong)


def test_a_tsm_in_which_time_does_not_matter_is_refused_as_blind(exports, tmp_path):
    """Every shifted layer ignores the channels that come from other frames."""
    network = exports.network(STATIC["TSM on resnet"])
    for stage in list(network.blocks)[1:]:
        for bottleneck in stage:
            weight = bottleneck.residual[0].weight.data
            weight[:, : weight.shape[1] // 2] = 0
    with pytest.raises(BlindProofError, match="frames reversed"):
        export(network, tmp_path / "b", source_sha256="0" * 64, precisions=("fp32",))
