"""What each preparation of onnxruntime's engines is worth: ``preparations.py BUNDLE [THREADS [ROUNDS [REWRITE ...]]]``.

Every segment and the static network are prepared in several ways and called in turn, in an order drawn anew each round, in one
process: as fused; rewritten; and blocked, as engines are; and so without each REWRITE that is named, such as ``im2col_frames``. Printed
are medians in milliseconds, and the median of each over the first in the same round. So many graphs in turn find cold caches: read
ratios.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dynvid.exporter.graphs.fuse import fuse
from dynvid.exporter.graphs.optimise import optimise
from dynvid.exporter.graphs.rewrites import REWRITES, rewrite
from dynvid.grid.bundle import Bundle
from dynvid.grid.segments import fused_full, fused_segments
from dynvid.runtime.backends.registry import open_backend

PREPARATIONS: dict[str, Callable[[bytes], bytes]] = {
    "as fused": lambda graph: optimise(graph, blocked=False),
    "rewritten": lambda graph: optimise(rewrite(graph), blocked=False),
    "and blocked": lambda graph: optimise(rewrite(graph)),
}


def without(name: str) -> Callable[[bytes], bytes]:
    """Return the preparation of an engine without one rewrite."""
    kept = [one for one in REWRITES if one.__name__ != name]
    if len(kept) == len(REWRITES):
        sys.exit(f"rewrite {name!r}: expected one of {', '.join(one.__name__ for one in REWRITES)}")
    return lambda graph: optimise(rewrite(graph, kept))


def main() -> None:
    bundle, threads = Bundle.open(Path(sys.argv[1])), int(sys.argv[2]) if len(sys.argv) > 2 else 2
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 20
    preparations = PREPARATIONS | {f"without {name}": without(name) for name in sys.argv[4:]}
    backend, rng, calls = open_backend("onnxruntime", threads), np.random.default_rng(0), {}
    segments = (*fused_segments(bundle.manifest, "fp32"), fused_full(bundle.manifest, "fp32"))
    for segment in segments:
        graph = fuse(bundle, segment, "fp32")
        inputs = {s.name: rng.standard_normal(s.concrete(1, 1)).astype(s.dtype) for s in segment.inputs}
        for name, prepare in preparations.items():
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
        first = ms[segment.name, next(iter(preparations))]
        for name in preparations:
            own = ms[segment.name, name]
            ratio = statistics.median(mine / other for mine, other in zip(own, first, strict=True))
            print(f"{segment.name:9} {name:24} {statistics.median(own):7.1f} ms  {ratio:.3f}", flush=True)


if __name__ == "__main__":
    main()
