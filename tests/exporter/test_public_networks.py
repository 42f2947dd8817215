"""Networks as people bring them go the whole way, whatever their weights; wrong ones are still refused.

Export, engines, a video on the engines and the proof again: for every layout, PyTorch's and He's initialisations, and
classifiers as sure as trained ones. Our own initialisation is friendlier than these.
"""

import copy
import itertools

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper
from planted_faults import lose_state, rewired, scale_weight, stale_state, with_graph
from public_layouts import EVERY, INITIALISATIONS, NAMES, SMALL_MSDNET, SMALL_RESNET, make_sure, network, resnet, weigh

from dynvid.exporter.engines.build import build_engines
from dynvid.exporter.export import export, prove_again
from dynvid.exporter.proof.clips import proof_clips
from dynvid.exporter.proof.equivalence import PROOF_CLIPS, agreement_of, prove
from dynvid.exporter.proof.reference import Reference
from dynvid.exporter.proof.segment_equivalence import prove_segments
from dynvid.exporter.proof.tolerances import PROBABILITY, Rounding, require_softmax
from dynvid.exporter.split.subgraphs import split
from dynvid.grid.errors import BlindProofError, IllConditionedError, ProofError
from dynvid.grid.storage.files import sha256_of
from dynvid.models.layouts import load_training_checkpoint
from dynvid.models.training_checkpoint import save
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.execution.engine_lookup import open_engines
from dynvid.runtime.session import ArraySource, Session

CLASSES = 400  # with few, a sure network's probabilities vary as much as its logits
NATIVE = {"classes": CLASSES, "frames_per_set": 1, "head": {"width": 8}, "route": "1,0 1,1 2,2 3,2", "input_sets": 4}
SHIFTED_MSDNET = {"options": {**SMALL_MSDNET, "layers": [1, 1, 1]}, "shift": {"enabled": True}, **NATIVE}
STATES_RESNET = {**SMALL_RESNET, "layers": [1, 1, 3, 1]}  # block 3 hands on three states, two of one shape
LAYOUTS = ("native", *NAMES)


def public(layout, how, sure):
    """Return a network with such weights in the configuration that a file of this layout has."""
    if layout == "native":
        model = network("msdnet", **SHIFTED_MSDNET)
    elif layout == "msdnet-pytorch":
        model = network("msdnet", {**SMALL_MSDNET, "stem": "cifar"}, classes=CLASSES, frames_per_set=2)
    else:
        points = [] if layout == "torchvision" else EVERY
        model = resnet(points, classes=CLASSES)
    weigh(model, how)
    return make_sure(model) if sure else model


def brought(layout, how, sure, folder):
    """Return the file of such a network, and the network as it is read from there."""
    model, path = public(layout, how, sure), folder / "network.pth"
    if layout == "native":
        save(model, path)
        return path, load_training_checkpoint(path).network
    torch.save(NAMES[layout](model.state_dict(), EVERY), path)
    return path, load_training_checkpoint(path, num_frames=8).network  # each frame may be a segment, to build and prove


def goes_the_whole_way(path, model, folder):
    """Export, build engines, run a clip on them, prove again; return the proof."""
    bundle = export(model, folder / "b", source_sha256=sha256_of(path), precisions=("fp32",))
    rows = build_engines(
        bundle,
        folder / "b.engines",
        "onnxruntime",
        prove=prove_segments,
    )
    assert [row.error for row in rows] == [None] * len(rows)
    backend = open_backend("onnxruntime")
    session = Session.open(bundle, backend, programs=open_engines(bundle, backend, folder / "b.engines").plan)
    clip = proof_clips(1, model.grid.num_frames, model.config.preprocessing, seed=5)
    logits = np.stack(session.classify(ArraySource(clip[0]), trace=True).logits)
    expected = Reference(model, clip).logits()[0]
    bounds = Rounding.of(bundle.manifest.proof).tolerances("fp32", len(expected))
    assert (np.abs(logits - expected).max(axis=1) <= bounds * expected.std(axis=1)).all()
    assert prove_again(bundle, path) == bundle.manifest.proof
    return bundle.manifest.proof


QUICK = {("native", "fan_in"), ("msdnet-pytorch", "default"), ("mit-tsm", "fan_out")}
# of the others the file's names are others, which tests/models/test_layouts.py reads, and the networks are as these


@pytest.mark.full
@pytest.mark.parametrize(("layout", "how"), [*itertools.product(LAYOUTS, INITIALISATIONS)])
def test_a_network_goes_the_whole_way_whatever_its_weights(tmp_path, layout, how):
    goes_the_whole_way(*brought(layout, how, False, tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("layout", "how"),
    [
        pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.full)
        for pair in itertools.product(LAYOUTS, INITIALISATIONS)
    ],
)
def test_a_sure_network_goes_the_whole_way(tmp_path, layout, how):
    path, model = brought(layout, how, True, tmp_path)
    goes_the_whole_way(path, model, tmp_path)
    clips = proof_clips(PROOF_CLIPS, model.grid.num_frames, model.config.preprocessing)
    assert torch.softmax(torch.from_numpy(Reference(model, clips).logits()), -1).max() > 0.5


@pytest.mark.full
def test_a_sure_resnet50_goes_the_whole_way(tmp_path):
    """Of this one the last features differ by 6e-4 of their deviation between fp32 and fp64, the logits by 2e-5."""
    shape = {"preprocessing": {"short_side": 256, "crop": 224}, "frames_per_set": 2, "shift": {"enabled": False}}
    options = {"layers": [3, 4, 6, 3], "width": 64}
    model = network("resnet", options, classes=CLASSES, heads=[4], head={"style": "linear"}, **shape)
    make_sure(weigh(model, "fan_in"))
    path = tmp_path / "network.pth"
    torch.save(NAMES["torchvision"](model.state_dict(), []), path)
    proof = goes_the_whole_way(path, load_training_checkpoint(path).network, tmp_path)
    print(proof["rounding"]["checkpoints"], proof["fp32"]["bounds"], proof["fp32"]["checkpoints"])


@pytest.mark.full
def test_a_network_whose_states_die_out_is_refused_as_blind_with_advice_that_fits(tmp_path):
    """MSDNet-38 with PyTorch's own weights, and BatchNorm as if it had seen nothing."""
    model = weigh(network("msdnet38", {}, classes=CLASSES, shift={"enabled": True}), "default", measured=False)
    with pytest.raises(BlindProofError, match=r"never trained, or whose BatchNorm statistics were never measured"):
        export(model, tmp_path / "b", source_sha256="0" * 64, precisions=("fp32",))


# what the proof measures with


@pytest.fixture(scope="module")
def sure():
    return public("native", "fan_in", True)


@pytest.fixture(scope="module")
def bundle(sure, tmp_path_factory):
    return export(sure, tmp_path_factory.mktemp("sure") / "b", source_sha256="0" * 64, precisions=("fp32",))


@pytest.fixture(scope="module")
def reference(sure):
    return Reference(sure, proof_clips(PROOF_CLIPS, sure.grid.num_frames, sure.config.preprocessing))


def test_the_manifest_keeps_what_the_reference_rounds_off(bundle):
    proof = bundle.manifest.proof
    kept = proof["rounding"]
    assert len(kept["checkpoints"]) == 4 and 0 < min(kept["checkpoints"]) <= max(kept["checkpoints"]) < 1e-4
    for subgraph in bundle.manifest.subgraphs:
        names = {spec.name for spec in subgraph.variant("fp32").outputs} - {"probabilities"}
        assert set(kept["tensors"][subgraph.name]) == names
    assert proof["fp32"]["bounds"] == [1e-4] * 4
    handed_on = Rounding.of(proof).handed_on(bundle.manifest)
    assert {"block0.feature0", "block1.state.1.layer0", "block2.embeddings"} <= set(handed_on)
    assert max(handed_on.values()) > 0


@pytest.mark.parametrize(
    ("rounding", "logits", "inside"),
    [(0.0, 1e-4, 1e-4), (2e-5, 1e-4, 1e-4), (1e-4, 4e-4, 4e-4), (6e-4, 1e-3, 2.4e-3), (1, 1e-3, 1e-2)],
)
def test_a_tolerance_is_four_roundings_between_its_limits(rounding, logits, inside):
    found = Rounding((rounding,), {"block0": {"out": rounding}})
    assert found.tolerances("fp32", 1) == [pytest.approx(logits)]
    assert found.tolerance("fp32", "block0", "out") == pytest.approx(inside)
    assert found.tolerance("fp32", "block0", "other") == 1e-4 and found.tolerances("fp16", 1) == [2e-2]


def test_a_bundle_without_the_figures_has_the_tolerances_of_before():
    assert Rounding.of({}).tolerances("fp32", 3) == [1e-4] * 3


def test_a_network_that_needs_more_than_fp32_is_refused_on_the_first_clip(sure, tmp_path, caplog):
    class Rough(torch.nn.Module):
        """Adds a large number to features, and takes it away again: so much is rounded off."""

        def __init__(self, block, large):
            super().__init__()
            self.block, self.large = block, large

        def forward(self, features, shift):
            return tuple((x + self.large) - self.large for x in self.block(features, shift))

    caplog.set_level("DEBUG", "dynvid")
    for large, refused in ((300.0, False), (30000.0, True)):
        model = copy.deepcopy(sure)
        model.blocks[0] = Rough(model.blocks[0], large)
        if refused:
            caplog.clear()
            with pytest.raises(IllConditionedError, match="PyTorch's own fp32 differs from fp64 by"):
                export(model, tmp_path / "b", source_sha256="0" * 64, precisions=("fp32",))
            assert [line for line in caplog.messages if "reference" in line] == ["PyTorch reference 1/8"]
        else:
            proof = export(model, tmp_path / "a", source_sha256="0" * 64, precisions=("fp32",)).manifest.proof
            assert max(proof["rounding"]["checkpoints"]) > 2.5e-5 and max(proof["fp32"]["bounds"]) > 1e-4
            assert proof["sees"]["required"] == pytest.approx(10 * max(proof["fp32"]["bounds"]), rel=0.01)


def test_probabilities_are_judged_by_their_logits():
    logits = np.array([[50.0, 40.0, -3.0]], np.float32)
    right = torch.softmax(torch.from_numpy(logits), -1).numpy()
    require_softmax({"logits": logits, "probabilities": right}, "here")
    for wrong in (right + np.float32(2 * PROBABILITY), right[:, ::-1], right * np.nan):
        with pytest.raises(ProofError, match="here: probabilities differ"):
            require_softmax({"logits": logits, "probabilities": wrong}, "here")


def test_only_ties_may_end_elsewhere():
    """Thresholds lie midway between confidences, so a tie of two videos is one within rounding."""
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(8, 3, 5)).astype(np.float32)
    bounds = [1e-4] * 3
    assert agreement_of(reference, reference, bounds) == {"exits": 1.0, "classes": 1.0}
    tied = reference.copy()
    tied[1] = tied[0]
    tied[1, :, 0] += np.float32(1e-6)
    near = tied.copy()
    near[[0, 1]] = tied[[1, 0]]
    assert agreement_of(tied, near, bounds)["classes"] == 1.0
    with pytest.raises(ProofError, match="clip 2: another"):
        agreement_of(reference, np.concatenate([reference[:2], -reference[2:]]), bounds)


# planted faults, each found though the network is as sure as a trained one


def swap_states(graph):
    """Hand one layer's state to another: their shapes are the same, only names tell them apart."""
    _, one, other = (o.name for o in graph.output if o.name.startswith("state_out"))
    rewired(graph, {one: other, other: one})


def shift_a_frame(graph):
    """Take the features of the frame before."""
    out = graph.output[0].name
    rewired(graph, {out: "own"})
    for name, value in (("first", [0]), ("last", [-1]), ("end", [10**6]), ("axis", [1])):
        graph.initializer.append(numpy_helper.from_array(np.array(value), f"planted.{name}"))
    graph.node.append(helper.make_node("Slice", ["own", "planted.last", "planted.end", "planted.axis"], ["tail"]))
    graph.node.append(helper.make_node("Slice", ["own", "planted.first", "planted.last", "planted.axis"], ["rest"]))
    graph.node.append(helper.make_node("Concat", ["tail", "rest"], [out], axis=1))


def flip_channels(graph):
    """Hand features on in another order."""
    out = graph.output[0].name
    rewired(graph, {out: "own"})
    channels = graph.output[0].type.tensor_type.shape.dim[2].dim_value
    graph.initializer.append(numpy_helper.from_array(np.arange(channels)[::-1].copy(), "planted.order"))
    graph.node.append(helper.make_node("Gather", ["own", "planted.order"], [out], axis=2))


def swap_answers(graph):
    """Give probabilities out as logits, and logits as probabilities."""
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{name}.own" if name in ("logits", "probabilities") else name for name in names]
    for name, other in (("logits", "probabilities"), ("probabilities", "logits")):
        graph.node.append(helper.make_node("Identity", [f"{name}.own"], [other]))


def soften(graph):
    """Compute probabilities at another temperature."""
    (node,) = (n for n in graph.node if n.op_type == "Softmax")
    graph.initializer.append(numpy_helper.from_array(np.float32(1.001), "planted.factor"))
    graph.node.insert(
        list(graph.node).index(node), helper.make_node("Mul", [node.input[0], "planted.factor"], ["soft"])
    )
    node.input[0] = "soft"


def shift_classes(graph):
    """Name every class by its neighbour's number."""
    rewired(graph, {"logits": "own"})
    graph.initializer.append(numpy_helper.from_array(np.roll(np.arange(CLASSES), 1), "planted.order"))
    graph.node.append(helper.make_node("Gather", ["own", "planted.order"], ["logits"], axis=1))


def forget_frames(graph):
    """Answer from the embeddings that were handed in, without the new ones."""
    port = next(i.name for i in graph.input if i.name.startswith("embeddings_in"))
    node = next(n for n in graph.node if n.op_type == "MatMul" and "frame_weights" in n.input)
    node.input[1] = port


def move_a_bias(graph):
    """Add to one class what no rounding adds."""
    bias = next(t for t in graph.initializer if list(t.dims) == [CLASSES])
    value = numpy_helper.to_array(bias).copy()
    value[7] += np.float32(0.02 * value.std())
    bias.CopyFrom(numpy_helper.from_array(value, bias.name))


FAULTS = {
    "a lost state": ("block3", lose_state),
    "a stale state": ("block2", stale_state),
    "swapped states": ("block3", swap_states),
    "a shifted frame": ("block1", shift_a_frame),
    "swapped channels": ("block2", flip_channels),
    "a wrong weight": ("block1", scale_weight),
    "a wrong weight of a head": ("head4", scale_weight),
    "swapped answers": ("head2", swap_answers),
    "softer probabilities": ("head4", soften),
    "shifted classes": ("head3", shift_classes),
    "forgotten frames": ("head4", forget_frames),
    "a wrong bias": ("head3", move_a_bias),
}


@pytest.fixture(scope="module")
def shifted(tmp_path_factory):
    """A sure ResNet, its bundle, and its reference."""
    model = network(
        "resnet", STATES_RESNET, classes=CLASSES, heads=[2, 3, 4], route="2,2 4,3 7,4", shift={"enabled": True}
    )
    make_sure(weigh(model, "fan_in"))
    bundle = export(model, tmp_path_factory.mktemp("shifted") / "b", source_sha256="0" * 64, precisions=("fp32",))
    return model, bundle, Reference(model, proof_clips(PROOF_CLIPS, 8, model.config.preprocessing))


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(shifted, name):
    model, bundle, reference = shifted
    part, fault = FAULTS[name]
    wrong, modules = with_graph(bundle, part, fault), {"fp32": split(model, "fp32")}
    with pytest.raises(ProofError, match=rf"proof failed: {part} \(fp32"):
        prove(model, modules, wrong, open_backend("onnxruntime"), reference)
