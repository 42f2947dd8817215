"""The processes of one run: this one alone, or those that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from ...grid.errors import UsageError

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    Attributes:
        rank: its number; process 0 writes.
        count: number of processes.
        device: where this one computes.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def writes(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of ``values`` over all processes."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def union(self, found: dict[K, V]) -> dict[K, V]:
        """Return what all processes found."""
        if self.count == 1:
            return found
        everything: list[dict[K, V]] = [{} for _ in range(self.count)]
        dist.all_gather_object(everything, found)
        return {key: value for one in everything for key, value in one.items()}

    def any(self, here: bool) -> bool:
        """Return whether it is so on any process."""
        return bool(self.total(torch.tensor(float(here), device=self.device)))

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Join the other processes of the run for the time of the context.

    Args:
        device: as ``Run.device``. Under torchrun, each process takes the GPU of its local rank.

    Raises:
        UsageError: If there is no such device.
    """
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    found = _device(device, int(os.environ.get("LOCAL_RANK", "0")) if count > 1 else None)
    if count == 1:
        yield Processes(0, 1, found)
        return
    if found.type == "cuda":
        torch.cuda.set_device(found)
    dist.init_process_group("nccl" if found.type == "cuda" else "gloo")
    try:
        yield Processes(rank, count, found)
    finally:
        dist.destroy_process_group()


def _device(name: str, local_rank: int | None) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"run.device {name!r}: expected auto, cpu, cuda, or cuda:1 and so on") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"run.device {name!r}: expected auto, cpu, cuda, or cuda:1 and so on")
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        raise UsageError(f"run.device {name!r}: PyTorch finds no GPU here. Give cpu, or install PyTorch for CUDA.")
    if device.index is None:
        device = torch.device("cuda", local_rank or 0)
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise UsageError(f"run.device {str(device)!r}: expected one of the {torch.cuda.device_count()} GPUs here")
    return device
