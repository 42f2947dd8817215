"""Report what is installed, which GPU is visible, and which backends work on this machine."""

from __future__ import annotations

import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import numpy as np

from ..grid.bundle import Bundle
from ..grid.errors import BackendError, DecoderFaultError, DeviceError, DynvidError
from ..grid.manifest import Precision, Variant
from ..grid.tensors import TensorSpec
from .backends.base import Backend, Call
from .backends.registry import NAMES, ON_CPU, open_backend
from .backends.tensorrt_api import Api, open_api
from .cuda.binding import open_device
from .cuda.device import BINDINGS, INSTALL
from .execution.executor import Executor

_PACKAGES = {
    "av": "pip install dynvid",
    "numpy": "pip install dynvid",
    "onnxruntime": "pip install 'dynvid[cpu]'",
    "onnxruntime-gpu": "pip install 'dynvid[gpu]'",
    "openvino": "pip install 'dynvid[openvino]'",
    "torch": "pip install 'dynvid[export,cpu]'",
    "onnx": "pip install 'dynvid[export,cpu]'",
    "onnxscript": "pip install 'dynvid[export,cpu]'",
    "safetensors": "pip install 'dynvid[export,cpu]'",
    "tensorrt": "pip install tensorrt",
    "tensorrt-rtx": "pip install tensorrt-rtx",
    **INSTALL,
}
# packages whose wheel has another name
_DISTRIBUTIONS = {"cuda-python": "cuda-bindings", "onnxruntime-cuda": "onnxruntime-gpu"}
_ROUNDS = 5
_REST_S = 0.02  # before each call: the previous backend's threads still spin

# an ONNX model with one node, y = x + x, for x [1, 2]
_MODEL = (
    b'\x08\x08\x12\x00:=\n\x0e\n\x01x\n\x01x\x12\x01y"\x03Add\x12\x01g'
    b"Z\x13\n\x01x\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x01\n\x02\x08\x02"
    b"b\x13\n\x01y\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x01\n\x02\x08\x02B\x04\n\x00\x10\r"
)

# an ONNX model of four 3x3 convolutions, each with a ReLU, for x [1, 64, 56, 56]; 0.46 GMACs
_CONVOLUTIONS = (
    b'\x08\x08:\xd5\x02\n1\n\x01s\x12\x01w"\x0fConstantOfShape'
    b'*\x18\n\x05value*\x0c\x08\x01\x10\x01"\x04o\x12\x83:B\x00\xa0\x01\x04'
    b'\n#\n\x01x\n\x01w\x12\x02c0"\x04Conv'
    b'*\x11\n\x04pads@\x01@\x01@\x01@\x01\xa0\x01\x07\n\x0e\n\x02c0\x12\x02r0"\x04Relu'
    b'\n$\n\x02r0\n\x01w\x12\x02c1"\x04Conv'
    b'*\x11\n\x04pads@\x01@\x01@\x01@\x01\xa0\x01\x07\n\x0e\n\x02c1\x12\x02r1"\x04Relu'
    b'\n$\n\x02r1\n\x01w\x12\x02c2"\x04Conv'
    b'*\x11\n\x04pads@\x01@\x01@\x01@\x01\xa0\x01\x07\n\x0e\n\x02c2\x12\x02r2"\x04Relu'
    b'\n$\n\x02r2\n\x01w\x12\x02c3"\x04Conv'
    b'*\x11\n\x04pads@\x01@\x01@\x01@\x01\xa0\x01\x07\n\r\n\x02c3\x12\x01y"\x04Relu'
    b"\x12\x01g*\r\x08\x04\x10\x07:\x04@@\x03\x03B\x01s"
    b"Z\x1b\n\x01x\x12\x16\n\x14\x08\x01\x12\x10\n\x02\x08\x01\n\x02\x08@\n\x02\x088\n\x02\x088"
    b"b\x1b\n\x01y\x12\x16\n\x14\x08\x01\x12\x10\n\x02\x08\x01\n\x02\x08@\n\x02\x088\n\x02\x088B\x04\n\x00\x10\r"
)


def examine(bundle: Bundle | None = None) -> dict[str, Any]:
    """Return the machine, its GPU, every package with its version or how to install it, and the state of each backend.

    The decoder works if it reproduces a clip that was just made. A backend works if it has just computed a small
    graph. ``builds`` says whether it has just built an engine, None if it has no engines. ``problem`` says what
    failed and what to do about it. OpenVINO is also tried in bf16. ``speed`` compares the working CPU backends.

    Args:
        bundle: its static network is timed; None: four convolutions.

    Raises:
        HashError, BackendError: If the bundle has changed, or a working backend cannot run it.
    """
    packages = {}
    for name, remedy in _PACKAGES.items():
        found = _version(_DISTRIBUTIONS.get(name, name))
        packages[name] = {"version": found, "remedy": None if found else remedy}
    # one of each pair is enough; the two onnxruntime packages conflict
    for one, other in (("onnxruntime", "onnxruntime-gpu"), BINDINGS):
        for name, sibling in ((one, other), (other, one)):
            if packages[name]["version"]:
                packages[sibling]["remedy"] = None
    backends = [*map(_try, NAMES), _try("openvino", "bf16")]
    working = [(row["name"], row["precision"]) for row in backends if row["works"] and row["name"] in ON_CPU]
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
        "decoder": _decoder(),
        "backends": backends,
        "speed": compare_speed(working, bundle),
    }


def compare_speed(pairs: Sequence[tuple[str, Precision]], bundle: Bundle | None = None) -> dict[str, Any] | None:
    """Return the milliseconds of one call on each of these backends, and which to use; None if ``pairs`` is empty.

    Calls are interleaved: the median of 5 after a warm-up, one thread per core. bf16 is timed but never recommended,
    because it computes with a different arithmetic.
    """
    if not pairs:
        return None
    backends = {
        name if precision == "fp32" else f"{name}, {precision}": open_backend(name, precision=precision)
        for name, precision in pairs
    }
    calls = {name: _static(backend, bundle) for name, backend in backends.items()}
    times: dict[str, list[float]] = {name: [] for name in backends}
    for turn in range(1 + _ROUNDS):
        for name, call in calls.items():
            time.sleep(_REST_S)
            started = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - started)
    for backend in backends.values():
        backend.close()
    ms = {name: round(statistics.median(spent) * 1e3, 3) for name, spent in times.items()}
    fp32 = [name for name, precision in pairs if precision == "fp32"]
    fastest = min(fp32, key=ms.__getitem__, default=None)
    advice = f"--backend {fastest} is the fastest in fp32" if fastest else "no backend computes in fp32"
    if "openvino, bf16" in ms:
        advice += (
            f"; --precision bf16 takes {ms['openvino, bf16']:.3g} ms, and videos near a threshold may exit elsewhere"
        )
    what = "four convolutions" if bundle is None else f"the static network of {str(bundle.root)!r}, as cells"
    return {"timed": what, "ms": ms, "fastest": fastest, "advice": advice}


def _static(backend: Backend, bundle: Bundle | None) -> Call:
    """Return a call on zeros, of the bundle's static network or of ``_CONVOLUTIONS``."""
    if bundle is not None:
        executor = Executor(bundle, backend, route=bundle.manifest.route.full)

        def call() -> None:
            executor.time_once(1, 1)

        return call
    shape = (1, 64, 56, 56)
    x, y = TensorSpec("x", "float32", shape), TensorSpec("y", "float32", shape)
    program = backend.load(_CONVOLUTIONS, Variant("", "", len(_CONVOLUTIONS), (x,), (y,)), "four convolutions")
    return program.prepare({"x": backend.zeros(shape, "float32")}, {"y": backend.zeros(shape, "float32")})


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _decoder() -> dict[str, Any]:
    """Return whether the decoder of ``classify`` works, or why not and what to do."""
    row = {"name": "av", "version": _version("av"), "works": True, "problem": None}
    try:
        from .video.decoder import Decoder  # imported here, so that a broken PyAV is reported

        with Decoder() as decoder:
            decoder.check()
    except (DecoderFaultError, ImportError) as error:
        wanted = next(line for line in requires("dynvid") or () if re.match(r"av\b", line))
        remedy = f"Install PyAV again: pip install --force-reinstall '{wanted}'"
        return row | {"works": False, "problem": f"{error}. {remedy}"}
    return row


def _gpu() -> dict[str, Any]:
    """Return the first GPU and the binding that reached it, or why there is none."""
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


def _try(name: str, precision: Precision = "fp32") -> dict[str, Any]:
    spec = TensorSpec("x", "float32", (1, 2))
    variant = Variant("", "", len(_MODEL), (spec,), (TensorSpec("y", "float32", (1, 2)),))
    found = _version(_DISTRIBUTIONS.get(name, name))
    row: dict[str, Any] = {
        "name": name,
        "precision": precision,
        "version": found,
        "builds": None,
        "works": False,
        "problem": None,
        "note": None,
    }
    content = _MODEL
    try:
        if name in ("tensorrt", "tensorrt-rtx"):
            api = open_api(name)
            row |= {"version": api.version, "builds": False}
            content = _plan(api)
            row["builds"] = True
        backend = open_backend(name, precision=precision)
        x, y = backend.zeros((1, 2), "float32"), backend.zeros((1, 2), "float32")
        if name == "null":
            return row | {"works": True, "note": "computes nothing, by design"}
        backend.write(x, np.array([[1.0, 2.5]], np.float32))
        backend.load(content, variant, "probe").prepare({"x": x}, {"y": y})()
        answer = backend.read(y)[0].tolist()
        backend.close()
        if answer != [2.0, 5.0]:
            raise BackendError(f"backend {name!r} computed {answer}, expected [2.0, 5.0]: reinstall it")
    except DynvidError as error:
        return row | {"problem": str(error)}
    return row | {"works": True, "note": "computed a small graph"}


def _plan(api: Api) -> bytes:
    """Return an engine of ``_MODEL``.

    Raises:
        BackendError: If it cannot be built on this machine.
    """
    builder = api.create_builder()
    network = api.create_network(builder)
    parser = api.trt.OnnxParser(network, api.logger)
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("x", (1, 2), (1, 2), (1, 2))
    config.add_optimization_profile(profile)
    api.errors.clear()
    memory = builder.build_serialized_network(network, config) if parser.parse(_MODEL) else None
    if memory is None:
        raise BackendError(
            f"{api.flavour} {api.version} cannot build an engine here: {api.errors.reason()}. Reinstall it."
        )
    return bytes(memory)
