"""The machine that a measurement ran on, and whether other processes used it too."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("dynvid", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "torch", "tensorrt", "tensorrt-rtx")
MOST_OTHERS = 0.05
"""Share of CPU time that other processes may use during a measurement."""


def gpu_name() -> str:
    """Return the name of the GPU in use.

    Raises:
        DeviceError: If there is none.
    """
    from ...runtime.cuda.binding import open_device

    device = open_device()
    try:
        return device.name
    finally:
        device.close()


def describe(gpu: str | None = None) -> dict[str, str]:
    """Return processor, system and cores, and under ``device`` the GPU if one is used."""
    return {
        **({} if gpu is None else {"device": gpu}),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": str(os.cpu_count()),
    }


def cpu_seconds() -> tuple[float, float] | None:
    """Return the CPU seconds used by all processes and by this one; None if the system does not tell.

    This process's time includes child processes that have ended, such as decoders.
    """
    try:
        fields = [int(x) for x in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    except OSError:
        return None
    own = os.times()
    busy = sum(fields) - fields[3] - fields[4]  # except idle and waiting for a disk
    return busy / os.sysconf("SC_CLK_TCK"), own.user + own.system + own.children_user + own.children_system


def others_share(before: tuple[float, float] | None, after: tuple[float, float] | None) -> float | None:
    """Return the CPU time of other processes divided by this one's between two readings; None if unknown."""
    if before is None or after is None:
        return None
    own = max(after[1] - before[1], 1e-9)
    return round(max(0.0, (after[0] - before[0] - own) / own), 3)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed computing packages."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
