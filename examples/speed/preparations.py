"""What each preparation of onnxruntime's engines is worth: ``preparations.py BUNDLE [THREADS [ROUNDS]]``.

Every segment and the static network are prepared in several ways and called in turn, in an order drawn anew each round, in one
process; printed are medians in milliseconds, and each over the first. So many graphs in turn find cold caches: read ratios.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dynvid.exporter.fuse import fuse
from dynvid.exporter.join_frames import join_frames
from dynvid.exporter.optimise import optimise
from dynvid.exporter.rewrites import REWRITES, rewrite
from dynvid.grid.bundle import Bundle
from dynvid.grid.fusion import fused_full, fused_segments
from dynvid.runtime.backends.base import open_backend

FRAMES_APART = tuple(one for one in REWRITES if one is not join_frames)
PREPARATIONS: dict[str, Callable[[bytes], bytes]] = {
    "as fused": lambda graph: optimise(graph, blocked=False),
    "rewritten, frames apart": lambda graph: optimise(rewrite(graph, FRAMES_APART), blocked=False),
    "and joined": lambda graph: optimise(rewrite(graph), blocked=False),
    "and blocked": lambda graph: optimise(rewrite(graph)),
}


def main() -> None:
    bundle, threads = Bundle.open(Path(sys.argv[1])), int(sys.argv[2]) if len(sys.argv) > 2 else 2
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 20
    backend, rng, calls = open_backend("onnxruntime", threads), np.random.default_rng(0), {}
    segments = (*fused_segments(bundle.manifest, "fp32"), fused_full(bundle.manifest, "fp32"))
    for segment in segments:
        graph = fuse(bundle, segment, "fp32")
        inputs = {s.name: rng.standard_normal(s.concrete(1, 1)).astype(s.dtype) for s in segment.inputs}
        for name, prepare in PREPARATIONS.items():
            outputs = {s.name: np.zeros(s.concrete(1, 1), s.dtype) for s in segment.outputs}
            call = backend.load(prepare(graph), segment, segment.name).prepare(inputs, outputs)
            call()
            calls[segment.name, name] = call
    keys, ms = list(calls), {key: list[float]() for key in calls}
    for _ in range(rounds):
        for place in rng.permutation(len(keys)).tolist():
            started = time.perf_counter()
            calls[keys[place]]()
            ms[keys[place]].append((time.perf_counter() - started) * 1e3)
    for segment in segments:
        medians = {name: statistics.median(ms[segment.name, name]) for name in PREPARATIONS}
        first = next(iter(medians.values()))
        print(segment.name, *(f"{name} {found:.1f} ({found / first:.3f})" for name, found in medians.items()), sep="  ")


if __name__ == "__main__":
    main()
