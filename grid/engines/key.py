"""An engine as the ledger records it: what it was built from and for, and the result."""

from __future__ import annotations

import hashlib
import platform
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import UsageError
from ..manifest import Precision
from ..storage.sealed import seal, unseal
from ..storage.strict_json import dumps, parse

FORMAT = "dynvid.engine"
VERSION = (1, 0)
Flavour = Literal["tensorrt", "tensorrt-rtx", "onnxruntime", "openvino"]
Range = tuple[int, int, int]
"""Least, expected and largest."""

RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""The compute capabilities that TensorRT-RTX can build for explicitly."""

_VECTORS = ("avx512_vnni", "avx512f", "avx_vnni", "avx2", "avx")

_PATTERNS = {
    "subgraph": r"[a-z0-9][a-z0-9._-]{0,99}",
    "onnx_sha256": r"[0-9a-f]{64}",
    "bundle_sha256": r"[0-9a-f]{64}",
    "version": r"[0-9][0-9A-Za-z.+-]*",
    "platform": r"[a-z0-9_]+-[a-z0-9_]+",
    "cuda": r"[0-9]*",
}


@dataclass(frozen=True, slots=True)
class Profile:
    """Shapes that an engine supports: batches of videos, and frames per call; ``frames`` is None if they are fixed."""

    batch: Range
    frames: Range | None

    def __post_init__(self) -> None:
        """Reject sizes that are not least <= expected <= largest."""
        for name, sizes in (("batch", self.batch), ("frames", self.frames)):
            if sizes is not None and not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
                raise UsageError(f"profile with {name} {sizes}: expected 1 <= least <= expected <= largest")

    def __str__(self) -> str:
        frames = "" if self.frames is None else " frames " + "..".join(map(str, self.frames))
        return "batch " + "..".join(map(str, self.batch)) + frames

    def holds(self, batch: int, frames: tuple[int, ...]) -> bool:
        """Return whether every call with ``batch`` videos and one of ``frames`` fits; no frames: they are fixed."""
        if not self.batch[0] <= batch <= self.batch[2]:
            return False
        if self.frames is None:
            return not frames
        return bool(frames) and self.frames[0] <= min(frames) and max(frames) <= self.frames[2]


@dataclass(frozen=True, slots=True)
class EngineKey:
    """Everything that determines the result of a build: engines with equal keys are interchangeable.

    One exception: a CPU engine in INT8 may hold the fp32 graph instead, where that was measured to be faster.

    Attributes:
        subgraph: name of the subgraph or fused segment.
        precision: precision that it computes in; engines in bf16 are built from the fp32 graphs.
        onnx_sha256: of the graph that it was built from.
        bundle_sha256: of the bundle's manifest.
        fusion: version of the fused graphs; 0 for a plain subgraph.
        profiles: in the engine's order.
        flavour: what built it and runs it.
        version: of the flavour.
        targets: compute capabilities like ``sm89``, ascending; empty: Ampere and later. For ``tensorrt``, the one it
            was built on. For ``onnxruntime``, the processor as ``this_processor`` names it; empty: built before the
            processor mattered.
        platform: operating system and processor, like ``linux-x86_64``.
        cuda: major version of CUDA that the flavour is built for; empty without CUDA.
    """

    subgraph: str
    precision: Precision
    onnx_sha256: str
    bundle_sha256: str
    fusion: int
    profiles: tuple[Profile, ...]
    flavour: Flavour
    version: str
    targets: tuple[str, ...]
    platform: str
    cuda: str

    def __post_init__(self) -> None:
        """Reject malformed values."""
        for name, pattern in _PATTERNS.items():
            if not re.fullmatch(pattern, getattr(self, name)):
                raise UsageError(f"engine with {name} {getattr(self, name)!r}: expected the form {pattern}")
        if not self.profiles:
            raise UsageError(f"engine of {self.subgraph!r} without profiles: expected at least one")
        if self.flavour == "onnxruntime":
            if len(self.targets) > 1 or not all(re.fullmatch(r"[a-z0-9_]+", target) for target in self.targets):
                raise UsageError(
                    f"onnxruntime engine with targets {self.targets}: expected one processor like 'avx512f'"
                )
        elif list(self.targets) != sorted_targets(self.targets):
            raise UsageError(f"engine with targets {self.targets}: expected names like 'sm89', ascending, none twice")
        if self.flavour == "tensorrt" and len(self.targets) != 1:
            raise UsageError(f"tensorrt engine with targets {self.targets}: expected the one GPU that it is built on")

    @property
    def digest(self) -> str:
        """The sha256 of the key."""
        return hashlib.sha256(dumps(asdict(self))).hexdigest()

    @property
    def name(self) -> str:
        """The stem of the engine's file names."""
        return f"{self.subgraph}.{self.precision}.{self.flavour}.{self.digest[:12]}"

    @property
    def largest_batch(self) -> int:
        """The most videos that one call may hold."""
        return max(profile.batch[2] for profile in self.profiles)


@dataclass(frozen=True)
class Engine:
    """An entry of the ledger.

    Attributes:
        key: what it was built from and for.
        plan_sha256: of the plan file.
        plan_bytes: length of the plan file.
        seconds: duration of the build.
        dtype_census: what its layers and ports compute in, as counted by the builder.
        built: time of the build, in UTC.
    """

    key: EngineKey
    plan_sha256: str
    plan_bytes: int
    seconds: float
    dtype_census: dict[str, Any]
    built: str

    @property
    def plan(self) -> str:
        """The name of the plan file."""
        return f"{self.key.name}.plan"

    def to_bytes(self) -> bytes:
        """Return the sidecar: sealed JSON."""
        return seal(asdict(self), FORMAT, VERSION)


def read_engine(sidecar: bytes) -> Engine:
    """Return the engine that a sidecar describes.

    Raises:
        StrictJsonError: If it is malformed, changed, or of another version.
        UsageError: If a value is malformed.
    """
    content, newer = unseal(sidecar, FORMAT, VERSION)
    return parse(Engine, content, ignore_unknown=newer)


def capability(target: str) -> int:
    """Return the number of a compute capability: 89 for ``sm89``.

    Raises:
        UsageError: If ``target`` is not of that form.
    """
    if not re.fullmatch(r"sm[1-9][0-9]{1,2}", target):
        raise UsageError(f"compute capability {target!r}: expected a name like 'sm89'")
    return int(target[2:])


def sorted_targets(targets: tuple[str, ...]) -> list[str]:
    """Return compute capabilities in ascending order, each once.

    Raises:
        UsageError: If one is not of the form ``sm89``.
    """
    return sorted(set(targets), key=capability)


def this_processor() -> str:
    """Return this x86 processor's widest vector instructions, like ``avx512_vnni``; else its name, like ``aarch64``.

    onnxruntime's result for a graph depends on these, above all the order of its weights in memory.
    """
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split())
    except OSError:  # not Linux
        flags = set()
    widest = next((name for name in _VECTORS if name in flags), None)
    return widest or platform.machine().lower()


def this_platform() -> str:
    """Return the operating system and processor of this machine, like ``linux-x86_64``."""
    return f"{sys.platform}-{platform.machine()}".lower()
