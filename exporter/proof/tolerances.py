"""The tolerances of a proof, and the errors raised if one is exceeded.

Differences are in standard deviations, of a video's logits over the classes or of the tensor itself. No proof can be
stricter than the reference's own rounding, so tolerances grow with it (``Rounding``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...grid.errors import BlindProofError, IllConditionedError, ProofError
from ...grid.manifest import Manifest, Precision
from ...grid.segments import embeddings_name, feature_name, features_of, state_name

BOUND: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "int8": 0.5}
"""Tolerance of each precision, if the reference's own rounding is smaller."""
SHARE = {"error": 0.75, "route": 0.5}
"""Shares of the fp16 bound for a subgraph's own error and the route's; above, more stays fp32 (docs/lab/proofs.md)."""
SEES = 10.0  # a lost state must exceed this many tolerances
ROUNDINGS = 4.0  # a tolerance is at least this many times the reference's own rounding
MOST = 1e-3  # largest tolerance of logits in fp32; a network that needs more is ill-conditioned
MOST_INSIDE = 1e-2  # the same for other tensors, which may be less exact than the logits computed from them
PROBABILITY = 1e-5  # largest difference of a probability from the softmax of the same logits; no standard deviations

_ADVICE: dict[Precision, str] = {
    "fp32": "The exported graphs do not compute what PyTorch computes. If the network is your own, run 'dynvid "
    "conformance'; otherwise report it with this line.",
    "fp16": "Half precision is not enough for this network: export with --precision fp32.",
    "int8": "Calibrate with more videos, or allow less with --max-drop.",
}


@dataclass(frozen=True)
class Rounding:
    """How far PyTorch's fp32 is from its own fp64, on one clip.

    Attributes:
        checkpoints: of the logits, one per checkpoint; empty if not measured.
        tensors: of the other outputs of every subgraph, by subgraph and port.
    """

    checkpoints: tuple[float, ...] = ()
    tensors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, proof: Mapping[str, Any]) -> Rounding:
        """Return what the export measured, from the ``proof`` of a bundle's manifest; empty for older bundles."""
        found = proof.get("rounding", {})
        return cls(tuple(found.get("checkpoints", ())), found.get("tensors", {}))

    def to_json(self) -> dict[str, Any]:
        """Return the figures as the manifest holds them under ``proof.rounding``."""
        tensors = {name: {port: _short(v) for port, v in ports.items()} for name, ports in self.tensors.items()}
        return {"checkpoints": rounded(self.checkpoints), "tensors": tensors}

    def tolerances(self, precision: Precision, checkpoints: int) -> list[float]:
        """Return the tolerance of the logits at each checkpoint of the network's route."""
        return [tolerance(precision, figure, MOST) for figure in self.checkpoints or [0.0] * checkpoints]

    def tolerance(self, precision: Precision, subgraph: str, port: str) -> float:
        """Return the tolerance of one output of a subgraph."""
        return tolerance(precision, self.tensors.get(subgraph, {}).get(port, 0.0))

    def handed_on(self, manifest: Manifest) -> dict[str, float]:
        """Return the figure of everything that fused segments hand on, by its name there."""
        found: dict[str, float] = {}
        for subgraph in manifest.subgraphs:
            figures = self.tensors.get(subgraph.name, {})
            for state in subgraph.states:
                is_head = subgraph.kind == "head"
                name = embeddings_name(subgraph.block) if is_head else state_name(subgraph.block, state.input)
                found[name] = figures.get(state.output, 0.0)
            for spec in features_of(subgraph, "fp32") if subgraph.kind == "block" else ():
                found[feature_name(spec)] = figures.get(spec.name, 0.0)
        return found

    def require_conditioned(self) -> None:
        """Check that fp32 is enough for the network.

        Raises:
            IllConditionedError: With the checkpoint where PyTorch's own fp32 rounding is too large.
        """
        for k, figure in enumerate(self.checkpoints, 1):
            if not figure * ROUNDINGS <= MOST:
                raise IllConditionedError(
                    f"network is ill-conditioned: at checkpoint {k} PyTorch's own fp32 differs from fp64 by "
                    f"{_short(figure)} standard deviations, expected at most {MOST / ROUNDINGS:g}. No export could be "
                    "proved equal to it: look for BatchNorm statistics near zero or weights that diverged, or use an "
                    "earlier training checkpoint."
                )


def tolerance(precision: Precision, rounding: float, most: float = MOST_INSIDE) -> float:
    """Return the tolerance in a precision, given the reference's own rounding."""
    return max(BOUND[precision], min(ROUNDINGS * rounding, most))


def require(holds: bool, what: str, value: Any, bound: float, precision: Precision = "fp32") -> None:
    """Raise ``ProofError`` with ``what``, its value and its tolerance, unless it ``holds``."""
    if not holds:
        raise ProofError(
            f"proof failed: {what}: {value}, expected at most {_short(bound)} standard deviations. {_ADVICE[precision]}"
        )


def require_softmax(outputs: Mapping[str, NDArray[Any]], what: str) -> None:
    """Check that ``probabilities`` [batch, classes] are the softmax of ``logits``, if they are among the outputs.

    They are not compared with the reference's: the more confident a network, the more its probabilities amplify any
    rounding of the logits, which have their own tolerance.

    Raises:
        ProofError: If a probability is off by more than ``PROBABILITY``.
    """
    if "probabilities" not in outputs:
        return
    with np.errstate(invalid="ignore"):  # gives NaN, which exceeds every tolerance
        logits = outputs["logits"].astype(np.float64)
        e = np.exp(logits - logits.max(axis=-1, keepdims=True))
        error = float(np.abs(outputs["probabilities"] - e / e.sum(axis=-1, keepdims=True)).max())
    if not error <= PROBABILITY:
        raise ProofError(
            f"proof failed: {what}: probabilities differ by {_short(error)} from the softmax of the logits, "
            f"expected at most {PROBABILITY:g}. The graph's last layers are not a plain softmax: report it with "
            "this line."
        )


def require_sight(what: str, effect: float, limit: float) -> None:
    """Raise ``BlindProofError`` unless the effect of a planted fault is above ``limit``."""
    if not effect > limit:
        raise BlindProofError(
            f"the proof is blind to {what}: it changes logits by {_short(effect)} standard deviations, expected "
            f"more than {_short(limit)}. Signals die out in weights that were never trained, or whose BatchNorm "
            "statistics were never measured: export a trained network, or run some batches through it in training "
            "mode first."
        )


def require_bits(left: Mapping[str, NDArray[Any]], right: Mapping[str, NDArray[Any]], what: str) -> None:
    """Raise ``ProofError`` with the first array of ``left`` that is not bit-identical in ``right``."""
    for name in left:
        if not np.array_equal(left[name], right[name], equal_nan=True):
            different = int((left[name] != right[name]).sum())
            raise ProofError(
                f"proof failed: {what} differ in {different} of {left[name].size} values of {name}, expected none. "
                "An operator of this block depends on how many rows it gets."
            )


def relative(difference: float, spread: float) -> float:
    """Return a difference in standard deviations; a constant, which has none, must not differ at all."""
    if difference == 0:
        return 0.0
    found = difference / spread if spread else math.inf
    return found if math.isfinite(found) else math.inf


def rounded(values: Iterable[Any]) -> list[float]:
    """Return ``values`` rounded to three significant digits."""
    return [_short(float(v)) for v in values]


def _short(value: float) -> float:
    return float(f"{value:.3g}")
