"""dynvid: an ONNX/TensorRT deployment toolchain for dynamic-inference video networks.

``dynvid.load`` opens a bundle and classifies videos; the other names do what the commands of the same names do. They are imported
when they are first used: this module loads neither torch, onnx, onnxruntime nor av.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import (
        bench,
        build_engines,
        calibrate,
        doctor,
        drift,
        export,
        load,
        plan,
        quantize,
        time,
        train,
        verify,
    )  # fmt: skip

__all__ = [
    "bench", "build_engines", "calibrate", "doctor", "drift", "export", "load", "plan", "quantize", "time", "train", "verify"
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'dynvid' has no attribute {name!r}: expected one of {', '.join(__all__)}")
    from . import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
