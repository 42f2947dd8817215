"""What stays in fp32: the convolutions that lose most, until the loss is within its bound."""

import numpy as np
import pytest

from dynvid.calibration.scores.scores import Scores
from dynvid.exporter.int8 import layer_selection as layers_module
from dynvid.exporter.int8.layer_selection import choose, drops, exits_agree
from dynvid.grid.errors import ProofError

LAYERS = {"block0": ("a", "b", "c", "d"), "block1": ("e", "f", "g", "h"), "head1": ()}


class FakeTwins:
    """Two cells of four convolutions each; a bundle is the set of those in INT8."""

    layers = LAYERS

    def bundle(self, kept):
        return {layer for name, layers in LAYERS.items() for layer in layers if layer not in kept.get(name, ())}


LOSS = {"a": 0.1, "b": 0.1, "c": 5.0, "d": 0.1, "e": 0.1, "f": 0.1, "g": 0.1, "h": 0.1}


@pytest.fixture
def chosen(monkeypatch):
    reference = np.random.default_rng(0).standard_normal((4, 2, 5)).astype(np.float32)

    class Logits:
        def __init__(self, made, *_):
            self.made = made

        def first(self, count):
            return reference[:count] + np.float32(sum(LOSS[layer] for layer in self.made))

    monkeypatch.setattr(layers_module, "SplitLogits", Logits)
    probabilities = np.full((2, 100, 2), 0.5, np.float32) + np.array([0.1, -0.1], np.float32)
    names = tuple(f"{n:03}" for n in range(100))
    plain = Scores(probabilities, np.zeros(100, np.int64), None, names)

    def score(made):
        """Each convolution in INT8 with a loss above 1 makes ten answers wrong, and each other one none."""
        found, wrong = probabilities.copy(), 10 * sum(LOSS[layer] > 1 for layer in made)
        found[1, :wrong] = found[1, :wrong, ::-1]
        return Scores(found, plain.labels, None, names)

    def run(max_drop, score=score, min_agreement=0.0):
        return choose(FakeTwins(), np.zeros(4), reference, None, plain, score, max_drop, min_agreement)

    return run


def test_nothing_stays_in_fp32_within_the_bound(chosen):
    found = chosen(0.1)
    assert not any(found.kept.values())
    assert found.drop == pytest.approx((0.0, 0.1))
    assert set(found.cell_loss) == {"block0", "block1"}


def test_the_convolution_that_loses_most_returns_to_fp32_first(chosen):
    found = chosen(0.05)
    assert found.kept == {"block0": ("c",), "block1": (), "head1": ()}
    assert found.drop == (0.0, 0.0)
    assert max(found.layer_loss["block0"], key=found.layer_loss["block0"].get) == "c"


def test_it_returns_to_fp32_as_well_where_videos_leave_elsewhere(chosen, monkeypatch):
    monkeypatch.setattr(layers_module, "exits_agree", lambda _, found: 1.0 - (found.probabilities[1, 0, 0] < 0.5) / 10)
    assert not any(chosen(0.5, min_agreement=0.8).kept.values())
    found = chosen(0.5, min_agreement=0.95)
    assert found.kept["block0"] == ("c",)
    assert found.agreement == 1.0


def test_exits_agree_where_both_sets_rank_the_videos_alike():
    rng, names = np.random.default_rng(0), tuple(map(str, range(50)))
    top = rng.uniform(0.5, 1, (3, 50))
    one = Scores(np.stack([top, 1 - top], axis=2), None, None, names)
    assert exits_agree(one, Scores(one.probabilities**1.01, None, None, names)) == 1.0  # thresholds move along
    shuffled = rng.permutation(50)
    assert exits_agree(one, Scores(one.probabilities[:, shuffled], None, None, names)) < 0.7


def test_what_loses_even_in_fp32_is_no_int8(chosen):
    def always_wrong(_):
        return Scores(
            np.full((2, 100, 2), 0.5, np.float32) - np.array([0.1, -0.1], np.float32),
            np.zeros(100, np.int64), None, tuple(f"{n:03}" for n in range(100)),
        )  # fmt: skip

    with pytest.raises(ProofError, match=r"drops 1\.0000, .* with everything in fp32"):
        chosen(0.05, always_wrong)


def test_without_labels_the_drop_is_the_share_of_other_classes():
    names = ("0", "1", "2", "3")
    one = np.array([[[0.9, 0.1]] * 4], np.float32)
    other = one.copy()
    other[0, 2] = [0.2, 0.8]
    assert drops(Scores(one, None, None, names), Scores(other, None, None, names)) == (0.25,)
    # a video without an answer on one side is left out
    assert drops(Scores(one, None, None, names), Scores(other[:, 2:], None, None, names[2:])) == (0.5,)
