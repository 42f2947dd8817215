"""What is installed, and which backends really work here."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from ..grid.errors import BackendError, DynvidError
from ..grid.manifest import Variant
from ..grid.tensors import TensorSpec
from .backends.base import NAMES, open_backend

_PACKAGES = {
    "av": "pip install dynvid",
    "numpy": "pip install dynvid",
    "onnxruntime": "pip install 'dynvid[cpu]'",
    "onnxruntime-gpu": "pip install 'dynvid[gpu]'",
    "torch": "pip install 'dynvid[export,cpu]'",
    "onnx": "pip install 'dynvid[export,cpu]'",
    "onnxscript": "pip install 'dynvid[export,cpu]'",
    "safetensors": "pip install 'dynvid[export,cpu]'",
}

# an ONNX model with one node, y = x + x, for x of two floats
_MODEL = (
    b'\x08\x08\x12\x00:5\n\x0e\n\x01x\n\x01x\x12\x01y"\x03Add\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x02'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x02B\x04\n\x00\x10\r"
)


def examine() -> dict[str, Any]:
    """Return the machine, every package with its version or how to get it, and every backend with what it did here.

    A backend works only if it just computed something; ``remedy`` says what to do about one that did not.
    """
    packages = {}
    for name, remedy in _PACKAGES.items():
        try:
            packages[name] = {"version": version(name), "remedy": None}
        except PackageNotFoundError:
            packages[name] = {"version": None, "remedy": remedy}
    for one, other in (("onnxruntime", "onnxruntime-gpu"), ("onnxruntime-gpu", "onnxruntime")):
        if packages[one]["version"]:
            packages[other]["remedy"] = None  # never both
    both = packages["onnxruntime"]["version"] and packages["onnxruntime-gpu"]["version"]
    return {
        "dynvid": version("dynvid"),
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)),
        "packages": packages,
        "conflicts": (
            ["onnxruntime and onnxruntime-gpu overwrite each other: pip uninstall both, then install one"]
            if both
            else []
        ),
        "backends": [_try(name) for name in NAMES],
    }


def _try(name: str) -> dict[str, Any]:
    spec = TensorSpec("x", "float32", (2,))
    variant = Variant("", "", len(_MODEL), (spec,), (TensorSpec("y", "float32", (2,)),))
    try:
        backend = open_backend(name)
        x, y = backend.zeros((2,), "float32"), backend.zeros((2,), "float32")
        if name == "null":
            return {"name": name, "works": True, "problem": None, "note": "computes nothing, by design"}
        backend.write(x, np.array([1.0, 2.5], np.float32))
        backend.load(_MODEL, variant, "probe").prepare({"x": x}, {"y": y})()
        if backend.read(y).tolist() != [2.0, 5.0]:
            raise BackendError(
                f"backend {name!r} computed {backend.read(y).tolist()}, expected [2.0, 5.0]: reinstall it"
            )
    except DynvidError as error:
        return {"name": name, "works": False, "problem": str(error), "note": None}
    return {"name": name, "works": True, "problem": None, "note": "computed a small graph"}
