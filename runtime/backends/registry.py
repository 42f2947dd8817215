"""The backends by name, and how to open one."""

from __future__ import annotations

import os

from ...grid.errors import UsageError
from ...grid.manifest import IN_BF16, Precision, graphs_of
from .base import Backend

NAMES = ("onnxruntime", "openvino", "null", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx")
ON_CPU = ("onnxruntime", "openvino")
"""Backends that compute on the CPU."""


def open_backend(
    name: str, threads: int | None = None, gpu: int = 0, cuda_graphs: bool = True, precision: Precision = "fp32"
) -> Backend:
    """Return the backend called ``name``, never a substitute.

    Args:
        name: one of ``NAMES``.
        threads: CPU threads to compute with; None: one per core.
        gpu: index of the GPU, if the backend uses one.
        cuda_graphs: whether recorded calls become CUDA graphs, if the backend and the CUDA binding support it.
        precision: precision to compute in. Only bf16 is a property of the backend; all others are properties of the
            graphs.

    Raises:
        UsageError: If the name is unknown, or the backend does not support the precision.
        MissingPackageError, BackendError, DeviceError: If it cannot run here.
    """
    require_precision(name, precision)
    most = 4 * len(os.sched_getaffinity(0))
    if threads is not None and not 1 <= threads <= most:
        raise UsageError(f"{threads} threads: expected 1 to {most}, four per core of this machine")
    if name == "onnxruntime":
        from .onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend(threads)
    if name == "openvino":
        from .openvino import OpenVinoBackend

        return OpenVinoBackend(threads, precision)
    if name == "onnxruntime-cuda":
        from .onnxruntime_cuda import open_ort_cuda

        return open_ort_cuda(gpu, threads)
    if name in ("tensorrt", "tensorrt-rtx"):
        if threads is not None:
            raise UsageError(f"{threads} threads: backend {name!r} computes on a GPU, leave --threads out")
        from .tensorrt import open_tensorrt

        return open_tensorrt(name, gpu, cuda_graphs)
    if name == "null":
        from .null import NullBackend

        return NullBackend()
    raise UsageError(f"backend {name!r}: expected one of {', '.join(NAMES)}")


def require_precision(name: str, precision: Precision) -> None:
    """Check that the backend called ``name`` supports ``precision``.

    Raises:
        UsageError: If not.
    """
    if precision in IN_BF16 and name != "openvino":
        raise UsageError(
            f"precision {precision} on backend {name!r}: expected openvino, since only it computes in bf16. "
            f"Give --backend openvino, or --precision {graphs_of(precision)}."
        )
