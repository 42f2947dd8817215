"""What a proof can see: every state lost in turn, time reversed, and how errors grow along the chain."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..grid.bundle import Bundle
from ..grid.manifest import Precision
from ..grid.route import Route
from ..grid.topology import Cell
from ..models.network import VideoNetwork
from ..runtime.backends.base import Backend
from ..runtime.executor import Executor, PreparedSegment
from .tolerances import require_sight

Floats = NDArray[np.float32]


def drift(network: VideoNetwork, bundle: Bundle, backend: Backend, precision: Precision, clip: Floats) -> list[float]:
    """Return the error of the last block's features, input set by input set: how it grows along the chain.

    In standard deviations of the reference's features; the chain runs free, from its own states.
    """
    captured: list[Tensor] = []
    last = max(network.route.head_blocks)
    handle = network.blocks[last].register_forward_hook(lambda _m, _i, out: captured.append(out[-1]))
    order = list(network.grid.frame_order)
    try:
        with torch.no_grad():
            network(torch.from_numpy(clip[order])[None])
    finally:
        handle.remove()
    reference = captured[0].numpy()  # [l, channels, height, width]
    steps = tuple(Cell(n, last) for n in range(network.route.cells[-1].input_set + 1))
    executor = Executor(bundle, backend, precision, _other_route(network, steps))
    errors = []
    for index, segment in enumerate(executor.segments, 1):
        _write_frames(executor, segment, clip)
        executor.run_spans(segment)
        found = executor.last_features(index)
        if found is not None:
            start, stop, value = found
            errors.append(float(np.abs(value - reference[start:stop]).max() / reference.std()))
    return errors


def prove_sight(
    network: VideoNetwork, bundle: Bundle, backend: Backend, clip: Floats, spread: float, limit: float
) -> dict[str, Any]:
    """Show that the proof sees: each state lost in turn, and the frames reversed, must change logits by more than ``limit``.

    The route is one on which every block and every head is called at least twice, so that every state is handed on.

    Args:
        network: the whole network.
        bundle: the bundle.
        backend: onnxruntime on the CPU.
        clip: preprocessed, in temporal order, [l, 3, crop, crop].
        spread: the logits' standard deviation.
        limit: in these.

    Raises:
        BlindProofError: Naming what would be lost unnoticed.
    """
    final, cells = network.route.cells[-1].input_set, []
    for place, block in enumerate(network.route.head_blocks):
        cells += [Cell(min(place + step, final), block) for step in (0, 1)]
    cells.append(network.route.cells[-1])
    route = _other_route(network, tuple(dict.fromkeys(cells)))
    executor = Executor(bundle, backend, route=route)
    plain = _all_logits(executor, clip, None)
    lost = {}
    handed_on = executor.handed_on()
    for key in sorted(handed_on):
        effect = np.abs(_all_logits(executor, clip, key) - plain).max() / spread
        lost[f"{key[0]}:{key[1]}"] = float(effect)
    reversed_error = float(np.abs(_all_logits(executor, clip[::-1], None) - plain).max() / spread)
    required = dict(lost)
    if network.config.shift.enabled or final > 0:  # else the mean over the one set's frames, whose order is nothing
        required["frames reversed"] = reversed_error
    for name, effect in required.items():
        require_sight(name, effect, limit)
    least = min(lost, key=lost.__getitem__) if lost else None
    return {
        "states": len(lost),
        "never_handed_on": len(set(executor.states) - handed_on),
        "least_effect": None if least is None else float(f"{lost[least]:.3g}"),
        "least_state": least,
        "frames_reversed": float(f"{reversed_error:.3g}"),
        "required": limit,
    }


def _other_route(network: VideoNetwork, cells: tuple[Cell, ...]) -> Route:
    """Return a route for a proof: ``cells``, or the network's own where its linear layers belong to checkpoints."""
    return Route(network.grid, cells) if network.config.head.share_classifier else network.route


def _write_frames(executor: Executor, segment: PreparedSegment, clip: Floats) -> None:
    if segment.frames is not None:
        order = list(executor.bundle.manifest.grid.frame_order)
        executor.backend.write(segment.frames, clip[order[segment.start : segment.stop]][None])


def _all_logits(executor: Executor, clip: Floats, lost: tuple[int, str] | None) -> Floats:
    """Return the logits of every checkpoint, [checkpoints, classes], with one state zeroed after every call."""
    logits = []
    for segment in executor.segments:
        _write_frames(executor, segment, clip)
        for call in (*segment.spans, segment.head):
            call()
            for value in () if lost is None else executor.states[lost]:
                executor.backend.write(value, np.zeros_like(executor.backend.read(value)))
        logits.append(executor.backend.read(segment.logits)[0].copy())
    return np.stack(logits)
