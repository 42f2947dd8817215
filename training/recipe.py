"""The paper's training recipe: the sum of all checkpoints' cross-entropies (section 4.2); resumable."""

from __future__ import annotations

import json
import math
import pickle
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..grid.errors import NetworkError, TrainingCheckpointError, UsageError
from ..grid.storage.files import whole_file
from ..grid.storage.strict_json import StrictJsonError, parse
from ..models.config_json import from_json, to_json
from ..models.network import NetworkConfig, VideoNetwork
from ..models.registry import build
from ..models.training_checkpoint import load_weights, read_tensors, save
from .datasets import class_indices, load_pixels


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. The defaults are the paper's for Kinetics-400, in steps instead of epochs.

    Attributes:
        train: LIST of the training videos; ``validation``: of those for the accuracies in the log.
        steps: total number of mini-batches; ``batch``: videos per mini-batch.
        optimizer: ``sgd`` with momentum 0.9, or ``adamw``.
        schedule: ``step``: divided by 10 after 50 %, 70 % and 90 % of the steps; ``cosine``: to zero; both after
            ``warmup_steps`` of linear growth.
        clip_norm: bound on the norm of the gradient.
        bf16: whether to compute under bfloat16 autocast.
        average: decay of the exponential moving average of the weights, which is what is saved; 0 for none.
        flip: whether to mirror half of the training videos (never if left and right are classes).
        initial: training checkpoint to start from.
    """

    train: str
    validation: str
    steps: int
    batch: int = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.01
    weight_decay: float = 5e-4
    schedule: Literal["step", "cosine"] = "step"
    warmup_steps: int = 0
    clip_norm: float = 20.0
    bf16: bool = False
    average: float = 0.0
    flip: bool = False
    threads: int = 1
    seed: int = 0
    log_every: int = 50
    save_every: int = 250
    initial: str | None = None

    def __post_init__(self) -> None:
        """Reject invalid numbers."""
        counts = (self.steps, self.batch, self.threads, self.log_every, self.save_every)
        if min(counts) < 1 or self.warmup_steps < 0:
            raise UsageError(
                f"steps {self.steps}, batch {self.batch}, threads {self.threads}, log_every {self.log_every}, "
                f"save_every {self.save_every}, warmup_steps {self.warmup_steps}: expected at least 1 each, or 0 "
                "for warmup_steps"
            )
        if not (self.learning_rate > 0 and self.weight_decay >= 0 and self.clip_norm > 0 and 0 <= self.average < 1):
            raise UsageError(
                f"learning_rate {self.learning_rate}, weight_decay {self.weight_decay}, clip_norm {self.clip_norm}, "
                f"average {self.average}: expected above 0, 0 or more, above 0, and [0, 1)"
            )

    def rate(self, step: int) -> float:
        """Return the learning rate of a step (0-based)."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
        return self.learning_rate * 0.1 ** sum(done >= border for border in (0.5, 0.7, 0.9))


def read_config(path: Path) -> tuple[NetworkConfig, Recipe]:
    """Return the network and the recipe of a TOML file with the tables ``[network]`` and ``[recipe]``.

    Raises:
        UsageError: If the file is unreadable, or a key is unknown or missing.
    """
    try:
        data = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"training configuration {str(path)!r} cannot be read: {error}") from None
    if set(data) != {"network", "recipe"} or not all(isinstance(table, dict) for table in data.values()):
        raise UsageError(
            f"training configuration {str(path)!r} holds {', '.join(sorted(data))}: expected the tables [network] and "
            "[recipe]"
        )
    try:
        recipe = parse(Recipe, data["recipe"])
    except StrictJsonError as error:
        raise UsageError(f"[recipe] of {str(path)!r} does not fit: {error}") from None
    return from_json(data["network"]), recipe


def loss_of(logits: list[Tensor], labels: Tensor) -> Tensor:
    """Return the sum over checkpoints of the mean cross-entropy (paper, section 4.2)."""
    return torch.stack([nn.functional.cross_entropy(z.float(), labels) for z in logits]).sum()


class _Frames:
    """Mini-batches of normalised frames in permuted order."""

    def __init__(self, config: NetworkConfig, pixels: NDArray[np.uint8]) -> None:
        self.pixels = pixels
        self.order = list(config.grid.frame_order)
        self.mean = 255 * torch.tensor(config.preprocessing.mean).view(3, 1, 1)
        self.std = 255 * torch.tensor(config.preprocessing.std).view(3, 1, 1)

    def batch(self, indices: NDArray[np.int64]) -> Tensor:
        """Return [batch, l, 3, crop, crop]."""
        pixels = torch.from_numpy(self.pixels[np.sort(indices)])[np.argsort(np.argsort(indices))]
        frames = pixels[:, self.order].permute(0, 1, 4, 2, 3).float()
        return ((frames - self.mean) / self.std).contiguous()


@torch.no_grad()
def evaluate(network: VideoNetwork, frames: _Frames, labels: Tensor, batch: int = 32) -> list[float]:
    """Return the top-1 accuracy of every checkpoint."""
    was_training = network.training
    network.eval()
    right = torch.zeros(len(network.route.cells))
    for start in range(0, len(labels), batch):
        indices = np.arange(start, min(start + batch, len(labels)))
        logits = torch.stack(network(frames.batch(indices)))
        right += (logits.argmax(-1) == labels[indices]).sum(1)
    network.train(was_training)
    return [float(r) / len(labels) for r in right]


def train(config_path: Path, run: Path, report: Callable[[Mapping[str, Any]], None]) -> Path:
    """Train as configured in ``config_path``, into the folder ``run``; return the path of the training checkpoint.

    ``run/state.pth`` is rewritten every ``save_every`` steps; after an interruption the same call resumes from there.
    ``report`` is called with each line of ``run/log.jsonl``.

    Raises:
        UsageError: If the configuration does not fit, or ``run`` was started with another.
        ListError, VideoError: If the data cannot be read.
    """
    config, recipe = read_config(config_path)
    if config.labels is None:
        raise UsageError(f"[network] of {str(config_path)!r} has no labels: training needs their names")
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"-o {str(run)!r} cannot be a folder ({error.strerror}): give another") from None
    fingerprint = json.dumps([to_json(config), asdict(recipe)], sort_keys=True)
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)

    data = {}
    for name, text in (("train", recipe.train), ("validation", recipe.validation)):
        path = config_path.parent / text
        videos, pixels = load_pixels(path, config.preprocessing, config.grid.num_frames, run / "cache")
        data[name] = (
            _Frames(config, pixels),
            torch.from_numpy(class_indices(videos, config.labels, path)),
        )
    frames, labels = data["train"]

    network = build(config)
    if recipe.initial is not None:
        path = config_path.parent / recipe.initial
        tensors, native = read_tensors(path)
        if native is None:
            raise TrainingCheckpointError(
                f"initial {str(path)!r} is not a native training checkpoint: start from one that 'dynvid train' wrote"
            )
        load_weights(network, tensors, path)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.average), use_buffers=True
    )
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD(groups, recipe.learning_rate, momentum=0.9)
        if recipe.optimizer == "sgd"
        else torch.optim.AdamW(groups, recipe.learning_rate)
    )
    state_path, step = run / "state.pth", 0
    if state_path.exists():
        state = _load_state(state_path)
        if state["fingerprint"] != fingerprint:
            raise UsageError(f"{str(run)!r} was started with another configuration: remove it, or give another -o")
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    started, seen, log = time.monotonic(), step, run / "log.jsonl"
    if log.exists():  # drop the lines of steps that were not saved; they are written again
        kept = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= step]
        log.write_text("".join(f"{line}\n" for line in kept))
    while step < recipe.steps:
        network.train()
        rng = np.random.default_rng([recipe.seed, step])
        indices = rng.choice(len(labels), recipe.batch, replace=len(labels) < recipe.batch)
        x = frames.batch(indices)
        if recipe.flip:
            x = torch.where(torch.from_numpy(rng.random(len(x)) < 0.5).view(-1, 1, 1, 1, 1), x.flip(-1), x)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        torch.manual_seed(hash((recipe.seed, step)) % 2**31)  # dropout is the same after a resume
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
            loss = loss_of(network(x), labels[indices])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
        optimizer.step()
        if recipe.average > 0:
            average.update_parameters(network)
        step += 1
        if not math.isfinite(loss.item()):
            raise NetworkError(
                f"the loss is {loss.item()} at step {step}: training diverged; lower learning_rate and remove "
                f"{str(run)!r}"
            )
        last = step == recipe.steps
        saves = last or step % recipe.save_every == 0
        if saves or step % recipe.log_every == 0:
            rate = (step - seen) / (time.monotonic() - started)
            line: dict[str, Any] = {"step": step, "loss": round(loss.item(), 4), "steps_per_s": round(rate, 3)}
            if saves:
                found = evaluate(_final(network, average, recipe), *data["validation"])
                line["accuracy"] = [round(a, 4) for a in found]
            with log.open("a") as file:
                file.write(json.dumps(line) + "\n")
            report(line)
        if saves:
            _save_state(
                state_path,
                {
                    "fingerprint": fingerprint,
                    "step": step,
                    "network": network.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                },
            )
    result = run / "network.pth"
    save(_final(network, average, recipe).eval(), result, {"recipe": asdict(recipe)})
    return result


def _final(network: VideoNetwork, average: nn.Module, recipe: Recipe) -> VideoNetwork:
    module = average.module if recipe.average > 0 else network
    assert isinstance(module, VideoNetwork)
    return module


def _load_state(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
        state = None
    if not isinstance(state, dict) or "fingerprint" not in state:
        raise TrainingCheckpointError(f"{str(path)!r} is damaged: remove it to start training over")
    return state


def _save_state(path: Path, state: Mapping[str, Any]) -> None:
    with whole_file(path, "state of the run", "give another -o") as file:
        torch.save(dict(state), file)
