"""Cold start and peak memory of a bundle on onnxruntime: ``start.py BUNDLE [THREADS]``.

Each way to run it has processes of its own: the static network, the fused segments, the cells, and a stream. Printed are medians of three:
seconds from the start of the process to its first answer, those to load the graphs, and the most memory that it ever held.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

KINDS = ("static", "fused", "cells", "stream")


def child(bundle_path: str, kind: str, threads: int) -> None:
    import numpy as np

    from dynvid.grid.bundle import Bundle
    from dynvid.runtime.backends.registry import open_backend
    from dynvid.runtime.execution.capacity import Limits, open_executor
    from dynvid.runtime.execution.composed import CELLS
    from dynvid.runtime.execution.engine_lookup import open_engines
    from dynvid.runtime.session import ArraySource, Session
    from dynvid.runtime.stream.stream import Stream

    bundle = Bundle.open(Path(bundle_path))
    manifest = bundle.manifest
    backend = open_backend("onnxruntime", threads)
    engines = open_engines(bundle, backend)
    size = manifest.preprocessing.crop
    clip = np.random.default_rng(0).standard_normal((manifest.grid.num_frames, 3, size, size), np.float32)
    loading = time.perf_counter()
    if kind == "stream":
        with Stream(
            lambda: open_executor(bundle, backend, limits=Limits(batch=1)), cost=lambda k, n: float(n)
        ) as stream:
            loaded = time.perf_counter() - loading
            list(stream.classify([ArraySource(clip)]))
            first = time.time()
            list(stream.classify([ArraySource(clip) for _ in range(8)]))
    else:
        route = manifest.route.full if kind == "static" else None
        session = Session.open(bundle, backend, programs=CELLS if kind == "cells" else engines.plan, route=route)
        loaded = time.perf_counter() - loading
        session.classify(ArraySource(clip))
        first = time.time()
        for _ in range(4):
            session.classify(ArraySource(clip))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"first_s": first, "loaded_s": loaded, "peak_mb": peak / 1e6}))


def main() -> None:
    bundle, threads = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "2"
    print(f"{'':8}first answer, s  loading, s  peak, MB  over static")
    static = 0.0
    for kind in KINDS:
        rows = []
        for _ in range(3):
            started = time.time()
            done = subprocess.run(
                [sys.executable, __file__, bundle, threads, kind], stdout=subprocess.PIPE, text=True, check=True
            )
            row = json.loads(done.stdout)
            rows.append((row["first_s"] - started, row["loaded_s"], row["peak_mb"]))
        first, loaded, peak = (statistics.median(column) for column in zip(*rows, strict=True))
        static = static or peak
        print(f"{kind:8}{first:15.2f}{loaded:12.2f}{peak:10.0f}{peak / static:13.2f}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 3:
        child(sys.argv[1], sys.argv[3], int(sys.argv[2]))
    else:
        main()
