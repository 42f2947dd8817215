"""Engines: how they are built, and what works on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..grid.packages import packages
from ..grid.storage.files import StrPath

if TYPE_CHECKING:
    from ..exporter.engines.build import Row
    from ..grid.manifest import Precision


def build_engines(
    bundle: StrPath,
    *,
    backend: str = "tensorrt-rtx",
    precision: Precision = "fp32",
    engines: StrPath | None = None,
    targets: Sequence[str] = (),
    max_batch: int = 1,
    only: Sequence[str] | None = None,
    workers: int = 1,
) -> list[Row]:
    """Prove and build a bundle's engines.

    They are one per segment of its route, one for the static network, and for TensorRT one per subgraph. After INT8
    engines for a CPU the static network is timed on every CPU backend, and a warning says if another one is faster.

    Args:
        bundle: the folder.
        backend: onnxruntime, openvino, tensorrt or tensorrt-rtx.
        precision: precision to compute in: fp32, fp16 or int8; on OpenVINO also bf16, and int8-bf16, which computes
            in bf16 what INT8 leaves out.
        engines: the folder of the engines; None: ``BUNDLE.engines``.
        targets: for tensorrt-rtx, such as sm89; empty: Ampere and later.
        max_batch: most videos in one call, for TensorRT.
        only: names of segments and subgraphs; None: all.
        workers: number of parallel builds.

    Returns:
        A row per engine; one that failed has ``error``.

    Raises:
        UsageError, CensusError: If the arguments are invalid, or the bundle does not fit.
        EnvironmentFaultError: If this backend's engines cannot be built here at all.
    """
    from ..grid.bundle import Bundle
    from ..grid.engines.cache import engines_folder
    from ..runtime.backends.registry import ON_CPU

    with packages("export,cpu"):
        import onnx  # noqa: F401

        from ..exporter.engines.backend_speed import advise
        from ..exporter.engines.build import build_engines as run_build
        from ..exporter.proof.segment_equivalence import prove_segments

    opened = Bundle.open(Path(bundle))
    rows = run_build(
        opened,
        engines_folder(Path(bundle)) if engines is None else Path(engines),
        backend,
        precision,
        targets,
        max_batch,
        workers,
        only,
        prove=prove_segments,
    )
    if (
        precision == "int8"
        and backend in ON_CPU
        and any((row.subgraph, row.status) == ("full", "built") for row in rows)
    ):
        advise(opened, backend)
    return rows


def doctor(bundle: StrPath | None = None) -> dict[str, Any]:
    """Return what is installed, which backends work here, and what to do about the others.

    Args:
        bundle: its static network is timed on every CPU backend; None: four convolutions.

    Raises:
        HashError, BackendError: If the bundle has changed, or a working backend cannot run it.
    """
    from ..grid.bundle import Bundle
    from ..runtime.doctor import examine

    return examine(None if bundle is None else Bundle.open(Path(bundle)))
