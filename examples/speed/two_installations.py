"""Time of one video in two installations, processes in turn: ``two_installations.py BEFORE AFTER BUNDLE [PROCESSES [ROUNDS]]``.

BEFORE and AFTER are folders that hold the package ``dynvid``; each builds engines of its own in a temporary folder. For the route
and the static network on engines, and for the route on cells, pairs of processes take turns video by video, one at rest while the
other computes. Printed is the median of the ratios, after to before, and its 95 % interval over all rounds (bootstrap, 4,000 draws).
"""

import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REST_S = 0.4  # before each turn: threads of the other process may still spin
MODES = ("route", "static", "cells")


def child(bundle_path: str, mode: str, engines: str) -> None:
    import numpy as np

    from dynvid.grid.bundle import Bundle
    from dynvid.runtime.session import ArraySource, Session

    try:
        from dynvid.runtime.backends.registry import open_backend
        from dynvid.runtime.execution.engine_lookup import open_engines
    except ImportError:  # before the files moved
        from dynvid.runtime.backends.base import open_backend
        from dynvid.runtime.engines import open_engines

    bundle, backend = Bundle.open(Path(bundle_path)), open_backend("onnxruntime")
    manifest = bundle.manifest
    open_session = getattr(Session, "open", Session)  # older commits have the class alone, and ``load``
    options = {"route": manifest.route.full} if mode == "static" else {}
    if mode != "cells":
        plan = open_engines(bundle, backend, Path(engines)).plan
        options["programs" if "programs" in inspect.signature(open_session).parameters else "load"] = plan
    session = open_session(bundle, backend, **options)
    size = manifest.preprocessing.crop
    shape = (manifest.grid.num_frames, 3, size, size)
    source = ArraySource(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    for _ in range(2):
        session.classify(source)
    print("ready", flush=True)
    for line in sys.stdin:
        times = [session.classify(source).latency_ms for _ in range(int(line))]
        print(json.dumps(statistics.median(times)), flush=True)


def start(installation: Path, *arguments: object) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, __file__, "--child", *map(str, arguments)], env=os.environ | {"PYTHONPATH": str(installation)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    if process.stdout.readline().strip() != "ready":
        raise SystemExit(f"{installation}: the process for {arguments} did not start")
    return process


def ask(process: subprocess.Popen, videos: int) -> float:
    time.sleep(REST_S)
    process.stdin.write(f"{videos}\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def main() -> None:
    import numpy as np

    installations, bundle = [Path(name).absolute() for name in sys.argv[1:3]], Path(sys.argv[3]).absolute()
    processes, rounds = (
        int(sys.argv[place]) if len(sys.argv) > place else default for place, default in ((4, 4), (5, 8))
    )
    with tempfile.TemporaryDirectory() as folder:
        engines = [Path(folder) / str(number) for number in range(2)]
        for installation, own in zip(installations, engines, strict=True):
            code = "import sys; from dynvid.cli import main; sys.argv[0] = 'dynvid'; main()"
            arguments = ["build-engines", bundle, "--backend", "onnxruntime", "--engines", own]
            subprocess.run(
                [sys.executable, "-c", code, *map(str, arguments)], env=os.environ | {"PYTHONPATH": str(installation)},
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        for mode in MODES:
            pairs: list[tuple[float, float]] = []
            for number in range(processes):
                order = (0, 1) if number % 2 else (1, 0)
                running = {k: start(installations[k], bundle, mode, engines[k]) for k in order}
                videos = max(1, int(50 / ask(running[0], 1)))  # some 50 ms a turn
                for turn in range(rounds):
                    took = {k: ask(running[k], videos) for k in ((0, 1) if turn % 2 else (1, 0))}
                    pairs.append((took[0], took[1]))
                for process in running.values():
                    process.stdin.close()
                    process.wait()
            before, after = np.array(pairs).T
            draws = np.random.default_rng(0).integers(0, len(pairs), (4000, len(pairs)))
            low, high = np.percentile(np.median((after / before)[draws], axis=1), [2.5, 97.5])
            print(f"{mode}: {np.median(before):.2f} ms before, {np.median(after):.2f} ms after, "
                  f"ratio {np.median(after / before):.3f} ({low:.3f} to {high:.3f})", flush=True)  # fmt: skip


if __name__ == "__main__":
    child(*sys.argv[2:]) if sys.argv[1] == "--child" else main()
