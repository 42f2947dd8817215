"""What a runtime needs of an engine, how an engine differs from it, and the command that builds one that does not."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from ..manifest import Precision
from .key import RTX_TARGETS, EngineKey, Flavour, capability, sorted_targets

_UNTARGETED_FROM = 80  # Ampere


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """An engine that is needed here and now.

    Attributes:
        subgraph: or the name of a fused segment.
        precision: that it computes in.
        onnx_sha256: of its graph; None where the runtime has no graph to hash: fused segments.
        bundle_sha256: of the bundle's manifest.
        fusion: version of the fused graphs; 0 for a plain subgraph.
        flavour: what will run it.
        version: of the flavour as installed here.
        device: compute capability of the GPU, like ``sm89``, or the processor, like ``avx512f``; None where any will do.
        cuda: major version of CUDA that the driver knows; None where that is unknown.
        platform: of this machine.
        batch: videos in a call.
        frames: the numbers of frames that calls will have; none where they are fixed: fused segments.
    """

    subgraph: str
    precision: Precision
    onnx_sha256: str | None
    bundle_sha256: str
    fusion: int
    flavour: Flavour
    version: str
    device: str | None
    cuda: str | None
    platform: str
    batch: int
    frames: tuple[int, ...]

    def differences(self, key: EngineKey) -> dict[str, str]:
        """Return, by field, what an engine of ``key`` has and what is needed; nothing where it fits."""
        found = {}
        for name in ("subgraph", "flavour", "precision", "fusion", "version", "platform"):
            has, needs = getattr(key, name), getattr(self, name)
            if has != needs:
                found[name] = f"{has}, needed {needs}"
        for name in ("onnx_sha256", "bundle_sha256"):
            has, needs = getattr(key, name), getattr(self, name)
            if needs not in (None, has):
                found[name] = f"{has[:8]}…, needed {needs[:8]}…"
        if self.device is not None and not _runs_on(key, self.device):
            every = "any processor" if key.flavour == "onnxruntime" else f"sm{_UNTARGETED_FROM} and later"
            found["targets"] = f"{','.join(key.targets) or every}, needed {self.device}"
        if self.cuda is not None and key.cuda and int(self.cuda) < int(key.cuda):
            found["cuda"] = f"{key.cuda}, the driver has {self.cuda}"
        if not any(profile.holds(self.batch, self.frames) for profile in key.profiles):
            frames = f" frames {','.join(map(str, self.frames))}" if self.frames else ""
            found["profiles"] = f"{' or '.join(map(str, key.profiles))}, needed batch {self.batch}{frames}"
        return found

    def remedy(self, key: EngineKey | None, bundle: Path | None, folder: Path) -> str:
        """Return the sentence that says how to get this engine, beside one of ``key`` where that is given."""
        if self.flavour == "tensorrt-rtx" and self.device and capability(self.device) < capability(RTX_TARGETS[0]):
            return f"tensorrt-rtx needs {RTX_TARGETS[0]} or later: use another --backend."
        targets = _targets(self.device, key) if self.flavour == "tensorrt-rtx" else ()
        batch = max(self.batch, key.largest_batch) if key else self.batch
        command = build_command(bundle, folder, self.flavour, self.precision, targets, batch)
        if key and "cuda" in self.differences(key):
            return (
                f"Update the driver to one of CUDA {key.cuda}, or install the {self.flavour} made for CUDA {self.cuda} and "
                f"run '{command}'."
            )
        return f"Run '{command}'."


def engines_folder(bundle: Path) -> Path:
    """Return the folder of a bundle's engines: ``BUNDLE.engines`` beside it."""
    return Path(os.path.abspath(bundle) + ".engines")


def build_command(
    bundle: Path | None,
    folder: Path,
    flavour: Flavour,
    precision: Precision,
    targets: tuple[str, ...] = (),
    max_batch: int = 1,
) -> str:
    """Return the command that builds engines into ``folder``; the word BUNDLE where the bundle is not known."""
    words = ["dynvid", "build-engines", "BUNDLE" if bundle is None else str(bundle), "--backend", flavour]
    if precision != "fp32":
        words += ["--precision", precision]
    if targets and flavour == "tensorrt-rtx":
        words += ["--target", ",".join(targets)]
    if max_batch > 1 and flavour not in ("onnxruntime", "openvino"):  # whose engines take any number of videos
        words += ["--max-batch", str(max_batch)]
    if bundle is None or engines_folder(bundle) != Path(os.path.abspath(folder)):
        words += ["--engines", str(folder)]
    return shlex.join(words)


def _runs_on(key: EngineKey, device: str) -> bool:
    """Return whether an engine is for a GPU, as far as that can be told before TensorRT loads it."""
    if key.flavour == "tensorrt-rtx" and not key.targets:
        return capability(device) >= _UNTARGETED_FROM
    return device in key.targets or (not key.targets and key.flavour != "onnxruntime")


def _targets(device: str | None, key: EngineKey | None) -> tuple[str, ...]:
    """Return what to build for: the targets of ``key`` and the device; none where untargeted engines do."""
    old = key.targets if key and key.flavour == "tensorrt-rtx" else ()
    if device is None:
        return old
    if capability(device) >= _UNTARGETED_FROM and (not old or device not in RTX_TARGETS):
        return ()
    return tuple(sorted_targets((*old, device)))
