"""dynvid: an ONNX/TensorRT deployment toolchain for dynamic-inference video networks.

``dynvid.load`` opens a bundle and classifies videos; each other name does what the command of that name does, and what
goes wrong raises a ``DynvidError``. Functions are imported on first use: this module loads neither torch, onnx,
onnxruntime nor av.
"""

from typing import TYPE_CHECKING, Any

from .grid.errors import DynvidError

if TYPE_CHECKING:
    from .api import (
        bench,
        build_engines,
        calibrate,
        classify_on_ray,
        data,
        doctor,
        drift,
        explain,
        export,
        export_triton,
        load,
        merge,
        plan,
        quantize,
        report,
        serve,
        time,
        train,
        verify,
    )  # fmt: skip

__all__ = [
    "DynvidError", "bench", "build_engines", "calibrate", "classify_on_ray", "data", "doctor", "drift", "explain", "export",
    "export_triton", "load", "merge", "plan", "quantize", "report", "serve", "time", "train", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'dynvid' has no attribute {name!r}: expected one of {', '.join(__all__)}")
    from . import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
