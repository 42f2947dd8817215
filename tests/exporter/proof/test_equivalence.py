"""The proof passes a right export and fails a wrong one: planted faults, each found."""

from collections import defaultdict

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from planted_faults import lose_state, scale_weight, stale_state, with_graph
from samples import TINY

from dynvid.exporter.export import prove_again
from dynvid.exporter.proof.clips import proof_clips
from dynvid.exporter.proof.equivalence import PROOF_CLIPS, prove
from dynvid.exporter.proof.reference import Reference, _watcher
from dynvid.exporter.proof.sensitivity import drift
from dynvid.exporter.proof.subgraph_equivalence import prove_subgraphs
from dynvid.exporter.proof.tolerances import Rounding
from dynvid.exporter.split.subgraphs import split
from dynvid.grid.errors import ProofError
from dynvid.runtime.backends.registry import open_backend


@pytest.fixture(scope="module")
def backend():
    return open_backend("onnxruntime")


@pytest.fixture(scope="module")
def clips(tiny_network):
    return proof_clips(PROOF_CLIPS, tiny_network.grid.num_frames, tiny_network.config.preprocessing)


@pytest.fixture(scope="module")
def reference(tiny_network, clips):
    return Reference(tiny_network, clips)


def run_proof(network, bundle, backend, reference):
    return prove(network, {"fp32": split(network, "fp32")}, bundle, backend, reference)


def test_a_right_export_passes(tiny_network, tiny_bundle, backend, reference):
    figures = run_proof(tiny_network, tiny_bundle, backend, reference)
    assert max(figures["fp32"]["checkpoints"]) <= 1e-4
    assert figures["fp32"]["agreement_at_q"] == {"q": 1.2, "exits": 1.0, "classes": 1.0}
    assert len(figures["fp32"]["drift"]) == 4
    # three shift states and three heads' states
    assert figures["sees"]["states"] == 6 and figures["sees"]["never_handed_on"] == 0


def test_a_second_proof_has_the_figures_of_the_first(exports, tiny_bundle):
    proof = tiny_bundle.manifest.proof
    assert set(proof) > {"fp32", "fp16", "fp32_only", "sees"}
    assert prove_again(tiny_bundle, exports.training_checkpoint(TINY)) == proof


@pytest.mark.parametrize("fault", [scale_weight, lose_state, stale_state])
@pytest.mark.parametrize("name", ["block0", "block1", "block2"])
def test_a_wrong_block_is_found(tiny_network, tiny_bundle, backend, reference, name, fault):
    with pytest.raises(ProofError, match=rf"proof failed: {name} \(fp32"):
        run_proof(tiny_network, with_graph(tiny_bundle, name, fault), backend, reference)


@pytest.mark.parametrize("name", ["head0", "head1", "head2"])
def test_a_wrong_head_is_found(tiny_network, tiny_bundle, backend, reference, name):
    with pytest.raises(ProofError, match=rf"proof failed: {name} \(fp32"):
        run_proof(tiny_network, with_graph(tiny_bundle, name, scale_weight), backend, reference)


def test_another_networks_reference_is_found(tiny_network, tiny_bundle, backend, clips):
    other = Reference(tiny_network, clips[::-1])
    other.logits()
    other.clips = clips
    with pytest.raises(ProofError, match=r"checkpoint 1 \(fp32\)"):
        run_proof(tiny_network, tiny_bundle, backend, other)


def test_a_network_that_ignores_a_state_makes_the_proof_blind_and_fails(exports, backend):
    """Zero the weights that read a state's channels: its loss would pass unnoticed, so the proof refuses."""
    network = exports.network(TINY)
    layer = network.blocks[1][0].layers[-1].conv_normal.net[0]
    with torch.no_grad():
        layer.weight[:, : layer.in_channels // 8] = 0
    import tempfile
    from pathlib import Path

    from dynvid.exporter.export import export

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "b"
        with pytest.raises(ProofError, match=r"the proof is blind to 1:state_in\.1\.layer0"):
            export(network, root, source_sha256="0" * 64, precisions=("fp32",))
        assert not root.exists()


def test_a_row_that_depends_on_its_neighbours_is_found(tiny_network, tiny_bundle, backend, reference):
    def couple(graph):
        out = graph.output[0].name
        for node in graph.node:
            for index, name in enumerate(node.output):
                if name == out:
                    node.output[index] = "own"
        graph.initializer.append(numpy_helper.from_array(np.array([0]), "batch_axis"))
        graph.initializer.append(numpy_helper.from_array(np.float32(1e-9), "tiny"))
        graph.node.append(onnx.helper.make_node("ReduceSum", ["own", "batch_axis"], ["sum"], keepdims=1))
        graph.node.append(onnx.helper.make_node("Mul", ["sum", "tiny"], ["little"]))
        graph.node.append(onnx.helper.make_node("Add", ["own", "little"], [out]))

    # far below the bound, but not zero: the comparison bit by bit sees it
    with pytest.raises(ProofError, match="a video alone and among others differ in"):
        run_proof(tiny_network, with_graph(tiny_bundle, "block1", couple), backend, reference)


def test_one_call_and_a_chain_of_one_frame_calls_agree_to_the_last_bit(tiny_network, tiny_bundle, backend, clips):
    parts = split(tiny_network, "fp32")
    manifest = tiny_bundle.manifest
    programs = {
        p.name: backend.load(tiny_bundle.read(v := manifest.subgraph(p.name).variant("fp32")), v, p.name) for p in parts
    }
    ordered = clips[:, list(tiny_network.grid.frame_order)]
    errors = prove_subgraphs(
        parts, parts, programs, backend, ordered, [(1, 8), (2, 8), (5, 8)], "fp32", Rounding().tolerance
    )
    assert max(errors.values()) <= 1e-4


def test_drift_is_measured_set_by_set(tiny_network, tiny_bundle, backend, clips):
    errors = drift(tiny_network, tiny_bundle, backend, "fp32", clips[0], Reference(tiny_network, clips).last_features)
    assert len(errors) == 4 and 0 < max(errors) < 1e-3


def test_proof_clips_differ_and_are_the_same_every_time(tiny_network):
    config = tiny_network.config
    one, two = (proof_clips(8, 4, config.preprocessing) for _ in range(2))
    assert one.tobytes() == two.tobytes()
    distances = [np.abs(one[i] - one[j]).mean() for i in range(8) for j in range(i)]
    assert min(distances) > 0.1
    assert np.abs(np.diff(one, axis=1)).mean(axis=(1, 2, 3, 4)).min() > 0.05


def test_nan_inside_a_subgraph_is_found(tiny_network, tiny_bundle, backend, reference):
    def poison(graph):
        graph.initializer.append(numpy_helper.from_array(np.float32("nan"), "nan"))
        port = next(o.name for o in graph.output if o.name.startswith("state_out"))
        for node in graph.node:
            for index, name in enumerate(node.output):
                if name == port:
                    node.output[index] = "clean"
        graph.node.append(onnx.helper.make_node("Mul", ["clean", "nan"], [port]))

    with pytest.raises(ProofError, match=r"proof failed: block2 \(fp32.*inf"):
        run_proof(tiny_network, with_graph(tiny_bundle, "block2", poison), backend, reference)


def test_a_network_that_overflows_is_not_exported(exports, clips):
    network = exports.network(TINY)
    with torch.no_grad():
        network.blocks[2][0].layers[-1].conv_normal.net[0].weight.fill_(3e38)
    with pytest.raises(ProofError, match="NaN or infinity in block2"):
        Reference(network, clips).logits(1)


@pytest.mark.parametrize("route", ["2,0 3,1 3,2", "0,2 3,2"])
def test_the_proof_sees_every_state_also_where_the_groups_part(exports, route):
    table = {**TINY, "groups_linked": False, "route": route}
    sees = exports.bundle(table).manifest.proof["sees"]
    assert sees["never_handed_on"] == 0 and sees["least_effect"] > sees["required"]


def test_ranges_know_a_new_tensor_at_the_address_of_another():
    memory, ranges = np.zeros(4, np.float32), defaultdict(float)
    hook = _watcher(ranges, "block0")
    first = torch.from_numpy(memory)
    hook(None, None, (first, first))
    memory[:] = -7
    second = torch.from_numpy(memory)
    assert (second.data_ptr(), second._version) == (first.data_ptr(), first._version)
    hook(None, None, second)
    assert ranges == {"block0": 7}
    second.add_(16)
    hook(None, None, second)  # changed in place
    assert ranges == {"block0": 9}
    memory[:] = np.nan
    with pytest.raises(ProofError, match="NaN or infinity in block0"):
        hook(None, None, torch.from_numpy(memory))
