import numpy as np
import pytest
import torch
from samples import TINY

from dynvid.grid.errors import UsageError
from dynvid.models.config_json import from_json
from dynvid.models.registry import build
from dynvid.runtime.video.frames import normalise
from dynvid.training.batches.loader import Batch
from dynvid.training.configuration.recipe import Recipe
from dynvid.training.optimisation.processes import Processes, processes
from dynvid.training.optimisation.trainer import Normalisation, Trainer

CONFIG = from_json(TINY)
ALONE = Processes(0, 1, torch.device("cpu"))
SMALL = {"batch": 4, "learning_rate": 0.01, "learning_rate_batch": 4, "dropout": 0.0}


def batch(seed=0, clips=4):
    rng, crop = np.random.default_rng(seed), CONFIG.preprocessing.crop
    pixels = rng.integers(0, 255, (clips, CONFIG.grid.num_frames, crop, crop, 3), np.uint8)
    return Batch(pixels, rng.integers(0, CONFIG.classes, clips), (), {})


def trainer(**recipe):
    torch.manual_seed(0)
    return Trainer(build(CONFIG), Recipe(**SMALL | recipe), ALONE)


def test_a_network_reads_what_it_reads_in_deployment_in_permuted_order():
    pixels = batch().pixels[:1]
    found = Normalisation(CONFIG, torch.device("cpu"))(pixels)[0].numpy()
    expected = normalise(pixels[0], CONFIG.preprocessing)[list(CONFIG.grid.frame_order)]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_step_of_sgd_is_the_one_of_pytorch():
    one = trainer(optimizer="sgd", weight_decay=0.0, clip_norm=1e9)
    start = {name: p.detach().clone() for name, p in one.network.named_parameters()}
    logits = one.network(one._normalised(batch().pixels))
    loss = sum(torch.nn.functional.cross_entropy(z, torch.from_numpy(batch().labels)) for z in logits)
    gradients = dict(zip(start, torch.autograd.grad(loss, list(one.network.parameters())), strict=True))
    assert trainer(optimizer="sgd").advance(batch(), 0.5) == pytest.approx(loss.item(), rel=1e-5)
    one = trainer(optimizer="sgd", weight_decay=0.0, clip_norm=1e9)
    one.advance(batch(), 0.5)
    for name, parameter in one.network.named_parameters():
        torch.testing.assert_close(parameter, start[name] - 0.5 * gradients[name], atol=1e-5, rtol=1e-4)


def test_the_gradient_is_clipped_and_groups_have_their_own_rates():
    one = trainer(optimizer="sgd", parameter_groups="tsn", clip_norm=1e-3, weight_decay=0.0, momentum=0.0)
    groups = one._optimizer.param_groups
    start = [[p.detach().clone() for p in group["params"]] for group in groups]
    one.advance(batch(), 0.5)
    assert {group["lr"] for group in groups} == {0.5, 1.0, 2.5, 5.0}  # weights, biases, and both of classifiers
    steps = [
        (p.detach() - before).flatten() / group["lr"]
        for group, befores in zip(groups, start, strict=True)
        for p, before in zip(group["params"], befores, strict=True)
    ]
    assert float(torch.cat(steps).norm()) == pytest.approx(1e-3, rel=1e-2)


def test_bf16_computes_in_bf16_and_keeps_weights_in_fp32():
    fp32, bf16 = trainer(), trainer(precision="bf16")
    losses = [one.advance(batch(), 0.01) for one in (fp32, bf16)]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.03)
    assert {p.dtype for p in bf16.network.parameters()} == {torch.float32}


def test_the_average_of_weights_is_what_is_kept():
    one = trainer(average=0.5)
    start = {key: value.clone() for key, value in one.network.state_dict().items()}
    one.advance(batch(), 0.1)
    one.advance(batch(1), 0.1)
    key = next(key for key in start if key.endswith("weight"))
    first_kept = one.result.state_dict()[key]
    assert not torch.equal(first_kept, one.network.state_dict()[key]) and not torch.equal(first_kept, start[key])
    plain = trainer()
    assert plain.result is plain.network


def test_devices_that_are_not_there_are_refused(monkeypatch):
    for name, message in (("cuda", "finds no GPU"), ("meta", "expected auto"), ("gpu", "expected auto")):
        with pytest.raises(UsageError, match=message), processes(name):
            pass
    with processes("auto") as group:
        assert group == ALONE and group.writes
        assert group.total(torch.ones(2)).tolist() == [1, 1] and group.union({1: 2}) == {1: 2}
