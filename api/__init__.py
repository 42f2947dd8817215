"""The Python interface: one function per command, and ``load``, by subject. Each imports what it needs when it is called.

What they do is told to the logger ``dynvid``: steps as INFO, counts and details as DEBUG.
"""

from ..runtime.open_model import open_model as load
from .bundles import export, plan, quantize, verify
from .engines import build_engines, doctor
from .pages import explain, report
from .serving import export_triton, serve
from .speed import bench, time
from .thresholds import calibrate, drift
from .training import data, train
from .videos import classify_on_ray, merge

__all__ = [
    "bench", "build_engines", "calibrate", "classify_on_ray", "data", "doctor", "drift", "explain", "export",
    "export_triton", "load", "merge", "plan", "quantize", "report", "serve", "time", "train", "verify",
]  # fmt: skip
