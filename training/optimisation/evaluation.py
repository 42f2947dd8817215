"""The accuracy of every checkpoint on clips that are not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...models.network import VideoNetwork
from ..batches.clips import Clips
from ..batches.loader import Loader
from ..batches.looks import EvaluationLooks
from .processes import Processes
from .trainer import Normalisation

_BATCH = 32


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        accuracy: share of right answers (top-1) at every checkpoint, among the clips that can be read.
        broken: why clips cannot be read, by their number; those that this process read.
    """

    accuracy: tuple[float, ...]
    broken: dict[int, str]

    @property
    def mean(self) -> float:
        """Mean accuracy over the checkpoints, by which the best weights are chosen."""
        return sum(self.accuracy) / len(self.accuracy)


@torch.no_grad()
def evaluate(network: VideoNetwork, clips: Clips, loader: Loader, processes: Processes) -> Evaluation:
    """Return the accuracy of ``network`` in fp32, on frames as deployment sees them.

    Raises:
        DecodeTimeoutError, DecoderFaultError: If a clip cannot be decoded in time, or none can.
    """
    preprocessing, num_frames = network.config.preprocessing, network.grid.num_frames
    looks, normalised = (
        EvaluationLooks(clips, preprocessing, num_frames),
        Normalisation(network.config, processes.device),
    )
    own = range(processes.rank, len(clips), processes.count)
    counts = torch.zeros(len(network.route.cells) + 1, dtype=torch.float64, device=processes.device)
    broken: dict[int, str] = {}
    was_training = network.training
    network.eval()
    for batch in loader.batches(looks, [own[start : start + _BATCH] for start in range(0, len(own), _BATCH)]):
        broken |= batch.broken
        if not len(batch.labels):
            continue
        labels = torch.from_numpy(batch.labels).to(processes.device)
        answers = torch.stack(network(normalised(batch.pixels))).argmax(-1)
        counts[:-1] += (answers == labels).sum(1)
        counts[-1] += len(labels)
    network.train(was_training)
    *right, seen = processes.total(counts).tolist()
    return Evaluation(tuple(count / max(1, seen) for count in right), broken)
