"""Training on a GPU: one step in fp32 and in mixed precision is the CPU's, within bounds."""

import copy
import os

import numpy as np
import pytest
import torch
from samples import TINY

from dynvid.models.config_json import from_json
from dynvid.models.registry import build
from dynvid.training.batches.loader import Batch
from dynvid.training.configuration.recipe import Recipe
from dynvid.training.optimisation.processes import processes
from dynvid.training.optimisation.trainer import Trainer

pytestmark = pytest.mark.gpu

BOUNDS = {"fp32": 1e-3, "bf16": 0.05, "fp16": 0.02}  # of the loss, relative; TF32 is on by default


@pytest.fixture(autouse=True)
def _gpu():
    if not torch.cuda.is_available():
        if os.environ.get("DYNVID_REQUIRE_GPU") == "1":
            pytest.fail("PyTorch finds no GPU", pytrace=False)
        pytest.skip("PyTorch finds no GPU")


@pytest.mark.parametrize("precision", BOUNDS)
def test_a_step_on_the_gpu_is_the_cpus(precision):
    config, rng = from_json(TINY), np.random.default_rng(0)
    crop = config.preprocessing.crop
    pixels = rng.integers(0, 255, (4, config.grid.num_frames, crop, crop, 3), np.uint8)
    batch = Batch(pixels, rng.integers(0, config.classes, 4), (), {})
    torch.manual_seed(0)
    network = build(config)
    losses, weights = {}, {}
    for device, kind in (("cpu", "fp32"), ("cuda", precision)):
        with processes(device) as group:
            recipe = Recipe(batch=4, learning_rate_batch=4, precision=kind, optimizer="sgd")
            trainer = Trainer(copy.deepcopy(network), recipe, group)
            losses[device] = trainer.advance(batch, 0.01)
            weights[device] = [parameter.detach().cpu() for parameter in trainer.network.parameters()]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=BOUNDS[precision])
    start = list(network.parameters())
    moved = {
        device: torch.cat([(w - s).flatten() for w, s in zip(found, start, strict=True)])
        for device, found in weights.items()
    }
    assert torch.nn.functional.cosine_similarity(moved["cpu"], moved["cuda"], dim=0) > 0.98
