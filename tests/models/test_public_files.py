"""Files as the public projects' own code writes them: wrapped, nested, averaged, with something beside the weights."""

from __future__ import annotations

import argparse
import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from public_layouts import as_mit, as_mmaction2, as_msdnet, as_torchvision, network, resnet

from dynvid.grid.errors import (
    LabelsError,
    LayoutError,
    TrainingCheckpointError,
    UnsafeTrainingCheckpointError,
    UsageError,
)
from dynvid.models.labels import read_labels
from dynvid.models.layouts import load_training_checkpoint
from dynvid.models.training_checkpoint import save

SMALL = {"layers": [1, 1], "width": 8}


@pytest.fixture(scope="module")
def plain():
    """A small ResNet, as torchvision's code would save it."""
    model = network("resnet", SMALL, heads=[2], head={"style": "linear"}, shift={"enabled": False})
    return as_torchvision(model.state_dict())


@pytest.fixture(scope="module")
def tsm():
    points = ["1.conv0", "2.conv0"]
    model = network("resnet", SMALL, heads=[2], head={"style": "linear"}, shift={"start_fold": 1, "points": points})
    return {"mit-tsm": as_mit(model.state_dict(), points), "mmaction2": as_mmaction2(model.state_dict(), points)}


def load(tmp_path: Path, content: object, name: str = "a.pth", **asked):
    torch.save(content, tmp_path / name)
    return load_training_checkpoint(tmp_path / name, **asked)


def linear(loaded) -> torch.Tensor:
    return loaded.network.state_dict()["heads.2.classifiers.shared.weight"]


# what wraps the network


@pytest.mark.parametrize("prefix", [
    "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "model.", "net.", "network.", "model._orig_mod.", "student.",
    "module.model.", "_fsdp_wrapped_module.",
])  # fmt: skip
@pytest.mark.parametrize("layout", ["torchvision", "mit-tsm", "mmaction2"])
def test_wrappers_do_not_matter(tmp_path: Path, plain, tsm, prefix, layout):
    state = plain if layout == "torchvision" else tsm[layout]
    state = {key.removeprefix("module."): value for key, value in state.items()}
    loaded = load(tmp_path, {f"{prefix}{key}": value for key, value in state.items()})
    assert loaded.layout == layout
    assert torch.equal(linear(loaded), next(value for key, value in state.items() if re.search(r"fc\w*\.weight", key)))


def test_msdnets_are_unwrapped_too(tmp_path: Path):
    model = network("msdnet", {"layers": [1, 1], "channels": 8, "growth": 4, "growth_factors": [1, 2],
                               "bottleneck_factors": [1, 2]}, route="depth")  # fmt: skip
    state = as_msdnet(model.state_dict(), prefix="net._orig_mod.")
    assert load(tmp_path, {"ema": state}).layout == "msdnet-pytorch"


def test_parts_may_be_compiled_each(tmp_path: Path, plain):
    state = {re.sub(r"^layer1\.", "layer1._orig_mod.", key): value for key, value in plain.items()}
    assert load(tmp_path, state).layout == "torchvision"


def test_two_keys_for_one_tensor_are_refused(tmp_path: Path, plain):
    state = {f"model.{key}": value for key, value in plain.items()} | {"fc.weight": plain["fc.weight"]}
    with pytest.raises(LayoutError, match="'model.fc.weight' and 'fc.weight' name one tensor"):
        load(tmp_path, state)
    state = {f"_orig_mod.{key}": value for key, value in plain.items()} | {"fc.weight": plain["fc.weight"]}
    with pytest.raises(LayoutError, match="'_orig_mod.fc.weight' and 'fc.weight' name one tensor"):
        load(tmp_path, state)


def test_a_key_beside_the_network_is_named_as_in_the_file(tmp_path: Path, plain):
    state = {f"model.{key}": value for key, value in plain.items()} | {"criterion.weight": torch.ones(5)}
    del state["model.bn1.weight"]
    with pytest.raises(LayoutError, match=r"1 missing: model\.bn1\.weight; 1 unexpected: criterion\.weight"):
        load(tmp_path, state)


# where the weights lie


@pytest.mark.parametrize("path", [
    "state_dict", "model_state_dict", "model", "net", "ema", "state_dict_ema", "model_ema", "weights", "params_ema",
    "checkpoint.model", "model.state_dict",
])  # fmt: skip
def test_weights_are_found_wherever_they_lie(tmp_path: Path, plain, path):
    content = plain
    for key in reversed(path.split(".")):
        content = {key: content, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(9)}}}}
    loaded = load(tmp_path, content)
    assert torch.equal(linear(loaded), plain["fc.weight"])
    assert loaded.weights is None


@pytest.mark.parametrize(("one", "other"), [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("net", "ema")])
def test_of_two_sets_one_is_taken_and_said_and_the_other_can_be_had(tmp_path: Path, plain, one, other):
    averaged = {f"module.{key}": value * 2 if key == "fc.weight" else value for key, value in plain.items()}
    averaged["n_averaged"] = torch.tensor(7)
    content = {other: averaged, one: plain, "criterion": {"fc.weight": torch.ones(5, 5)}}
    loaded = load(tmp_path, content)
    assert torch.equal(linear(loaded), plain["fc.weight"])
    assert loaded.weights == one
    assert f"several sets of weights: took '{one}'; --weights {other} takes another" in loaded.assumed[0]
    second = load_training_checkpoint(tmp_path / "a.pth", weights=other)
    assert torch.equal(linear(second), 2 * plain["fc.weight"])
    assert second.weights == other
    assert not any("several sets" in line for line in second.assumed)
    with pytest.raises(
        UsageError, match=rf"weights 'best': .* holds weights under {one}, .*{other}.* Change --weights"
    ):
        load_training_checkpoint(tmp_path / "a.pth", weights="best")


def test_averages_beside_the_weights_as_mmcv_writes_them(tmp_path: Path, tsm):
    state = dict(tsm["mmaction2"])
    state |= {f"ema_{key.replace('.', '_')}": value * 3 for key, value in state.items() if "running" not in key}
    loaded = load(tmp_path, {"meta": {"epoch": 1}, "state_dict": state})
    weight = tsm["mmaction2"]["cls_head.fc_cls.weight"]
    assert torch.equal(linear(loaded), weight)
    assert "took 'state_dict'; --weights ema_ takes another" in loaded.assumed[0]
    averaged = load_training_checkpoint(tmp_path / "a.pth", weights="ema_")
    assert torch.equal(linear(averaged), 3 * weight)


# what lies beside them


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_scalars_of_numpy_and_arguments_do_not_matter(tmp_path: Path, plain, zipped):
    args = argparse.Namespace(lr=0.1, scale=np.float32(3), names=["a"])
    content = {"state_dict": plain, "best": np.float64(71.3), "epoch": np.int64(3), "args": args}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert torch.equal(linear(load_training_checkpoint(tmp_path / "a.pth")), plain["fc.weight"])


def test_scalars_of_the_older_numpy_do_not_matter(tmp_path: Path, plain):
    torch.save({"state_dict": plain, "best": np.float64(1)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "a.pth").read_bytes()
    assert b"cnumpy._core.multiarray\nscalar" in content
    (tmp_path / "a.pth").write_bytes(content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert torch.equal(linear(load_training_checkpoint(tmp_path / "a.pth")), plain["fc.weight"])


def test_nothing_of_what_is_allowed_is_called(tmp_path: Path, plain, monkeypatch):
    torch.save({"state_dict": plain, "args": argparse.Namespace(a=1), "best": np.float64(1)}, tmp_path / "a.pth")
    monkeypatch.setattr(argparse.Namespace, "__init__", None)
    called = []
    monkeypatch.setattr("numpy.dtype", lambda *a: called.append(a))
    assert load_training_checkpoint(tmp_path / "a.pth").layout == "torchvision"
    assert called == []


@pytest.mark.parametrize("beside", [np.ones(3), Path("a"), slice(3)], ids=["array", "path", "slice"])
def test_nothing_else_is_allowed(tmp_path: Path, plain, beside):
    with pytest.raises(UnsafeTrainingCheckpointError, match="would have to run code to load"):
        load(tmp_path, {"state_dict": plain, "beside": beside})


def test_a_raw_file_of_mmengine_is_refused_with_the_class_and_two_lines(tmp_path: Path, plain, monkeypatch):
    module = types.ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = type("HistoryBuffer", (), {"__module__": module.__name__})
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    content = {"state_dict": plain, "message_hub": {"log_scalars": {"loss": module.HistoryBuffer()}}}
    with pytest.raises(UnsafeTrainingCheckpointError) as caught:
        load(tmp_path, content, "epoch_3.pth")
    said = str(caught.value)
    assert "holds 'mmengine.logging.history_buffer.HistoryBuffer' beside its weights" in said
    lines = re.search(r"(weights = torch\.load\(.*\)\['state_dict'\]); (torch\.save\(weights, 'clean\.pth'\))", said)
    monkeypatch.chdir(tmp_path)
    for line in lines.groups():
        exec(line, globals())
    assert load_training_checkpoint(tmp_path / "clean.pth").layout == "torchvision"


def test_a_pickled_network_is_refused_with_two_lines_that_fit(tmp_path: Path):
    with pytest.raises(UnsafeTrainingCheckpointError, match=r"weights_only=False\)\.state_dict\(\); torch\.save"):
        load(tmp_path, torch.nn.Linear(2, 2))


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 1, 1, 1)])
def test_the_preprocessing_in_a_file_is_taken(tmp_path: Path, tsm, shape):
    extra = {"data_preprocessor.mean": torch.tensor([123.675, 116.28, 103.53]).view(shape),
             "data_preprocessor.std": torch.tensor([50.0, 51.0, 127.5]).view(shape)}  # fmt: skip
    preprocessing = load(tmp_path, {"state_dict": {**tsm["mmaction2"], **extra}}).network.config.preprocessing
    assert preprocessing.mean == (0.485, 0.456, 0.406)
    assert preprocessing.std == (0.196078, 0.2, 0.5)
    assert (preprocessing.short_side, preprocessing.crop) == (256, 224)


@pytest.mark.parametrize(("mean", "std"), [((1.0,), (1.0, 1, 1)), ((1.0, 1, 1), (1.0, 0, 1)), ((1.0, 1, 1), None)])
def test_preprocessing_that_cannot_be_is_refused(tmp_path: Path, tsm, mean, std):
    extra = {"data_preprocessor.mean": torch.tensor(mean)}
    extra |= {} if std is None else {"data_preprocessor.std": torch.tensor(std)}
    with pytest.raises(LayoutError, match=r"misshapen data_preprocessor\.(mean|std): .*expected three values for RGB"):
        load(tmp_path, {"state_dict": {**tsm["mmaction2"], **extra}})


def test_normalisation_of_bgr_frames_is_refused(tmp_path: Path, tsm):
    extra = {"data_preprocessor.mean": torch.tensor([103.53, 116.28, 123.675]),
             "data_preprocessor.std": torch.tensor([57.375, 57.12, 58.395])}  # fmt: skip
    with pytest.raises(LayoutError, match="is that of BGR frames, but dynvid gives RGB ones: swap the input channels"):
        load(tmp_path, {"state_dict": {**tsm["mmaction2"], **extra}})


# what a file cannot tell


@pytest.mark.parametrize("layout", ["mit-tsm", "mmaction2"])
def test_a_tsm_file_cannot_tell_its_frames_and_its_fold(tmp_path: Path, tsm, layout):
    torch.save(tsm[layout], tmp_path / "a.pth")
    said = "\n".join(load_training_checkpoint(tmp_path / "a.pth").assumed)
    assert "cannot tell how many frames it was trained on: 16 were assumed, 8 are usual for TSM. Give --frames." in said
    assert "an eighth was assumed. Give --shift-div." in said
    loaded = load_training_checkpoint(tmp_path / "a.pth", num_frames=8, shift_div=4)
    assert not any("--frames" in line or "--shift-div" in line for line in loaded.assumed)
    assert (loaded.network.config.shift.div, loaded.network.config.shift.start_fold) == (4, 1)
    with pytest.raises(LayoutError, match="shift div 1, start_fold 1"):
        load_training_checkpoint(tmp_path / "a.pth", shift_div=1)
    with pytest.raises(UsageError, match="--shift-div 4: this network has no shift"):
        load_training_checkpoint(tmp_path / "a.pth", shift_div=4, shift=False)


def test_where_a_resnet_strides_is_asked_for_and_computed(tmp_path: Path, plain):
    torch.save(plain, tmp_path / "a.pth")
    assert any(
        "Give --stride-in-1x1 (Caffe-style)" in line for line in load_training_checkpoint(tmp_path / "a.pth").assumed
    )
    for asked in (True, False):
        loaded = load_training_checkpoint(tmp_path / "a.pth", stride_in_1x1=asked, dilated=0)
        assert not any("stride" in line or "dilated" in line for line in loaded.assumed)
        bottleneck = loaded.network.blocks[2][0]
        strides = [bottleneck.residual[i].stride[0] for i in (0, 3)]
        assert strides == ([2, 1] if asked else [1, 2])
        assert bottleneck.downsample[0].stride == (2, 2)


def test_a_dilated_resnet_keeps_its_size_and_dilates_as_torchvision(tmp_path: Path):
    state = as_torchvision(resnet().state_dict())
    torch.save(state, tmp_path / "a.pth")
    assert any("Give --dilated" in line for line in load_training_checkpoint(tmp_path / "a.pth").assumed)
    model = load_training_checkpoint(tmp_path / "a.pth", dilated=2).network
    convolutions = [bottleneck.residual[3] for stage in model.blocks[3:] for bottleneck in stage]
    assert [(c.stride[0], c.dilation[0], c.padding[0]) for c in convolutions] == [
        (1, 1, 1),
        (1, 2, 2),
        (1, 2, 2),
        (1, 2, 2),
    ]
    with torch.no_grad():
        features = (torch.zeros(1, 3, 64, 64),)
        for block in model.blocks:
            features = block(features, lambda rows, point: rows)
    assert features[0].shape[-2:] == (8, 8)  # 1/8 of 64 instead of 1/32
    with pytest.raises(LayoutError, match="4 dilated stages: expected 0 to 3"):
        load_training_checkpoint(tmp_path / "a.pth", dilated=4)


def test_options_that_do_not_apply(tmp_path: Path, tsm):
    save(network("resnet", SMALL), tmp_path / "native.pth")
    for asked, match in (
        ({"shift_div": 4}, "--shift-div 4: the training checkpoint says 8 itself"),
        ({"stride_in_1x1": True}, "--stride-in-1x1 True: the training checkpoint says False itself"),
        ({"dilated": 1}, "--dilated 1: the training checkpoint says 0 itself"),
    ):
        with pytest.raises(UsageError, match=match):
            load_training_checkpoint(tmp_path / "native.pth", **asked)
    assert load_training_checkpoint(tmp_path / "native.pth", shift_div=8, dilated=0).assumed == ()
    with pytest.raises(UsageError, match="mmaction2 dilates other convolutions"):
        load(tmp_path, tsm["mmaction2"], dilated=1)


# what a file's network is


def test_a_resnet_without_a_bottleneck_is_named(tmp_path: Path, plain):
    loaded = load(tmp_path, plain)
    assert loaded.recognised == "a ResNet with stages 1 1 of width 8, not a published one"
    assert any("recognised a ResNet with stages 1 1" in line for line in loaded.assumed)


@pytest.mark.parametrize(("network_name", "options", "words"), [
    ("resnet", {"layers": (3, 4, 5, 3)}, "a ResNet with stages 3 4 5 3, not a published one"),
    ("resnet", {"layers": (3, 8, 36, 3)}, "resnet152"),
    ("resnet50", {"stride_in_1x1": True}, "resnet50"),
    ("msdnet", {"layers": (1, 2)}, "an MSDNet with blocks of 1 2 layers, not the published msdnet38"),
    ("msdnet38", {}, "msdnet38"),
])  # fmt: skip
def test_networks_in_words(network_name, options, words):
    from dynvid.models.public.published import recognised

    assert recognised(network_name, options) == words


def changed(state: dict, pattern: str, change) -> dict:
    return {key: change(value) if re.search(pattern, key) else value for key, value in state.items()}


OTHERS = {
    "optical flow": (lambda s: changed(s, r"^conv1\.weight", lambda w: w[:, :1].expand(-1, 10, -1, -1).clone()),
                     "other input than RGB frames: 'conv1.weight' takes 10 channels instead of 3, as one on optical flow"),
    "ResNeXt": (lambda s: changed(s, r"conv2\.weight", lambda w: w[:, : len(w) // 4].clone()), "ResNeXt: .* have 4 groups"),
    "wide": (lambda s: changed(s, r"(conv3\.weight|bn3|downsample)", lambda w: w[: len(w) // 2].clone() if w.ndim else w),
             "wide ResNet: its bottlenecks widen 2 times instead of 4"),
    "3D": (lambda s: changed(s, "weight", lambda w: w[:, :, None].clone() if w.ndim == 4 else w), "network of 3D convolutions"),
    "squeeze": (lambda s: {**s, "layer1.0.se.fc1.weight": torch.ones(2, 2)}, "squeeze and excitation: 'layer1.0.se"),
    "MobileNet": (lambda s: {"features.0.0.weight": torch.ones(8, 3, 3, 3), "features.1.conv.0.0.weight": torch.ones(8)},
                  "it is MobileNet: 'features"),
    "EfficientNet": (lambda s: {"features.1.0.block.0.0.weight": torch.ones(8, 3)}, "it is EfficientNet"),
    "transformer": (lambda s: {"blocks.0.attn.qkv.weight": torch.ones(8, 3)}, "it is a transformer: 'blocks.0.attn"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_other_networks_are_refused_by_what_they_are(tmp_path: Path, plain, kind):
    make, match = OTHERS[kind]
    with pytest.raises(LayoutError, match=rf"a\.pth': it is .*{match}.*dynvid has no such|{match}.*dynvid has no such"):
        load(tmp_path, make(plain))


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "pytorch_model-00002-of-00002.bin"])
def test_a_shard_is_refused_as_a_part(tmp_path: Path, plain, name):
    with pytest.raises(
        TrainingCheckpointError, match=r"is part [12] of 2 of a sharded training checkpoint: load all parts"
    ):
        load(tmp_path, plain, name)
    assert load(tmp_path, plain, "pytorch_model-00001-of-00001.bin").layout == "torchvision"


@pytest.mark.parametrize("how", ["json", "pickled"])
def test_an_index_is_refused_as_one(tmp_path: Path, how):
    index = {"metadata": {"total_size": 3}, "weight_map": {"fc.weight": "model-00001-of-00002.safetensors"}}
    if how == "json":
        (tmp_path / "index.pth").write_text(json.dumps(index))
    else:
        torch.save(index, tmp_path / "index.pth")
    with pytest.raises(
        TrainingCheckpointError, match="is the index of a sharded training checkpoint and holds no weights"
    ):
        load_training_checkpoint(tmp_path / "index.pth")


def test_a_list_of_keys_is_cut_at_five_of_a_kind(tmp_path: Path, plain):
    state = {key.replace("bn2", "norm2"): value for key, value in plain.items()}
    with pytest.raises(LayoutError) as caught:
        load(tmp_path, state)
    parts = str(caught.value).split(": ", 1)[1]
    assert len(re.findall(r"layer\d\.\d\.bn2", parts)) == len(re.findall(r"layer\d\.\d\.norm2", parts)) == 5
    assert re.search(r"^layer.* and 3 more; 10 unexpected: .* and 5 more\. Check", parts)


# labels

LABELS = ("air drumming", "bowling", "clapping, hands", "dancing", "eating")


@pytest.mark.parametrize(("name", "text"), [
    ("a.txt", "\n".join(LABELS)),
    ("a.txt", "\r\n".join(LABELS) + "\r\n\r\n"),
    ("a.txt", "\ufeff" + "\n".join(LABELS)),
    ("a.txt", "\n".join(f"{i} {name}" for i, name in enumerate(LABELS, 1))),
    ("a.txt", "\n".join(f"{i}\t{name}" for i, name in reversed(list(enumerate(LABELS))))),
    ("a.csv", "id,name\n" + "\n".join(f'{i},"{name}"' for i, name in enumerate(LABELS))),
    ("a.json", json.dumps(LABELS)),
    ("a.json", json.dumps({name: str(i) for i, name in enumerate(LABELS)})),
    ("a.json", json.dumps({str(i): name for i, name in enumerate(LABELS)})),
])  # fmt: skip
def test_labels_are_read_as_people_have_them(tmp_path: Path, plain, name, text):
    (tmp_path / name).write_bytes(text.encode())
    labels = read_labels(tmp_path / name)
    assert labels == LABELS
    assert load(tmp_path, plain, labels=labels).network.config.labels == LABELS


@pytest.mark.parametrize(("name", "content", "match"), [
    ("a.txt", b"a\nb\na\n", "name 'a' twice"),
    ("a.txt", b"", "hold 0 names"),
    ("a.txt", b"1 a\n3 b\n", "numbered 1 to 3 for 2 names"),
    ("a.txt", "caf\u00e9\nb".encode("latin-1"), "are not text in UTF-8"),
    ("a.json", b"{", "are not JSON"),
    ("a.json", b"3", "expected a list of names"),
    ("a.json", b'{"a": [1], "b": 0}', "expected each name with its number"),
    ("none.txt", None, "cannot be read"),
])  # fmt: skip
def test_labels_that_cannot_be_used(tmp_path: Path, name, content, match):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(LabelsError, match=match) as caught:
        read_labels(tmp_path / name)
    assert caught.value.exit_code == 3


def test_labels_must_fit_the_network(tmp_path: Path, plain):
    with pytest.raises(LabelsError, match="2 labels for 5 classes: give --labels with one name a class"):
        load(tmp_path, plain, labels=("a", "b"))
    save(network("resnet", SMALL, labels=list(LABELS)), tmp_path / "native.pth")
    assert load_training_checkpoint(tmp_path / "native.pth", labels=LABELS).network.config.labels == LABELS
    with pytest.raises(LabelsError, match="the training checkpoint has its own, leave --labels out"):
        load_training_checkpoint(tmp_path / "native.pth", labels=LABELS[::-1])
