"""The proof of an export: the split network computes what the plain PyTorch network computes on one video alone.

Differences are measured in standard deviations: of a video's logits over the classes (their mean over the clips), or
of the tensor itself for a subgraph. Everything runs on onnxruntime's CPU provider.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..calibration.thresholds import exits, geometric_thresholds
from ..grid.bundle import Bundle
from ..grid.manifest import Precision
from ..models.network import VideoNetwork
from ..runtime.backends.base import Backend, Program
from ..runtime.session import ArraySource, Session
from .bounds import BOUND, require, require_bits, rounded
from .sight import drift, prove_sight
from .subgraphs import Subgraph

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
    clips: Floats,
    reference: Floats,
    report: Report,
) -> dict[str, Any]:
    """Return the figures of the proof, as the manifest holds them.

    Args:
        network: the whole network in eval mode, fp32, with the bundle's route.
        subgraphs: the modules that were exported, by precision.
        bundle: the bundle; need not be on disk.
        backend: onnxruntime on the CPU.
        clips: preprocessed videos in temporal order, [clips, l, 3, crop, crop], all different.
        reference: the whole network's logits for them, [clips, checkpoints, classes].
        report: gets a line about each step.

    Raises:
        ProofError: Naming the first figure that exceeds its bound.
    """
    figures: dict[str, Any] = {
        "clips": len(clips),
        "logit_std": rounded(scale_of(reference)),
        "reference": "PyTorch, fp32, each video alone",
        "executor": "onnxruntime CPUExecutionProvider, all graph optimisations",
    }
    for precision in subgraphs:
        figures[precision] = prove_set(network, subgraphs, bundle, backend, precision, clips, reference, report)
    report("fp32: every state lost in turn, and time reversed")
    figures["sees"] = prove_sight(network, bundle, backend, clips[0], scale_of(reference)[-1])
    return figures


def prove_set(
    network: VideoNetwork,
    subgraphs: Mapping[Precision, list[Subgraph]],
    bundle: Bundle,
    backend: Backend,
    precision: Precision,
    clips: Floats,
    reference: Floats,
    report: Report,
) -> dict[str, Any]:
    """Return the figures of the subgraphs of one precision; arguments and errors are those of ``prove``."""
    bound, parts = BOUND[precision], subgraphs[precision]
    report(f"{precision}: every subgraph at {len(SIZES)} sizes")
    ordered = clips[:, list(network.grid.frame_order)]
    programs = load_programs(parts, bundle, backend, precision)
    per_subgraph = prove_subgraphs(subgraphs["fp32"], parts, programs, backend, ordered, SIZES, precision)
    report(f"{precision}: whole route, {len(clips)} clips")
    logits = traced_logits(bundle, backend, precision, clips)
    error = route_errors(logits, reference)
    require(float(error.max()) <= bound, f"{precision} route", float(error.max()), bound)
    agreement = _agreement(reference, logits)
    if precision == "fp32":
        require(agreement["exits"] == 1.0 and agreement["classes"] == 1.0, "fp32 exits and classes", agreement, 1.0)
    return {
        "bound": bound,
        "subgraphs": per_subgraph,
        "checkpoints": rounded(error),
        "agreement_at_q": {"q": PROOF_Q, **agreement},
        "drift": rounded(drift(network, bundle, backend, precision, clips[0])),
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


def _agreement(reference: Floats, logits: Floats) -> dict[str, float]:
    """Return the shares of clips with the same exit, and with the same class there, at thresholds for PROOF_Q."""
    confidence, confidence_split = (_softmax(z).max(axis=2).T for z in (reference, logits))
    thresholds = geometric_thresholds(confidence, PROOF_Q)
    left, right = exits(confidence, thresholds), exits(confidence_split, thresholds)
    clips = np.arange(len(reference))
    same = reference[clips, left].argmax(axis=1) == logits[clips, right].argmax(axis=1)
    return {"exits": float((left == right).mean()), "classes": float(same.mean())}


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
    bound: float | None = None,
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
        bound: of the errors; None: the precision's.

    Raises:
        ProofError: At the first difference beyond its bound.
    """
    worst: dict[str, float] = {}
    bound = BOUND[precision] if bound is None else bound
    for case in cases(modules, parts, clips, sizes):
        part, program, batch, frames = case.part, programs[case.part.name], case.batch, case.frames
        got = run(part, program, backend, case.feeds, batch, frames)
        error = case.error(got)
        where = f"{part.name} ({precision}, batch {batch}, {frames} frames)"
        require(error <= bound, where, error, bound)
        alone = [
            run(part, program, backend, {name: value[row : row + 1] for name, value in case.feeds.items()}, 1, frames)
            for row in range(batch)
        ]
        rows = {name: np.concatenate([a[name] for a in alone]) for name in got}
        require_bits(rows, got, f"{where}: a video alone and among others")
        chained = _chain(part, program, backend, case.feeds, batch, frames)
        require_bits(chained, {name: got[name] for name in chained}, f"{where}: one-frame calls and one call")
        worst[part.name] = max(worst.get(part.name, 0.0), error)
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
        worst[part.name] = max(worst.get(part.name, 0.0), case.error(got))
    return worst


@dataclass(frozen=True)
class Case:
    """One call of a subgraph: what goes in, in the dtypes of its ports, and what its fp32 module makes of it."""

    part: Subgraph
    batch: int
    frames: int
    feeds: dict[str, NDArray[Any]]
    expected: dict[str, Tensor]

    def error(self, got: Mapping[str, NDArray[Any]]) -> float:
        """Return the largest difference of any output, in standard deviations of that output."""
        error = 0.0
        for name, value in self.expected.items():
            difference = float(np.abs(got[name].astype(np.float64) - value.double().numpy()).max())
            spread = float(value.std()) if name != "logits" else float(value.std(dim=1).mean())
            relative = difference / spread if spread else math.inf  # a constant tensor has no spread
            if difference:
                error = max(error, relative if math.isfinite(relative) else math.inf)
        return error


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
