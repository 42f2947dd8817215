"""Who is measured on single videos: the static network, the route cut in several ways, and every operating point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..grid.bundle import Bundle
from ..grid.fusion import FusedSegment
from ..grid.manifest import Precision, Subgraph
from ..grid.route import Route
from ..grid.topology import Cell
from ..runtime.backends.base import Backend
from ..runtime.composed import Cells
from ..runtime.executor import Executor
from ..runtime.exit_rule import ExitRule
from ..runtime.session import Session
from .clips import Clips
from .rounds import Contestant

STATIC, COPY, HALVES = "static", "static, again", "static, in halves"
CELLS, SPANS, NO_EXITS = "cells, no heads", "fused, no heads", "no exits"

Load = Callable[[Subgraph | FusedSegment], bytes]
"""Returns what a backend runs for a subgraph or a fused segment."""


@dataclass(frozen=True)
class Loads:
    """Where graphs and engines come from.

    Attributes:
        cells: of subgraphs; None: the bundle's own graphs.
        route: of the fused segments of the bundle's route, and of ``full``.
        more: of any other fused segment, such as those without heads; None where they cannot be made here.
        graph: a fused segment as plain ONNX, for other runtimes; None where onnx is not installed.
    """

    cells: Load | None
    route: Load
    more: Callable[[FusedSegment], bytes] | None
    graph: Callable[[FusedSegment], bytes] | None


class Field:
    """The contestants of one bundle on one backend, all on the same clips.

    Args:
        bundle: the bundle.
        backend: what computes.
        precision: of the graphs.
        loads: see there.
        clips: to classify.

    Attributes:
        along: session along the bundle's route.
        static: session of the static network.
        contestants: all but the operating points.
    """

    def __init__(self, bundle: Bundle, backend: Backend, precision: Precision, loads: Loads, clips: Clips) -> None:
        manifest = bundle.manifest
        self._sources, full = clips.sources(manifest), manifest.route.full
        self.along = Session.open(bundle, backend, precision=precision, programs=loads.route)
        self.static = Session.open(bundle, backend, precision=precision, programs=loads.route, route=full)
        copy = Session.open(bundle, backend, precision=precision, programs=loads.route, route=full)
        never = self.along.rule
        self.contestants = [
            Contestant(STATIC, self._by(self.static, self.static.rule)),
            Contestant(COPY, self._by(copy, copy.rule)),
            Contestant(NO_EXITS, self._by(self.along, never)),
            Contestant(CELLS, self._to_the_end(Executor(bundle, backend, precision, Cells(loads.cells), heads=False))),
        ]
        if loads.more is not None:
            bare = Executor(bundle, backend, precision, loads.more, heads=False)
            self.contestants.append(Contestant(SPANS, self._to_the_end(bare)))
            halves = halved(full)
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
        """Return a run of every segment of a route, to the end, without decisions."""

        def run(clip: int) -> int:
            with closing(executor.walk([self._sources[clip]])) as walk:
                return max(at.index for at in walk)

        return run


def halved(full: Route) -> Route | None:
    """Return the static run with half of the frames in each of two calls; None where that cannot be."""
    (last,), sets = full.cells, full.grid.input_sets
    return Route(full.grid, (Cell(sets // 2 - 1, last.block), last)) if sets % 2 == 0 else None
