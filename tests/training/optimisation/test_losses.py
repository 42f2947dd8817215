"""Losses by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dynvid.grid.errors import UsageError
from dynvid.training.optimisation.losses import SelfDistillation, loss_of

LABELS = torch.tensor([0, 1, 2, 0, 1])


def logits(exits: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(5, 3, generator=generator, requires_grad=True) for _ in range(exits)]


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_the_loss_is_the_sum_of_the_checkpoints_cross_entropies():
    z = logits(4)
    by_hand = sum(-each.log_softmax(1)[torch.arange(5), LABELS].mean() for each in z)
    assert loss_of(z, LABELS).item() == pytest.approx(by_hand.item(), rel=1e-6)


@pytest.mark.parametrize(("share", "temperature"), [(0.5, 1.0), (0.5, 2.5), (0.2, 4.0), (1.0, 3.0)])
def test_self_distillation_by_hand(share, temperature):
    z = [each.detach().double().numpy() for each in logits()]
    target = softmax(z[-1] / temperature)
    by_hand = 0.0
    for k, each in enumerate(z):
        by_hand += (1 - share) * -np.log(softmax(each))[np.arange(5), LABELS].mean()
        if k < len(z) - 1:
            by_hand += share * temperature**2 * -(target * np.log(softmax(each / temperature))).sum(1).mean()
    loss = SelfDistillation(share, temperature).loss_of(logits(), LABELS)
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)


def test_the_last_checkpoint_learns_from_the_labels_only():
    z = logits()
    SelfDistillation(0.3, 2.0).loss_of(z, LABELS).backward()
    alone = logits()
    loss_of(alone[-1:], LABELS).backward()
    torch.testing.assert_close(z[-1].grad, 0.7 * alone[-1].grad)


def test_a_checkpoint_that_says_what_the_last_says_gets_only_the_labels_gradient():
    last = logits()[-1]
    same = last.detach().clone().requires_grad_()
    SelfDistillation(0.5, 3.0).loss_of([same, last], LABELS).backward()
    alone = last.detach().clone().requires_grad_()
    loss_of([alone], LABELS).backward()
    torch.testing.assert_close(same.grad, 0.5 * alone.grad)


def test_the_temperature_rises_by_5_percent_while_the_last_checkpoint_is_sure():
    method = SelfDistillation()
    sure = [torch.tensor([[4.0, 0.0, 0.0]] * 5)]
    seen = []
    while (confidence := float(method.confidence_of(sure))) > 0.5:
        seen.append((method.temperature, confidence))
        method.anneal(confidence)
        assert len(seen) < 100
    # e^(4/T) = 2 is where the highest of three probabilities is a half
    assert method.temperature == pytest.approx(4 / np.log(2), rel=0.05)
    assert method.temperature >= 4 / np.log(2)
    assert [t for t, _ in seen] == pytest.approx([1.05**n for n in range(len(seen))])
    assert seen[0][1] == pytest.approx(softmax(sure[0].double().numpy())[0, 0], rel=1e-6)
    still = method.temperature
    method.anneal(0.5)
    assert method.temperature == still


def test_its_state_is_one_number_that_is_restored_exactly(tmp_path):
    method = SelfDistillation()
    for _ in range(7):
        method.anneal(0.9)
    torch.save({"temperature": method.temperature}, tmp_path / "state.pth")
    again = SelfDistillation(temperature=torch.load(tmp_path / "state.pth", weights_only=True)["temperature"])
    assert again == method
    assert torch.equal(again.loss_of(logits(), LABELS), method.loss_of(logits(), LABELS))


@pytest.mark.parametrize(("share", "temperature"), [(0.0, 1.0), (1.5, 1.0), (0.5, 0.0), (0.5, float("nan"))])
def test_impossible_numbers_are_refused(share, temperature):
    with pytest.raises(UsageError, match=f"share {share}, temperature {temperature}: expected a share in"):
        SelfDistillation(share, temperature)
