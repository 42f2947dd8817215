"""The engines of OpenVINO: the fused graphs as they are, which its backend compiles for the shapes that it meets."""

from __future__ import annotations

import time

from ..grid.bundle import Bundle
from ..grid.engine_key import Flavour
from ..grid.manifest import Precision
from ..runtime.backends.base import Backend
from ..runtime.backends.openvino import OpenVinoBackend
from .census import Census, graph_census
from .engine_builder import Report
from .engine_jobs import EngineJob, fused_jobs
from .engine_maker import for_openvino


class OpenVinoMaker:
    """See ``EngineMaker``. Before an engine is kept, OpenVINO compiles it once, for one video.

    Args:
        precision: that it is to compute in.

    Raises:
        MissingPackageError: If OpenVINO is not installed.
        BackendError: If this processor does not compute in ``precision``.
    """

    flavour: Flavour = "openvino"
    cuda = ""
    targets: tuple[str, ...] = ()

    def __init__(self, precision: Precision = "fp32") -> None:
        self._precision, self._backend = precision, OpenVinoBackend(1, precision)
        self.version = self._backend.version

    def jobs(self, bundle: Bundle, precision: Precision) -> tuple[EngineJob, ...]:
        """Return an engine for each fused segment of the route, and ``full``."""
        return fused_jobs(bundle, precision)

    def make(self, job: EngineJob, graph: bytes, report: Report) -> tuple[bytes, Census, float]:
        """Return the graph and what its nodes compute in; see ``EngineMaker``."""
        started = time.perf_counter()
        graph = for_openvino(graph)
        tensors = {
            spec.name: self._backend.zeros(spec.concrete(1, 1), spec.dtype) for spec in (*job.inputs, *job.outputs)
        }
        inputs = {spec.name: tensors[spec.name] for spec in job.inputs}
        outputs = {spec.name: tensors[spec.name] for spec in job.outputs}
        self._backend.load(graph, job.source, job.name).prepare(inputs, outputs)
        census = graph_census(graph)
        return graph, census, round(time.perf_counter() - started, 3)

    def kill(self) -> None:
        """Do nothing: nothing is made in another process."""

    def backend(self) -> Backend:
        """Return OpenVINO on all cores."""
        return OpenVinoBackend(None, self._precision)
