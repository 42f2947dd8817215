"""The static network on other runtimes, which a user would otherwise deploy with, measured in the same rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...grid.bundle import Bundle
from ...grid.errors import BackendError, MissingPackageError, UsageError
from ...grid.segments import fused_full
from ...runtime.backends.openvino import reason
from .clips import Clips
from .contestants import Loads
from .nncf_peer import quantised
from .rounds import Contestant

MOST_ERROR = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 0.05, "int8": 0.2}
"""Largest difference in a probability from the bundle's answer, in the less precise of the two arithmetics."""

NAMES = ("openvino", "openvino-bf16", "nncf", "torch", "torch-compile")

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Returns the logits [1, classes] of a clip in permuted order, [1, l, 3, crop, crop]."""


@dataclass(frozen=True)
class PeerRun(Contestant):
    """A static network elsewhere.

    Attributes:
        precision: of its arithmetic.
    """

    precision: str


def require_training_checkpoint(names: Sequence[str], given: Path | None) -> None:
    """Refuse peers that are made from the training checkpoint where there is none.

    Raises:
        UsageError: If one is.
    """
    for name in names:
        if given is None and not name.startswith("openvino"):
            raise UsageError(f"peer {name!r} needs the training checkpoint: give TRAINING_CHECKPOINT after BUNDLE")


def open_peer(
    name: str, bundle: Bundle, clips: Clips, loads: Loads, probabilities: NDArray[np.float32],
    training_checkpoint: Path | None, threads: int, precision: str = "fp32",
) -> PeerRun:  # fmt: skip
    """Return the static network on another runtime, for one clip per call.

    Its answer on the first clip must match the bundle's: a peer that computes something else is refused. But ``nncf``
    is the network without shift, whose answers are others where the bundle has one; its time is what it is here for.

    Args:
        name: one of ``NAMES``.
        bundle: the bundle with the static network.
        clips: the clips to classify.
        loads: sources of the graphs.
        probabilities: the answer of the bundle's static network on the first clip, [classes].
        training_checkpoint: the one that the bundle was exported from; torch and nncf need it.
        threads: number of threads to compute with.
        precision: what the bundle's answer was computed in.

    Raises:
        MissingPackageError, BackendError: If it cannot run here.
        UsageError: If the name is unknown, or there is no training checkpoint and it needs one.
    """
    if name not in NAMES:
        raise UsageError(f"peer {name!r}: expected one of {', '.join(NAMES)}")
    require_training_checkpoint([name], training_checkpoint)
    own, comparable = "fp32", True
    if name == "nncf":
        assert training_checkpoint is not None
        own, comparable = "int8", not bundle.manifest.network["shift"]["enabled"]
        if loads.unshifted is None:
            raise _no_graph(name)
        model, version = quantised(loads.unshifted(training_checkpoint), clips.frames)
        label, run = _openvino(model, threads, own)
        label = f"{label.removesuffix(', int8')} with NNCF {version}, int8{'' if comparable else ', without shift'}"
    elif name.startswith("openvino"):
        if loads.graph is None:
            raise _no_graph(name)
        own = "bf16" if name == "openvino-bf16" else "fp32"
        label, run = _openvino(
            _read(loads.graph(fused_full(bundle.manifest, "fp32")), clips.frames[:1].shape), threads, own
        )
    else:
        assert training_checkpoint is not None
        label, run = _torch(bundle, training_checkpoint, threads, name == "torch-compile")
    logits = run(clips.frames[:1])[0].astype(np.float64)
    softmax = np.exp(logits - logits.max())
    error = float(np.abs(softmax / softmax.sum() - probabilities).max())
    bound = max(MOST_ERROR[own], MOST_ERROR[precision])
    if comparable and not error <= bound:
        raise BackendError(
            f"peer {label} computes something else: probabilities differ by {error:.2g}, expected at most {bound}"
        )

    def classify(clip: int) -> int:
        run(clips.frames[clip : clip + 1]).argmax()
        return 1

    return PeerRun(label, classify, own)


def _no_graph(name: str) -> MissingPackageError:
    return MissingPackageError(f"peer {name!r} needs torch and onnx. Install them: pip install 'dynvid[export]'")


def _read(graph: bytes, shape: tuple[int, ...]) -> Any:
    """Return a graph as OpenVINO reads it, for clips of one shape."""
    try:
        import openvino
    except ImportError as error:
        raise MissingPackageError(
            f"peer 'openvino' cannot run: {error}. Install it: pip install 'dynvid[openvino]'"
        ) from None
    try:
        model = openvino.Core().read_model(graph)
        model.reshape({"frames": list(shape)})
    except RuntimeError as error:
        raise BackendError(f"openvino cannot read the static network: {reason(error)}") from None
    return model


def _openvino(model: Any, threads: int, precision: str) -> tuple[str, Network]:
    import openvino

    core, hint = openvino.Core(), "bf16" if precision == "bf16" else "f32"
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise BackendError("peer 'openvino-bf16': this processor has no bf16 instructions, leave the peer out")
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": hint}
    try:
        request = core.compile_model(model, "CPU", settings).create_infer_request()
    except RuntimeError as error:
        raise BackendError(f"openvino cannot compile the static network: {reason(error)}") from None

    def run(clip: NDArray[np.float32]) -> NDArray[np.float32]:
        request.set_tensor("frames", openvino.Tensor(clip, shared_memory=True))
        request.infer()
        logits: NDArray[np.float32] = request.get_tensor("logits").data
        return logits

    return f"openvino {openvino.get_version().split('-')[0]}, {precision}", run


def _torch(bundle: Bundle, path: Path, threads: int, compiled: bool) -> tuple[str, Network]:
    try:
        import torch

        from ...models.bundled_network import network_of
    except ImportError as error:
        raise MissingPackageError(
            f"peer 'torch' cannot run: {error}. Install it: pip install 'dynvid[export]'"
        ) from None
    manifest = bundle.manifest
    network = network_of(manifest, path)
    network.with_last_checkpoint().eval()
    torch.set_num_threads(threads)
    call: Any = network
    if compiled:
        call = torch.compile(network, dynamic=False)

    @torch.inference_mode()
    def run(clip: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = call(torch.from_numpy(clip))[-1].numpy()
        return logits

    return f"torch {torch.__version__.split('+')[0]}{', torch.compile' if compiled else ', eager'}, fp32", run
