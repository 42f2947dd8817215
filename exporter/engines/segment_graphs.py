"""The graphs that a bundle's engines are built from: each segment is fused and prepared once, then proved."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx.shape_inference import InferenceError

from ...grid.bundle import Bundle
from ...grid.errors import DynvidError, LintError
from ...grid.manifest import Precision, Variant
from ...grid.segments import FusedSegment
from ...runtime.backends.tensorrt_api import first_line
from ..graphs.fuse import fuse
from .dtype_census import Census, graph_census

LOG = logging.getLogger("dynvid")


class EngineGraph(NamedTuple):
    """What an engine is built from.

    Attributes:
        content: the prepared graph of a fused segment, or a subgraph's graph as in the bundle.
        sha256: of the ONNX model before preparation.
        census: of the fused segment before preparation; empty for a subgraph.
        seconds: time that fusing and preparing took.
    """

    content: bytes
    sha256: str
    census: Census
    seconds: float


class EngineGraphs:
    """The graphs of a bundle's engines in one precision; thread-safe.

    A segment is held, in one copy, from its first request until it is taken.

    Args:
        bundle: need not be on disk.
        precision: of the graphs.
        prepare: applied to every fused segment, see ``makers.preparation``.
        prove: called with this object before the first segment is taken; must raise if the lent segments do not
            compute what the cells compute. None: no proof.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: Precision,
        prepare: Callable[[bytes], bytes] = bytes,
        prove: Callable[[EngineGraphs], object] | None = None,
    ) -> None:
        self.bundle = bundle
        self.precision: Precision = precision
        self._prepare = prepare
        self._prove = prove
        self._fault: DynvidError | None = None
        self._held: dict[FusedSegment, EngineGraph] = {}
        self._lock = threading.RLock()  # reentrant, because the proof borrows graphs while the lock is held

    def lend(self, segment: FusedSegment) -> bytes:
        """Return the prepared graph of a fused segment: the same bytes on every call, and those that ``take`` returns.

        Raises:
            HashError: If a file of the bundle has changed.
            LintError: If the fused graph is not what it should be.
            BackendError: If it cannot be prepared.
        """
        with self._lock:
            if segment not in self._held:
                self._held[segment] = self._made(segment)
            return self._held[segment].content

    def take(self, source: Variant | FusedSegment) -> EngineGraph:
        """Return the graph of a subgraph, or, once all are proved, of a fused segment, and stop holding it.

        Raises:
            ProofError: If the segments do not compute what the cells compute; raised again on every call.
            HashError, LintError, BackendError: As ``lend``.
        """
        if isinstance(source, Variant):
            return EngineGraph(self.bundle.read(source), source.sha256, {}, 0.0)
        with self._lock:
            self._require_proof()
            self.lend(source)
            return self._held.pop(source)

    def _require_proof(self) -> None:
        if self._prove is not None and self._fault is None:
            try:
                self._prove(self)
            except DynvidError as error:
                self._fault = error
                self._held.clear()
            else:
                self._prove = None
        if self._fault is not None:
            raise self._fault

    def _made(self, segment: FusedSegment) -> EngineGraph:
        started = time.perf_counter()
        try:
            fused = fuse(self.bundle, segment, self.precision)
        except (DecodeError, InferenceError) as error:
            raise LintError(
                f"{segment.name}: a graph of bundle {str(self.bundle.root)!r} is not valid ONNX "
                f"({first_line(str(error))}). Run 'dynvid export' again."
            ) from None
        content, census = self._prepare(fused), graph_census(fused)
        seconds = round(time.perf_counter() - started, 3)
        LOG.debug(f"{segment.name} {self.precision}: fused and prepared in {seconds} s")
        return EngineGraph(content, hashlib.sha256(fused).hexdigest(), census, seconds)
