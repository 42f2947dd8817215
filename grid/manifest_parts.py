"""The parts of a manifest whose types ``Manifest`` leaves open: as much of them as is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class ShiftPart:
    """The temporal shift."""

    enabled: bool
    div: int
    start_fold: int
    stride: int
    points: tuple[str, ...] | None


@dataclass(frozen=True)
class HeadPart:
    """The form of the heads."""

    style: Literal["conv", "linear"]
    width: int | None
    share_classifier: bool
    dropout: float


@dataclass(frozen=True)
class NetworkPart:
    """``Manifest.network``."""

    network: str
    options: dict[str, Any]
    heads: tuple[int, ...]
    shift: ShiftPart
    head: HeadPart


@dataclass(frozen=True)
class RoundingPart:
    """``proof.rounding``."""

    checkpoints: tuple[float, ...]
    tensors: dict[str, dict[str, float]]


@dataclass(frozen=True)
class ReasonPart:
    """Why a subgraph stays fp32, in ``proof.fp32_only``."""

    because: str
    value: float | None
    limit: float


@dataclass(frozen=True)
class AgreementPart:
    """How exits agree at one q."""

    q: float
    exits: float
    mean_gmacs: float
    mean_gmacs_fp32: float


@dataclass(frozen=True)
class Int8Part:
    """``proof.int8``."""

    videos: int
    drop: tuple[float, ...]
    agreement: tuple[float, ...]
    agreement_at_q: AgreementPart
    layers: dict[str, int]
    fp32_layers: dict[str, tuple[str, ...]]
    accuracy: tuple[float, ...] | None = None
    accuracy_fp32: tuple[float, ...] | None = None
