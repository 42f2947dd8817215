"""The committed demonstration network: what it learnt, what the route saves, and that it needs time's order."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from samples import DEMONSTRATION

from dynvid.exporter.proof.clips import proof_clips
from dynvid.exporter.proof.subgraph_equivalence import prove_subgraphs
from dynvid.exporter.proof.tolerances import Rounding
from dynvid.exporter.split.subgraphs import split
from dynvid.grid.bundle import Bundle
from dynvid.grid.route import preset
from dynvid.grid.thresholds import read_thresholds
from dynvid.models.layouts import load_training_checkpoint
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.session import ArraySource, Session
from dynvid.training.clips import write_clips

CHECKPOINT = DEMONSTRATION / "network.pth"


@pytest.fixture
def network():
    return load_training_checkpoint(CHECKPOINT).network


@pytest.fixture(scope="module")
def bundle(exports) -> Bundle:
    return exports.demonstration()


def test_the_checkpoint_is_small():
    assert CHECKPOINT.stat().st_size <= 8e6


def test_the_export_is_proved(bundle):
    proof = bundle.manifest.proof
    assert max(proof["fp32"]["checkpoints"]) <= 1e-4
    assert max(proof["fp16"]["checkpoints"]) <= 2e-2
    assert proof["fp32"]["agreement_at_q"] == {"q": 1.2, "exits": 1.0, "classes": 1.0}
    assert proof["sees"]["states"] == 15 and proof["sees"]["least_effect"] > proof["sees"]["required"]


@pytest.mark.parametrize("name", ["joint", "depth", "input", "full"])
def test_split_equals_whole_on_every_preset(network, bundle, name):
    route = preset(name, network.grid, network.head_blocks)
    clips = proof_clips(8, 16, network.config.preprocessing, seed=3)
    session = Session.open(bundle, open_backend("onnxruntime"), route=route)
    order = list(network.grid.frame_order)
    with torch.no_grad():
        expected = np.stack([torch.cat(network.with_route(route)(torch.from_numpy(c[order])[None])) for c in clips])
    found = np.stack([np.stack(session.classify(ArraySource(c), trace=True).logits) for c in clips])
    scale = expected.std(-1).mean(0)
    assert (np.abs(found - expected).max((0, 2)) / scale).max() <= 1e-4
    assert (found.argmax(-1) == expected.argmax(-1)).all()


def test_one_call_over_all_frames_and_a_chain_of_calls_agree_to_the_last_bit(network, bundle):
    parts, backend = split(network, "fp32"), open_backend("onnxruntime")
    programs = {
        p.name: backend.load(bundle.read(v := bundle.manifest.subgraph(p.name).variant("fp32")), v, p.name)
        for p in parts
    }
    clips = proof_clips(5, 16, network.config.preprocessing)[:, list(network.grid.frame_order)]
    assert len(parts) == 10
    prove_subgraphs(parts, parts, programs, backend, clips, [(1, 16), (2, 16), (5, 16)], "fp32", Rounding().tolerance)


def written_clips(folder, count):
    """Return the folder, with the two lists that evaluate.py and fp16.py read."""
    for name, seed in (("calibration", 3), ("test", 4)):
        write_clips(folder / name, count, seed)
    return folder


@pytest.fixture(scope="module")
def clips2000(tmp_path_factory):
    return written_clips(tmp_path_factory.mktemp("clips2000"), 2000)


def printed(program, *arguments):
    """Return what a committed command prints, in a process of its own: it computes with one thread."""
    done = subprocess.run([sys.executable, DEMONSTRATION / program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return done.stdout


def figures(bundle, folder):
    lists = [folder / name / "clips.csv" for name in ("calibration", "test")]
    text = printed("evaluate.py", bundle.root, *lists, "--thresholds", folder / "T.json")
    read_thresholds(folder / "T.json", bundle.sha256, 6)
    return json.loads(text)


def fp16_figures(bundle, folder, count):
    shutil.copytree(bundle.root, folder / "bundle")
    printed("fp16.py", folder, "--clips", str(count), "--json", folder / "fp16.json")
    report = json.loads((folder / "fp16.json").read_text())
    assert [row["videos"] for row in report["executors"].values()] == 3 * [count]
    return report


def test_reduced_counts(bundle, tmp_path):
    report = figures(bundle, written_clips(tmp_path, 130))
    assert report["accuracy_full"] >= 0.88
    assert report["accuracy_full"] - report["accuracy_per_checkpoint"][0] >= 0.08
    assert report["accuracy_dynamic"] >= report["accuracy_full"] - 0.03
    assert report["macs_ratio"] <= 0.7


@pytest.mark.full
def test_2000_clips(bundle, clips2000):
    """The issue's figures: thresholds from 2,000 clips, 2,000 unseen ones."""
    report = figures(bundle, clips2000)
    assert report["accuracy_full"] >= 0.90
    assert report["accuracy_full"] - report["accuracy_per_checkpoint"][0] >= 0.15
    assert report["macs_ratio"] <= 0.60
    assert report["accuracy_dynamic"] >= report["accuracy_full"] - 0.01
    for accuracy, chance in report["shuffled_among_look_alikes"].values():
        assert abs(accuracy - chance) <= 0.10
    accuracy, chance = report["late_endings_at_checkpoint_5"]
    assert abs(accuracy - chance) <= 0.10
    # and the other way round: in order, and with every set seen, they are told apart
    assert all(accuracy >= 0.85 for accuracy, _ in report["in_order_among_look_alikes"].values())
    assert report["late_endings_at_checkpoint_6"][0] >= 0.8


def test_fp16_answers_as_pytorch_on_a_few_clips(bundle, tmp_path):
    report = fp16_figures(bundle, written_clips(tmp_path, 39), 39)
    assert report["fp32_only"] == []
    fp32, *half = report["executors"].values()
    assert fp32["exits_agree"] == fp32["classes_agree"] == 39 and fp32["largest_deviation_in_std"] <= 1e-4
    for row in half:
        assert row["exits_agree"] >= 38
        assert 1e-4 < row["largest_deviation_in_std"] <= 2e-2  # the first: it is half precision that was compared


@pytest.mark.full
def test_fp16_on_2000_clips(bundle, clips2000):
    """Against fp32 PyTorch, one video alone, with thresholds of fp32: storage in half precision, and arithmetic, too."""
    report = fp16_figures(bundle, clips2000, 2000)
    assert report["rule"] == "optimal"
    fp32, *half = report["executors"].values()
    assert fp32["exits_agree"] == fp32["classes_agree"] == 2000 and fp32["largest_deviation_in_std"] <= 1e-4
    for row in half:
        assert row["exits_agree"] >= 0.995 * 2000
        assert all(distance <= 1e-2 for distance in row["flip_distances"])
        assert abs(row["accuracy"] - row["accuracy_reference"]) <= 0.005
        assert row["largest_deviation_in_std"] > 1e-4  # else it is no half precision that was compared


def test_a_flip_is_counted_with_the_distance_of_its_confidence(monkeypatch):
    monkeypatch.syspath_prepend(str(DEMONSTRATION))
    from fp16 import compare

    def logits(*confidences):  # of class 0 of two; the second checkpoint is always sure of class 1
        first = np.array([[np.log(c / (1 - c)), 0.0] for c in confidences])
        return np.stack([first, np.tile([0.0, 3.0], (len(first), 1))], 1)

    found = compare(logits(0.9, 0.805, 0.79, 0.6), logits(0.91, 0.795, 0.803, 0.61), np.zeros(4, int), (0.8, None))
    assert (found["exits_agree"], found["classes_agree"]) == (2, 2)
    assert found["flip_distances"] == pytest.approx([0.005, 0.01])
    assert (found["accuracy_reference"], found["accuracy"]) == (0.5, 0.5)
    assert found["largest_deviation"] == pytest.approx(np.log(0.91 / 0.09) - np.log(0.9 / 0.1))


def test_the_clips_that_the_page_explains_differ(monkeypatch):
    monkeypatch.syspath_prepend(str(DEMONSTRATION))
    from demo import six

    exits = [1, 1, 2, 3, 6, 6, 1, 1]
    along = [{"video": str(i), "checkpoint": k, "label": "a"} for i, k in enumerate(exits)]
    labels = {str(i): "b" if i == 4 else "a" for i in range(len(exits))}  # the first of the last exit is wrong, too
    assert [one["video"] for one in six(along, labels)] == ["0", "2", "3", "4", "1", "5"]
