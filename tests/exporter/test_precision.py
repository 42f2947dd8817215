"""The fp16 set: what its measured range or error requires stays fp32, and nothing else."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from samples import ROOT, TINY
from torch import nn

from dynvid.cli import cli
from dynvid.exporter import precision as precision_module
from dynvid.exporter.export import export
from dynvid.exporter.precision import choose
from dynvid.exporter.proof.clips import proof_clips
from dynvid.exporter.proof.equivalence import PROOF_CLIPS, prove
from dynvid.exporter.proof.reference import Reference
from dynvid.exporter.proof.tolerances import BOUND, SHARE
from dynvid.exporter.split import bundle_builder as draft_module
from dynvid.exporter.split.bundle_builder import BundleBuilder
from dynvid.grid.bundle import write_bundle
from dynvid.grid.errors import ProofError
from dynvid.grid.segments import fused_full, fused_segments
from dynvid.models.registry import register
from dynvid.runtime.backends.registry import open_backend

LIMIT, ROUTE_LIMIT = (SHARE[what] * BOUND["fp16"] for what in ("error", "route"))


class Cancelling(nn.Module):
    """Multiplies by 1.3, as 65.3 times less 64 times: half precision makes 65.3125 of 65.3, fp32 errs by a millionth."""

    def __init__(self, block, channels, gain=64.0):
        super().__init__()
        self.block = block
        self.mix = nn.Conv2d(2 * channels, channels, 1, bias=False)
        with torch.no_grad():
            self.mix.weight.zero_()
            for c in range(channels):
                self.mix.weight[c, c], self.mix.weight[c, channels + c] = gain + 1.3, -gain

    def forward(self, features, *shift):
        if not shift:  # before the embedding of a head
            return self.block(self.mix(torch.cat([features, features], 1)))
        *others, last = self.block(features, *shift)
        return (*others, self.mix(torch.cat([last, last], 1)))


class Offset(nn.Module):
    """A block whose last feature is small beside what is the same everywhere: half precision rounds it away."""

    OFFSET, SCALE = 8.0, 1 / 64

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, features, shift):
        *others, last = self.block(features, shift)
        signs = torch.ones(last.shape[1], 1, 1).type_as(last)
        signs[::2] = -1
        return (*others, last * self.SCALE + signs * self.OFFSET)


class Undo(nn.Module):
    """A head that reads what ``Offset`` left."""

    def __init__(self, embed):
        super().__init__()
        self.embed = embed

    def forward(self, rows):
        signs = torch.ones(rows.shape[1], 1, 1).type_as(rows)
        signs[::2] = -1
        return self.embed((rows - signs * Offset.OFFSET) / Offset.SCALE)


def channels_of(network, block):
    found = []
    handle = network.blocks[block].register_forward_hook(lambda _m, _i, out: found.append(out[-1].shape[1]))
    with torch.no_grad():
        network(torch.zeros(1, 8, 3, 32, 32))
    handle.remove()
    return found[0]


@pytest.fixture
def network(exports):
    return exports.network(TINY)


@pytest.fixture(autouse=True)
def asked_for(monkeypatch):
    """Names of the graphs that a draft asked for."""
    names = []

    def to_onnx(part):
        names.append(f"{part.name} {part.precision}")
        return original(part)

    original = draft_module.to_onnx
    monkeypatch.setattr(draft_module, "to_onnx", to_onnx)
    return names


def chosen(network, ranges=None):
    """Return what stays fp32 and why, and the draft."""
    clips = proof_clips(PROOF_CLIPS, network.grid.num_frames, network.config.preprocessing)
    reference, backend = Reference(network, clips), open_backend("onnxruntime")
    draft = BundleBuilder(network, "0" * 64)
    draft.add("fp32")
    figures = prove(network, draft.parts, draft.bundle(), backend, reference)
    draft.ranges = ranges or reference.ranges
    return choose(draft, reference, backend, figures)[0], draft


def test_nothing_stays_fp32_without_a_reason(network):
    reasons, draft = chosen(network)
    assert reasons == {} and draft.bundle().manifest.fp32_only == ()


def test_a_sensitive_block_stays_fp32_and_the_export_is_proved(network, tmp_path, asked_for):
    network.blocks[1] = Cancelling(network.blocks[1], channels_of(network, 1))
    bundle = export(network, tmp_path / "b", source_sha256="0" * 64)
    assert bundle.manifest.fp32_only == ("block1",)
    reason = bundle.manifest.proof["fp32_only"]["block1"]
    assert reason["because"] == "error" and reason["value"] > LIMIT == reason["limit"]
    assert bundle.manifest.proof["fp16"]["subgraphs"]["block1"] <= 1e-4
    # torch traces a graph in half precision only of what is not dynvid's own: all else is made of the fp32 graphs
    names = ["block0", "head0", "block1", "head1", "block2", "head2"]
    assert asked_for == [*(f"{name} fp32" for name in names), "block1 fp16"]
    variants = bundle.manifest.subgraph("block1").variants
    assert variants["fp16"].sha256 == variants["fp32"].sha256


def test_without_the_choice_the_proof_of_a_sensitive_block_fails(network, tmp_path, monkeypatch):
    monkeypatch.setattr(precision_module, "SHARE", {"error": 1e9, "route": 1e9})
    network.blocks[1] = Cancelling(network.blocks[1], channels_of(network, 1))
    with pytest.raises(ProofError, match=r"proof failed: block1 \(fp16"):
        export(network, tmp_path / "b", source_sha256="0" * 64)
    assert not (tmp_path / "b").exists()


def test_a_sensitive_head_stays_fp32_and_no_block_does(network):
    head = network.head(1)
    head.embed = Cancelling(head.embed, channels_of(network, 1))
    reasons, draft = chosen(network)
    assert {name: reason["because"] for name, reason in reasons.items()} == {"head1": "error"}
    (part,) = [p for p in draft.parts["fp16"] if p.name == "head1"]
    assert part.precision == "fp32" and part.inputs[0].dtype == "float16"


def test_a_head_that_needs_an_fp32_feature_takes_its_block_along(network):
    network.blocks[1] = Offset(network.blocks[1])
    head = network.head(1)
    head.embed = Undo(head.embed)
    reasons, draft = chosen(network)
    assert {name: reason["because"] for name, reason in reasons.items()} == {"head1": "error", "block1": "error"}
    (part,) = [p for p in draft.parts["fp16"] if p.name == "head1"]
    assert part.inputs[0].dtype == "float32"


def test_weights_beyond_half_precision_are_found_though_no_activation_is(network):
    """Its weight of 1e5 is infinity in half precision; JSON knows no infinity, so that the value is null."""

    class Large(nn.Module):
        def __init__(self, block, channels):
            super().__init__()
            self.block = block
            self.down, self.up = (nn.Conv2d(channels, channels, 1, groups=channels, bias=False) for _ in range(2))
            nn.init.constant_(self.down.weight, 1e-5)
            nn.init.constant_(self.up.weight, 1e5)

        def forward(self, features, shift):
            *others, last = self.block(features, shift)
            return (*others, self.up(self.down(last)))

    network.blocks[2] = Large(network.blocks[2], channels_of(network, 2))
    reasons, _ = chosen(network)
    assert reasons == {"block2": {"because": "error", "value": None, "limit": LIMIT}}


def test_a_large_range_is_the_first_reason(network):
    reasons, _ = chosen(network, {"block0": 2e4, "block1": 9e3, "head0": 7.0})
    assert reasons == {"block0": {"because": "range", "value": 2e4, "limit": 1e4}}


def test_errors_of_the_route_keep_the_blocks_fp32_from_the_first_one_on(network, monkeypatch):
    tried, add = [], BundleBuilder.add

    def watched(draft, precision, kept=()):
        tried.append(len(kept))
        add(draft, precision, kept)

    monkeypatch.setattr(BundleBuilder, "add", watched)
    monkeypatch.setattr(
        precision_module, "route_errors", lambda *_: np.array([0.001, 0.039 if tried[-1] < 2 else ROUTE_LIMIT])
    )
    reasons, draft = chosen(network)
    because = {"because": "route", "value": 0.039, "limit": ROUTE_LIMIT}
    assert reasons == {"block0": because, "block1": because}
    assert tried == [0, 0, 3, 2, 1, 2]  # fp32, all in fp16, halves of what is left, and what was found
    assert draft.bundle().manifest.fp32_only == ("block0", "block1")


def test_an_error_of_the_route_that_never_ends_stops_when_all_is_fp32(network, monkeypatch):
    monkeypatch.setattr(precision_module, "route_errors", lambda *_: np.array([float("nan")]))
    reasons, draft = chosen(network)
    assert list(reasons) == ["block0", "block1", "block2", "head0", "head1", "head2"]
    assert {reason["value"] for reason in reasons.values()} == {None}
    assert {part.precision for part in draft.parts["fp16"]} == {"fp32"}


@pytest.mark.parametrize("kept", [(), ("block0",), ("block1",), ("block2",), ("block0", "block2"), ("head1",)])
def test_fused_segments_hand_on_the_dtypes_that_the_cells_have(network, monkeypatch, kept):
    monkeypatch.setattr(draft_module, "to_onnx", lambda part: part.name.encode())
    monkeypatch.setattr(draft_module, "in_half", lambda content, _: content)
    draft = BundleBuilder(network, "0" * 64)
    draft.add("fp32")
    draft.add("fp16", kept)
    manifest = draft.bundle().manifest
    cells = {
        spec.name: spec.dtype
        for part in draft.parts["fp16"]
        for spec in (*part.inputs, *part.outputs)
        if "feature" in spec.name or spec.name.startswith("state")
    }
    handed_on, frames = {}, set()
    for segment in (*fused_segments(manifest, "fp16"), fused_full(manifest, "fp16")):
        for spec in (*segment.inputs, *segment.outputs):
            way, _, name = spec.name.partition(".")
            if way in ("in", "out"):
                assert handed_on.setdefault(name, spec.dtype) == spec.dtype
            elif way == "frames":
                frames.add(spec.dtype)
    for name, dtype in handed_on.items():
        block, _, rest = name.partition(".")
        port = rest.replace("state.", "state_in.", 1) if rest.startswith("state") else name
        if rest == "embeddings":
            assert dtype == "float32"
        else:
            assert dtype == cells[port]
            reader = f"block{int(block.removeprefix('block')) + 1}" if "feature" in rest else block
            assert (dtype == "float32") == bool({block, reader} & set(kept))
    assert frames == {"float32" if "block0" in kept else "float16"}
    assert len(handed_on) > 5


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, 2])
def test_the_network_of_the_example_is_exported_with_fp16(exports, tmp_path, monkeypatch, seed):
    """Its blocks amplify what block 0 rounds, so that the route errs though no subgraph's own error is large."""
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "own_network"))
    from mobile_video import mobile_video

    register(f"mobilevideo{seed}", mobile_video)
    config = {"network": f"mobilevideo{seed}", "classes": 5, "options": {"width": 0.35}}
    network = exports.network({**config, "preprocessing": {"short_side": 64, "crop": 64}}, seed)
    bundle = export(network, tmp_path / "b", source_sha256="0" * 64)
    print(seed, bundle.manifest.proof["fp32_only"], bundle.manifest.proof["fp16"]["checkpoints"])
    reasons = bundle.manifest.proof["fp32_only"]
    assert reasons["block0"]["because"] == "route" and reasons["block0"]["value"] > BOUND["fp16"]
    assert "block3" not in reasons
    assert max(bundle.manifest.proof["fp16"]["checkpoints"]) <= ROUTE_LIMIT


def test_where_all_blocks_stay_fp32_the_commands_say_so(exports, tmp_path):
    draft = BundleBuilder(exports.network(TINY), "0" * 64)
    draft.add("fp32")
    draft.add("fp16", ["block0", "block1", "block2"])
    made = draft.bundle()
    assert not made.manifest.gains_by_fp16
    write_bundle(tmp_path / "b", made.manifest, made.held)
    arguments = ["build-engines", str(tmp_path / "b"), "--fp16", "--backend", "onnxruntime", "--only", "segment1"]
    assert "all blocks stay fp32 in the fp16 set" in CliRunner().invoke(cli, arguments).stderr


def test_where_nothing_more_can_stay_fp32_the_whole_bound_holds(network, monkeypatch):
    """Else a network would be refused that its proof passes."""
    draft, bounds = BundleBuilder(network, "0" * 64), {}
    draft.add("fp32")
    draft.add("fp16", ["block0", "head0", "head1"])

    def prove_subgraphs(modules, parts, programs, backend, clips, sizes, precision, bound, only, beyond):
        bounds.update({part.name: bound(precision, part.name, "logits") for part in parts})
        beyond["head0"] = 0.9 * BOUND["fp16"] if beyond_bound is None else beyond_bound
        if beyond["head0"] <= bounds["head0"]:
            del beyond["head0"]
        return dict.fromkeys(bounds, 0.0)

    monkeypatch.setattr(precision_module, "prove_subgraphs", prove_subgraphs)
    clips = proof_clips(1, network.grid.num_frames, network.config.preprocessing)
    arguments = (draft, {"block0", "head0", "head1"}, Reference(network, clips), open_backend("onnxruntime"))
    beyond_bound = None
    assert precision_module._by_error(*arguments, {}) == {}
    whole = dict.fromkeys(("block0", "head0"), BOUND["fp16"])
    assert bounds == {name: whole.get(name, LIMIT) for name in bounds} and len(bounds) == 6
    beyond_bound = 1.1 * BOUND["fp16"]
    with pytest.raises(ProofError, match=r"head0 \(fp16\)"):
        precision_module._by_error(*arguments, {})
