"""One step after the other: what changes in a run, and how."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ...grid.errors import NetworkError, UsageError
from ...models.network import NetworkConfig, VideoNetwork
from ..batches.loader import Batch
from ..configuration.recipe import Recipe
from .gradient_equilibrium import GradientEquilibrium
from .losses import SelfDistillation, loss_of
from .parameter_groups import parameter_groups, partial_batch_norm
from .processes import Processes
from .recompute import recompute_blocks

_FEW_IMAGES = 32  # images a BatchNorm should see a step
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Normalisation:
    """Pixels to what a network reads, on its device."""

    def __init__(self, config: NetworkConfig, device: torch.device) -> None:
        self._order = torch.tensor(config.grid.frame_order, device=device)
        self._mean, self._std = (
            255 * torch.tensor(values, device=device).view(3, 1, 1)
            for values in (config.preprocessing.mean, config.preprocessing.std)
        )
        self.device = device

    def __call__(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Return frames [clips, l, 3, crop, crop] in permuted order, from [clips, l, crop, crop, 3] in temporal order."""
        found = torch.from_numpy(pixels)
        found = found.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else found
        frames = found[:, self._order].permute(0, 1, 4, 2, 3).float()
        return ((frames - self._mean) / self._std).contiguous()


class Trainer:
    """A network in training.

    Attributes:
        network: the network itself, without what makes it parallel.
        result: the network whose weights are kept: ``network``, or the moving average of its weights.
        step: number of completed steps.
    """

    def __init__(self, network: VideoNetwork, recipe: Recipe, processes: Processes) -> None:
        """Move the network to its device.

        Raises:
            UsageError: If the batch cannot be split evenly among the processes, or the precision is not possible.
        """
        parts = processes.count * recipe.accumulate
        if recipe.batch % parts:
            raise UsageError(
                f"recipe.batch {recipe.batch} cannot be split among {processes.count} processes x recipe.accumulate "
                f"{recipe.accumulate}: expected a multiple of {parts}"
            )
        device = processes.device
        if recipe.precision == "fp16" and device.type == "cpu":
            raise UsageError('recipe.precision "fp16" needs a GPU: expected "bf16" or "fp32" on a CPU')
        self._recipe, self._processes, self.step = recipe, processes, 0
        self.network = network.to(device).train()
        images = recipe.batch // parts * network.grid.num_frames
        shares = {"auto": images < _FEW_IMAGES, "on": True, "off": False}[recipe.sync_batch_norm]
        if processes.count > 1 and device.type == "cuda" and shares:
            self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)
        if recipe.partial_batch_norm:
            partial_batch_norm(self.network)
        self._average: torch.optim.swa_utils.AveragedModel | None = None
        if recipe.average > 0:
            averaging = torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.average)
            self._average = torch.optim.swa_utils.AveragedModel(self.network, multi_avg_fn=averaging, use_buffers=True)
        if recipe.recompute:
            recompute_blocks(self.network.blocks)
        self._model: nn.Module = self.network
        if processes.count > 1:
            self._model = DistributedDataParallel(self.network, [device] if device.type == "cuda" else None)
        groups = parameter_groups(self.network, recipe.weight_decay, recipe.parameter_groups)
        self._optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(groups, recipe.scaled_rate, momentum=recipe.momentum)
            if recipe.optimizer == "sgd"
            else torch.optim.AdamW(groups, recipe.scaled_rate)
        )
        self._scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self._distillation = SelfDistillation(recipe.distillation) if recipe.distillation else None
        self._branch = GradientEquilibrium(network.route) if recipe.gradient_equilibrium else None
        self._normalised = Normalisation(network.config, device)

    @property
    def result(self) -> VideoNetwork:
        """The network whose weights are kept."""
        kept = self.network if self._average is None else self._average.module
        assert isinstance(kept, VideoNetwork)
        return kept

    def advance(self, batch: Batch, rate: float) -> float:
        """Take one step on this process's part of the batch; return the loss of the whole batch.

        Args:
            batch: this process's clips.
            rate: the learning rate.

        Raises:
            NetworkError: If the loss or a gradient is not a number; the weights are those of before.
        """
        recipe, device = self._recipe, self._processes.device
        self.network.train()
        self._optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(_seed(recipe.seed, self.step, self._processes.rank))  # the same dropout after a resume
        frames, labels = self._normalised(batch.pixels), torch.from_numpy(batch.labels).to(device)
        told = torch.zeros(2, device=device)  # the loss, and how sure the last checkpoint is
        parts = list(zip(frames.chunk(recipe.accumulate), labels.chunk(recipe.accumulate), strict=True))
        for index, (some_frames, some_labels) in enumerate(parts, 1):
            sync = index == len(parts) or not isinstance(self._model, DistributedDataParallel)
            with nullcontext() if sync else self._model.no_sync():  # type: ignore[operator]
                share = len(some_labels) / len(labels)
                with torch.autocast(device.type, _DTYPES.get(recipe.precision), enabled=recipe.precision in _DTYPES):
                    logits = self._model(some_frames, self._branch)
                loss = share * self._loss(logits, some_labels)
                self._scaler.scale(loss).backward()
            told[0] += loss.detach()
            if self._distillation is not None:
                told[1] += share * self._distillation.confidence_of(logits)
        loss_value, confidence = map(float, self._processes.total(told) / self._processes.count)
        self._scaler.unscale_(self._optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_norm)
        if not math.isfinite(loss_value) or not (self._scaler.is_enabled() or torch.isfinite(norm)):
            what = f"loss is {loss_value}" if not math.isfinite(loss_value) else "gradient is not finite"
            raise NetworkError(f"the {what} at step {self.step + 1}: training diverged. Lower recipe.learning_rate.")
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["lr_factor"]
        self._scaler.step(self._optimizer)  # under fp16 it leaves out steps whose gradients overflow
        self._scaler.update()
        if self._average is not None:
            self._average.update_parameters(self.network)
        if self._distillation is not None:
            self._distillation.anneal(confidence)
        self.step += 1
        return loss_value

    def state(self) -> dict[str, Any]:
        """Return all that the next steps depend on, but for the data."""
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "temperature": None if self._distillation is None else self._distillation.temperature,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of the same recipe."""
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        if self._distillation is not None:
            self._distillation.temperature = state["temperature"]

    def _loss(self, logits: list[Tensor], labels: Tensor) -> Tensor:
        return loss_of(logits, labels) if self._distillation is None else self._distillation.loss_of(logits, labels)


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
