"""Real files of other people train for a step; ``DYNVID_CLIPS`` names a folder of them."""

import os
from pathlib import Path

import pytest

from dynvid import api
from dynvid.grid.errors import VideoError
from dynvid.grid.preprocessing import Preprocessing
from dynvid.models.layouts import load_training_checkpoint
from dynvid.runtime.video.file import VideoFile
from dynvid.training.data.clip_list import write_clip_list
from dynvid.training.data.record import Record

CLIPS = os.environ.get("DYNVID_CLIPS")
CONFIG = """
[network]
network = "resnet"
options = { layers = [1, 1, 1, 1], width = 8 }
input_sets = 8
frames_per_set = 2
preprocessing = { short_side = 72, crop = 64 }
[data]
train = "clips.csv"
held_out = 0.3
[recipe]
epochs = 1
batch = 8
flip = "on"
[run]
workers = 2
threads = 1
"""


def readable(path):
    try:
        with VideoFile(path, Preprocessing(72, 64), 16) as source:
            source.pixels(range(16))
    except VideoError:
        return False
    return True


@pytest.mark.skipif(CLIPS is None, reason="DYNVID_CLIPS does not name a folder of videos")
def test_real_clips_train_for_an_epoch(tmp_path):
    files = [path for path in sorted(Path(CLIPS).iterdir()) if path.suffix != ".md" and readable(path)]
    assert len(files) > 20
    records = [Record(path, "avi" if path.suffix == ".avi" else "other") for path in files]
    write_clip_list(tmp_path / "clips.csv", records)
    (tmp_path / "train.toml").write_text(CONFIG)
    lines = []
    path = api.train(tmp_path / "train.toml", tmp_path / "run", report=lines.append)
    assert load_training_checkpoint(path).network.config.labels == ("avi", "other")
    assert any("loss" in line for line in lines) and not (tmp_path / "run" / "broken.csv").exists()
