"""The big networks: split equals whole on every preset, bit by bit where bits are promised."""

import numpy as np
import pytest
import torch

from dynvid.calibration.choosing.thresholds import exits, geometric_thresholds
from dynvid.exporter.proof.clips import proof_clips
from dynvid.exporter.proof.subgraph_equivalence import prove_subgraphs
from dynvid.exporter.proof.tolerances import Rounding
from dynvid.exporter.split.subgraphs import split
from dynvid.grid.route import preset
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.session import ArraySource, Session

pytestmark = pytest.mark.full

NETWORKS = {
    "msdnet38": {"network": "msdnet38", "classes": 400, "route": "joint"},
    "resnet50": {"network": "resnet50", "classes": 400, "route": "joint"},
}
BIG = ["msdnet38", "resnet50"]
CLIPS = 4


@pytest.fixture(scope="module", params=NETWORKS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def bundle(exports, name):
    return exports.bundle(NETWORKS[name], ("fp32", "fp16"))


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_the_export_is_proved_and_sees(bundle, name):
    proof = bundle.manifest.proof
    assert max(proof["fp32"]["checkpoints"]) <= 1e-4
    assert max(proof["fp16"]["checkpoints"]) <= 2e-2
    assert proof["fp32"]["agreement_at_q"] == {"q": 1.2, "exits": 1.0, "classes": 1.0}
    assert proof["sees"]["never_handed_on"] == 0
    assert proof["sees"]["states"] == {"msdnet38": 35 + 5, "resnet50": 16 + 3}[name]
    assert proof["sees"]["least_effect"] > proof["sees"]["required"] == 10 * max(proof["fp32"]["bounds"])
    assert bundle.manifest.fp32_only == {"msdnet38": ("block0",), "resnet50": ()}[name]


def test_the_bundle_holds_five_block_files_and_its_heads(bundle, name):
    kinds = [s.kind for s in bundle.manifest.subgraphs]
    assert kinds.count("block") == 5
    assert kinds.count("head") == {"msdnet38": 5, "resnet50": 3}[name]
    cells = bundle.manifest.cells
    assert sum(cell is not None for row in cells for cell in row) == 40
    assert all(row == tuple(f"block{m}" for m in range(5)) for row in cells)
    assert len([p for p in bundle.root.iterdir() if p.name != "manifest.json"]) == len(
        bundle.manifest.precisions
    ) * len(kinds)


@pytest.mark.parametrize("route_name", ["joint", "depth", "input", "full"])
@pytest.mark.parametrize("big", BIG)
def test_split_equals_whole_on_every_preset(exports, big, route_name):
    network = exports.network(NETWORKS[big])
    bundle = exports.bundle(NETWORKS[big], ("fp32", "fp16"))
    route = preset(route_name, network.grid, network.head_blocks)
    clips = proof_clips(CLIPS, network.grid.num_frames, network.config.preprocessing, seed=7)
    session = Session.open(bundle, open_backend("onnxruntime"), route=route)
    order, expected, found = list(network.grid.frame_order), [], []
    for clip in clips:
        with torch.no_grad():
            expected.append(torch.cat(network.with_route(route)(torch.from_numpy(clip[order])[None])).numpy())
        found.append(np.stack(session.classify(ArraySource(clip), trace=True).logits))
    expected, found = np.stack(expected, 1), np.stack(found, 1)  # [checkpoints, clips, classes]
    scale = expected.std(-1).mean(-1)
    error = np.abs(found - expected).max((1, 2)) / scale
    print(f"{big} {route_name}: max |delta| in standard deviations of the logits {error.max():.2e}")
    assert error.max() <= 1e-4
    confidence = softmax(expected).max(-1)
    thresholds = geometric_thresholds(confidence, 1.2)
    left, right = exits(confidence, thresholds), exits(softmax(found).max(-1), thresholds)
    assert (left == right).all()
    rows = np.arange(CLIPS)
    assert (expected[left, rows].argmax(-1) == found[right, rows].argmax(-1)).all()


@pytest.mark.parametrize("big", BIG)
def test_a_chain_of_one_frame_calls_and_one_call_over_all_frames_agree_to_the_last_bit(exports, big):
    network = exports.network(NETWORKS[big])
    bundle, backend = exports.bundle(NETWORKS[big], ("fp32", "fp16")), open_backend("onnxruntime")
    parts = split(network, "fp32")
    programs = {
        p.name: backend.load(bundle.read(v := bundle.manifest.subgraph(p.name).variant("fp32")), v, p.name)
        for p in parts
    }
    clips = proof_clips(5, network.grid.num_frames, network.config.preprocessing)[:, list(network.grid.frame_order)]
    errors = prove_subgraphs(
        parts, parts, programs, backend, clips, [(1, 16), (2, 16), (5, 16)], "fp32", Rounding().tolerance
    )
    print(
        f"{big}: every subgraph bit for bit at batch 1, 2, 5; largest error against PyTorch {max(errors.values()):.1e}"
    )
    assert len(errors) == len(parts)
