"""The proof of an export: the split network computes what the plain PyTorch network computes on one video alone.

Differences are measured in standard deviations: of a video's logits over the classes (averaged over the clips), or of
the tensor itself for a subgraph. Everything runs on onnxruntime's CPU provider.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...calibration.choosing.thresholds import exits, geometric_thresholds
from ...grid.bundle import Bundle
from ...grid.errors import ProofError
from ...grid.manifest import Precision, Stored
from ...models.network import VideoNetwork
from ...runtime.backends.base import Backend
from ...runtime.session import ArraySource, Session
from ..split.subgraphs import SubgraphModule
from .reference import Reference
from .rounding import measure_rounding
from .sensitivity import drift, prove_sensitivity
from .subgraph_equivalence import SIZES, load_programs, prove_subgraphs
from .tolerances import SEES, Rounding, require, rounded

LOG = logging.getLogger("dynvid")

PROOF_CLIPS = 8
PROOF_Q = 1.2
NOT_OF_STATIC = {
    "one-frame calls": "its subgraphs take all frames in one call",
    "lost states": "it has no states",
    "exits": "it has one checkpoint",
}
"""The parts of the proof that do not apply to a static network, and why."""
Floats = NDArray[np.float32]


def prove(
    network: VideoNetwork,
    subgraphs: Mapping[Stored, list[SubgraphModule]],
    bundle: Bundle,
    backend: Backend,
    reference: Reference,
) -> dict[str, Any]:
    """Return the figures of the proof, as the manifest holds them.

    Whatever can fail on one clip is checked on the first clip, before the reference computes the others.

    Args:
        network: the whole network in eval mode, fp32, with the bundle's route.
        subgraphs: the exported modules, by precision; fp32 among them.
        bundle: the bundle; need not be on disk.
        backend: onnxruntime on the CPU.
        reference: of the network, on clips that are all different.

    Raises:
        IllConditionedError: If fp32 is not enough for the network.
        BlindProofError: If the loss of a state would not be noticed.
        ProofError: With the first figure that exceeds its tolerance.
    """
    first = reference.logits(1)
    LOG.info("measuring PyTorch's own rounding: one clip in fp64")
    rounding = measure_rounding(network, reference.clips[0])
    rounding.require_conditioned()
    traced = SplitLogits(bundle, backend, "fp32", reference.clips)
    errors = prove_set(subgraphs, bundle, backend, "fp32", reference, rounding)
    prove_route(traced, reference, rounding, clips=1)
    LOG.info("fp32: losing every state in turn, and reversing time")
    limit = SEES * max(rounding.tolerances("fp32", first.shape[1]))
    sees = prove_sensitivity(network, bundle, backend, reference.clips[0], scale_of(first)[-1], limit)
    figures: dict[str, Any] = {
        "clips": len(reference.clips),
        "logit_std": rounded(scale_of(reference.logits())),
        "reference": "PyTorch, fp32, each video alone",
        "executor": "onnxruntime CPUExecutionProvider, all graph optimisations",
        "rounding": rounding.to_json(),
        "fp32": {"subgraphs": errors, **prove_route(traced, reference, rounding)},
    }
    for precision in subgraphs:
        if precision != "fp32":
            errors = prove_set(subgraphs, bundle, backend, precision, reference, rounding)
            traced = SplitLogits(bundle, backend, precision, reference.clips)
            figures[precision] = {"subgraphs": errors, **prove_route(traced, reference, rounding)}
    if network.config.static:
        blind = {} if network.config.shift.enabled else {"frames reversed": "order does not matter without a shift"}
        figures["does_not_apply"] = {**NOT_OF_STATIC, **blind}
    return {**figures, "sees": sees}


def prove_set(
    subgraphs: Mapping[Stored, list[SubgraphModule]],
    bundle: Bundle,
    backend: Backend,
    precision: Stored,
    reference: Reference,
    rounding: Rounding,
) -> dict[str, float]:
    """Return the error of each subgraph of one precision; arguments and errors are those of ``prove``."""
    parts = subgraphs[precision]
    LOG.info(f"{precision}: every subgraph at {len(SIZES)} sizes")
    programs = load_programs(parts, bundle, backend, precision)
    return prove_subgraphs(
        subgraphs["fp32"], parts, programs, backend, reference.ordered, SIZES, precision, rounding.tolerance
    )


class SplitLogits:
    """The logits of the split network on some clips, along the route; each computed on first use.

    Args:
        bundle: the bundle.
        backend: the backend.
        precision: of the subgraphs.
        clips: preprocessed, in temporal order, [clips, l, 3, crop, crop].
    """

    def __init__(self, bundle: Bundle, backend: Backend, precision: Precision, clips: Floats) -> None:
        self.bundle, self.backend, self.precision, self.clips = bundle, backend, precision, clips
        self._session = Session.open(bundle, backend, precision=precision)
        self._logits: list[Floats] = []

    def first(self, count: int) -> Floats:
        """Return the logits of the first ``count`` clips, [clips, checkpoints, classes]."""
        for clip in self.clips[len(self._logits) : count]:
            self._logits.append(np.stack(self._session.classify(ArraySource(clip), trace=True).logits))
        return np.stack(self._logits[:count])


def prove_route(
    split: SplitLogits, reference: Reference, rounding: Rounding, clips: int | None = None
) -> dict[str, Any]:
    """Return the figures of drift and of the whole route, on the first ``clips`` clips (None: all).

    Raises:
        ProofError: As ``prove``.
    """
    precision, count = split.precision, len(reference.clips) if clips is None else clips
    LOG.info(f"{precision}: whole route, {count} clips")
    expected, logits = reference.logits(count), split.first(count)
    bounds = rounding.tolerances(precision, expected.shape[1])
    errors = route_errors(logits, expected)
    for k, (error, bound) in enumerate(zip(errors, bounds, strict=True), 1):
        require(bool(error <= bound), f"checkpoint {k} ({precision})", float(error), bound, precision)
    agreement = agreement_of(expected, logits, bounds if precision == "fp32" else None)
    if clips is not None:
        return {}
    found = drift(
        reference.network, split.bundle, split.backend, precision, reference.clips[0], reference.last_features
    )
    return {
        "bounds": rounded(bounds),
        "checkpoints": rounded(errors),
        "agreement_at_q": {"q": PROOF_Q, **agreement},
        "drift": rounded(found),
    }


def route_errors(logits: Floats, reference: Floats) -> NDArray[np.floating]:
    """Return the largest difference at every checkpoint, in standard deviations of the reference's logits there."""
    errors: NDArray[np.floating] = np.abs(logits - reference).max(axis=(0, 2)) / scale_of(reference)
    return errors


def scale_of(reference: Floats) -> NDArray[np.floating]:
    """Return the standard deviation of a clip's logits over the classes, averaged over the clips, [checkpoints]."""
    scale: NDArray[np.floating] = reference.std(axis=2).mean(axis=0)
    return scale


def agreement_of(reference: Floats, logits: Floats, bounds: Sequence[float] | None) -> dict[str, float]:
    """Return the shares of clips with the same exit, and with the same class there, at thresholds for PROOF_Q.

    Args:
        reference: logits, [clips, checkpoints, classes].
        logits: the split network's, likewise.
        bounds: the tolerance at each checkpoint, at which all clips must agree; None: they need not. A clip may
            differ if its confidence is so near a threshold, or its two best logits are so near each other, that the
            tolerance decides.

    Raises:
        ProofError: If a clip differs that must not.
    """
    confidence, confidence_split = (_softmax(z).max(axis=2).T for z in (reference, logits))
    thresholds = geometric_thresholds(confidence, PROOF_Q)
    left, right = exits(confidence, thresholds), exits(confidence_split, thresholds)
    clips = np.arange(len(reference))
    classes = reference[clips, left].argmax(axis=1) == logits[clips, right].argmax(axis=1)
    if bounds is not None:
        slack = 2 * np.array(bounds) * scale_of(reference)  # of the difference of two logits, [checkpoints]
        passed = np.arange(len(bounds))[:, None] <= np.minimum(left, right)
        limits = np.array([np.inf if t is None else t for t in thresholds])[:, None]
        # a confidence changes by at most a quarter of the change in the difference of two logits
        near = (passed & (np.abs(confidence - limits) <= slack[:, None] / 4)).any(axis=0)
        best = np.sort(reference[clips, left], axis=1)[:, -2:]
        tied = best[:, 1] - best[:, 0] <= slack[left]
        for name, agrees in (("exit", left == right), ("class", classes)):
            if wrong := np.flatnonzero(~agrees & ~near & ~((name == "class") & tied)).tolist():
                raise ProofError(
                    f"proof failed: fp32, clip {wrong[0]}: another {name} than PyTorch's, although there is no tie "
                    "and the logits are within tolerance. The graphs' probabilities do not match their logits: "
                    "report it with this line."
                )
    return {"exits": float((left == right).mean()), "classes": float(classes.mean())}


def _softmax(logits: Floats) -> Floats:
    result: Floats = torch.softmax(torch.from_numpy(logits), dim=-1).numpy()
    return result
