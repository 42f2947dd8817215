"""Makers of engines, by flavour: TensorRT builds in child processes; CPU engines are rewritten, optimised graphs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from ...grid.bundle import Bundle
from ...grid.engines.key import Flavour, sorted_targets
from ...grid.errors import UsageError
from ...grid.manifest import Precision
from ...runtime.backends.base import Backend
from ...runtime.backends.registry import open_backend, require_precision
from ...runtime.backends.tensorrt_api import Api, open_api
from ..graphs.optimise import optimise
from ..graphs.rewrites import REWRITES, Rewrite, rewrite
from .builder_process import Children, Order
from .dtype_census import Census, graph_census
from .int8_speed import call_on_noise
from .jobs import EngineJob, fused_jobs, jobs
from .segment_graphs import EngineGraph


class EngineMaker(Protocol):
    """Makes engines of one flavour.

    Attributes:
        flavour: what runs them.
        version: of the flavour.
        cuda: major version of CUDA that the flavour is built for; empty without CUDA.
        targets: compute capabilities that they are for, as in ``EngineKey``.
    """

    flavour: Flavour
    version: str
    cuda: str
    targets: tuple[str, ...]

    def jobs(self, bundle: Bundle, precision: Precision) -> tuple[EngineJob, ...]:
        """Return the engines that the bundle's route needs.

        Raises:
            UsageError: If the bundle has no graphs of ``precision``.
            CensusError: If a tensor is written in one dtype and read in another.
        """
        ...

    def make(self, job: EngineJob, graph: EngineGraph) -> tuple[bytes, Census, float]:
        """Build the engine of ``job`` from ``graph``; return it, its dtype census, and the seconds that it took.

        Raises:
            DynvidError: If it cannot be made.
        """
        ...

    def kill(self) -> None:
        """End all current and future builds."""
        ...

    def backend(self) -> Backend | None:
        """Return a backend to time the engines with; None if that takes a GPU."""
        ...


def open_maker(
    flavour: str,
    targets: Sequence[str] = (),
    max_batch: int = 1,
    expected: Sequence[int] | None = None,
    precision: Precision = "fp32",
) -> EngineMaker:
    """Return the maker of a flavour's engines; the arguments are those of ``build_engines``.

    Raises:
        UsageError: If the flavour is unknown, or an argument or the precision is not for it.
        MissingPackageError, BackendError, DeviceError: If it cannot build here at all.
    """
    require_precision(flavour, precision)
    if flavour not in ("onnxruntime", "openvino"):
        return TensorRTMaker(open_api(flavour), targets, max_batch, expected)
    if targets:
        raise UsageError(f"target {targets[0]!r}: {flavour}'s engines are for processors, leave --target out")
    if max_batch != 1 or expected is not None:
        raise UsageError(
            f"batch of at most {max_batch} videos: {flavour}'s engines take any number, leave --max-batch out"
        )
    return CpuMaker(flavour, precision)


def preparation(flavour: str) -> Callable[[bytes], bytes]:
    """Return the function that prepares a flavour's fused graphs before they are proved; TensorRT's stay unchanged."""
    return {"onnxruntime": for_onnxruntime, "openvino": for_openvino}.get(flavour, bytes)


def for_onnxruntime(graph: bytes, rewrites: Sequence[Rewrite] = REWRITES["onnxruntime"]) -> bytes:
    """Return the plan of a fused graph for this processor: rewritten, optimised, and apart from its weights."""
    return optimise(rewrite(graph, rewrites))


def for_openvino(graph: bytes, rewrites: Sequence[Rewrite] = REWRITES["openvino"]) -> bytes:
    """Return a fused graph rewritten for OpenVINO, for one video; the same on every processor."""
    return rewrite(graph, rewrites)


class TensorRTMaker:
    """See ``EngineMaker``. Each engine is built in a process of its own."""

    def __init__(self, api: Api, targets: Sequence[str], max_batch: int, expected: Sequence[int] | None) -> None:
        self.flavour: Flavour = api.flavour
        self.version, self.cuda = api.version, api.cuda
        self.targets = choose_targets(api, targets)
        self._max_batch, self._expected = max_batch, expected
        self._children = Children()

    def jobs(self, bundle: Bundle, precision: Precision) -> tuple[EngineJob, ...]:
        """Return an engine for each subgraph of the route, each fused segment, and ``full``."""
        return jobs(bundle, precision, self._max_batch, self._expected)

    def make(self, job: EngineJob, graph: EngineGraph) -> tuple[bytes, Census, float]:
        """Return the plan; see ``EngineMaker``."""
        return self._children.build(
            Order(job.name, self.flavour, graph.content, job.source, job.profiles, self.targets)
        )

    def kill(self) -> None:
        """Kill the child processes."""
        self._children.kill()

    def backend(self) -> None:
        """Return None: engines may be built without a GPU."""


class CpuMaker:
    """See ``EngineMaker``. An engine is a fused graph, prepared for this processor; plain subgraphs need none.

    Args:
        flavour: onnxruntime or openvino.
        precision: precision to compute in.

    Raises:
        MissingPackageError: If the flavour is not installed.
        BackendError: If this processor does not support ``precision``.
    """

    cuda = ""

    def __init__(self, flavour: str, precision: Precision) -> None:
        self._precision: Precision = precision
        self._backend = open_backend(flavour, 1, precision=precision)
        host = self._backend.engine_host
        assert host is not None
        self.flavour, self.version = host.flavour, host.version
        self.targets: tuple[str, ...] = () if host.device is None else (host.device,)

    def jobs(self, bundle: Bundle, precision: Precision) -> tuple[EngineJob, ...]:
        """Return an engine for each fused segment of the route, and ``full``."""
        return fused_jobs(bundle, precision)

    def make(self, job: EngineJob, graph: EngineGraph) -> tuple[bytes, Census, float]:
        """Return the prepared graph and its census; OpenVINO compiles it once, for one video.

        What OpenVINO gets is counted anew. onnxruntime's optimised graph is no plain ONNX, so there the fused one counts.
        """
        if self.flavour == "onnxruntime":
            return graph.content, graph.census, graph.seconds
        started = time.perf_counter()
        call_on_noise(self._backend, job, graph.content)
        census = graph_census(graph.content)
        return graph.content, census, round(graph.seconds + time.perf_counter() - started, 3)

    def kill(self) -> None:
        """Do nothing: no other process is involved."""

    def backend(self) -> Backend:
        """Return a backend that runs the engines on all cores."""
        return open_backend(self.flavour, precision=self._precision)


def choose_targets(api: Api, targets: Sequence[str]) -> tuple[str, ...]:
    """Return the compute capabilities to build for, ascending, each once.

    Raises:
        UsageError: If this TensorRT cannot build for one of them.
        DeviceError: If the present GPU is requested and there is none.
    """
    if not api.targets:
        odd = [target for target in targets if target != "current"]
        if odd:
            raise UsageError(f"target {odd[0]!r}: {api.flavour} builds for the present GPU only, leave --target out")
        return (_present(),)
    resolved = [_present() if target == "current" else target for target in targets]
    for target in resolved:
        if target not in api.targets:
            raise UsageError(
                f"target {target!r}: {api.flavour} {api.version} builds for {', '.join(api.targets)} and, "
                "without --target, for Ampere and later"
            )
    return tuple(sorted_targets(tuple(resolved)))


def _present() -> str:
    from ...runtime.cuda.binding import open_device

    device = open_device()
    try:
        return device.compute_capability
    finally:
        device.close()
