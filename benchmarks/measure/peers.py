"""The static network on other runtimes, which a user would otherwise deploy with, measured in the same rounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...grid.bundle import Bundle
from ...grid.errors import BackendError, MissingPackageError, UsageError
from .clips import Clips
from .rounds import Contestant

MOST_ERROR = 1e-3

NAMES = ("openvino", "torch", "torch-compile")

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Returns the logits [1, classes] of a clip in permuted order, [1, l, 3, crop, crop]."""


def open_peer(
    name: str, bundle: Bundle, clips: Clips, graph: Callable[[], bytes] | None, probabilities: NDArray[np.float32],
    training_checkpoint: Path | None, threads: int,
) -> Contestant:  # fmt: skip
    """Return the static network on another runtime, in fp32, for one clip per call.

    Its answer on the first clip must match the bundle's: a peer that computes something else is refused.

    Args:
        name: one of ``NAMES``.
        bundle: the bundle with the static network.
        clips: the clips to classify.
        graph: returns the static network as one ONNX graph; None if onnx is not installed.
        probabilities: the answer of the bundle's static network on the first clip, [classes].
        training_checkpoint: the one that the bundle was exported from; torch needs it.
        threads: number of threads to compute with.

    Raises:
        MissingPackageError, BackendError: If it cannot run here.
        UsageError: If the name is unknown, or torch has no training checkpoint.
    """
    if name == "openvino":
        if graph is None:
            raise MissingPackageError(
                "peer 'openvino' needs onnx for its graph. Install it: pip install 'dynvid[export]'"
            )
        label, run = _openvino(graph(), clips.frames[:1].shape, threads)
    elif name in ("torch", "torch-compile"):
        if training_checkpoint is None:
            raise UsageError(f"peer {name!r} needs the training checkpoint: give TRAINING_CHECKPOINT after BUNDLE")
        label, run = _torch(bundle, training_checkpoint, threads, name == "torch-compile")
    else:
        raise UsageError(f"peer {name!r}: expected one of {', '.join(NAMES)}")
    logits = run(clips.frames[:1])[0].astype(np.float64)
    softmax = np.exp(logits - logits.max())
    error = float(np.abs(softmax / softmax.sum() - probabilities).max())
    if not error <= MOST_ERROR:
        raise BackendError(
            f"peer {label} computes something else: probabilities differ by {error:.2g}, expected at most {MOST_ERROR}"
        )

    def classify(clip: int) -> int:
        run(clips.frames[clip : clip + 1]).argmax()
        return 1

    return Contestant(label, classify)


def _openvino(graph: bytes, shape: tuple[int, ...], threads: int) -> tuple[str, Network]:
    try:
        import openvino
    except ImportError as error:
        raise MissingPackageError(
            f"peer 'openvino' cannot run: {error}. Install it: pip install 'dynvid[openvino]'"
        ) from None
    core = openvino.Core()
    try:
        model = core.read_model(graph)
        model.reshape({"frames": list(shape)})
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        request = core.compile_model(model, "CPU", settings).create_infer_request()
    except RuntimeError as error:
        raise BackendError(f"openvino cannot compile the static network: {str(error).splitlines()[0]}") from None

    def run(clip: NDArray[np.float32]) -> NDArray[np.float32]:
        request.set_tensor("frames", openvino.Tensor(clip, shared_memory=True))
        request.infer()
        logits: NDArray[np.float32] = request.get_tensor("logits").data
        return logits

    return f"openvino {openvino.get_version().split('-')[0]}, fp32", run


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
    network.with_route(manifest.route.full).eval()
    torch.set_num_threads(threads)
    call: Any = network
    if compiled:
        call = torch.compile(network, dynamic=False)

    @torch.inference_mode()
    def run(clip: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = call(torch.from_numpy(clip))[-1].numpy()
        return logits

    return f"torch {torch.__version__.split('+')[0]}{', torch.compile' if compiled else ', eager'}, fp32", run
