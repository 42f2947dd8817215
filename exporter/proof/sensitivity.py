"""Check what a proof can notice: lose every state in turn, reverse time, and follow errors along the chain."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...grid.bundle import Bundle
from ...grid.manifest import Manifest, Precision
from ...grid.route import Route
from ...grid.segments import block_of, embeddings_name, head_at, state_name
from ...grid.topology import Cell
from ...models.network import VideoNetwork
from ...runtime.backends.base import Backend
from ...runtime.execution.executor import Executor
from ...runtime.execution.state_store import Held, Key
from ...runtime.session import ArraySource
from .tolerances import require_sight

Floats = NDArray[np.float32]


def drift(
    network: VideoNetwork, bundle: Bundle, backend: Backend, precision: Precision, clip: Floats, reference: Floats
) -> list[float]:
    """Return the error of the last block's features by input set: how it grows along the chain.

    It is in standard deviations of the reference's features. The chain runs freely, from its own states.

    Args:
        network: the network whose blocks were split.
        bundle: the bundle.
        backend: the backend.
        precision: of the subgraphs.
        clip: preprocessed, in temporal order, [l, 3, crop, crop].
        reference: the plain network's last block output for it, [l, channels, height, width] in permuted order.
    """
    last = max(network.route.head_blocks)
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


def prove_sensitivity(
    network: VideoNetwork, bundle: Bundle, backend: Backend, clip: Floats, spread: float, limit: float
) -> dict[str, Any]:
    """Check that the proof notices faults: losing a state, or reversing frames, must change logits by over ``limit``.

    The route calls every block and every head at least twice, so that every state is handed on. (A static network has
    its own route and no states, and without a shift the order of its frames is no matter.) A state is lost after
    every segment from the first that hands it on. Its effect is that at the first checkpoint where it exceeds
    ``limit``, else the largest.

    Args:
        network: the whole network.
        bundle: the bundle.
        backend: onnxruntime on the CPU.
        clip: preprocessed, in temporal order, [l, 3, crop, crop].
        spread: the logits' standard deviation.
        limit: in these standard deviations.

    Raises:
        BlindProofError: With the state that would be lost unnoticed.
    """
    final, cells = network.route.cells[-1].input_set, []
    for place, block in enumerate(network.route.head_blocks):
        cells += [Cell(min(place + step, final), block) for step in (0, 1)]
    cells.append(network.route.cells[-1])
    route = _other_route(network, tuple(dict.fromkeys(cells)))
    executor = Executor(bundle, backend, route=route)
    states = _states_of(bundle.manifest, route)
    handed_on = {key: name for key, name in sorted(states.items()) if executor.store.holds(name)}
    plain, after = [], []  # logits at each checkpoint, and the store's contents then
    for at in executor.walk([ArraySource(clip)]):
        plain.append(at.logits[0])
        after.append(executor.store.copy())
    lost = {}
    for (block, port), name in handed_on.items():
        first = next(k for k, keys in enumerate(executor.store.writes) if any(key[0] == name for key in keys.values()))
        found = _without(executor, clip, name, first + 1, after[first])
        lost[f"{block}:{port}"] = _effect(found, plain[first + 1 :], spread, limit)
    reversed_error = _effect(_all_logits(executor, clip[::-1]), plain, spread, limit)
    required = dict(lost)
    # otherwise a mean over frames that are all seen, in which order does not matter
    if network.config.shift.enabled or (final > 0 and not network.config.static):
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
    """Return a route for a proof: ``cells``, or the network's own if it has no other."""
    fixed = network.config.static or not network.config.head.share_classifier
    return network.route if fixed else Route(network.grid, cells)


def _states_of(manifest: Manifest, route: Route) -> dict[tuple[int, str], str]:
    """Return the name under which each state of a route's blocks and heads is handed on, by block and input port."""
    found = {}
    for block in range(max(route.head_blocks) + 1):
        for state in block_of(manifest, block).states:
            found[block, state.input] = state_name(block, state.input)
    for index, cell in enumerate(route.cells, 1):
        for state in head_at(manifest, route, index).states:
            found[cell.block, state.input] = embeddings_name(cell.block)
    return found


def _all_logits(executor: Executor, clip: Floats) -> Generator[Floats]:
    """Yield the logits of every checkpoint, [classes]."""
    with closing(executor.walk([ArraySource(clip)])) as walk:
        for at in walk:
            yield at.logits[0]


def _without(executor: Executor, clip: Floats, name: str, done: int, held: Mapping[Key, Held]) -> Generator[Floats]:
    """Yield the logits of the checkpoints after segment ``done``, zeroing one state before each.

    ``held`` is the contents of the store after segment ``done``.
    """
    order, store = list(executor.bundle.manifest.grid.frame_order), executor.store
    slot = store.slots.acquire()
    assert slot is not None
    try:
        store.restore(held)
        for index, segment in enumerate(executor.segments[done:], done + 1):
            store.zero(name)
            frames = [clip[order[segment.start : segment.stop]]] if segment.start < segment.stop else None
            yield executor.run(index, [slot], frames)[0][0]
    finally:
        store.slots.release(slot)


def _effect(found: Generator[Floats], plain: Sequence[Floats], spread: float, limit: float) -> float:
    """Return the effect of a planted fault at the first checkpoint where it exceeds ``limit``, else the largest."""
    effect = 0.0
    with closing(found):
        for logits, wanted in zip(found, plain, strict=False):
            effect = max(effect, float(np.abs(logits - wanted).max() / spread))
            if effect > limit:
                break
    return effect
