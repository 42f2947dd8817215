import json

import numpy as np
import pytest
import torch

from dynvid.grid.errors import InputRefusedError, ListError, NetworkError, UsageError
from dynvid.models.layouts import load_training_checkpoint
from dynvid.training.clips import CLASSES, write_clips
from dynvid.training.recipe import Recipe, loss_of, read_config, train

NETWORK = """
[network]
network = "msdnet"
classes = 13
labels = [{labels}]
input_sets = 2
frames_per_set = 1
route = "0,0 1,1"
options = {{ layers = [1, 1], channels = 4, growth = 2, growth_factors = [1, 2], bottleneck_factors = [1, 2] }}
head = {{ width = 8, dropout = 0.2 }}
preprocessing = {{ short_side = 32, crop = 32 }}
"""
RECIPE = {
    "train": "clips/clips.csv", "validation": "clips/clips.csv", "steps": 6, "batch": 4, "learning_rate": 0.01,
    "log_every": 4, "save_every": 3, "optimizer": "adamw", "schedule": "cosine",
}  # fmt: skip


@pytest.fixture
def configured(tmp_path):
    """Return a function that writes a configuration with some keys of the recipe changed."""
    write_clips(tmp_path / "clips", 13, 5)

    def write(**changes):
        table = {key: value for key, value in {**RECIPE, **changes}.items() if value is not None}
        recipe = "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
        labels = ", ".join(f'"{name}"' for name in CLASSES)
        path = tmp_path / "train.toml"
        path.write_text(f"{NETWORK.format(labels=labels)}\n[recipe]\n{recipe}\n")
        return path

    return write


def weights(path):
    return load_training_checkpoint(path).network.state_dict()


def same(one, other):
    return all(torch.equal(one[key], other[key]) for key in one)


def test_the_loss_is_the_sum_of_the_checkpoints_cross_entropies():
    logits = [torch.randn(5, 3) for _ in range(4)]
    labels = torch.tensor([0, 1, 2, 0, 1])
    by_hand = sum(-z.log_softmax(1)[torch.arange(5), labels].mean() for z in logits)
    assert loss_of(logits, labels).item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_training_writes_a_checkpoint_that_loads_and_a_log(configured, tmp_path):
    lines = []
    path = train(configured(), tmp_path / "run", lines.append)
    assert load_training_checkpoint(path).network.config.labels == CLASSES
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [3, 4, 6]
    assert [len(line["accuracy"]) for line in log if "accuracy" in line] == [2, 2]
    assert lines == log


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_training_that_was_interrupted_goes_on_to_the_same_weights(configured, tmp_path, average):
    config = configured(average=average)
    whole = weights(train(config, tmp_path / "whole", lambda _: None))

    def interrupt(line):
        if line.get("step") == 4:  # after the state of step 3 was saved
            raise Interrupted

    with pytest.raises(Interrupted):
        train(config, tmp_path / "run", interrupt)
    resumed = weights(train(config, tmp_path / "run", lambda _: None))
    assert same(whole, resumed)
    log = [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert log == [3, 4, 6]
    assert not same(whole, weights(train(configured(average=average, seed=1), tmp_path / "other", lambda _: None)))


def test_training_starts_from_initial_weights(configured, tmp_path):
    first = train(configured(), tmp_path / "first", lambda _: None)
    config = configured(initial=str(first), steps=1, learning_rate=1e-12, weight_decay=0.0)
    start, end = weights(first), weights(train(config, tmp_path / "second", lambda _: None))
    for key in start:
        if "running" not in key and "batches" not in key:
            assert torch.allclose(start[key], end[key], atol=1e-9)


def test_rates():
    step = Recipe("", "", 100, learning_rate=1.0)
    assert [step.rate(s) for s in (0, 49, 50, 70, 90)] == pytest.approx([1, 1, 0.1, 0.01, 0.001])
    cosine = Recipe("", "", 110, learning_rate=1.0, schedule="cosine", warmup_steps=10)
    assert cosine.rate(0) == pytest.approx(0.1) and cosine.rate(10) == pytest.approx(1.0)
    assert cosine.rate(60) == pytest.approx(0.5) and cosine.rate(110) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": "4"}, "steps: '4', expected int"),
        ({"steps": None}, "key 'steps' is missing"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"log_every": 0}, "log_every 0"),
        ({"threads": 0}, "threads 0"),
        ({"batch": 0}, "batch 0"),
        ({"average": 1.5}, r"average 1\.5"),
        ({"learning_rate": -1.0}, r"learning_rate -1\.0"),
        ({"optimizer": "adam"}, "expected one of"),
        ({"train": "missing.csv"}, "missing"),
        ({"initial": "missing.pth"}, "missing"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(configured, tmp_path, changes, message):
    with pytest.raises((UsageError, InputRefusedError), match=message):
        train(configured(**changes), tmp_path / "run", lambda _: None)


@pytest.mark.parametrize(
    "text", ["recipe = 3\nnetwork = 4", 'network = "msdnet38"\n[recipe]\nsteps = 1', "", "[network"]
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, text):
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(UsageError, match="training configuration"):
        read_config(tmp_path / "x.toml")


def test_another_configuration_and_a_damaged_state_are_refused(configured, tmp_path):
    train(configured(), tmp_path / "run", lambda _: None)
    with pytest.raises(UsageError, match="was started with another configuration"):
        train(configured(seed=1), tmp_path / "run", lambda _: None)
    (tmp_path / "run" / "state.pth").write_bytes(b"damaged")
    with pytest.raises(InputRefusedError, match="is damaged: remove it"):
        train(configured(), tmp_path / "run", lambda _: None)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be a folder"):
        train(configured(), tmp_path / "file", lambda _: None)


def test_labels_outside_the_classes_are_refused(configured, tmp_path):
    path = tmp_path / "clips" / "clips.csv"
    path.write_text(path.read_text().replace("star", "comet"))
    with pytest.raises(ListError, match="labels comet that are not among the 13 classes"):
        train(configured(), tmp_path / "run", lambda _: None)


def test_a_damaged_video_leaves_no_half_written_cache(configured, tmp_path):
    config = configured()
    (tmp_path / "clips" / "clips" / "000007.mp4").write_text("not a video")
    with pytest.raises(InputRefusedError, match=r"000007\.mp4"):
        train(config, tmp_path / "run", lambda _: None)
    assert list((tmp_path / "run" / "cache").iterdir()) == []


def test_a_loss_that_is_no_number_ends_the_training(configured, tmp_path, monkeypatch):
    monkeypatch.setattr("dynvid.training.recipe.loss_of", lambda z, _: z[0].sum() * np.nan)
    with pytest.raises(NetworkError, match="the loss is nan at step 1: training diverged"):
        train(configured(), tmp_path / "run", lambda _: None)
