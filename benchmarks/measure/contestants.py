"""The contestants on single videos: the static network, the route cut in several ways, and every operating point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...grid.manifest import Subgraph
from ...grid.route import Route
from ...grid.segments import FusedSegment
from ...grid.topology import Cell
from ...runtime.backends.registry import ON_CPU
from ...runtime.execution.capacity import Limits
from ...runtime.execution.composed import Cells
from ...runtime.execution.engine_lookup import open_engines
from ...runtime.execution.executor import Executor
from ...runtime.exits import ExitRule
from ...runtime.session import Session
from .clips import Clips
from .rounds import Contestant

STATIC, COPY, HALVES = "static", "static, again", "static, in halves"
CELLS, SPANS, NO_EXITS = "cells, no heads", "fused, no heads", "no exits"

Open = Callable[..., Executor]
"""``open_executor`` of one bundle in one precision, as ``classify`` uses it.

It takes ``backend``, ``limits``, ``full`` and ``kind``.
"""


@dataclass(frozen=True)
class Loads:
    """Sources of the graphs that ``classify`` does not run.

    Attributes:
        cells: what a CPU runs for a subgraph; None: the bundle's own graph.
        more: fused segments that are not engines, such as those without heads; None if they cannot be made here.
        graph: a fused segment as plain ONNX in fp32, for other runtimes; None if onnx is not installed.
        unshifted: the static network without shift as PyTorch exports it, from its training checkpoint; likewise.
    """

    cells: Callable[[Subgraph], bytes] | None = None
    more: Callable[[FusedSegment], bytes] | None = None
    graph: Callable[[FusedSegment], bytes] | None = None
    unshifted: Callable[[Path], bytes] | None = None


class Field:
    """The contestants of one bundle on one backend, all on the same clips.

    Args:
        open_one: opens what ``classify`` runs.
        engines: folder of the engines.
        loads: sources of the other graphs.
        clips: the clips to classify.

    Attributes:
        backend: the backend.
        along: session along the bundle's route.
        static: session of the static network.
        contestants: all except the operating points.
    """

    def __init__(self, open_one: Open, engines: Path, loads: Loads, clips: Clips) -> None:
        alone = Limits(batch=1)
        executor = open_one(limits=alone)
        bundle, precision, backend = executor.bundle, executor.precision, executor.backend
        self._sources, self.backend = clips.sources(bundle.manifest), backend
        self.along = Session(executor)
        self.static, copy = (Session(open_one(backend=backend, limits=alone, full=True)) for _ in range(2))
        cells = loads.cells if backend.name in ON_CPU else open_engines(bundle, backend, engines, precision).plan
        never = self.along.rule
        self.contestants = [
            Contestant(STATIC, self._by(self.static, self.static.rule)),
            Contestant(COPY, self._by(copy, copy.rule)),
            Contestant(NO_EXITS, self._by(self.along, never)),
            Contestant(CELLS, self._to_the_end(Executor(bundle, backend, precision, Cells(cells), heads=False))),
        ]
        if loads.more is not None:
            bare = Executor(bundle, backend, precision, loads.more, heads=False)
            self.contestants.append(Contestant(SPANS, self._to_the_end(bare)))
            halves = halved(bundle.manifest.route.full)
            if halves is not None:
                executor = Executor(bundle, backend, precision, loads.more, route=halves)
                self.contestants.append(Contestant(HALVES, self._to_the_end(executor)))

    def answers(self, session: Session) -> NDArray[np.float32]:
        """Return the probabilities of every checkpoint on every clip, [checkpoints, clips, classes]."""
        found = [session.classify(source, trace=True).probabilities for source in self._sources]
        return np.stack([np.stack(rows) for rows in found], axis=1)

    def point(self, name: str, thresholds: Sequence[float | None], temperatures: Sequence[float] | None) -> Contestant:
        """Return an operating point."""
        return Contestant(name, self._by(self.along, ExitRule(self.along.route, thresholds, temperatures)))

    def _by(self, session: Session, rule: ExitRule) -> Callable[[int], int]:
        def run(clip: int) -> int:
            session.rule = rule
            return session.classify(self._sources[clip]).checkpoint

        return run

    def _to_the_end(self, executor: Executor) -> Callable[[int], int]:
        """Return a run of every segment of a route to the end, without exits."""

        def run(clip: int) -> int:
            with closing(executor.walk([self._sources[clip]])) as walk:
                return max(at.index for at in walk)

        return run


def halved(full: Route) -> Route | None:
    """Return the static run with half of the frames in each of two calls; None if that is impossible."""
    (last,), sets = full.cells, full.grid.input_sets
    return Route(full.grid, (Cell(sets // 2 - 1, last.block), last)) if sets % 2 == 0 else None
