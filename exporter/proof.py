"""The proof of an export: the split network computes what the plain PyTorch network computes on one video alone.

Differences are measured in standard deviations: of a video's logits over the classes (their mean over the clips), or
of the tensor itself for a subgraph. Everything runs on onnxruntime's CPU provider.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..calibration.thresholds import exits, geometric_thresholds
from ..grid.bundle import Bundle
from ..grid.errors import ProofError
from ..grid.manifest import Precision
from ..models.network import VideoNetwork
from ..runtime.backends.base import Backend, Program
from ..runtime.session import ArraySource, Session
from .reference import Reference
from .rounding import measure_rounding
from .sight import drift, prove_sight
from .subgraphs import Subgraph
from .tolerances import SEES, Rounding, relative, require, require_bits, require_softmax, rounded

PROOF_CLIPS = 8
PROOF_Q = 1.2
# sizes other than the export's example, each (batch, frames)
SIZES = ((1, 1), (5, 2), (2, 4))

Floats = NDArray[np.float32]
Report = Callable[[str], None]


def prove(
    network: VideoNetwork,
    subgraphs: Mapping[Precision, list[Subgraph]],
    bundle: Bundle,
    backend: Backend,
    reference: Reference,
    report: Report,
) -> dict[str, Any]:
    """Return the figures of the proof, as the manifest holds them.

    What can fail on one clip is tried on the first one, before the reference computes the others.

    Args:
        network: the whole network in eval mode, fp32, with the bundle's route.
        subgraphs: the modules that were exported, by precision; fp32 among them.
        bundle: the bundle; need not be on disk.
        backend: onnxruntime on the CPU.
        reference: of the network, on clips that are all different.
        report: gets a line about each step.

    Raises:
        IllConditionedError: If the network needs more than fp32.
        BlindProofError: If a state that is lost would not be noticed.
        ProofError: Naming the first figure that exceeds its tolerance.
    """
    first = reference.logits(1)
    report("what PyTorch rounds off: one clip in fp64")
    rounding = measure_rounding(network, reference.clips[0])
    rounding.require_conditioned()
    fp32 = prove_set(network, subgraphs, bundle, backend, "fp32", reference, rounding, report, clips=1)
    report("fp32: every state lost in turn, and time reversed")
    limit = SEES * max(rounding.tolerances("fp32", first.shape[1]))
    sees = prove_sight(network, bundle, backend, reference.clips[0], scale_of(first)[-1], limit)
    fp32 |= prove_route(network, bundle, backend, "fp32", reference, rounding, report)
    figures: dict[str, Any] = {
        "clips": len(reference.clips),
        "logit_std": rounded(scale_of(reference.logits())),
        "reference": "PyTorch, fp32, each video alone",
        "executor": "onnxruntime CPUExecutionProvider, all graph optimisations",
        "rounding": rounding.to_json(),
        "fp32": fp32,
    }
    for precision in subgraphs:
        if precision != "fp32":
            figures[precision] = prove_set(network, subgraphs, bundle, backend, precision, reference, rounding, report)
    return {**figures, "sees": sees}


def prove_set(
    network: VideoNetwork,
    subgraphs: Mapping[Precision, list[Subgraph]],
    bundle: Bundle,
    backend: Backend,
    precision: Precision,
    reference: Reference,
    rounding: Rounding,
    report: Report,
    clips: int | None = None,
) -> dict[str, Any]:
    """Return the figures of the subgraphs of one precision, each alone and along the route of the first ``clips``, None: of all.

    The other arguments and the errors are those of ``prove``.
    """
    parts = subgraphs[precision]
    report(f"{precision}: every subgraph at {len(SIZES)} sizes")
    ordered = reference.clips[:, list(network.grid.frame_order)]
    programs = load_programs(parts, bundle, backend, precision)
    per_subgraph = prove_subgraphs(
        subgraphs["fp32"], parts, programs, backend, ordered, SIZES, precision, rounding.tolerance
    )
    figures = prove_route(network, bundle, backend, precision, reference, rounding, report, clips)
    return {"subgraphs": per_subgraph, **figures}


def prove_route(
    network: VideoNetwork,
    bundle: Bundle,
    backend: Backend,
    precision: Precision,
    reference: Reference,
    rounding: Rounding,
    report: Report,
    clips: int | None = None,
) -> dict[str, Any]:
    """Return the figures of the whole route; arguments and errors are those of ``prove_set``."""
    count = len(reference.clips) if clips is None else clips
    report(f"{precision}: whole route, {count} clips")
    expected = reference.logits(count)
    logits = traced_logits(bundle, backend, precision, reference.clips[:count])
    bounds = rounding.tolerances(precision, expected.shape[1])
    errors = route_errors(logits, expected)
    for k, (error, bound) in enumerate(zip(errors, bounds, strict=True), 1):
        require(bool(error <= bound), f"checkpoint {k} ({precision})", float(error), bound, precision)
    agreement = agreement_of(expected, logits, bounds if precision == "fp32" else None)
    return {
        "bounds": rounded(bounds),
        "checkpoints": rounded(errors),
        "agreement_at_q": {"q": PROOF_Q, **agreement},
        "drift": rounded(drift(network, bundle, backend, precision, reference.clips[0])),
    }


def load_programs(
    parts: Sequence[Subgraph], bundle: Bundle, backend: Backend, precision: Precision
) -> dict[str, Program]:
    """Return the programs of ``parts``, by name."""
    variants = {part.name: bundle.manifest.subgraph(part.name).variant(precision) for part in parts}
    return {name: backend.load(bundle.read(variant), variant, name) for name, variant in variants.items()}


def traced_logits(bundle: Bundle, backend: Backend, precision: Precision, clips: Floats) -> Floats:
    """Return the logits of every clip, run to the end of the route, [clips, checkpoints, classes]."""
    session = Session(bundle, backend, precision=precision)
    return np.stack([np.stack(session.classify(ArraySource(clip), trace=True).logits) for clip in clips])


def route_errors(logits: Floats, reference: Floats) -> NDArray[np.floating]:
    """Return the largest difference at every checkpoint, in standard deviations of the reference's logits there."""
    errors: NDArray[np.floating] = np.abs(logits - reference).max(axis=(0, 2)) / scale_of(reference)
    return errors


def scale_of(reference: Floats) -> NDArray[np.floating]:
    """Return the standard deviation of a clip's logits over the classes, its mean over the clips, [checkpoints]."""
    scale: NDArray[np.floating] = reference.std(axis=2).mean(axis=0)
    return scale


def agreement_of(reference: Floats, logits: Floats, bounds: Sequence[float] | None) -> dict[str, float]:
    """Return the shares of clips with the same exit, and with the same class there, at thresholds for PROOF_Q.

    Args:
        reference: logits, [clips, checkpoints, classes].
        logits: the split network's, likewise.
        bounds: the tolerance at each checkpoint, where all clips must agree; None: they need not. A clip may differ whose
            confidence is so near a threshold, or whose two best logits so near each other, that the tolerance decides.

    Raises:
        ProofError: If a clip differs that must not.
    """
    confidence, confidence_split = (_softmax(z).max(axis=2).T for z in (reference, logits))
    thresholds = geometric_thresholds(confidence, PROOF_Q)
    left, right = exits(confidence, thresholds), exits(confidence_split, thresholds)
    clips = np.arange(len(reference))
    classes = reference[clips, left].argmax(axis=1) == logits[clips, right].argmax(axis=1)
    if bounds is not None:
        slack = 2 * np.array(bounds) * scale_of(reference)  # of a logit less another, [checkpoints]
        passed = np.arange(len(bounds))[:, None] <= np.minimum(left, right)
        limits = np.array([np.inf if t is None else t for t in thresholds])[:, None]
        # a confidence changes by at most a quarter of what the difference of two logits does
        near = (passed & (np.abs(confidence - limits) <= slack[:, None] / 4)).any(axis=0)
        best = np.sort(reference[clips, left], axis=1)[:, -2:]
        tied = best[:, 1] - best[:, 0] <= slack[left]
        for name, agrees in (("exit", left == right), ("class", classes)):
            if wrong := np.flatnonzero(~agrees & ~near & ~((name == "class") & tied)).tolist():
                raise ProofError(
                    f"proof failed: fp32, clip {wrong[0]}: another {name} than PyTorch's, though no tie and logits within "
                    "their tolerance. The graphs' probabilities are not those of their logits: report it with this line."
                )
    return {"exits": float((left == right).mean()), "classes": float(classes.mean())}


def _softmax(logits: Floats) -> Floats:
    result: Floats = torch.softmax(torch.from_numpy(logits), dim=-1).numpy()
    return result


def prove_subgraphs(
    modules: Sequence[Subgraph],
    parts: Sequence[Subgraph],
    programs: Mapping[str, Program],
    backend: Backend,
    clips: Floats,
    sizes: Sequence[tuple[int, int]],
    precision: Precision,
    bound: Callable[[Precision, str, str], float],
) -> dict[str, float]:
    """Return the largest error of every subgraph against its fp32 module, in standard deviations of the tensor.

    Also compares, bit by bit, one call with a chain of one-frame calls, and each video alone with itself among others.
    States and features are real ones: those of the frames before, and of the block before.

    Args:
        modules: the fp32 subgraphs.
        parts: the subgraphs that were exported, in the same order.
        programs: of ``parts``, by name.
        backend: what runs them.
        clips: preprocessed videos in permuted order, [clips, l, 3, crop, crop].
        sizes: (batch, frames) of the calls.
        precision: of ``parts``.
        bound: returns the tolerance for a precision, subgraph and port.

    Raises:
        ProofError: At the first difference beyond its tolerance.
    """
    worst: dict[str, float] = {}
    for case in cases(modules, parts, clips, sizes):
        part, program, batch, frames = case.part, programs[case.part.name], case.batch, case.frames
        got = run(part, program, backend, case.feeds, batch, frames)
        where = f"{part.name} ({precision}, batch {batch}, {frames} frames)"
        errors = case.errors(got)
        for port, error in errors.items():
            limit = bound(precision, part.name, port)
            require(error <= limit, f"{where}, {port}", error, limit, precision)
        require_softmax(got, where)
        alone = [
            run(part, program, backend, {name: value[row : row + 1] for name, value in case.feeds.items()}, 1, frames)
            for row in range(batch)
        ]
        rows = {name: np.concatenate([a[name] for a in alone]) for name in got}
        require_bits(rows, got, f"{where}: a video alone and among others")
        chained = _chain(part, program, backend, case.feeds, batch, frames)
        require_bits(chained, {name: got[name] for name in chained}, f"{where}: one-frame calls and one call")
        worst[part.name] = max(worst.get(part.name, 0.0), *errors.values())
    return {name: float(f"{error:.3g}") for name, error in worst.items()}


def measure_subgraphs(
    modules: Sequence[Subgraph],
    parts: Sequence[Subgraph],
    programs: Mapping[str, Program],
    backend: Backend,
    clips: Floats,
) -> dict[str, float]:
    """Return the very errors that ``prove_subgraphs`` finds, whatever their size, and compare nothing else."""
    worst: dict[str, float] = {}
    for case in cases(modules, parts, clips, SIZES):
        part = case.part
        got = run(part, programs[part.name], backend, case.feeds, case.batch, case.frames)
        worst[part.name] = max(worst.get(part.name, 0.0), *case.errors(got).values())
    return worst


@dataclass(frozen=True)
class Case:
    """One call of a subgraph: what goes in, in the dtypes of its ports, and what its fp32 module makes of it."""

    part: Subgraph
    batch: int
    frames: int
    feeds: dict[str, NDArray[Any]]
    expected: dict[str, Tensor]

    def errors(self, got: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """Return the largest difference of every output but the probabilities, in standard deviations of that output."""
        found: dict[str, float] = {}
        for name, value in self.expected.items():
            if name != "probabilities":
                difference = float(np.abs(got[name].astype(np.float64) - value.double().numpy()).max())
                spread = float(value.std()) if name != "logits" else float(value.std(dim=1).mean())
                found[name] = relative(difference, spread)
        return found


def cases(
    modules: Sequence[Subgraph], parts: Sequence[Subgraph], clips: Floats, sizes: Sequence[tuple[int, int]]
) -> Iterator[Case]:
    """Yield every call of a proof, in the order of the subgraphs, for each of ``sizes`` twice."""
    for batch, frames in sizes:
        videos = clips[np.arange(batch) % len(clips)]
        states: dict[str, dict[str, Tensor]] = {}
        # the first pass makes the states that the second one starts from
        for begin in (0, frames):
            positions = (begin + np.arange(frames)) % clips.shape[1]
            features: dict[str, Tensor] = {"frames": torch.from_numpy(videos[:, positions])}
            for reference, part in zip(modules, parts, strict=True):
                inputs: dict[str, Tensor] = {}
                ports = {state.input: state.output for state in part.states}
                for spec in part.inputs:
                    shape = spec.concrete(batch, frames)
                    if spec.name in ports:
                        inputs[spec.name] = states.get(part.name, {}).get(ports[spec.name], torch.zeros(shape))
                    elif spec.name == "frame_weights":
                        inputs[spec.name] = torch.full(shape, 1 / shape[-1])
                    else:
                        inputs[spec.name] = features[spec.name]
                with torch.no_grad():
                    outputs = reference.module(*inputs.values())
                named = dict(zip((spec.name for spec in part.outputs), outputs, strict=True))
                feeds = {spec.name: inputs[spec.name].numpy().astype(spec.dtype) for spec in part.inputs}
                yield Case(part, batch, frames, feeds, named)
                states[part.name] = named
                features.update(named)


def run(
    part: Subgraph, program: Program, backend: Backend, feeds: Mapping[str, Any], batch: int, frames: int
) -> dict[str, NDArray[Any]]:
    """Return every output of one call of a subgraph, by name."""
    inputs, outputs = {}, {}
    for spec in part.inputs:
        inputs[spec.name] = backend.zeros(spec.concrete(batch, frames), spec.dtype)
        backend.write(inputs[spec.name], feeds[spec.name])
    for spec in part.outputs:
        outputs[spec.name] = backend.zeros(spec.concrete(batch, frames), spec.dtype)
    program.prepare(inputs, outputs)()
    return {name: backend.read(value) for name, value in outputs.items()}


def _chain(
    part: Subgraph, program: Program, backend: Backend, feeds: Mapping[str, Any], batch: int, frames: int
) -> dict[str, NDArray[Any]]:
    """Return the outputs after one call a frame: features joined, states and answers of the last call."""
    dynamic = {spec.name for spec in (*part.inputs, *part.outputs) if "frames" in spec.shape}
    current = dict(feeds)
    pieces: list[dict[str, NDArray[Any]]] = []
    for t in range(frames):
        call = {name: value[:, t : t + 1] if name in dynamic else value for name, value in current.items()}
        pieces.append(run(part, program, backend, call, batch, 1))
        current |= {state.input: pieces[-1][state.output] for state in part.states}
    joined = {name: np.concatenate([p[name] for p in pieces], axis=1) for name in pieces[0] if name in dynamic}
    return {**pieces[-1], **joined}
