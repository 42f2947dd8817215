"""Build a bundle's engines: each separately, kept as soon as it is done, and never built twice."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...grid.bundle import Bundle
from ...grid.engines.cache import Engine, EngineCache
from ...grid.engines.key import EngineKey, Flavour, this_platform
from ...grid.errors import DynvidError, UsageError
from ...grid.manifest import Precision, graphs_of
from ...grid.segments import FusedSegment
from .dtype_census import graph_census, require_census, require_int8
from .int8_speed import is_faster
from .jobs import EngineJob
from .makers import EngineMaker, open_maker, preparation
from .segment_graphs import EngineGraphs

LOG = logging.getLogger("dynvid")

PARTIAL = 7


@dataclass(frozen=True)
class Row:
    """The result for one engine.

    Attributes:
        subgraph: name of the subgraph or fused segment.
        precision: precision that it computes in.
        flavour: what runs it.
        targets: compute capabilities that it is for; empty: Ampere and later, or any processor. For onnxruntime, the
            processor.
        status: ``kept`` if it already existed.
        engine: the cache entry; None if it failed.
        error: why it failed.
    """

    subgraph: str
    precision: Precision
    flavour: Flavour
    targets: tuple[str, ...]
    status: Literal["built", "kept", "failed"]
    engine: Engine | None
    error: DynvidError | None

    def to_json(self) -> dict[str, Any]:
        """Return the row as ``dynvid build-engines --json`` prints it."""
        return {
            "subgraph": self.subgraph,
            "precision": self.precision,
            "targets": list(self.targets),
            "seconds": self.engine.seconds if self.engine else None,
            "bytes": self.engine.plan_bytes if self.engine else None,
            "dtype_census": self.engine.dtype_census if self.engine else None,
            "status": self.status,
            "reason": str(self.error) if self.error else None,
        }


def exit_code(rows: Sequence[Row]) -> int:
    """Return the command's exit code: 0 if all engines exist, 7 if some failed, the first error's if all failed."""
    errors = [row.error for row in rows if row.error is not None]
    if not errors:
        return 0
    return PARTIAL if len(errors) < len(rows) else errors[0].exit_code


def build_engines(
    bundle: Bundle,
    folder: Path,
    flavour: str = "tensorrt-rtx",
    precision: Precision = "fp32",
    targets: Sequence[str] = (),
    max_batch: int = 1,
    workers: int = 1,
    only: Sequence[str] | None = None,
    expected: Sequence[int] | None = None,
    prove: Callable[[EngineGraphs], object] | None = None,
) -> list[Row]:
    """Build the missing engines that the bundle's route needs; return a row for every engine.

    A failure does not affect the other engines. After an interruption, the next call resumes.

    Args:
        bundle: the bundle.
        folder: of the engines; created if missing.
        flavour: ``tensorrt``, ``tensorrt-rtx`` or ``onnxruntime``.
        precision: precision to compute in.
        targets: for ``tensorrt-rtx``, compute capabilities such as ``sm89``, or ``current``; empty: Ampere and later.
            For ``tensorrt``, empty or ``current``: it builds for the present GPU. For ``onnxruntime``, empty.
        max_batch: most videos in one call; must be 1 for ``onnxruntime``, whose engines take any number.
        workers: number of parallel builds. On a GPU use one, because the builder times kernels.
        only: names of subgraphs and segments to build; None: all.
        expected: videos that enter each segment; None: as in ``jobs.jobs``.
        prove: see ``EngineGraphs``.

    Raises:
        UsageError: If an argument is out of range or not for the flavour, or the bundle lacks the precision.
        MissingPackageError, BackendError, DeviceError: If the flavour cannot build here at all.
        CensusError: If the bundle's tensors do not fit together.
    """
    if workers < 1:
        raise UsageError(f"{workers} workers: expected at least 1")
    if graphs_of(precision) == "int8" and workers > 1 and flavour in ("onnxruntime", "openvino"):
        raise UsageError(
            f"{workers} workers with INT8 on {flavour}: engines are measured while they are built, expected 1"
        )
    maker = open_maker(flavour, targets, max_batch, expected, precision)
    found = maker.jobs(bundle, precision)
    names = [job.name for job in found]
    unknown = [name for name in only or () if name not in names]
    if unknown:
        raise UsageError(f"engine {unknown[0]!r}: expected some of {', '.join(names)}")
    found = tuple(job for job in found if only is None or job.name in only)
    cache = EngineCache(folder, bundle.root)
    graphs, fp32 = (
        EngineGraphs(bundle, stored, preparation(maker.flavour), prove) for stored in (graphs_of(precision), "fp32")
    )
    number = itertools.count(1)

    def run(job: EngineJob) -> Row:
        status: Literal["built", "kept", "failed"] = "failed"
        engine = fault = None
        try:
            status, engine = _ensure(job, cache, maker, precision, graphs, fp32)
        except DynvidError as error:
            fault = error
        LOG.info(f"engines {next(number)}/{len(found)}: {job.name} {precision}: {status}")
        return Row(job.name, precision, maker.flavour, maker.targets, status, engine, fault)

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(run, job) for job in found]
        try:
            return [future.result() for future in futures]
        except BaseException:  # Ctrl-C too: half-built engines are useless
            pool.shutdown(wait=False, cancel_futures=True)
            maker.kill()
            raise


def key_of(job: EngineJob, bundle: Bundle, onnx_sha256: str, maker: EngineMaker, precision: Precision) -> EngineKey:
    """Return the key of the engine of ``job``, built from the graph with that hash."""
    return EngineKey(
        subgraph=job.name,
        precision=precision,
        onnx_sha256=onnx_sha256,
        bundle_sha256=bundle.sha256,
        fusion=job.fusion,
        profiles=job.profiles,
        flavour=maker.flavour,
        version=maker.version,
        targets=maker.targets,
        platform=this_platform(),
        cuda=maker.cuda,
    )


def _ensure(
    job: EngineJob,
    cache: EngineCache,
    maker: EngineMaker,
    precision: Precision,
    graphs: EngineGraphs,
    fp32: EngineGraphs,
) -> tuple[Literal["built", "kept"], Engine]:
    """Return the engine of a job, from the cache or newly built; ``fp32``: the graphs to use if INT8 is not faster."""

    def key(onnx_sha256: str) -> EngineKey:
        return key_of(job, graphs.bundle, onnx_sha256, maker, precision)

    for kept in cache.engines().engines:
        # ignore the graph's hash: the rest of the key determines the graph, so it need not be fused for comparison
        if kept.key == key(kept.key.onnx_sha256) and cache.has(kept.key):
            return "kept", kept

    graph = graphs.take(job.source)
    made = maker.make(job, graph)
    if graphs.precision == "int8":
        backend = maker.backend()
        if backend is not None and isinstance(job.source, FusedSegment):
            try:
                faster, own_ms, fp32_ms = is_faster(backend, job, made[0], fp32.lend(job.source))
            finally:
                backend.close()
            LOG.info(f"{job.name} {precision}: {own_ms:.3g} ms in INT8, {fp32_ms:.3g} ms without")
            if not faster:
                made = maker.make(job, fp32.take(job.source))
        require_int8(made[1], graph.census or graph_census(graph.content), job, whole=backend is None)
    plan, census, seconds = made
    require_census(census, job, graphs.precision)
    return "built", cache.write(key(graph.sha256), plan, seconds, census)
