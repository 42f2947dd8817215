"""What each preparation of a CPU backend's engines is worth: ``preparations.py BUNDLE [THREADS [ROUNDS]] ...``, see ``--help``.

Every segment and the static network are prepared in several ways and called in turn, in an order drawn anew each round, in one
process: as fused; rewritten; for onnxruntime also blocked, as its engines are; and so without each rewrite that is named, such as
``--without im2col_frames``. With ``--plain TRAINING``, ``full`` is also timed without shift, as PyTorch exports it.

Printed are medians in milliseconds, and the median of each over the first in the same round; with one thread, of CPU time, which
other processes disturb less. ``q = 1.2`` is the mean of a video, of the segments' medians, if exits follow that q. So many graphs in
turn find cold caches: read ratios.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from dynvid.calibration.choosing.thresholds import exit_quotas
from dynvid.exporter.engines.jobs import EXPECTED_Q
from dynvid.exporter.graphs.fuse import fuse
from dynvid.exporter.graphs.optimise import optimise
from dynvid.exporter.graphs.rewrites import REWRITES, rewrite
from dynvid.exporter.graphs.uint8_activations import uint8_activations
from dynvid.exporter.split.unshifted import unshifted
from dynvid.grid.bundle import Bundle
from dynvid.grid.manifest import graphs_of
from dynvid.grid.segments import FusedSegment, fused_full, fused_segments
from dynvid.models.layouts import load_training_checkpoint
from dynvid.runtime.backends.registry import open_backend

PLAIN = "without shift, as exported"


def preparations(backend: str, without: list[str]) -> dict[str, Callable[[bytes], bytes]]:
    """Return the preparations of a backend's graphs by name."""
    every = REWRITES[backend]
    if backend == "openvino":
        found = {
            "as fused": lambda graph: rewrite(graph, (uint8_activations,)),
            "rewritten": lambda graph: rewrite(graph, every),
        }
    else:
        found = {
            "as fused": lambda graph: optimise(graph, blocked=False),
            "rewritten": lambda graph: optimise(rewrite(graph, every), blocked=False),
            "and blocked": lambda graph: optimise(rewrite(graph, every)),
        }
    last = optimise if backend == "onnxruntime" else bytes
    for name in without:
        kept = [one for one in every if one.__name__ != name]
        if len(kept) == len(every):
            raise SystemExit(f"--without {name}: expected one of {', '.join(one.__name__ for one in every)}")
        found[f"without {name}"] = lambda graph, kept=kept: last(rewrite(graph, kept))
    return found


def plain(training: Path, segment: FusedSegment) -> tuple[bytes, FusedSegment]:
    """Return the static network without shift as PyTorch exports it, and its ports."""
    logits = tuple(spec for spec in segment.outputs if spec.name == "logits")
    return unshifted(load_training_checkpoint(training).network), replace(segment, outputs=logits)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("threads", type=int, nargs="?", default=2)
    parser.add_argument("rounds", type=int, nargs="?", default=20)
    parser.add_argument("--backend", choices=tuple(REWRITES), default="onnxruntime")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--without", action="append", default=[], metavar="REWRITE")
    parser.add_argument(
        "--plain", type=Path, metavar="TRAINING", help="the training checkpoint, whose `full` is timed without shift"
    )
    asked = parser.parse_args()
    bundle, graphs = Bundle.open(asked.bundle), graphs_of(asked.precision)
    prepare, full = preparations(asked.backend, asked.without), fused_full(bundle.manifest, graphs)
    segments = fused_segments(bundle.manifest, graphs)
    backend, rng, calls = (
        open_backend(asked.backend, asked.threads, precision=asked.precision),
        np.random.default_rng(0),
        {},
    )
    now = time.process_time if asked.threads == 1 else time.perf_counter

    def add(segment: FusedSegment, name: str, content: bytes) -> None:
        inputs = {s.name: rng.standard_normal(s.concrete(1, 1)).astype(s.dtype) for s in segment.inputs}
        outputs = {s.name: np.zeros(s.concrete(1, 1), s.dtype) for s in segment.outputs}
        calls[segment.name, name] = backend.load(content, segment, segment.name).prepare(inputs, outputs)
        calls[segment.name, name]()

    for segment in (*segments, full):
        graph = fuse(bundle, segment, graphs)
        for name, prepared in prepare.items():
            add(segment, name, prepared(graph))
    if asked.plain is not None:
        content, segment = plain(asked.plain, full)
        add(segment, PLAIN, content)
    keys, ms = list(calls), {key: list[float]() for key in calls}
    for _ in range(asked.rounds):
        for place in rng.permutation(len(keys)).tolist():
            started = now()
            calls[keys[place]]()
            ms[keys[place]].append((now() - started) * 1e3)
    for name in prepare:  # a video's mean
        enter = 1 - np.cumsum([0, *exit_quotas(EXPECTED_Q, len(segments), 10**6)[:-1]]) / 10**6
        ms["q = 1.2", name] = list(
            sum(share * np.array(ms[s.name, name]) for share, s in zip(enter, segments, strict=True))
        )
    for (part, name), own in ms.items():
        first = ms[part, next(iter(prepare))]
        ratio = statistics.median(mine / other for mine, other in zip(own, first, strict=True))
        print(f"{part:9} {name:26} {statistics.median(own):7.1f} ms  {ratio:.3f}", flush=True)


if __name__ == "__main__":
    main()
