"""What a runtime needs of an engine, how a given engine differs from that, and the command that builds one."""

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
        subgraph: name of the subgraph or fused segment.
        precision: precision that it computes in.
        onnx_sha256: of its graph; None for fused segments, since the runtime has no graph to hash.
        bundle_sha256: of the bundle's manifest.
        fusion: version of the fused graphs; 0 for a plain subgraph.
        flavour: what will run it.
        version: of the flavour as installed here.
        device: compute capability of the GPU, like ``sm89``, or the processor, like ``avx512f``; None if any will do.
        cuda: major version of CUDA that the driver supports; None if unknown.
        platform: of this machine.
        batch: videos per call.
        frames: the numbers of frames that calls will have; empty for fused segments, where they are fixed.
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
        """Return, by field, what an engine of ``key`` has and what is needed; empty if it fits."""
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
            found["cuda"] = f"{key.cuda}, but the driver has {self.cuda}"
        if not any(profile.holds(self.batch, self.frames) for profile in key.profiles):
            frames = f" frames {','.join(map(str, self.frames))}" if self.frames else ""
            found["profiles"] = f"{' or '.join(map(str, key.profiles))}, needed batch {self.batch}{frames}"
        return found

    def remedy(self, key: EngineKey | None, bundle: Path | None, folder: Path) -> str:
        """Return the sentence that says how to get this engine, beside the one of ``key`` if given."""
        if self.flavour == "tensorrt-rtx" and self.device and capability(self.device) < capability(RTX_TARGETS[0]):
            return f"tensorrt-rtx needs {RTX_TARGETS[0]} or later: use another --backend."
        targets = _targets(self.device, key) if self.flavour == "tensorrt-rtx" else ()
        batch = max(self.batch, key.largest_batch) if key else self.batch
        command = build_command(bundle, folder, self.flavour, self.precision, targets, batch)
        if key and "cuda" in self.differences(key):
            return (
                f"Update the driver to one for CUDA {key.cuda}, or install the {self.flavour} built for CUDA "
                f"{self.cuda} and run '{command}'."
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
    """Return the command that builds engines into ``folder``, with the word BUNDLE if the bundle is unknown."""
    words = ["dynvid", "build-engines", "BUNDLE" if bundle is None else str(bundle), "--backend", flavour]
    if precision != "fp32":
        words += ["--precision", precision]
    if targets and flavour == "tensorrt-rtx":
        words += ["--target", ",".join(targets)]
    if max_batch > 1 and flavour not in ("onnxruntime", "openvino"):  # their engines take any number of videos
        words += ["--max-batch", str(max_batch)]
    if bundle is None or engines_folder(bundle) != Path(os.path.abspath(folder)):
        words += ["--engines", str(folder)]
    return shlex.join(words)


def _runs_on(key: EngineKey, device: str) -> bool:
    """Return whether an engine is for a device, as far as can be told before loading it."""
    if key.flavour == "tensorrt-rtx" and not key.targets:
        return capability(device) >= _UNTARGETED_FROM
    return device in key.targets or (not key.targets and key.flavour != "onnxruntime")


def _targets(device: str | None, key: EngineKey | None) -> tuple[str, ...]:
    """Return the targets to build for: those of ``key`` and the device; empty if untargeted engines suffice."""
    old = key.targets if key and key.flavour == "tensorrt-rtx" else ()
    if device is None:
        return old
    if capability(device) >= _UNTARGETED_FROM and (not old or device not in RTX_TARGETS):
        return ()
    return tuple(sorted_targets((*old, device)))
