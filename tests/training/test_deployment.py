"""What training measures is what deployment answers."""

import numpy as np
import torch
from samples import DEMONSTRATION

from dynvid.models.layouts import load_training_checkpoint
from dynvid.runtime.open_model import open_model
from dynvid.training.batches.clips import Clips
from dynvid.training.batches.loader import Loader
from dynvid.training.clips import write_clips
from dynvid.training.data.clip_list import read_clip_list
from dynvid.training.optimisation.evaluation import evaluate
from dynvid.training.optimisation.processes import Processes


def test_the_measured_accuracy_is_that_of_the_exported_bundle_clip_by_clip(exports, tmp_path):
    records = read_clip_list(write_clips(tmp_path, 52, 77))
    network = load_training_checkpoint(DEMONSTRATION / "network.pth").network
    clips = Clips(records, network.config.labels, "clips.csv")
    with Loader(1) as loader:
        found = evaluate(network, clips, loader, Processes(0, 1, torch.device("cpu")))
    with open_model(exports.demonstration().root) as model:
        answers = [model.classify(record.path, trace=True) for record in records]
    right = np.array(
        [np.stack(one.probabilities).argmax(-1) == label for one, label in zip(answers, clips.labels, strict=True)]
    )
    np.testing.assert_allclose(found.accuracy, right.mean(0), atol=1e-9)
    assert 0.6 < found.accuracy[0] < found.accuracy[-1] and not found.broken
