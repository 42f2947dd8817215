"""The proof of each subgraph alone: against its module, one call against many, one video against several."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...grid.bundle import Bundle
from ...grid.manifest import Precision
from ...runtime.backends.base import Backend, Program
from ..split.subgraphs import SubgraphModule
from .tolerances import relative, require, require_bits, require_softmax

# sizes other than the export's example, each (batch, frames); a static network's calls take all frames
SIZES = ((1, 1), (5, 2), (2, 4))

Floats = NDArray[np.float32]


def load_programs(
    parts: Sequence[SubgraphModule], bundle: Bundle, backend: Backend, precision: Precision
) -> dict[str, Program]:
    """Return the programs of ``parts``, by name."""
    variants = {part.name: bundle.manifest.subgraph(part.name).variant(precision) for part in parts}
    return {name: backend.load(bundle.read(variant), variant, name) for name, variant in variants.items()}


def prove_subgraphs(
    modules: Sequence[SubgraphModule],
    parts: Sequence[SubgraphModule],
    programs: Mapping[str, Program],
    backend: Backend,
    clips: Floats,
    sizes: Sequence[tuple[int, int]],
    precision: Precision,
    bound: Callable[[Precision, str, str], float],
    only: Collection[str] | None = None,
    beyond: dict[str, float] | None = None,
) -> dict[str, float]:
    """Return the largest error of every subgraph against its fp32 module, in standard deviations of the tensor.

    Also compares, bit by bit, one call with a chain of one-frame calls, and each video alone with itself among
    others. States and features are real ones, from the preceding frames and the preceding block.

    Args:
        modules: the fp32 subgraphs.
        parts: the exported subgraphs, in the same order.
        programs: of ``parts``, by name.
        backend: runs them.
        clips: preprocessed videos in permuted order, [clips, l, 3, crop, crop].
        sizes: (batch, frames) of the calls.
        precision: of ``parts``.
        bound: returns the tolerance for a precision, subgraph and port.
        only: names of the parts to prove; None: all.
        beyond: filled with the error of every part that exceeds its tolerance, which is then not compared further;
            None: such a part fails the proof.

    Raises:
        ProofError: At the first difference beyond its tolerance.
    """
    worst: dict[str, float] = {}
    for case in cases(modules, parts, clips, sizes):
        part, program, batch, frames = case.part, programs[case.part.name], case.batch, case.frames
        if only is not None and part.name not in only:
            continue
        got = run(part, program, backend, case.feeds, batch, frames)
        where = f"{part.name} ({precision}, batch {batch}, {frames} frames)"
        errors = case.errors(got)
        if beyond is not None and any(not e <= bound(precision, part.name, port) for port, e in errors.items()):
            beyond[part.name] = max(beyond.get(part.name, 0.0), *errors.values())
            continue
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
        if "frames" in part.inputs[0].shape:
            chained = _chain(part, program, backend, case.feeds, batch, frames)
            require_bits(chained, {name: got[name] for name in chained}, f"{where}: one-frame calls and one call")
        worst[part.name] = max(worst.get(part.name, 0.0), *errors.values())
    return {name: float(f"{error:.3g}") for name, error in worst.items()}


@dataclass(frozen=True)
class Case:
    """One call of a subgraph: its inputs, in the dtypes of its ports, and its fp32 module's outputs."""

    part: SubgraphModule
    batch: int
    frames: int
    feeds: dict[str, NDArray[Any]]
    expected: dict[str, Tensor]

    def errors(self, got: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """Return the largest difference of every output but the probabilities, in standard deviations of it."""
        found: dict[str, float] = {}
        for name, value in self.expected.items():
            if name != "probabilities":
                difference = float(np.abs(got[name].astype(np.float64) - value.double().numpy()).max())
                spread = float(value.std()) if name != "logits" else float(value.std(dim=1).mean())
                found[name] = relative(difference, spread)
        return found


def cases(
    modules: Sequence[SubgraphModule], parts: Sequence[SubgraphModule], clips: Floats, sizes: Sequence[tuple[int, int]]
) -> Iterator[Case]:
    """Yield every call of a proof, in the order of the subgraphs, twice for each of ``sizes``; once if static."""
    fixed = not any(part.states for part in parts)
    for batch, given in sizes:
        frames = clips.shape[1] if fixed else given
        videos = clips[np.arange(batch) % len(clips)]
        states: dict[str, dict[str, Tensor]] = {}
        # the first pass produces the states for the second
        for begin in (0,) if fixed else (0, frames):
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
    part: SubgraphModule, program: Program, backend: Backend, feeds: Mapping[str, Any], batch: int, frames: int
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
    part: SubgraphModule, program: Program, backend: Backend, feeds: Mapping[str, Any], batch: int, frames: int
) -> dict[str, NDArray[Any]]:
    """Return the outputs of one call per frame: features joined, states and answers from the last call."""
    dynamic = {spec.name for spec in (*part.inputs, *part.outputs) if "frames" in spec.shape}
    current = dict(feeds)
    pieces: list[dict[str, NDArray[Any]]] = []
    for t in range(frames):
        call = {name: value[:, t : t + 1] if name in dynamic else value for name, value in current.items()}
        pieces.append(run(part, program, backend, call, batch, 1))
        current |= {state.input: pieces[-1][state.output] for state in part.states}
    joined = {name: np.concatenate([p[name] for p in pieces], axis=1) for name in pieces[0] if name in dynamic}
    return {**pieces[-1], **joined}
