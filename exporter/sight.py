"""What a proof can see: every state lost in turn, time reversed, and how errors grow along the chain."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..grid.bundle import Bundle
from ..grid.fusion import block_of, embeddings_name, head_at, state_name
from ..grid.manifest import Manifest, Precision
from ..grid.route import Route
from ..grid.topology import Cell
from ..models.network import VideoNetwork
from ..runtime.backends.base import Backend
from ..runtime.executor import Executor
from ..runtime.session import ArraySource
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
    executor = Executor(bundle, backend, precision, route=_other_route(network, steps))
    feature = head_at(bundle.manifest, executor.route, len(executor.segments)).variant(precision).inputs[0].name
    errors, done = [], 0
    for at in executor.walk([ArraySource(clip)]):
        found = executor.tap(at.index, feature)  # [1, frames, channels, height, width]
        if found is not None:
            wanted = reference[done : done + found.shape[1]]
            done += len(wanted)
            errors.append(float(np.abs(found[0] - wanted).max() / reference.std()))
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
    lost, states = {}, _states_of(bundle.manifest, route)
    handed_on = [key for key, name in sorted(states.items()) if executor.store.holds(name)]
    for block, port in handed_on:
        effect = np.abs(_all_logits(executor, clip, states[block, port]) - plain).max() / spread
        lost[f"{block}:{port}"] = float(effect)
    reversed_error = float(np.abs(_all_logits(executor, clip[::-1], None) - plain).max() / spread)
    required = dict(lost)
    if network.config.shift.enabled or final > 0:  # else the mean over the one set's frames, whose order is nothing
        required["frames reversed"] = reversed_error
    for name, effect in required.items():
        require_sight(name, effect, limit)
    least = min(lost, key=lost.__getitem__) if lost else None
    return {
        "states": len(lost),
        "never_handed_on": len(states) - len(handed_on),
        "least_effect": None if least is None else float(f"{lost[least]:.3g}"),
        "least_state": least,
        "frames_reversed": float(f"{reversed_error:.3g}"),
        "required": limit,
    }


def _other_route(network: VideoNetwork, cells: tuple[Cell, ...]) -> Route:
    """Return a route for a proof: ``cells``, or the network's own where its linear layers belong to checkpoints."""
    return Route(network.grid, cells) if network.config.head.share_classifier else network.route


def _states_of(manifest: Manifest, route: Route) -> dict[tuple[int, str], str]:
    """Return the name under which each state of a route's blocks and heads is handed on, by block and input port."""
    found = {}
    for block in range(max(route.head_blocks) + 1):
        for state in block_of(manifest, block).states:
            found[block, state.input] = state_name(block, state.input)
    for index, cell in enumerate(route.cells, 1):
        found[cell.block, head_at(manifest, route, index).states[0].input] = embeddings_name(cell.block)
    return found


def _all_logits(executor: Executor, clip: Floats, lost: str | None) -> Floats:
    """Return the logits of every checkpoint, [checkpoints, classes], with one state zeroed after every segment."""
    logits = []
    with closing(executor.walk([ArraySource(clip)])) as walk:
        for at in walk:
            logits.append(at.logits[0])
            if lost is not None:
                executor.store.zero(lost)
    return np.stack(logits)
