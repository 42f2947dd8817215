"""What is installed, which GPU is seen, and which backends really work here."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from ..grid.errors import BackendError, DeviceError, DynvidError
from ..grid.manifest import Variant
from ..grid.tensors import TensorSpec
from .backends.base import NAMES, open_backend
from .backends.tensorrt_api import Api, open_api
from .device import BINDINGS, INSTALL, open_device

_PACKAGES = {
    "av": "pip install dynvid",
    "numpy": "pip install dynvid",
    "onnxruntime": "pip install 'dynvid[cpu]'",
    "onnxruntime-gpu": "pip install 'dynvid[gpu]'",
    "torch": "pip install 'dynvid[export,cpu]'",
    "onnx": "pip install 'dynvid[export,cpu]'",
    "onnxscript": "pip install 'dynvid[export,cpu]'",
    "safetensors": "pip install 'dynvid[export,cpu]'",
    "tensorrt": "pip install tensorrt",
    "tensorrt-rtx": "pip install tensorrt-rtx",
    **INSTALL,
}
_DISTRIBUTIONS = {"cuda-python": "cuda-bindings"}  # where the wheel that counts has another name
_BACKEND_PACKAGES = {"onnxruntime-cuda": "onnxruntime-gpu"}  # likewise

# an ONNX model with one node, y = x + x, for x of two floats
_MODEL = (
    b'\x08\x08\x12\x00:5\n\x0e\n\x01x\n\x01x\x12\x01y"\x03Add\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x02'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x02B\x04\n\x00\x10\r"
)


def examine() -> dict[str, Any]:
    """Return the machine, its GPU, every package with its version or how to get it, and what every backend did here.

    A backend works only if it just computed something, and ``builds`` engines only if it just built one, None where it
    has none; ``problem`` says what failed and what to do about it.
    """
    packages = {}
    for name, remedy in _PACKAGES.items():
        found = _version(_DISTRIBUTIONS.get(name, name))
        packages[name] = {"version": found, "remedy": None if found else remedy}
    # one of each is enough, and of the two onnxruntime never both
    for one, other in (("onnxruntime", "onnxruntime-gpu"), BINDINGS):
        for name, sibling in ((one, other), (other, one)):
            if packages[name]["version"]:
                packages[sibling]["remedy"] = None
    both = packages["onnxruntime"]["version"] and packages["onnxruntime-gpu"]["version"]
    return {
        "dynvid": version("dynvid"),
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)),
        "gpu": _gpu(),
        "packages": packages,
        "conflicts": (
            ["onnxruntime and onnxruntime-gpu overwrite each other: pip uninstall both, then install one"]
            if both
            else []
        ),
        "backends": [_try(name) for name in NAMES],
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _gpu() -> dict[str, Any]:
    """Return the first GPU and how it was reached, or why there is none."""
    try:
        device = open_device()
    except DeviceError as error:
        return {"name": None, "problem": str(error)}
    found = {
        "name": device.name,
        "problem": None,
        "compute_capability": device.compute_capability,
        "cuda": "{}.{}".format(*device.cuda_version),
        "memory_bytes": device.free_bytes()[1],
        "binding": device.binding,
        "cuda_graphs": device.supports_graphs,
    }
    device.close()
    return found


def _try(name: str) -> dict[str, Any]:
    spec = TensorSpec("x", "float32", (2,))
    variant = Variant("", "", len(_MODEL), (spec,), (TensorSpec("y", "float32", (2,)),))
    found = _version(_BACKEND_PACKAGES.get(name, name))
    row: dict[str, Any] = {
        "name": name, "version": found, "builds": None, "works": False, "problem": None, "note": None
    }  # fmt: skip
    content = _MODEL
    try:
        if name in ("tensorrt", "tensorrt-rtx"):
            api = open_api(name)
            row |= {"version": api.version, "builds": False}
            content = _plan(api)
            row["builds"] = True
        backend = open_backend(name)
        x, y = backend.zeros((2,), "float32"), backend.zeros((2,), "float32")
        if name == "null":
            return row | {"works": True, "note": "computes nothing, by design"}
        backend.write(x, np.array([1.0, 2.5], np.float32))
        backend.load(content, variant, "probe").prepare({"x": x}, {"y": y})()
        answer = backend.read(y).tolist()
        backend.close()
        if answer != [2.0, 5.0]:
            raise BackendError(f"backend {name!r} computed {answer}, expected [2.0, 5.0]: reinstall it")
    except DynvidError as error:
        return row | {"problem": str(error)}
    return row | {"works": True, "note": "computed a small graph"}


def _plan(api: Api) -> bytes:
    """Return an engine of ``_MODEL``.

    Raises:
        BackendError: If none can be built here.
    """
    builder = api.create_builder()
    network = api.create_network(builder)
    parser = api.trt.OnnxParser(network, api.logger)
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("x", (2,), (2,), (2,))
    config.add_optimization_profile(profile)
    api.errors.clear()
    memory = builder.build_serialized_network(network, config) if parser.parse(_MODEL) else None
    if memory is None:
        raise BackendError(
            f"{api.flavour} {api.version} builds no engine here: {api.errors.reason()}. Install it again."
        )
    return bytes(memory)
