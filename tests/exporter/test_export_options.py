"""What keys do not say reaches the bundle, is proved, and is found again by whatever opens the training checkpoint."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from public_layouts import as_mit, network, weigh

from dynvid.api import plan, verify
from dynvid.cli import cli
from dynvid.exporter.engines.build import build_engines
from dynvid.exporter.proof.segment_equivalence import prove_segments
from dynvid.grid.bundle import Bundle
from dynvid.models.bundled_network import network_of


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A Caffe-style, dilated TSM with another fold, two sets of weights, and labels in a file."""
    folder = tmp_path_factory.mktemp("options")
    points = ["1.conv0", "2.conv0", "3.conv0"]
    shift = {"start_fold": 1, "points": points}
    model = network("resnet", {"layers": [1, 1, 1], "width": 8}, heads=[3], head={"style": "linear"}, shift=shift)
    state = as_mit(weigh(model, "fan_in").state_dict(), points)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    averaged = {f"module.{key}": value * 1.5 if "new_fc" in key else value for key, value in state.items()}
    mean = {
        "data_preprocessor.mean": torch.full((3, 1, 1), 127.5),
        "data_preprocessor.std": torch.full((3, 1, 1), 51.0),
    }
    torch.save({"state_dict": state, "ema": averaged | mean}, folder / "a.pth")
    (folder / "labels.txt").write_text("".join(f"{i} class {i}\n" for i in range(5)))
    options = ["--weights", "ema", "--labels", str(folder / "labels.txt"), "--shift-div", "4", "--stride-in-1x1"]
    options += ["--dilated", "1", "--frames", "8", "--precision", "fp32", "--route", "3,3 7,3"]
    result = CliRunner().invoke(cli, ["export", str(folder / "a.pth"), "-o", str(folder / "b"), *options])
    assert result.exit_code == 0, result.output
    return folder, state, result


def test_options_reach_the_bundle(exported):
    folder, _, _ = exported
    manifest = Bundle.open(folder / "b").manifest
    assert manifest.weights == "ema"
    assert manifest.labels == tuple(f"class {i}" for i in range(5))
    assert manifest.network["shift"]["div"] == 4
    assert (manifest.network["options"]["stride_in_1x1"], manifest.network["options"]["dilated"]) == (True, 1)
    assert (manifest.preprocessing.mean, manifest.preprocessing.std) == ((0.5,) * 3, (0.2,) * 3)
    network = network_of(manifest, folder / "a.pth")
    strides = [[network.blocks[stage][0].residual[i].stride[0] for i in (0, 3)] for stage in (2, 3)]
    assert strides == [[2, 1], [1, 1]]


def test_plan_takes_the_same_options_and_finds_the_same_costs(exported):
    folder, _, _ = exported
    options = {"weights": "ema", "shift_div": 4, "stride_in_1x1": True, "dilated": 1, "frames": 8, "route": "3,3 7,3"}
    assert plan(folder / "a.pth", **options) == plan(folder / "b")
    costs = [
        plan(folder / "a.pth", **options | change)["checkpoints"][-1]["gmacs"] for change in ({}, {"dilated": None})
    ]
    assert costs[1] < costs[0]


def test_what_was_exported_is_named(exported):
    _, _, result = exported
    assert "resnet (layers [1, 1, 1], stride_in_1x1 True, dilated 1), 5 classes" in result.output
    assert "Warning: recognised a ResNet with stages 1 1 1 of width 8, not a published one" in result.output
    assert "cannot tell" not in result.output


def test_verify_proves_the_same_network_again(exported):
    folder, _, _ = exported
    assert verify(folder / "b", folder / "a.pth", labels=folder / "labels.txt") is not None


def test_such_networks_are_fused_and_proved(exported):
    folder, _, _ = exported
    bundle = Bundle.open(folder / "b")
    prove = prove_segments
    rows = build_engines(bundle, folder / "b.engines", "onnxruntime", prove=prove)
    assert [row.error for row in rows] == [None] * len(rows)


def test_the_weights_asked_for_are_in_the_graphs(exported):
    folder, state, _ = exported
    import onnx

    bundle = Bundle.open(folder / "b")
    graph = onnx.load_model_from_string(bundle.read(bundle.manifest.subgraph("head3").variant("fp32"))).graph
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
    wanted = 1.5 * state["new_fc.weight"].numpy()
    assert any(
        w.shape in (wanted.shape, wanted.T.shape) and np.allclose(w.reshape(-1).sum(), wanted.sum()) for w in weights
    )
