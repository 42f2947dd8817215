"""Choose the CUDA binding for a GPU: the first one that is installed and works."""

from __future__ import annotations

from ...grid.errors import DeviceError, UsageError
from .device import BINDINGS, Binding, Device


def open_device(index: int = 0, binding: str = "auto") -> Device:
    """Return a GPU.

    Args:
        index: index of the GPU, from 0.
        binding: the CUDA package to use; ``auto``: the first of ``BINDINGS`` that works.

    Raises:
        UsageError: If there is no such binding.
        DeviceError: If no GPU can be used; the message has each binding's reason and how to install it.
    """
    if binding not in ("auto", *BINDINGS):
        raise UsageError(f"CUDA binding {binding!r}: expected auto or one of {', '.join(BINDINGS)}")
    reasons: list[str] = []
    for name in BINDINGS:
        if binding in ("auto", name):
            try:
                return _open(name, index)
            except DeviceError as error:
                reasons.append(f"{name}: {error}")
    raise DeviceError(f"GPU {index} cannot be used. {'; '.join(reasons)}. Without a GPU, use --backend onnxruntime.")


def _open(binding: Binding, index: int) -> Device:
    if binding == "pycuda":
        from .pycuda import PycudaDevice

        return PycudaDevice(index)
    from .cuda_python import CudaPythonDevice

    return CudaPythonDevice(index)
