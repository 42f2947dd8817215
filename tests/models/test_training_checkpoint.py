"""Files that are no training checkpoint, or no safe one, are refused with their own words; good ones come back."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
from pathlib import Path

import pytest
import torch

from dynvid.grid.errors import (
    LayoutError,
    NetworkError,
    NonFiniteWeightsError,
    ResourceError,
    TrainingCheckpointError,
    UnsafeTrainingCheckpointError,
)
from dynvid.models.config_json import from_json, to_json
from dynvid.models.layouts import load_training_checkpoint
from dynvid.models.network import VideoNetwork
from dynvid.models.registry import build
from dynvid.models.training_checkpoint import FORMAT, load_native, load_weights, read_tensors, save

CONFIG = {
    "network": "msdnet",
    "options": {"layers": [1, 1], "channels": 8, "growth": 4, "growth_factors": [1, 2], "bottleneck_factors": [1, 2]},
    "classes": 3,
    "labels": ["a", "b", "c"],
    "input_sets": 4,
    "route": "1,0 3,1",
}
STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.ones(2)}
NO_CHECKPOINT = "is not a training checkpoint: expected a file written by torch.save"
NOT_PLAIN = "holds tensors that are not plain dense ones"


@pytest.fixture(scope="module")
def network() -> VideoNetwork:
    return build(from_json(CONFIG)).eval()


def pth(tmp_path: Path, content: object, **options) -> Path:
    torch.save(content, tmp_path / "a.pth", **options)
    return tmp_path / "a.pth"


def packed(tmp_path: Path) -> bytes:
    return pth(tmp_path, {"state_dict": STATE}).read_bytes()


# native files


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_saved_network_comes_back(tmp_path: Path, network, suffix):
    save(network, tmp_path / f"a{suffix}", extra={"steps": 7})
    assert os.listdir(tmp_path) == [f"a{suffix}"]
    tensors, native = read_tensors(tmp_path / f"a{suffix}")
    again = load_native(tmp_path / "a", tensors, native)
    assert to_json(again.config) == to_json(network.config)
    assert not again.training
    for key, value in network.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
        assert again.state_dict()[key].dtype == value.dtype
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, network, monkeypatch):
    save(network, tmp_path / "a.pth")
    before = (tmp_path / "a.pth").read_bytes()
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(ResourceError, match="cannot be written .disk full.: free some space"):
        save(network, tmp_path / "a.pth")
    assert os.listdir(tmp_path) == ["a.pth"]
    assert (tmp_path / "a.pth").read_bytes() == before


@pytest.mark.parametrize(("changes", "error", "match"), [
    ({"format": "dynvid.training_checkpoint.9"}, TrainingCheckpointError, "has format 'dynvid.training_checkpoint.9', "),
    ({"dynvid": "{"}, TrainingCheckpointError, "damaged configuration inside"),
    ({"dynvid": "[]"}, TrainingCheckpointError, "damaged configuration inside"),
    ({"dynvid": json.dumps({"config": 3})}, TrainingCheckpointError, "damaged configuration inside"),
    ({"dynvid": json.dumps({"config": {"network": "msdnet"}})}, NetworkError, "key 'classes' is missing"),
    ({"dynvid": json.dumps({"config": {"network": "mdsnet", "classes": 2}})}, NetworkError, "Did you mean 'msdnet'"),
    ({"dynvid": json.dumps({"config": {**CONFIG, "classes": 4, "labels": None}})}, LayoutError, "4 misshapen: .*shared"),
    ({"state_dict": {}}, TrainingCheckpointError, "holds no tensors: expected a state_dict"),
], ids=str)  # fmt: skip
def test_a_damaged_native_file(tmp_path: Path, network, changes, error, match):
    content = {"format": FORMAT, "dynvid": json.dumps({"config": CONFIG}), "state_dict": network.state_dict()}
    with pytest.raises(error, match=match):
        load_training_checkpoint(pth(tmp_path, {**content, **changes}))


# files that are something else


@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".safetensors"])
@pytest.mark.parametrize("content", [
    b"", b"epoch,loss\n1,0.5\n", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), b"PK\x03\x04" + b"\0" * 40, b"\x80\x02}q\x01",
    b"\xff" * 300, struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 2) + b"[]", b"{" * 5000,
], ids=["empty", "text", "png", "zip head", "pickle head", "ff", "huge header", "no object", "braces"])  # fmt: skip
def test_other_files(tmp_path: Path, content, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(TrainingCheckpointError, match="not a (training checkpoint|safetensors file)") as caught:
        read_tensors(path)
    assert type(caught.value) in (TrainingCheckpointError, UnsafeTrainingCheckpointError)
    assert caught.value.exit_code == 3
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("content", "match"), [
    ([STATE], NO_CHECKPOINT), (STATE["fc.bias"], NO_CHECKPOINT), (3, NO_CHECKPOINT),
    ({"epoch": 3, "loss": 0.5}, "holds no tensors"), ({"state_dict": {"a": {"b": 1}}}, "holds no tensors"),
    ({0: torch.ones(1)}, "holds no tensors"),
], ids=["list", "tensor", "number", "numbers", "nested", "numbered"])  # fmt: skip
def test_files_without_a_state_dict(tmp_path: Path, content, match):
    with pytest.raises(TrainingCheckpointError, match=match) as caught:
        read_tensors(pth(tmp_path, content))
    assert type(caught.value) is TrainingCheckpointError


def test_a_file_cut_anywhere_is_refused(tmp_path: Path):
    whole = packed(tmp_path)
    for size in range(0, len(whole), 31):
        (tmp_path / "a.pth").write_bytes(whole[:size])
        with pytest.raises(TrainingCheckpointError, match="'.*a.pth'"):
            read_tensors(tmp_path / "a.pth")


def test_a_legacy_file_cut_anywhere_is_refused(tmp_path: Path):
    whole = pth(tmp_path, {"state_dict": STATE}, _use_new_zipfile_serialization=False).read_bytes()
    assert read_tensors(tmp_path / "a.pth")[0].keys() == STATE.keys()
    for size in range(0, len(whole), 7):
        (tmp_path / "a.pth").write_bytes(whole[:size])
        with pytest.raises(TrainingCheckpointError, match="'.*a.pth'"):
            read_tensors(tmp_path / "a.pth")


def test_safetensors_cut_or_changed(tmp_path: Path, network):
    path = tmp_path / "a.safetensors"
    save(network, path)
    whole = path.read_bytes()
    changed = [whole[: len(whole) * part // 20] for part in range(20)]
    changed += [whole + b"\0", whole.replace(b'"F32"', b'"X32"', 1), whole.replace(b'"shape"', b'"shake"', 1)]
    for content in changed:
        path.write_bytes(content)
        with pytest.raises(TrainingCheckpointError, match="is not a safetensors file: "):
            read_tensors(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_changed_bytes_are_refused_or_read(tmp_path: Path, zipped):
    whole = pth(tmp_path, {"state_dict": STATE}, _use_new_zipfile_serialization=zipped).read_bytes()
    chance = random.Random(5)
    refused = 0
    for _ in range(150):
        changed = bytearray(whole)
        for _ in range(chance.choice((1, 2, 9))):
            changed[chance.randrange(len(whole))] = chance.randrange(256)
        (tmp_path / "a.pth").write_bytes(changed)
        try:
            tensors, native = read_tensors(tmp_path / "a.pth")
        except TrainingCheckpointError:
            refused += 1
        else:  # the change hit a value, a name, or padding
            assert native is None
            assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert 10 < refused < 150


def test_storage_that_a_legacy_file_does_not_have(tmp_path: Path):
    path = pth(tmp_path, STATE, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    number = str(STATE["fc.bias"].untyped_storage()._cdata).encode()
    assert number in whole
    path.write_bytes(whole.replace(number, b"9" * len(number), 1))
    with pytest.raises(TrainingCheckpointError, match=NO_CHECKPOINT):
        read_tensors(path)


def test_directories_and_missing_files(tmp_path: Path):
    for path in (tmp_path, tmp_path / "none.pth", tmp_path / "none.safetensors"):
        with pytest.raises(TrainingCheckpointError, match=r"is not a file: give a \.pth or \.safetensors"):
            load_training_checkpoint(path)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_old_pickle_protocols_are_read_without_a_warning(tmp_path: Path, protocol, zipped):
    path = pth(tmp_path, STATE, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    tensors, native = read_tensors(path)
    assert native is None
    assert all(torch.equal(tensors[key], value) for key, value in STATE.items())


def test_new_pickle_protocols_are_refused_as_torch_refuses_them(tmp_path: Path):
    with pytest.raises(UnsafeTrainingCheckpointError, match="Save only its state_dict with torch.save"):
        read_tensors(pth(tmp_path, STATE, pickle_protocol=4))


# files that are not safe


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_pickled_code_never_runs(tmp_path: Path, zipped):
    marker = tmp_path / "marker"
    path = pth(tmp_path, {"state_dict": STATE, "note": Evil(marker)}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        UnsafeTrainingCheckpointError, match=r"would have to run code to load.*Save only its state_dict"
    ) as e:
        load_training_checkpoint(path)
    assert not marker.exists()
    assert e.value.exit_code == 3
    torch.load(path, weights_only=False)  # it does run where nobody watches
    assert marker.exists()


def test_a_bare_pickle_never_runs(tmp_path: Path):
    marker = tmp_path / "marker"
    (tmp_path / "a.pth").write_bytes(pickle.dumps(Evil(marker)))
    with pytest.raises(TrainingCheckpointError, match=r"'.*a\.pth'"):
        load_training_checkpoint(tmp_path / "a.pth")
    assert not marker.exists()


def test_a_whole_pickled_network_is_unsafe(tmp_path: Path):
    with pytest.raises(UnsafeTrainingCheckpointError, match="would have to run code to load"):
        read_tensors(pth(tmp_path, torch.nn.Linear(2, 2)))


DENSE = torch.arange(1.0, 7).reshape(2, 3)
ODD_TENSORS = {
    "sparse": lambda: DENSE.to_sparse(),
    "sparse rows": lambda: DENSE.to_sparse_csr(),
    "expanded": lambda: torch.ones(1).expand(2000, 2000),
    "with holes": lambda: torch.ones(4, 6)[:, ::2],
    "quantised": lambda: torch.quantize_per_tensor(DENSE, 0.1, 0, torch.qint8),
    "complex": lambda: DENSE.to(torch.complex64),
    "narrow": lambda: DENSE.to(torch.float8_e4m3fn),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, for making them
@pytest.mark.parametrize("kind", ODD_TENSORS)
def test_tensors_of_another_kind(tmp_path: Path, kind):
    path = pth(tmp_path, {"state_dict": {**STATE, "layer1.0.conv1.weight": ODD_TENSORS[kind]()}})
    with pytest.raises(UnsafeTrainingCheckpointError, match=rf"{NOT_PLAIN} \(layer1\.0\.conv1\.weight\)"):
        read_tensors(path)


def test_weights_in_another_order_of_memory_are_the_same_weights(tmp_path: Path):
    weight = torch.arange(2.0 * 3 * 5 * 5).reshape(2, 3, 5, 5)
    content = {"a": weight.to(memory_format=torch.channels_last), "b": DENSE.T}
    tensors, _ = read_tensors(pth(tmp_path, {"state_dict": content}))
    assert torch.equal(tensors["a"], weight)
    assert torch.equal(tensors["b"], DENSE.T)
    assert all(tensor.is_contiguous() for tensor in tensors.values())


def test_tensors_that_share_one_storage(tmp_path: Path):
    shared = torch.ones(4000)
    path = pth(tmp_path, {f"w{index}": shared for index in range(9)})
    with pytest.raises(UnsafeTrainingCheckpointError, match=rf"{NOT_PLAIN} \(shared storage\)"):
        read_tensors(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_that_are_not_finite(tmp_path: Path, network, value, suffix):
    bad = build(network.config)
    with torch.no_grad():
        bad.get_parameter("heads.1.classifiers.shared.bias")[2] = value
    save(bad, tmp_path / f"a{suffix}")
    with pytest.raises(
        NonFiniteWeightsError, match=r"NaN or infinite weights in heads\.1\.classifiers\.shared\.bias: "
    ):
        load_training_checkpoint(tmp_path / f"a{suffix}")


def test_float64_weights_that_float32_cannot_hold(tmp_path: Path):
    path = pth(tmp_path, {"fc.weight": torch.full((2, 2), 1e300, dtype=torch.float64), "fc.bias": torch.ones(2)})
    with pytest.raises(NonFiniteWeightsError, match=r"in fc\.weight: training diverged"):
        read_tensors(path)


def test_many_bad_weights_are_counted(tmp_path: Path):
    path = pth(tmp_path, {f"w{index:02}": torch.tensor([float("nan")]) for index in range(20)})
    with pytest.raises(NonFiniteWeightsError, match="w00, .*w07 and 12 more"):
        read_tensors(path)


# weights that do not fit


def test_missing_unexpected_and_misshapen_keys_are_all_listed(network):
    tensors = {key: value.clone() for key, value in network.state_dict().items()}
    for index in range(12):
        tensors[f"extra.{index:02}"] = torch.ones(1)
    del tensors["heads.0.embed.0.weight"], tensors["heads.1.classifiers.shared.bias"]
    tensors["blocks.0.0.layers.0.0.bias"] = torch.ones(9)
    tensors["blocks.0.0.layers.0.1.bias"] = torch.ones(8, dtype=torch.uint8)
    with pytest.raises(LayoutError) as caught:
        load_weights(build(network.config), tensors, Path("a.pth"))
    message = str(caught.value)
    assert "2 missing: heads.0.embed.0.weight, heads.1.classifiers.shared.bias; " in message
    assert "12 unexpected: " + ", ".join(f"extra.{index:02}" for index in range(5)) + " and 7 more; " in message
    assert "2 misshapen: blocks.0.0.layers.0.0.bias (9,) float32 instead of (8,) float32, " in message
    assert "blocks.0.0.layers.0.1.bias (8,) uint8 instead of (8,) float32. Check --network" in message
    assert caught.value.exit_code == 3


def test_a_native_file_with_a_head_too_few(tmp_path: Path, network):
    state = {key: value for key, value in network.state_dict().items() if not key.startswith("heads.1.")}
    content = {"format": FORMAT, "dynvid": json.dumps({"config": CONFIG}), "state_dict": state}
    with pytest.raises(LayoutError, match=r"missing: heads\.1\.classifiers\.shared\.bias, .*heads\.1\.embed"):
        load_training_checkpoint(pth(tmp_path, content))


def test_counters_may_be_missing_or_of_any_dtype(network):
    state = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    again = load_weights(build(network.config), state, Path("a.pth"))
    counters = {key: value for key, value in again.state_dict().items() if key.endswith("num_batches_tracked")}
    assert counters
    assert all(value.dtype == torch.int64 and value == 0 for value in counters.values())
    halves = {key: value.half() for key, value in network.state_dict().items()}
    assert load_weights(build(network.config), halves, Path("a.pth")).state_dict().keys() == network.state_dict().keys()
