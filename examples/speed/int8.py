"""What INT8 is worth on this CPU: ``int8.py BUNDLE [THREADS [ROUNDS]]``, of a bundle that ``dynvid quantize`` wrote.

Every block (all frames), segment and the static network runs on onnxruntime and OpenVINO, in fp32, bf16 and INT8, one video of noise a
call. All are called in turn in one process, in an order drawn anew each round; printed are medians in milliseconds as Markdown, and the
best INT8 time over the best of fp32 and of all others. So many graphs in turn find cold caches: read ratios.
"""

import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dynvid.exporter.engines.makers import for_onnxruntime, for_openvino
from dynvid.exporter.graphs.fuse import fuse
from dynvid.exporter.graphs.rewrites import rewrite
from dynvid.exporter.graphs.uint8_activations import uint8_activations
from dynvid.grid.bundle import Bundle
from dynvid.grid.segments import fused_full, fused_segments
from dynvid.grid.tensors import Ports
from dynvid.runtime.backends.registry import open_backend

BACKENDS = {
    "onnxruntime fp32": ("onnxruntime", "fp32"),
    "onnxruntime INT8": ("onnxruntime", "int8"),
    "OpenVINO fp32": ("openvino", "fp32"),
    "OpenVINO bf16": ("openvino", "bf16"),
    "OpenVINO INT8": ("openvino", "int8"),
    "OpenVINO INT8, the rest bf16": ("openvino", "int8-bf16"),
}


def graphs(bundle: Bundle, backend: str, precision) -> Iterator[tuple[str, Ports, bytes]]:
    """Yield name, ports and content of what is timed."""
    for subgraph in bundle.manifest.subgraphs:
        variant = subgraph.variant(precision)
        if subgraph.kind == "block":
            yield subgraph.name, variant, rewrite(bundle.read(variant), (uint8_activations,))
    prepare = for_onnxruntime if backend == "onnxruntime" else for_openvino
    for segment in (*fused_segments(bundle.manifest, precision), fused_full(bundle.manifest, precision)):
        yield segment.name, segment, prepare(fuse(bundle, segment, precision))


def main() -> None:
    bundle, threads = Bundle.open(Path(sys.argv[1])), int(sys.argv[2]) if len(sys.argv) > 2 else 2
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 20
    frames, calls = bundle.manifest.grid.num_frames, {}
    for column, (name, precision) in BACKENDS.items():
        backend, noise = open_backend(name, threads, precision=precision), np.random.default_rng(0)
        for part, ports, content in graphs(bundle, name, precision):
            inputs = {s.name: noise.standard_normal(s.concrete(1, frames)).astype(s.dtype) for s in ports.inputs}
            outputs = {s.name: np.zeros(s.concrete(1, frames), s.dtype) for s in ports.outputs}
            call = backend.load(content, ports, part).prepare(inputs, outputs)
            call()
            calls[part, column] = call
    keys, ms, order = list(calls), {key: list[float]() for key in calls}, np.random.default_rng(1)
    for _ in range(rounds):
        for place in order.permutation(len(keys)).tolist():
            started = time.perf_counter()
            calls[keys[place]]()
            ms[keys[place]].append((time.perf_counter() - started) * 1e3)
    print("| |", *(f"{column} |" for column in BACKENDS), "INT8 over fp32 | over the best other |")
    print("|---" * (len(BACKENDS) + 3) + "|")
    for part in dict.fromkeys(part for part, _ in keys):
        medians = {column: statistics.median(ms[part, column]) for column in BACKENDS}
        best = {kind: min(found for column, found in medians.items() if kind in column) for kind in ("INT8", "fp32")}
        other = min(found for column, found in medians.items() if "INT8" not in column)
        print(
            f"| {part} |",
            *(f"{found:.1f} |" for found in medians.values()),
            f"{best['INT8'] / best['fp32']:.2f} | {best['INT8'] / other:.2f} |",
        )


if __name__ == "__main__":
    main()
