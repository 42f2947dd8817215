"""Find the engines of a bundle for this backend and machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...grid.bundle import Bundle
from ...grid.engines.cache import Engine, EngineCache, EngineRequest, engines_folder, this_platform
from ...grid.errors import MissingPackageError, UsageError
from ...grid.manifest import IN_BF16, Precision, Subgraph
from ...grid.route import Route
from ...grid.segments import FUSION, FusedSegment, fused_segments
from ..backends.base import Backend, EngineHost

_ON_CPU = ["onnxruntime", "openvino"]  # these name backends, engines and packages
_GPUS = ("/dev/nvidia0", "/dev/dxg")  # on Linux, and in WSL


@dataclass(frozen=True)
class Engines:
    """Looks up engines; serves as the executor's ``programs``.

    Attributes:
        bundle: the bundle.
        cache: where its engines are.
        host: what will run them.
        precision: of their graphs.
        batch: videos per call.
        route: the route along which subgraphs are called.
    """

    bundle: Bundle
    cache: EngineCache
    host: EngineHost
    precision: Precision
    batch: int
    route: Route

    def begun(self, parts: Sequence[FusedSegment]) -> bool:
        """Return whether an engine of any of these was ever built for this flavour and precision, usable or not.

        Raises:
            IntegrityError: If the folder cannot be read, or others may write to it.
        """
        ledger = self.cache.engines()
        names = (*(engine.key.name for engine in ledger.engines), *ledger.damaged)
        starts = tuple(f"{part.name}.{self.precision}.{self.host.flavour}." for part in parts)
        return any(name.startswith(starts) for name in names)

    def best_batch(self, part: FusedSegment) -> int:
        """Return the largest batch that a fused segment's engine is optimised for.

        Raises:
            IntegrityError: As ``plan``.
        """
        return max(profile.batch[1] for profile in self.find(part).key.profiles)

    def plan(self, part: Subgraph | FusedSegment) -> bytes:
        """Return the plan of a subgraph or fused segment, after every check that needs no GPU.

        Raises:
            MissingEngineError, StaleEngineError: If none fits; the message has the command that builds it.
            EngineFileError, UntrustedEngineError: If it is damaged, or others may write to it.
        """
        return self.cache.read(self.find(part))

    def find(self, part: Subgraph | FusedSegment) -> Engine:
        """Return the cache entry of a subgraph or fused segment.

        Raises:
            IntegrityError: As ``plan``.
        """
        plain = isinstance(part, Subgraph)
        return self.cache.find(
            EngineRequest(
                subgraph=part.name,
                precision=self.precision,
                onnx_sha256=part.variant(self.precision).sha256 if isinstance(part, Subgraph) else None,
                bundle_sha256=self.bundle.sha256,
                fusion=0 if plain else FUSION,
                flavour=self.host.flavour,
                version=self.host.version,
                device=self.host.device,
                cuda=self.host.cuda,
                platform=this_platform(),
                batch=self.batch,
                frames=self._frames(part) if isinstance(part, Subgraph) else (),
            )
        )

    def _frames(self, subgraph: Subgraph) -> tuple[int, ...]:
        """Return the numbers of frames that the route calls a subgraph with."""
        route, size = self.route, self.bundle.manifest.grid.frames_per_set
        if subgraph.kind == "block":
            spans = [span for segment in route.segments for span in segment.spans if span.block == subgraph.block]
            return tuple(sorted({(span.stop - span.start) * size for span in spans}))
        heads = self.bundle.manifest.heads if route.cells == self.bundle.manifest.route.cells else None
        counts = {
            (route.embedded(k, subgraph.block) - route.embedded(k - 1, subgraph.block)) * size
            for k, cell in enumerate(route.cells, 1)
            if (cell.block == subgraph.block if heads is None else heads[k - 1] == subgraph.name)
        }
        return tuple(sorted(counts))


def fitting_backend(bundle: Bundle, precision: Precision, folder: Path | Literal["none"] | None = None) -> str:
    """Return the name of the backend that this bundle's engines were built for, or that can run its cells.

    In bf16: OpenVINO. Otherwise the first with engines: TensorRT, if there is a GPU; then OpenVINO in INT8, or
    onnxruntime in fp32 and fp16; then the other of the two. Without any engine: onnxruntime, or OpenVINO if only that
    is installed. Whether the engines fit is not checked.

    Args:
        bundle: the bundle.
        precision: precision to compute in.
        folder: of the engines; None: ``BUNDLE.engines``; ``none``: engines do not count.

    Raises:
        UsageError: If the bundle has no graphs of ``precision``.
        IntegrityError: If the folder cannot be read, or others may write to it.
        MissingPackageError: If no backend that can run cells is installed.
    """
    bundle.require(precision)
    if precision in IN_BF16:
        return "openvino"
    names: tuple[str, ...] = ()
    if folder != "none":
        ledger = EngineCache(engines_folder(bundle.root) if folder is None else folder, bundle.root).engines()
        names = (*(engine.key.name for engine in ledger.engines), *ledger.damaged)
    parts = fused_segments(bundle.manifest, precision)
    on_gpu = ["tensorrt", "tensorrt-rtx"] if any(Path(device).exists() for device in _GPUS) else []
    for flavour in [*on_gpu, *(_ON_CPU[::-1] if precision == "int8" else _ON_CPU)]:
        if any(name.startswith(f"{part.name}.{precision}.{flavour}.") for part in parts for name in names):
            return flavour
    for package in _ON_CPU:
        if importlib.util.find_spec(package) is not None:
            return package
    raise MissingPackageError(
        "no backend can run here: neither onnxruntime nor openvino is installed. Install one: pip install 'dynvid[cpu]'"
    )


def open_engines(
    bundle: Bundle,
    backend: Backend,
    folder: Path | None = None,
    precision: Precision = "fp32",
    batch: int = 1,
    route: Route | None = None,
) -> Engines:
    """Return the engines of a bundle for a backend.

    Args:
        bundle: the bundle.
        backend: the backend that will run them.
        folder: where they are; None: ``BUNDLE.engines``.
        precision: of their graphs.
        batch: videos per call.
        route: the route along which subgraphs are called; None: the bundle's own.

    Raises:
        UsageError: If the backend runs no engines.
    """
    host = backend.engine_host
    if host is None:
        raise UsageError(f"backend {backend.name!r} runs the bundle's graphs: leave --engines out")
    cache = EngineCache(engines_folder(bundle.root) if folder is None else folder, bundle.root)
    return Engines(bundle, cache, host, precision, batch, route or bundle.manifest.route)
