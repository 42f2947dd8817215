"""A run of training, from its configuration to its training checkpoint (paper, section 4.2)."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

import torch

from ..grid.errors import NetworkError, RouteError, UsageError, VideoError
from ..models.config_json import from_json, to_json
from ..models.network import NetworkConfig, VideoNetwork
from ..models.registry import build
from .batches.clips import Clips
from .batches.loader import Batch, Loader
from .batches.looks import TrainingLooks
from .batches.mirrored_classes import mirrored_classes
from .configuration.read import Configuration
from .configuration.schedule import Schedule
from .configuration.splits import Splits, read_splits
from .optimisation.evaluation import evaluate
from .optimisation.interruption import Interruption, interruption
from .optimisation.processes import Processes, processes
from .optimisation.progress import Progress, Report
from .optimisation.run_folder import RunFolder
from .optimisation.starts import start_from
from .optimisation.trainer import Trainer

LOG = logging.getLogger("dynvid")

MOST_BROKEN = 0.01
"""A run stops when more than one training clip, and more than this share of them, cannot be read."""

_MOST_WORKERS = 8
_FIT_STEPS, _FIT_SHARE = 200, 0.1  # most steps to learn one batch by heart, and the share of the first loss then


@dataclass
class _Job:
    """What is trained on what.

    Attributes:
        start: what was taken from the file that the run starts from, in words.
        guesses: whether the network can only guess at first, because its classifiers are new.
        broken: why clips cannot be read, by split and number.
    """

    configuration: Configuration
    splits: Splits
    clips: dict[str, Clips]
    network: VideoNetwork
    schedule: Schedule
    group: Processes
    loader: Loader
    start: str | None = None
    guesses: bool = True
    broken: dict[tuple[str, int], str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """What a run must not change under way, as JSON."""
        recipe = asdict(self.configuration.recipe)
        facts = {"network": to_json(self.network.config), "recipe": recipe, "clips": self.clips["train"].sha256}
        return json.dumps({**facts, "processes": self.group.count}, sort_keys=True)

    @property
    def guess(self) -> float | None:
        """Loss of a network that only guesses; None if this one does not."""
        if not self.guesses:
            return None
        return len(self.network.route.cells) * math.log(self.network.config.classes)

    def batches(self, first_step: int) -> Iterator[Batch]:
        """Yield this process's part of every batch from a step on."""
        recipe, config = self.configuration.recipe, self.network.config
        looks = TrainingLooks(
            self.clips["train"],
            config.preprocessing,
            config.grid.num_frames,
            recipe.augmentation,
            self.splits.classes,
            recipe.seed,
        )
        rank, count, size = self.group.rank, self.group.count, recipe.batch
        steps = range(first_step, self.schedule.steps)
        return self.loader.batches(looks, (range(step * size + rank, (step + 1) * size, count) for step in steps))

    def note_broken(self, split: str, broken: Mapping[int, str]) -> None:
        """Tell of clips that cannot be read; too many training clips end the run."""
        for number, reason in broken.items():
            if (split, number) not in self.broken:
                self.broken[split, number] = reason
                LOG.warning(f"{reason} {'Another clip stands in for it.' if split == 'train' else 'It is left out.'}")
        found, total = sum(split == "train" for split, _ in self.broken), len(self.clips["train"])
        if found > max(1, MOST_BROKEN * total):
            raise VideoError(
                f"{found} of {total} training clips cannot be read, more than {MOST_BROKEN:.0%}; the last: "
                f"{[*self.broken.values()][-1]} Run 'dynvid data --scan', and train on the clips that it leaves."
            )


def train(configuration: Configuration, output: Path, report: Report, *, overfit_one_batch: bool = False) -> Path:
    """Train a network, or go on with a run that was interrupted; return the path of its best weights.

    Args:
        configuration: with absolute paths.
        output: the run's folder; see ``RunFolder``.
        report: called with every line of the log and every row of results, on the first process.
        overfit_one_batch: only try whether the network learns one batch by heart; nothing is written.

    Raises:
        UsageError: If the configuration does not fit, or the run was begun with another.
        ListError, LabelsError: If the clips or classes cannot be used.
        TrainingCheckpointError: If the start or the saved state cannot be used.
        VideoError: If too many clips cannot be read; ``DecodeTimeoutError`` if one is not decoded in time.
        NetworkError: If training diverges, or one batch cannot be learnt.
        ResourceError: If something cannot be written; what was saved before stays.
    """
    run = configuration.run
    cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    workers = max(1, min(_MOST_WORKERS, cores)) if run.workers == "auto" else run.workers
    if run.threads != "auto":
        torch.set_num_threads(run.threads)
    with processes(run.device) as group, Loader(workers, run.decode_timeout_s) as loader:
        folder = RunFolder(output)
        job = _prepare(configuration, group, loader, starts=overfit_one_batch or not folder.has_state)
        trainer = Trainer(job.network, configuration.recipe, group)
        if overfit_one_batch:
            _overfit(job, trainer, report)
            return output
        with folder.held() if group.writes else nullcontext(), interruption() as asked:
            losses = _resume(job, trainer, folder, report)
            progress = Progress(job.schedule, run, folder, report, trainer.step, losses) if group.writes else None
            _go_on(job, trainer, folder, progress, asked)
            if progress is not None:
                progress.close()
                report({"step": trainer.step, "training_checkpoint": str(folder.best), "next": _next(job, folder)})
            group.wait()
        return folder.best


def _prepare(configuration: Configuration, group: Processes, loader: Loader, *, starts: bool) -> _Job:
    """Return what is trained on what; if the run ``starts``, with the weights that it starts from."""
    recipe = configuration.recipe
    splits = read_splits(configuration.data, configuration.network.get("labels"), recipe.seed)
    config = _network_config(configuration, splits)
    clips = {
        "train": Clips(splits.train, splits.classes, splits.names["train"]),
        "validation": Clips(splits.validation, splits.classes, splits.names["validation"]),
    }
    if recipe.flip == "on":
        _refuse_mirror_images(splits.classes)
    torch.manual_seed(recipe.seed)
    network = build(config)
    if recipe.batch > len(clips["train"]):
        raise UsageError(
            f"recipe.batch {recipe.batch} is more than the {len(clips['train'])} training clips: expected at most that"
        )
    job = _Job(configuration, splits, clips, network, Schedule(recipe, len(clips["train"])), group, loader)
    if recipe.initial is not None and starts:
        start = start_from(network, Path(recipe.initial))
        job.start = str(start)
        for advice in start.advice:
            LOG.warning(advice)
        job.guesses = any(".classifiers." in name for name in start.new)
    return job


def _network_config(configuration: Configuration, splits: Splits) -> NetworkConfig:
    """Return the network's configuration with the classes of the data and the dropout of the recipe."""
    table = dict(configuration.network)
    if table.get("classes", len(splits.classes)) != len(splits.classes):
        raise UsageError(
            f"network.classes {table['classes']}, but the data have {len(splits.classes)} classes: leave it out"
        )
    table |= {"classes": len(splits.classes), "labels": list(splits.classes)}
    table["head"] = {"dropout": configuration.recipe.dropout, **table.get("head", {})}
    try:
        return from_json(table)
    except RouteError as error:
        raise RouteError(str(error).replace("--route", "network.route")) from None


def _refuse_mirror_images(classes: tuple[str, ...]) -> None:
    pairs = [(name, classes[other]) for name, other in zip(classes, mirrored_classes(classes), strict=True)]
    changed = [pair for pair in pairs if pair[0] != pair[1]]
    if changed:
        raise UsageError(
            f'recipe.flip "on", but {changed[0][0]!r} and {changed[0][1]!r} are mirror images: expected "swap", which '
            f'exchanges the {len(changed)} classes of this kind, or "off"'
        )


def _resume(job: _Job, trainer: Trainer, folder: RunFolder, report: Report) -> list[float]:
    """Go back to the saved state if there is one, otherwise begin the run; return the losses since the last line."""
    state, threads = folder.state(job.fingerprint), torch.get_num_threads()
    job.group.wait()  # all have read the state before it is replaced
    if state is not None:
        trainer.restore(state["trainer"])
        job.broken |= {(split, number): reason for split, number, reason in state["broken"]}
        if state["threads"] != threads:
            LOG.warning(
                f"the run was begun with {state['threads']} threads and goes on with {threads}: the last bits of its weights "
                "will not be those of an uninterrupted run"
            )
    losses: list[float] = [] if state is None else state["losses"]
    if not job.group.writes:
        return losses
    folder.begin(job.configuration.toml(), job.splits.classes, job.splits.held_out)
    folder.cut(trainer.step)
    recipe = job.configuration.recipe
    facts = {
        "step": trainer.step,
        "steps": job.schedule.steps,
        "clips": len(job.clips["train"]),
        "held_out": len(job.splits.held_out),
        "validation": len(job.clips["validation"]),
        "batch": recipe.batch,
        "scaled_learning_rate": recipe.scaled_rate,
        "device": f"{job.group.count} x {job.group.device}",
    }
    report(facts if job.start is None else {**facts, "start": job.start})
    return losses


def _go_on(
    job: _Job, trainer: Trainer, folder: RunFolder, progress: Progress | None, interruption: Interruption
) -> None:
    """Take the steps that are left, or those until the run is interrupted."""
    run, schedule, group = job.configuration.run, job.schedule, job.group
    every = run.evaluate_epochs
    for batch in job.batches(trainer.step):
        if progress is not None:
            progress.waited()
        try:
            job.note_broken("train", batch.broken)
        finally:
            if batch.broken:
                _tell_broken(job, folder)
        rate = schedule.rate(trainer.step)
        try:
            loss = trainer.advance(batch, rate)
        except NetworkError as error:
            kept = f"The state before that is in '{folder.path}'." if folder.has_state else ""
            raise NetworkError(f"{error} {kept}".rstrip()) from None
        step = trainer.step
        if progress is not None:
            progress.stepped(step, loss, rate, job.guess)
        epochs = [schedule.epoch(step - 1), schedule.epoch(step)]
        measures = step == schedule.steps or epochs[1] // every > epochs[0] // every
        if measures:
            found = evaluate(trainer.result, job.clips["validation"], job.loader, group)
            job.note_broken("validation", found.broken)
            if progress is not None:
                best = max((float(row["accuracy_mean"]) for row in folder.results()), default=-1.0)
                progress.measured(step, found)
                facts = {"recipe": asdict(job.configuration.recipe), "step": step, "accuracy": found.accuracy}
                for path in [folder.last] + [folder.best] * (round(found.mean, 5) > best):
                    folder.save_weights(path, trainer.result, facts)
        ends = group.any(interruption.asked)
        if measures or ends or step % run.save_steps == 0:
            job.broken = group.union(job.broken)
            if progress is not None:
                _save(job, trainer, folder, progress.losses)
                progress.resume()
        if ends and step < schedule.steps:
            LOG.warning(f"the state after step {step} of {schedule.steps} is saved: the same command goes on")
            raise KeyboardInterrupt


def _next(job: _Job, folder: RunFolder) -> list[str]:
    """Return the commands that come after training."""
    held_out, bundle = job.splits.held_out, f"{folder.path}/model.bundle"
    commands = [f"dynvid export {folder.best} -o {bundle}"]
    if job.network.config.static:
        return [*commands, f"dynvid classify {bundle} VIDEO"]
    usable = bool(held_out) and all(record.whole_file for record in held_out)
    data = f"{folder.path}/held_out.csv" if usable else "LIST"
    return [*commands, f"dynvid calibrate {bundle} --data {data} -o {folder.path}/T.json"]


def _tell_broken(job: _Job, folder: RunFolder) -> None:
    if job.group.writes:
        folder.broken([(split, str(job.clips[split][n].path), reason) for (split, n), reason in job.broken.items()])


def _save(job: _Job, trainer: Trainer, folder: RunFolder, losses: list[float]) -> None:
    _tell_broken(job, folder)
    broken = [(split, number, reason) for (split, number), reason in job.broken.items()]
    state: dict[str, Any] = {"fingerprint": job.fingerprint, "trainer": trainer.state(), "broken": broken}
    folder.save_state({**state, "losses": losses, "threads": torch.get_num_threads()})


def _overfit(job: _Job, trainer: Trainer, report: Report) -> None:
    """Learn the first batch by heart, at the full learning rate."""
    batch, first = next(job.batches(0)), math.inf
    for one in repeat(batch, _FIT_STEPS):
        loss = trainer.advance(one, job.configuration.recipe.scaled_rate)
        first = loss if trainer.step == 1 else first
        LOG.debug(f"one batch: step {trainer.step}/{_FIT_STEPS}")
        if trainer.step % 20 == 0 and job.group.writes:
            report({"step": trainer.step, "loss": round(loss, 5)})
        if loss < _FIT_SHARE * first:
            if job.group.writes:
                report({"step": trainer.step, "loss": round(loss, 5), "first_loss": round(first, 5), "learnt": True})
            return
    raise NetworkError(
        f"one batch is not learnt by heart in {_FIT_STEPS} steps: loss {first:.4g} to {loss:.4g}, expected less than "
        f"{_FIT_SHARE:.0%} of the first. Try another recipe.learning_rate and recipe.dropout=0, and check the labels."
    )
