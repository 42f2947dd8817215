"""Public layouts: what loads computes what its authors' code would, and nothing else loads.

The names of the public layouts, and what their networks compute, are written here a second time, from the public
code: kalviny/MSDNet-PyTorch, pytorch/vision, mit-han-lab/temporal-shift-module, open-mmlab/mmaction2.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from public_layouts import (
    EVEN,
    EVERY,
    NAMES,
    SMALL_MSDNET,
    SMALL_RESNET,
    as_mit,
    as_mmaction2,
    as_msdnet,
    as_torchvision,
    frames,
    network,
    resnet,
)
from torch import Tensor

from dynvid.grid.errors import LayoutError, RouteError, UsageError
from dynvid.models import layouts
from dynvid.models.config_json import from_json, to_json
from dynvid.models.layouts import LAYOUTS, detect, load_training_checkpoint
from dynvid.models.network import VideoNetwork
from dynvid.models.registry import build
from dynvid.models.training_checkpoint import load_weights, save
from dynvid.models.weights_file import TOP, WeightsFile

# what the networks compute, from the files' own keys


def conv_bn(w: dict[str, Tensor], conv: str, bn: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = w[f"{conv}.weight"]
    x = F.conv2d(x, weight, w.get(f"{conv}.bias"), stride, weight.shape[-1] // 2)
    return F.batch_norm(x, *(w[f"{bn}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")))


def shift_forward_part(x: Tensor, fold: int) -> Tensor:
    """TSM's shift of [videos, frames, ...] without its first half, which looks ahead."""
    out = x.clone()
    out[:, 1:, fold : 2 * fold] = x[:, :-1, fold : 2 * fold]
    out[:, 0, fold : 2 * fold] = 0
    return out


def shift_both_parts(x: Tensor, fold: int) -> Tensor:
    """TSM's shift of [videos, frames, ...]."""
    out = shift_forward_part(x, fold)
    out[:, :-1, :fold] = x[:, 1:, :fold]
    out[:, -1, :fold] = 0
    return out


def tsm_logits(
    w: dict[str, Tensor], layers: list[int], points: list[str], video: Tensor, seen: int, shift=shift_forward_part
) -> Tensor:
    """The logits, [videos, classes], of a TSM-ResNet in torchvision's names, averaged over the first ``seen`` frames."""
    x = F.max_pool2d(F.relu(conv_bn(w, "conv1", "bn1", video.flatten(0, 1), 2)), 3, 2, 1)
    for stage, count in enumerate(layers, 1):
        for index in range(count):
            at = f"layer{stage}.{index}"
            stride = 2 if stage > 1 and index == 0 else 1
            y = x.unflatten(0, video.shape[:2])
            y = shift(y, x.shape[1] // 8) if f"{stage}.conv{index}" in points else y
            y = F.relu(conv_bn(w, f"{at}.conv1", f"{at}.bn1", y.flatten(0, 1)))
            y = F.relu(conv_bn(w, f"{at}.conv2", f"{at}.bn2", y, stride))
            y = conv_bn(w, f"{at}.conv3", f"{at}.bn3", y)
            if f"{at}.downsample.0.weight" in w:
                x = conv_bn(w, f"{at}.downsample.0", f"{at}.downsample.1", x, stride)
            x = F.relu(x + y)
    each = F.linear(x.mean((2, 3)), w["fc.weight"], w["fc.bias"]).unflatten(0, video.shape[:2])
    return each[:, :seen].mean(1)


def msdnet_logits(w: dict[str, Tensor], rows: Tensor) -> list[Tensor]:
    """The logits of every classifier of an MSDNet, each [rows, classes]."""

    def net(at: str, x: Tensor, stride: int = 1) -> Tensor:
        if f"{at}.net.3.weight" in w:
            x = F.relu(conv_bn(w, f"{at}.net.0", f"{at}.net.1", x))
            return F.relu(conv_bn(w, f"{at}.net.3", f"{at}.net.4", x, stride))
        return F.relu(conv_bn(w, f"{at}.net.0", f"{at}.net.1", x, stride))

    def has(at: str) -> bool:
        return any(key.startswith(f"{at}.") for key in w)

    logits = []
    block = 0
    while has(f"blocks.{block}"):
        place = 0
        while has(at := f"blocks.{block}.{place}"):
            if (block, place) == (0, 0):
                cifar = has(f"{at}.layers.0.net")
                stem = f"{at}.layers.0"
                x = net(stem, rows) if cifar else F.relu(conv_bn(w, f"{stem}.0", f"{stem}.1", rows, 2))
                scales = [x if cifar else F.max_pool2d(x, 3, 2, 1)]
                while has(f"{at}.layers.{len(scales)}"):
                    scales.append(net(f"{at}.layers.{len(scales)}", scales[-1], 2))
            elif has(f"{at}.m"):
                scales = [net(f"{at}.m.{i}", x) for i, x in enumerate(scales)]
            else:
                dropped = int(has(f"{at}.layers.0.conv_down"))
                left = []
                for i, x in enumerate(scales[dropped:]):
                    parts = [x]
                    if has(f"{at}.layers.{i}.conv_down"):
                        parts.append(net(f"{at}.layers.{i}.conv_down", scales[i + dropped - 1], 2))
                    left.append(torch.cat([*parts, net(f"{at}.layers.{i}.conv_normal", x)], 1))
                scales = left
            place += 1
        head = f"classifier.{block}"
        x = net(f"{head}.m.1", net(f"{head}.m.0", scales[-1], 2), 2).mean((2, 3))
        logits.append(F.linear(x, w[f"{head}.linear.weight"], w[f"{head}.linear.bias"]))
        block += 1
    return logits


# MSDNet-PyTorch

MSDNETS = {
    "two scales": {},
    "three scales": {"layers": [2, 2], "growth_factors": [1, 2, 4], "bottleneck_factors": [1, 2, 4]},
    "four scales": {"layers": [2, 1, 2], "growth_factors": [1, 2, 4, 4], "bottleneck_factors": [1, 2, 4, 4]},
    "one scale": {"layers": [2, 1], "growth_factors": [1], "bottleneck_factors": [2]},
    "one block": {"layers": [3]},
    "blocks grow": {"layers": [1, 2, 3], "growth": 6},
    "no bottlenecks": {"bottleneck": False},
    "no reduction": {"reduction": 0.0},
    "odd reduction": {"layers": [2, 2, 2], "growth_factors": [1, 2, 4], "bottleneck_factors": [1] * 3, "reduction": 0.37},
    "prune min": {"layers": [3, 3], "prune": "min", "growth_factors": [1, 2, 4], "bottleneck_factors": [1, 1, 2]},
    "prune min at once": {"layers": [1, 1], "prune": "min", "growth_factors": [1, 2, 4], "bottleneck_factors": [1, 1, 2]},
    "prune min, one scale": {"layers": [3, 3], "prune": "min", "growth_factors": [1], "bottleneck_factors": [1]},
    "factors share a divisor": {  # 21 channels become 10 and 18 become 9, twice as many with half the factors
        "layers": [2, 1, 3], "channels": 9, "growth_factors": [2, 4, 8], "bottleneck_factors": [1, 2, 4],
    },
    "wide bottlenecks": {"layers": [1, 1], "channels": 10, "bottleneck_factors": [9, 9]},
    "factors fall": {"growth_factors": [3, 2], "bottleneck_factors": [4, 1]},
}  # fmt: skip


@pytest.mark.parametrize("changes", MSDNETS.values(), ids=MSDNETS)
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_any_msdnet_is_inferred_and_computes_the_same(tmp_path: Path, changes, stem):
    width = 16 if stem == "cifar" else None
    model = network("msdnet", {**SMALL_MSDNET, "stem": stem, **changes}, head={"width": width}, route="depth")
    public = as_msdnet(model.state_dict())
    torch.save({"epoch": 3, "best_err1": 0.1, "arch": "msdnet", "state_dict": public}, tmp_path / "a.pth.tar")
    loaded = load_training_checkpoint(tmp_path / "a.pth.tar", route="depth", num_frames=8)
    assert (loaded.layout, loaded.warnings) == ("msdnet-pytorch", ())
    video = frames(model)
    with torch.no_grad():
        expected, actual = model(video), loaded.network(video)
        bare = {key.removeprefix("module."): value for key, value in public.items()}
        reference = [rows.unflatten(0, (2, 8)).mean(1) for rows in msdnet_logits(bare, video.flatten(0, 1))]
    assert len(actual) == len(model.blocks)
    for one, other, third in zip(actual, expected, reference, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, third, rtol=1e-4, atol=1e-4)


def test_msdnet_has_heads_on_all_blocks_and_no_shift_unless_asked(tmp_path: Path):
    model = network("msdnet", {**SMALL_MSDNET, "layers": [1] * 5})
    torch.save(as_msdnet(model.state_dict(), prefix=""), tmp_path / "a.pth")
    loaded = load_training_checkpoint(tmp_path / "a.pth")
    config = loaded.network.config
    assert config.heads == (0, 1, 2, 3, 4)
    assert not config.shift.enabled
    assert loaded.network.grid.num_frames == 16
    assert loaded.network.route.cells == ((1, 0), (2, 1), (3, 2), (3, 3), (3, 4), (7, 4))
    assert (config.preprocessing.short_side, config.preprocessing.crop) == (256, 224)
    shifted = load_training_checkpoint(tmp_path / "a.pth", shift=True)
    assert shifted.network.config.shift.enabled
    assert shifted.network.config.shift.start_fold == 0
    assert ["trained without a temporal shift" in warning for warning in shifted.warnings] == [True]


@pytest.mark.parametrize(("classes", "mean"), [(10, 0.4914), (100, 0.5071), (7, 0.485)])
def test_cifar_msdnets_see_cifar_pixels(tmp_path: Path, classes, mean):
    model = network("msdnet", {**SMALL_MSDNET, "stem": "cifar"}, head={"width": 128}, classes=classes)
    torch.save(as_msdnet(model.state_dict()), tmp_path / "a.pth")
    loaded = load_training_checkpoint(tmp_path / "a.pth").network
    assert loaded.config.classes == classes
    assert loaded.config.head.width == 128
    preprocessing = loaded.config.preprocessing
    assert (preprocessing.short_side, preprocessing.crop, preprocessing.mean[0]) == (32, 32, mean)


# ResNets


SHIFTED = {"none": [], "every": EVERY, "even": EVEN, "some": ["2.conv1", "3.conv0"]}


@pytest.mark.parametrize(
    ("layout", "points"),
    [("torchvision", [])] + [(layout, points) for layout in ("mit-tsm", "mmaction2") for points in SHIFTED.values()],
    ids=["torchvision"] + [f"{layout} {name}" for layout in ("mit-tsm", "mmaction2") for name in SHIFTED],
)
def test_a_resnet_computes_tsm_without_the_part_that_looks_ahead(tmp_path: Path, layout, points):
    model = resnet(points)
    torch.save({"state_dict": NAMES[layout](model.state_dict(), points), "epoch": 1}, tmp_path / "a.pth")
    loaded = load_training_checkpoint(tmp_path / "a.pth", num_frames=8)
    config = loaded.network.config
    assert loaded.layout == layout
    assert config.shift.enabled == bool(points)
    assert not points or (config.shift.points, config.shift.start_fold) == (tuple(points), 1)
    assert ["both directions" in warning for warning in loaded.warnings] == [True] * bool(points)
    assert (config.options["layers"], config.options["width"], config.heads) == ((1, 2, 3, 1), 8, (4,))
    assert loaded.network.route.cells == ((1, 4), (3, 4), (5, 4), (7, 4))
    video = frames(model)
    with torch.no_grad():
        model.with_route(loaded.network.route)
        actual, expected = loaded.network(video), model(video)
        for one, other, seen in zip(actual, expected, (2, 4, 6, 8), strict=True):
            assert torch.equal(one, other)
            reference = tsm_logits(as_torchvision(model.state_dict()), SMALL_RESNET["layers"], points, video, seen)
            torch.testing.assert_close(one, reference, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(actual[0], actual[-1])


@pytest.mark.parametrize(
    ("layout", "points"),
    [("torchvision", []), ("mit-tsm", EVEN), ("mmaction2", EVERY)],
    ids=lambda value: str(value)[:11],
)
def test_a_static_resnet_computes_what_was_trained(tmp_path: Path, layout, points):
    """TSN, or TSM with both parts of its shift; any number of frames, and nothing to warn of."""
    model = resnet(points)
    torch.save(NAMES[layout](model.state_dict(), points), tmp_path / "a.pth")
    loaded = load_training_checkpoint(tmp_path / "a.pth", num_frames=3, static=True)
    config, video = loaded.network.config, frames(model)[:, :3]
    assert config.static and config.grid.frame_order == (0, 1, 2) and len(config.route) == 1
    assert loaded.warnings == ()
    assert any("which share of the channels" in line for line in loaded.assumed) == bool(points)
    with torch.no_grad():
        (found,) = loaded.network(video)
    args = as_torchvision(model.state_dict()), SMALL_RESNET["layers"], points, video, 3
    torch.testing.assert_close(found, tsm_logits(*args, shift=shift_both_parts), rtol=1e-4, atol=1e-5)
    assert torch.allclose(found, tsm_logits(*args), rtol=1e-4, atol=1e-5) == (not points)


def test_a_static_msdnet_is_a_tsn(tmp_path: Path):
    model = network("msdnet", {**SMALL_MSDNET, "layers": [1] * 3}, frames_per_set=2)
    torch.save(as_msdnet(model.state_dict()), tmp_path / "a.pth")
    loaded = load_training_checkpoint(tmp_path / "a.pth", static=True, route="full").network
    assert loaded.config.static and loaded.grid.num_frames == 16
    video = frames(model)
    with torch.no_grad():
        wanted = model.with_route(model.route.full)(video)[-1]
        torch.testing.assert_close(loaded(video)[-1], wanted, rtol=1e-4, atol=1e-5)


def test_tsm_trained_without_dropout_has_its_linear_layer_in_the_base_model(tmp_path: Path):
    model = resnet(EVERY)
    state = as_mit(model.state_dict(), EVERY)
    torch.save({key.replace("new_fc", "base_model.fc"): value for key, value in state.items()}, tmp_path / "a.pth")
    loaded = load_training_checkpoint(tmp_path / "a.pth").network
    assert torch.equal(loaded.state_dict()["heads.4.classifiers.shared.weight"], state["module.new_fc.weight"])


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_wrapping_prefixes_and_counters_do_not_matter(tmp_path: Path, wrap, suffix):
    model = resnet()
    state = {key: value for key, value in as_torchvision(model.state_dict()).items() if "num_batches" not in key}
    state = state if wrap is None else {f"module.{key}": value for key, value in state.items()}
    path = tmp_path / f"a{suffix}"
    if suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    else:
        torch.save(state if wrap is None else {wrap: state, "optimizer": {"lr": 0.1}}, path)
    loaded = load_training_checkpoint(path).network
    assert not loaded.training
    assert all(torch.equal(value, model.state_dict()[k]) for k, value in loaded.state_dict().items() if "num_" not in k)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_width_become_float32(tmp_path: Path, dtype):
    model = resnet(EVERY)
    state = {key: value.to(dtype) for key, value in as_mit(model.state_dict(), EVERY).items()}
    torch.save(state, tmp_path / "a.pth")
    loaded = load_training_checkpoint(tmp_path / "a.pth").network
    for key, value in model.state_dict().items():
        actual = loaded.state_dict()[key]
        assert actual.dtype == value.dtype
        assert torch.equal(actual, value.to(dtype).to(value.dtype))


def meta(config: dict) -> VideoNetwork:
    with torch.device("meta"):
        return build(from_json(config))


class Held(WeightsFile):
    """Tensors without a file, on any device."""

    def take(self, key: str) -> dict[str, Tensor]:
        return self.sets[key]


def load_tensors(monkeypatch, tensors: dict[str, Tensor], **asked) -> layouts.Loaded:
    monkeypatch.setattr(layouts, "read_file", lambda path: Held(path, {TOP: tensors}, None))
    return load_training_checkpoint(Path("a.pth"), **asked)


def test_the_38_layer_network_is_known_by_name(monkeypatch):
    model = meta({"network": "msdnet38", "classes": 1000})
    loaded = load_tensors(monkeypatch, as_msdnet(model.state_dict()), network="msdnet38").network
    assert to_json(loaded.config) == to_json(meta({**to_json(model.config), "shift": {"enabled": False}}).config)
    assert round(sum(value.numel() for value in loaded.parameters()) / 1e6, 2) == 62.31  # the paper's, in millions


@pytest.mark.parametrize("layout", ["torchvision", "mit-tsm", "mmaction2"])
@pytest.mark.parametrize(("name", "parameters"), [("resnet50", 24_327_632), ("resnet101", 43_319_760)])
def test_published_resnets_are_known_by_name(monkeypatch, layout, name, parameters):
    counts = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}[name]
    step = 2 if name == "resnet101" else 1  # TSM's n_round
    points = [f"{stage}.conv{index}" for stage, count in enumerate(counts, 1) for index in range(0, count, step)]
    points = [] if layout == "torchvision" else points
    model = meta({"network": name, "classes": 400, "heads": [4], "head": {"style": "linear"}, "route": "input"})
    state = {key: value for key, value in model.state_dict().items()}
    moved = {f"layer{p[0]}.{p[6:]}.conv1." for p in points}
    if layout == "mit-tsm":
        names = as_mit(state, [])
        public = {}
        for key, value in names.items():
            tail = key.removeprefix("module.base_model.")
            public[key.replace("conv1.", "conv1.net.") if tail.removesuffix("weight") in moved else key] = value
    elif layout == "mmaction2":
        public = {}
        for key, value in as_mmaction2(state, []).items():
            tail = key.removeprefix("backbone.").replace("conv1.conv.", "conv1.").removesuffix("weight")
            public[key.replace("conv1.conv.", "conv1.conv.net.") if tail in moved else key] = value
    else:
        public = as_torchvision(state)
    loaded = load_tensors(monkeypatch, public, network=name).network
    assert (loaded.config.network, loaded.config.classes, loaded.config.options) == (name, 400, {})
    assert (loaded.config.shift.points or ()) == tuple(points)
    assert len(points) in {"resnet50": (0, 16), "resnet101": (0, 2 + 2 + 12 + 2)}[name]
    assert sum(value.numel() for value in loaded.parameters()) == parameters


# what the arguments ask


@pytest.fixture
def tsm_file(tmp_path: Path) -> Path:
    torch.save({"state_dict": as_mit(resnet(EVERY).state_dict(), EVERY)}, tmp_path / "tsm.pth")
    return tmp_path / "tsm.pth"


@pytest.fixture
def native_file(tmp_path: Path) -> Path:
    save(network("resnet", SMALL_RESNET, shift={}), tmp_path / "native.pth")
    return tmp_path / "native.pth"


@pytest.mark.parametrize(("asked", "error", "match"), [
    ({"layout": "torchvision"}, LayoutError, "wrong layout 'torchvision': .*has the keys of 'mit-tsm'"),
    ({"layout": "native"}, LayoutError, "wrong layout 'native'"),
    ({"layout": "timm"}, UsageError, "layout 'timm': expected auto or one of native, msdnet-pytorch, .*--layout"),
    ({"network": "resnet50"}, LayoutError, "network 'resnet50' instead of 'resnet'"),
    ({"network": "msdnet38"}, LayoutError, "network 'msdnet38' instead of 'resnet'"),
    ({"classes": 6}, LayoutError, "classes 6 instead of 5"),
    ({"route": "1,3 7,4"}, RouteError, r"checkpoint 1 at \(1,3\): no head on that block; .*heads on block 4"),
    ({"route": "joint"}, RouteError, "'joint' needs heads on several blocks"),
    ({"route": "7,4 3,4"}, RouteError, "neither the input set nor the block may decrease"),
    ({"num_frames": 12}, UsageError, "12 frames: expected a multiple of 8"),
    ({"num_frames": 0}, UsageError, "0 frames: expected a multiple of 8"),
    ({"static": True, "route": "input"}, RouteError, "route 'input': this network is static .*Leave --route out"),
    ({"static": True, "route": "joint"}, RouteError, "route 'joint': this network is static .*Leave --route out"),
    ({"static": True, "route": "0,4", "shift_div": 1}, LayoutError, "shift div 1, start_fold 0 of a static network"),
], ids=str)  # fmt: skip
def test_a_public_file_that_is_not_what_was_asked_for(tsm_file: Path, asked, error, match):
    with pytest.raises(error, match=match) as caught:
        load_training_checkpoint(tsm_file, **asked)
    assert caught.value.exit_code == (3 if error is LayoutError else 2)


@pytest.mark.parametrize(("asked", "error", "match"), [
    ({"layout": "mit-tsm"}, LayoutError, "wrong layout 'mit-tsm': .*has the keys of 'native'"),
    ({"network": "resnet50"}, LayoutError, "network 'resnet50' instead of 'resnet'"),
    ({"shift": False, "classes": 4}, LayoutError, "classes 4 instead of 5; shift False instead of True"),
    ({"route": "7,1"}, RouteError, "no head on that block"),
    ({"num_frames": 20}, UsageError, "20 frames: expected a multiple of 8"),
    ({"static": True}, UsageError, "--static: the training checkpoint was trained along a route.*leave --static out"),
], ids=str)  # fmt: skip
def test_a_native_file_that_is_not_what_was_asked_for(native_file: Path, asked, error, match):
    with pytest.raises(error, match=match):
        load_training_checkpoint(native_file, **asked)


def test_arguments_that_agree_with_the_file_are_taken(tsm_file: Path):
    asked = {"layout": "mit-tsm", "network": "resnet", "classes": 5, "shift": True}
    loaded = load_training_checkpoint(tsm_file, route="0,4 7,4", num_frames=32, **asked).network
    assert loaded.route.cells == loaded.config.route == ((0, 4), (7, 4))
    assert loaded.grid == loaded.config.grid == loaded.route.grid
    assert loaded.grid.frames_per_set == 4


def test_a_shift_can_be_left_out(tsm_file: Path):
    loaded = load_training_checkpoint(tsm_file, shift=False)
    assert not loaded.network.config.shift.enabled
    assert ["which is off" in warning for warning in loaded.warnings] == [True]


def test_a_native_file_keeps_what_it_says(native_file: Path):
    loaded = load_training_checkpoint(native_file)
    assert (loaded.layout, loaded.warnings) == ("native", ())
    assert loaded.network.grid.num_frames == 8
    assert loaded.network.route.cells == ((3, 2), (3, 3), (3, 4), (7, 4))
    other = load_training_checkpoint(native_file, route="depth", num_frames=16, shift=True, layout="native").network
    assert other.route.cells == other.config.route == ((7, 2), (7, 3), (7, 4))
    assert (other.grid.num_frames, other.config.grid.num_frames, other.route.grid.num_frames) == (16, 16, 16)
    assert other(frames(other))[0].shape == (2, 5)
    assert all(torch.equal(a, b) for a, b in zip(loaded.network.parameters(), other.parameters(), strict=True))


def test_what_was_loaded_can_be_saved_as_native(tsm_file: Path, tmp_path: Path):
    loaded = load_training_checkpoint(tsm_file, route="3,4 7,4", num_frames=8).network
    save(loaded, tmp_path / "native.pth")
    again = load_training_checkpoint(tmp_path / "native.pth").network
    assert again.config == from_json(json.loads(json.dumps(to_json(loaded.config))))
    assert all(torch.equal(a, b) for a, b in zip(again(frames(again)), loaded(frames(again)), strict=True))


# what no layout has


@pytest.mark.parametrize(("tensors", "match"), [
    ({"encoder.0.weight": 1, "encoder.0.bias": 1}, "keys such as 'encoder.0.weight', 'encoder.0.bias' .*mmaction2"),
    ({"heads.0.classifiers.shared.weight": 1}, "keys are dynvid's, but it has no configuration"),
    ({"conv1.weight": 20, "conv2.weight": 50, "fc.weight": 10}, "no ResNet at 'layer1.0.conv1'"),
    ({"module.base_model.features.0.0.weight": 32, "module.new_fc.weight": 5}, "it is MobileNet: 'module.base_model.features"),
    ({"classifier.0.linear.weight": 5}, "no MSDNet at 'blocks.0.0.layers.0'"),
], ids=lambda value: "" if isinstance(value, str) else next(iter(value)))  # fmt: skip
def test_files_of_other_networks(monkeypatch, tensors, match):
    with pytest.raises(LayoutError, match=match):
        load_tensors(monkeypatch, {key: torch.ones(size, 3, 3, 3) for key, size in tensors.items()})


@pytest.mark.parametrize(("layout", "old", "new", "match"), [
    ("mit-tsm", r"layer2\.0\.(.*)$", r"layer2.0.block.\1", r"unexpected: .*layer2\.0\.block"),
    ("mit-tsm", r"layer2\.0\.bn1", r"layer2.0.nl.g", r"non-local blocks, .*module\.base_model\.layer2\.0\.nl\.g"),
    ("mmaction2", r"layer2\.0\.conv1\.bn", r"layer2.0.non_local_block.g", r"non-local blocks, .*non_local_block"),
    ("mit-tsm", r"layer2\.", "layer2.net.", r"pools over time .*layer2\.net\."),
    ("mit-tsm", r"(layer\d\.\d)", r"\1.net", r"shifts whole blocks .*layer1\.0\.net\."),
    ("mmaction2", r"(layer\d\.\d)", r"\1.net", r"shifts whole blocks .*backbone\.layer1\.0\.net\."),
], ids=str)  # fmt: skip
def test_variants_that_dynvid_does_not_compute(monkeypatch, layout, old, new, match):
    state = NAMES[layout](resnet(EVERY).state_dict(), EVERY)
    with pytest.raises(LayoutError, match=match):
        load_tensors(monkeypatch, {re.sub(old, new, key): value for key, value in state.items()})


def test_real_basic_blocks(monkeypatch):
    state = as_torchvision(resnet().state_dict())
    with pytest.raises(LayoutError, match="a ResNet of BasicBlocks"):
        load_tensors(monkeypatch, {key: value for key, value in state.items() if not re.search(r"(conv|bn)3\.", key)})


def test_every_fault_is_listed(monkeypatch):
    state = as_mit(resnet(EVERY).state_dict(), EVERY)
    state["module.base_model.extra.weight"] = state.pop("module.base_model.layer2.0.bn2.bias")
    state["module.base_model.layer1.0.conv2.weight"] = torch.zeros(2, 2)
    state["module.base_model.layer3.1.conv3.weight"] = torch.zeros(128, 32, 1, 1, dtype=torch.int64)
    del state["module.base_model.bn1.running_mean"]
    with pytest.raises(LayoutError) as caught:
        load_tensors(monkeypatch, state)
    assert "2 missing: module.base_model.bn1.running_mean, module.base_model.layer2.0.bn2.bias;" in str(caught.value)
    assert "1 unexpected: module.base_model.extra.weight;" in str(caught.value)
    assert "2 misshapen: module.base_model.layer1.0.conv2.weight (2, 2) float32 instead of (8, 8, 3, 3) float32" in str(
        caught.value
    )
    assert "module.base_model.layer3.1.conv3.weight (128, 32, 1, 1) int64 instead of (128, 32, 1, 1)" in str(
        caught.value
    )


def test_a_missing_head_is_listed(monkeypatch):
    state = {key: value for key, value in as_torchvision(resnet().state_dict()).items() if not key.startswith("fc")}
    with pytest.raises(LayoutError, match="2 missing: fc.bias, fc.weight"):
        load_tensors(monkeypatch, state)


def test_huge_shapes_without_weights_allocate_nothing(monkeypatch):
    state = as_torchvision(resnet().state_dict())
    for key in state:
        if re.search(r"layer.*(conv|bn)[12]\.", key) and "num_" not in key:
            state[key] = torch.empty(10**12, 0)
    with pytest.raises(LayoutError, match="no ResNet at"):
        load_tensors(monkeypatch, state)


def test_huge_widths_allocate_nothing(monkeypatch):
    sizes = {"conv1.weight": 1, "layer1.0.bn1.weight": 10**6, "layer1.0.conv3.weight": 1, "fc.bias": 2}
    with pytest.raises(
        LayoutError, match=r"missing: .*misshapen: conv1\.weight \(1,\) float32 instead of \(1000000, 3,"
    ):
        load_tensors(monkeypatch, {key: torch.ones(size) for key, size in sizes.items()})


RESHAPES = [
    lambda value: torch.cat([value, value]) if value.ndim else value[None],
    lambda value: torch.cat([value, value], 1) if value.ndim > 1 else value[None],
    lambda value: value[1:] if value.ndim else value[None],
    lambda value: value.flatten() if value.ndim > 1 else value[..., None],
    lambda value: value[:0] if value.ndim else value[None],
]
MUTATIONS = {
    "drop": lambda key, value: {},
    "rename": lambda key, value: {f"{key}_2": value},
    "reshape": lambda key, value: {key: RESHAPES[len(key) % len(RESHAPES)](value)},
}


@pytest.fixture(scope="module")
def samples() -> dict[str, dict[str, Tensor]]:
    points = ["1.conv0", "2.conv0", "2.conv1"]
    shift = {"start_fold": 1, "points": points}
    resnet = network("resnet", {"layers": [1, 2], "width": 8}, heads=[2], head={"style": "linear"}, shift=shift)
    msdnet = network("msdnet", {**SMALL_MSDNET, "layers": [1, 1]}, route="depth")
    states = {"resnet": resnet.state_dict(), "msdnet": msdnet.state_dict()}
    return {
        layout: names(states["msdnet" if "msdnet" in layout else "resnet"], points) for layout, names in NAMES.items()
    }


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("layout", NAMES)
def test_any_key_changed_is_refused_by_name(monkeypatch, samples, layout, mutation):
    state = samples[layout]
    assert load_tensors(monkeypatch, state).layout == layout
    for key in state:
        counter = key.endswith("num_batches_tracked")  # old files lack them
        if counter and mutation == "drop":
            continue
        named = f"{key}_2" if counter and mutation == "rename" else key
        changed = {k: v for k, v in state.items() if k != key} | MUTATIONS[mutation](key, state[key])
        with pytest.raises(LayoutError, match=rf"(?<![\w.]){re.escape(named)}(?!\.?\w)"):
            load_tensors(monkeypatch, changed)


@pytest.mark.parametrize("layout", NAMES)
def test_the_layout_is_told_from_any_nine_tenths_of_the_keys(samples, layout):
    keys = list(samples[layout])
    for start in range(10):
        assert detect({key: samples[layout][key] for i, key in enumerate(keys) if i % 10 != start}) == layout


def test_the_layouts():
    assert LAYOUTS == ("native", "msdnet-pytorch", "torchvision", "mit-tsm", "mmaction2")
    assert detect(network("msdnet", SMALL_MSDNET).state_dict()) == "native"


def test_a_network_is_not_touched_by_weights_that_do_not_fit():
    model = resnet()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(LayoutError, match="does not fit network 'resnet'"):
        load_weights(model, {}, Path("a.pth"))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
