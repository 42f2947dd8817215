"""Starts: what a network takes from a file is the file's, what it does not take is new, and other files are refused."""

from __future__ import annotations

import json
from pathlib import Path

import public_layouts
import pytest
import torch
from public_layouts import EVEN, EVERY, NAMES, PIXELS, SMALL_MSDNET, SMALL_RESNET, as_msdnet, as_torchvision
from samples import ROOT
from torch import Tensor, nn

from dynvid.grid.errors import LayoutError, NonFiniteWeightsError, TrainingCheckpointError
from dynvid.models.config_json import from_json
from dynvid.models.layouts import load_training_checkpoint
from dynvid.models.network import VideoNetwork
from dynvid.models.registry import build
from dynvid.models.shift import ShiftConfig, WholeShift
from dynvid.models.training_checkpoint import save
from dynvid.training.optimisation.starts import Start, start_from

LABELS = ["a", "b", "c"]
OFF = {"enabled": False}


def fresh(name: str = "resnet", options: dict | None = None, **keys) -> VideoNetwork:
    """A network of three classes, as training builds it."""
    if name == "resnet" and options is None:
        options = SMALL_RESNET
    keys = {"classes": 3, "labels": LABELS, "frames_per_set": 1, "preprocessing": PIXELS, "shift": OFF, **keys}
    return build(from_json({"network": name, "options": options or {}, **keys}))


@torch.no_grad()
def trained(network: VideoNetwork) -> VideoNetwork:
    """The network, in which nothing is as it begins."""
    torch.manual_seed(4)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                tensor.normal_(std=0.2)
            module.num_batches_tracked += 7
        elif isinstance(module, nn.Linear):
            module.bias.normal_()
    return network.eval()


def small(*arguments, **keys) -> VideoNetwork:
    return trained(public_layouts.network(*arguments, **keys))


def as_public(*arguments, **keys) -> VideoNetwork:
    return trained(public_layouts.resnet(*arguments, **keys))


def write(path: Path, state: dict[str, Tensor], **beside) -> Path:
    torch.save({"state_dict": state, **beside}, path)
    return path


@torch.no_grad()
def features(network: VideoNetwork, shift: ShiftConfig, pixels: int = 32) -> list[Tensor]:
    """Every feature of every block, of four frames."""
    generator = torch.Generator().manual_seed(5)
    of_block: tuple[Tensor, ...] = (torch.randn(4, 3, pixels, pixels, generator=generator),)
    found = []
    for index, block in enumerate(network.eval().blocks):
        of_block = block(of_block, WholeShift(shift, index, 4))
        found += of_block
    return found


def same_features(one: VideoNetwork, other: VideoNetwork, shift: ShiftConfig | None = None, pixels: int = 32) -> bool:
    shift = ShiftConfig(enabled=False) if shift is None else shift
    return all(map(torch.equal, features(one, shift, pixels), features(other, shift, pixels)))


def below(prefix: str, keys: tuple[str, ...]) -> set[str]:
    return {key for key in keys if key.startswith(prefix)}


def is_complete(start: Start, network: VideoNetwork) -> bool:
    """Whether every tensor of the network is either taken or new."""
    every = [key for key in network.state_dict() if not key.endswith("num_batches_tracked")]
    return sorted(start.taken + start.new) == sorted(every)


def has_new_classifiers(network: VideoNetwork) -> bool:
    linears = [linear for head in network.heads.values() for linear in head.classifiers.values()]
    spreads = [linear.weight.std().item() for linear in linears]
    return all(0.0005 < s < 0.002 for s in spreads) and not any(linear.bias.any() for linear in linears)


# weights for images


@pytest.mark.parametrize(
    ("name", "rename", "layout", "left"),
    [
        ("msdnet38", as_msdnet, "msdnet-pytorch", 10),
        ("resnet50", as_torchvision, "torchvision", 2),
        ("resnet101", as_torchvision, "torchvision", 2),
    ],
)
def test_weights_for_images_start_each_backbone(tmp_path, name, rename, layout, left):
    keys = {"classes": 5, "shift": OFF}
    keys |= {"route": "depth"} if name == "msdnet38" else {"heads": [4], "head": {"style": "linear"}}
    torch.manual_seed(1)
    its = trained(build(from_json({"network": name, **keys})))
    # in half precision, as it is smaller to write
    path = write(tmp_path / "imagenet.pth.tar", {key: v.half() for key, v in rename(its.state_dict()).items()})
    its.load_state_dict({key: v.half().float() for key, v in its.state_dict().items()})
    torch.manual_seed(2)
    network = build(from_json({"network": name, "classes": 3, "labels": LABELS}))
    assert network.config.shift.enabled
    start = start_from(network, path)
    assert same_features(network, its, pixels=64)
    assert start.source == f"a file in the layout {layout} of {name}, 5 classes"
    assert len(start.unused) == left and all("linear" in name or "fc" in name for name in start.unused)
    assert is_complete(start, network) and start.advice == ()
    assert has_new_classifiers(network)
    # the same embeddings that MSDNet-PyTorch has; a ResNet's file has none
    assert bool(below("heads.1.embed", start.taken)) == (name == "msdnet38")


def test_any_msdnet_starts_and_its_embeddings_are_kept(tmp_path):
    its = small("msdnet", SMALL_MSDNET, route="depth")
    path = write(tmp_path / "a.pth", as_msdnet(its.state_dict()))
    network = fresh("msdnet", SMALL_MSDNET, route="depth")
    start = start_from(network, path)
    assert same_features(network, its)
    assert below("heads.", start.new) == {
        f"heads.{block}.classifiers.shared.{leaf}" for block in (0, 1) for leaf in ("weight", "bias")
    }
    for block in "01":
        x = torch.randn(2, network.heads[block].embed[0].in_channels, 8, 8)
        assert torch.equal(network.heads[block].eval().embed(x), its.heads[block].embed(x))
    assert set(start.unused) == {f"module.classifier.{b}.linear.{leaf}" for b in (0, 1) for leaf in ("weight", "bias")}


def test_an_embedding_is_new_as_a_whole_where_a_part_does_not_fit(tmp_path):
    path = write(tmp_path / "a.pth", as_msdnet(small("msdnet", SMALL_MSDNET, route="depth").state_dict()))
    torch.manual_seed(0)
    network = fresh("msdnet", SMALL_MSDNET, route="depth", head={"width": 12})
    start = start_from(network, path)
    assert below("heads.0", start.new) == below("heads.0", start.taken + start.new)
    for conv in (network.heads["1"].embed[0], network.heads["1"].embed[3]):
        he = (2 / conv.weight[0].numel()) ** 0.5
        assert conv.weight.std().item() == pytest.approx(he, rel=0.1)
    assert len(below("module.classifier.", start.unused)) == 2 * (2 + 2 * 5)


def test_all_that_a_file_gives_is_said_on_one_line(tmp_path):
    path = write(tmp_path / "a.pth", as_torchvision(as_public().state_dict()))
    head = {"style": "linear"}
    start = start_from(fresh(heads=[3, 4], head=head, route="depth"), path)
    taken = len(start.taken)
    assert str(start) == (
        "a file in the layout torchvision of a ResNet with stages 1 2 3 1 of width 8, not a published one, 5 classes: "
        f"{taken} tensors taken, 4 new (heads.3.classifiers.shared.weight, heads.3.classifiers.shared.bias, "
        "heads.4.classifiers.shared.weight, heads.4.classifiers.shared.bias), 2 of the file unused (fc.weight, fc.bias)"
    )
    save(as_public(), tmp_path / "b.pth")
    assert str(start_from(as_public(), tmp_path / "b.pth")).endswith(
        f"{taken + 2} tensors taken, none new, none unused"
    )


def test_a_file_without_classifiers_starts_too(tmp_path):
    state = {key: v for key, v in as_torchvision(as_public().state_dict()).items() if not key.startswith("fc.")}
    start = start_from(fresh(), write(tmp_path / "a.pth", state))
    assert start.source.endswith(", not a published one, without classifiers")
    assert start.unused == ()


def test_the_weights_are_given_in_place(tmp_path):
    path = write(tmp_path / "a.pth", as_torchvision(as_public().state_dict()))
    network = fresh().double()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    start_from(network, path)
    assert all(
        mine is theirs for mine, theirs in zip(network.parameters(), optimizer.param_groups[0]["params"], strict=True)
    )
    assert all(p.requires_grad and p.dtype == torch.float64 for p in network.parameters())
    assert network.training


@pytest.mark.parametrize("labels", [LABELS, None])
def test_a_public_files_classifier_is_not_taken_though_it_fits(tmp_path, labels):
    path = write(tmp_path / "a.pth", as_torchvision(as_public(classes=3).state_dict()))
    network = fresh(heads=[4], head={"style": "linear"}, labels=labels)
    start = start_from(network, path)
    assert below("heads.", start.new) and has_new_classifiers(network)
    assert start.advice == ("the file does not name its 3 classes, so its classifiers were not taken",)


def test_of_several_sets_of_weights_the_one_taken_is_named(tmp_path):
    state = as_torchvision(as_public().state_dict())
    path = write(tmp_path / "a.pth", state, state_dict_ema={key: v * 2 for key, v in state.items()})
    network = fresh()
    start = start_from(network, path)
    assert start.advice == ("the file holds several sets of weights, state_dict, state_dict_ema: state_dict was taken",)
    assert torch.equal(network.blocks[0].net[0].weight, state["conv1.weight"])


# TSN and TSM


@pytest.mark.parametrize("layout", ["mit-tsm", "mmaction2"])
@pytest.mark.parametrize("points", [EVERY, EVEN], ids=["every", "even"])
def test_tsm_starts_the_online_shift(tmp_path, layout, points):
    its = as_public(points)
    path = write(tmp_path / "a.pth", NAMES[layout](its.state_dict(), points))
    network = fresh(shift={"start_fold": 1, "points": points})
    start = start_from(network, path)
    assert same_features(network, its, network.config.shift)
    assert not torch.equal(features(network, ShiftConfig(start_fold=0))[-1], features(its, its.config.shift)[-1])
    assert start.advice == ()
    assert start.source == (
        f"a file in the layout {layout} of a ResNet with stages 1 2 3 1 of width 8, not a published one, 5 classes"
    )
    assert len(start.unused) == 2
    assert len(below("blocks.", start.new)) == 0 and is_complete(start, network)


@pytest.mark.parametrize("layout", ["mit-tsm", "mmaction2"])
def test_tsn_starts_a_network_with_or_without_shift(tmp_path, layout):
    its = as_public()
    path = write(tmp_path / "a.pth", NAMES[layout](its.state_dict(), []))
    assert start_from(network := fresh(), path).advice == ()
    assert same_features(network, its)
    (advice,) = start_from(fresh(shift={}), path).advice
    assert advice == "the file was trained without a temporal shift, and the network has one: it starts below the file"


def test_the_channels_of_the_past_have_to_be_the_same(tmp_path):
    path = write(tmp_path / "a.pth", NAMES["mit-tsm"](as_public(EVERY).state_dict(), EVERY))
    (advice,) = start_from(fresh(shift={}), path).advice
    assert advice == (
        "the file was trained with a shift in both directions, and channels of the past frame are its second fold, but "
        "the network shifts fold 0 (0-based): set shift.start_fold = 1"
    )


def test_the_layers_that_shift_have_to_be_the_same(tmp_path):
    path = write(tmp_path / "a.pth", NAMES["mit-tsm"](as_public(EVEN).state_dict(), EVEN))
    (advice,) = start_from(fresh(shift={"start_fold": 1}), path).advice
    assert advice == (
        f"the file was trained with a shift on {len(EVEN)} layers, and the network shifts 7 (newly 2.conv1, 3.conv1): "
        "set shift.points to the file's layers"
    )
    (advice,) = start_from(fresh(shift={"start_fold": 1, "points": ["1.conv0"]}), path).advice
    assert "the network shifts 1 (no longer 2.conv0, 3.conv0, 3.conv2, 4.conv0)" in advice


def test_a_tsm_file_without_shift_and_another_share_are_said(tmp_path):
    path = write(tmp_path / "a.pth", NAMES["mmaction2"](as_public(EVERY).state_dict(), EVERY))
    (advice,) = start_from(fresh(), path).advice
    assert advice == ("the file was trained with a temporal shift, and the network has none: set shift.enabled = true")
    (advice,) = start_from(fresh(shift={"start_fold": 1, "div": 4}), path).advice
    assert advice == "the file was trained with shift.div = 8 (as its code has it), and the network has 4"


def test_another_normalisation_is_said(tmp_path):
    state = NAMES["mmaction2"](as_public().state_dict(), [])
    for name, values in {"mean": [127.5] * 3, "std": [51.0] * 3}.items():
        state[f"data_preprocessor.{name}"] = torch.tensor(values).view(3, 1, 1)
    path = write(tmp_path / "a.pth", state)
    (advice,) = start_from(fresh(), path).advice
    assert advice.startswith(
        "the file's network takes frames of mean (0.5, 0.5, 0.5), std (0.2, 0.2, 0.2), and this one"
    )
    pixels = {**PIXELS, "mean": [0.5] * 3, "std": [0.2] * 3}
    assert start_from(fresh(preprocessing=pixels), path).advice == ()


# files that do not fit


def test_another_depth_is_refused_with_names(tmp_path):
    deeper = as_torchvision(as_public(layers=[1, 2, 4, 1]).state_dict())
    with pytest.raises(LayoutError) as error:
        start_from(fresh(), write(tmp_path / "deep.pth", deeper))
    message = str(error.value)
    assert "cannot start a ResNet with stages 1 2 3 1 of width 8, not a published one: it is a file in the" in message
    assert "torchvision of a ResNet with stages 1 2 4 1 of width 8, not a published one, 5 classes; " in message
    assert "; 15 unexpected: layer3.3.bn1.bias, layer3.3.bn1.running_mean, " in message
    assert message.endswith("Give weights of the network that you configured, or configure the file's.")
    assert "missing" not in message
    shallower = as_torchvision(as_public().state_dict())
    with pytest.raises(
        LayoutError, match=r"; 15 missing: blocks\.3\.3\.residual\.0\.weight, blocks.* and 10 more\. Give"
    ):
        start_from(fresh(options={"layers": [1, 2, 4, 1], "width": 8}), write(tmp_path / "a.pth", shallower))


def test_resnet50_and_resnet101_are_not_taken_for_each_other(tmp_path):
    keys = {"classes": 5, "heads": [4], "head": {"style": "linear"}, "shift": OFF}
    state = build(from_json({"network": "resnet50", **keys})).state_dict()
    path = write(tmp_path / "a.pth", {key: value.half() for key, value in as_torchvision(state).items()})
    with torch.device("meta"):
        network = build(from_json({"network": "resnet101", "classes": 3}))
    with pytest.raises(
        LayoutError,
        match=r"cannot start resnet101: it is a file in the layout torchvision of resnet50, 5 classes; 255 missing",
    ):
        start_from(network, path)


def test_an_msdnet_of_other_options_is_refused_with_shapes(tmp_path):
    path = write(tmp_path / "a.pth", as_msdnet(small("msdnet", SMALL_MSDNET, route="depth").state_dict()))
    network = fresh("msdnet", {**SMALL_MSDNET, "growth": 6})
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(
        LayoutError,
        match=r"\d misshapen: module\.blocks\.0\.1\.layers\.0\.conv_normal\.net\.0\.weight \(4, 8, 1, 1\) float32 instead of "
        r"\(6, 8, 1, 1\) float32, ",
    ):
        start_from(network, path)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("of_file", ["resnet", "msdnet"])
def test_another_family_is_refused(tmp_path, of_file):
    msdnet, resnet = small("msdnet", SMALL_MSDNET, route="depth"), as_public()
    state = as_torchvision(resnet.state_dict()) if of_file == "resnet" else as_msdnet(msdnet.state_dict())
    network = fresh() if of_file == "msdnet" else fresh("msdnet", SMALL_MSDNET)
    words = {"resnet": "a ResNet with stages 1 2 3 1", "msdnet": "an MSDNet with blocks of 1 2 layers"}
    with pytest.raises(
        LayoutError, match=rf"it is a file in the layout \S+ of {words[of_file]}.* missing: blocks\..*; "
    ):
        start_from(network, write(tmp_path / "a.pth", state))


def test_a_damaged_file_is_refused_with_its_own_names_and_another_cure(tmp_path):
    state = {f"module.{key}": value for key, value in as_torchvision(as_public().state_dict()).items()}
    del state["module.layer2.1.bn2.running_var"]
    state["module.layer3.0.conv2.weight"] = state["module.layer3.0.conv2.weight"][:, :5].clone()
    with pytest.raises(
        LayoutError,
        match=r"1 missing: module\.layer2\.1\.bn2\.running_var; 1 misshapen: module\.layer3\.0\.conv2\.weight "
        r"\(32, 5, 3, 3\) float32 instead of \(32, 32, 3, 3\) float32\. The file was changed or has lost layers",
    ):
        start_from(fresh(), write(tmp_path / "a.pth", state))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    ("layout", "inside", "outside"),
    [
        ("torchvision", "layer1.0.gate.weight", "neck.weight"),
        ("mit-tsm", "base_model.layer1.0.gate.weight", "base_model.fc2.weight"),
        ("mmaction2", "backbone.layer1.0.gate.weight", "neck.weight"),
    ],
)
def test_what_lies_in_the_files_backbone_is_not_passed_over(tmp_path, layout, inside, outside, prefix):
    state = {key.removeprefix("module."): v for key, v in NAMES[layout](as_public().state_dict(), []).items()}
    state = {f"{prefix}{key}": value for key, value in {**state, outside: torch.ones(2)}.items()}
    assert f"{prefix}{outside}" in start_from(fresh(), write(tmp_path / "a.pth", state)).unused
    state[f"{prefix}{inside}"] = torch.ones(2)
    with pytest.raises(LayoutError, match=rf"; 1 unexpected: {prefix}{inside}\. The file was changed"):
        start_from(fresh(), write(tmp_path / "a.pth", state))


def test_a_network_of_a_user_is_not_started_by_a_public_file(tmp_path, monkeypatch):
    from dynvid.models import registry

    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "own_network"))
    from mobile_video import mobile_video

    registry.register("own", mobile_video)
    network = fresh("own", {"width": 0.35})
    path = write(tmp_path / "a.pth", as_torchvision(as_public().state_dict()))
    with pytest.raises(
        LayoutError, match=r"cannot start own: .* missing: blocks\.0\.0\.0\.weight, .*unexpected: bn1\."
    ):
        start_from(network, path)
    save(fresh("own", {"width": 0.35}, labels=["x", "y", "z"]), tmp_path / "native.pth")
    start = start_from(network, tmp_path / "native.pth")
    assert below("blocks.", start.new) == set() and has_new_classifiers(network)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ({"features.0.weight": torch.ones(3)}, LayoutError, "'.*a.pth': it is VGG or AlexNet"),
        ({"heads.0.embed.0.weight": torch.ones(3)}, LayoutError, "it has no configuration"),
        ({"conv1.weight": torch.full((3,), torch.nan)}, NonFiniteWeightsError, "NaN or infinite"),
        ({"lr": 1}, TrainingCheckpointError, "holds no tensors"),
    ],
)
def test_what_is_no_start_is_refused(tmp_path, content, error, message):
    with pytest.raises(error, match=message):
        start_from(fresh(), write(tmp_path / "a.pth", content))


# native training checkpoints


def native(tmp_path: Path, **keys) -> tuple[VideoNetwork, Path]:
    network = small("resnet", SMALL_RESNET, **{"classes": 3, "labels": LABELS, "route": "depth", **keys})
    save(network, tmp_path / "native.pth")
    return network, tmp_path / "native.pth"


def test_the_same_network_with_the_same_classes_is_taken_whole(tmp_path):
    its, path = native(tmp_path)
    network = fresh(route="depth")
    start = start_from(network, path)
    state = its.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert (start.new, start.unused, start.advice) == ((), (), ())
    assert start.source.startswith("a native training checkpoint of a ResNet with stages 1 2 3 1 of width 8")
    assert load_training_checkpoint(path).network.state_dict().keys() == state.keys()


@pytest.mark.parametrize("labels", [["a", "b", "c", "d"], ["a", "b", "x"]], ids=["count", "names"])
@pytest.mark.parametrize("style", ["conv", "linear"])
def test_transfer_keeps_every_weight_but_the_classifiers(tmp_path, labels, style):
    its, path = native(tmp_path, head={"style": style})
    network = fresh(classes=len(labels), labels=labels, route="depth", head={"style": style})
    start = start_from(network, path)
    state, new = its.state_dict(), set()
    for key, value in network.state_dict().items():
        if ".classifiers." in key:
            new.add(key)
        else:
            assert torch.equal(value, state[key]), key
    assert set(start.new) == set(start.unused) == new and len(new) == 6
    assert has_new_classifiers(network) and start.advice == ()


def test_the_same_classes_in_another_order_are_said(tmp_path):
    _, path = native(tmp_path)
    network = fresh(labels=["c", "b", "a"], route="depth")
    start = start_from(network, path)
    assert has_new_classifiers(network)
    assert start.advice == (
        "the file has the network's classes in another order, so its classifiers were not taken: give labels in the "
        "file's order to keep them",
    )


def test_a_classifier_is_new_above_a_new_embedding_though_it_fits(tmp_path):
    # 64 channels leave block 3, so that linear heads and convolutions of width 64 have classifiers of one shape
    _, path = native(tmp_path, heads=[2], route="input", head={"width": 64})
    network = fresh(heads=[2], route="input", head={"style": "linear"})
    assert network.heads["2"].width == 64
    start = start_from(network, path)
    assert below("heads.", start.new) and has_new_classifiers(network)


def test_heads_that_only_one_of_both_has(tmp_path):
    its, path = native(tmp_path, heads=[2, 3])
    network = fresh(heads=[3, 4], route="depth")
    start = start_from(network, path)
    assert below("heads.3", start.new) == set() == below("heads.4", start.taken)
    assert below("heads.", start.unused) == {
        key for key in its.state_dict() if key.startswith("heads.2") and not key.endswith("num_batches_tracked")
    }
    assert network.heads["4"].classifiers["shared"].weight.std() < 0.002


def test_classifiers_of_each_checkpoint_fit_by_name(tmp_path):
    keys = {"head": {"share_classifier": False}, "route": "input", "heads": [4]}
    its, path = native(tmp_path, **keys)
    start = start_from(network := fresh(**keys), path)
    assert start.new == ()
    weights = [linear.weight for linear in network.heads["4"].classifiers.values()]
    assert len(weights) == 4
    assert all(map(torch.equal, weights, [linear.weight for linear in its.heads["4"].classifiers.values()]))
    start = start_from(fresh(route="input", heads=[4]), path)
    assert start.new == ("heads.4.classifiers.shared.weight", "heads.4.classifiers.shared.bias")


def test_another_shift_of_a_native_file_is_said(tmp_path):
    _, path = native(tmp_path, shift={"div": 4, "points": EVERY})
    network = fresh(shift={"stride": 2, "start_fold": 1}, route="depth")
    assert start_from(network, path).advice == tuple(
        f"the file was trained with shift.{name} = {its}, and the network has {own}"
        for name, its, own in (("div", 4, 8), ("start_fold", 0, 1), ("stride", 1, 2))
    )


def test_a_native_file_of_another_network_is_refused(tmp_path):
    _, path = native(tmp_path)
    with pytest.raises(
        LayoutError, match=r"it is a native training checkpoint of a ResNet.*misshapen.*Give weights of"
    ):
        start_from(fresh(options={**SMALL_RESNET, "width": 16}), path)


def test_a_damaged_native_file_is_refused(tmp_path):
    _, path = native(tmp_path)
    content = torch.load(path, weights_only=True)
    assert json.loads(content["dynvid"])["config"]["network"] == "resnet"
    del content["state_dict"]["blocks.0.net.0.weight"]
    torch.save(content, path)
    with pytest.raises(LayoutError, match=r"1 missing: blocks\.0\.net\.0\.weight\. The file was changed"):
        start_from(fresh(route="depth"), path)


def test_counters_of_batch_norm_may_be_missing(tmp_path):
    state = as_torchvision(as_public().state_dict())
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    start = start_from(network := fresh(), write(tmp_path / "a.pth", old))
    assert same_features(network, as_public()) and is_complete(start, network)


def test_new_values_follow_torchs_seed(tmp_path):
    path = write(tmp_path / "a.pth", as_torchvision(as_public().state_dict()))
    weights = []
    for seed in (1, 1, 2):
        network = fresh()
        torch.manual_seed(seed)
        start_from(network, path)
        weights.append(network.heads["4"].classifiers["shared"].weight)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_the_first_loss_is_that_of_a_guess(tmp_path):
    path = write(tmp_path / "a.pth", as_torchvision(as_public().state_dict()))
    network = fresh()
    start_from(network, path)
    logits = network.eval()(torch.randn(4, network.grid.num_frames, 3, 32, 32))
    for z in logits:
        loss = nn.functional.cross_entropy(z, torch.tensor([0, 1, 2, 0]))
        assert loss.item() == pytest.approx(torch.tensor(3.0).log().item(), abs=0.05)
