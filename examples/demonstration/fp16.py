"""Prove fp16 on the demonstration network: ``fp16.py FOLDER [--clips N] [--json OUT]``.

The reference is the plain PyTorch network in fp32, one video alone. Thresholds come from the fp32 bundle on N other clips.
Clips and bundle are kept in FOLDER (``calibration``, ``test``, ``bundle``). Prints Markdown (docs/lab/demonstration.md).
"""

import argparse
import json
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from evaluate import choose, load_frames, trace

from dynvid.calibration.choosing.thresholds import ThresholdVector, exits
from dynvid.exporter.export import export
from dynvid.exporter.split.subgraphs import SubgraphModule, split
from dynvid.grid.bundle import Bundle
from dynvid.grid.storage.files import sha256_of
from dynvid.models.layouts import load_training_checkpoint
from dynvid.models.network import VideoNetwork
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.execution.composed import frame_weights
from dynvid.runtime.session import ArraySource, Session
from dynvid.training.clips import CLASSES, write_clips

CHECKPOINT = Path(__file__).with_name("network.pth")
SEEDS = {"calibration": 3, "test": 4}

Run = Callable[[np.ndarray], np.ndarray]
"""From one clip's frames, [l, 3, crop, crop], to the logits of every checkpoint, [checkpoints, classes]."""


def reference(network: VideoNetwork) -> Run:
    order = list(network.grid.frame_order)
    return lambda clip: torch.cat(network(torch.from_numpy(clip[order])[None])).numpy()


def session_of(bundle: Bundle, precision) -> Run:
    session = Session.open(bundle, open_backend("onnxruntime", 1), precision=precision)
    return lambda clip: np.stack(session.classify(ArraySource(clip), trace=True).logits)


def half_modules(network: VideoNetwork, bundle: Bundle) -> Run:
    """Return the fp16 set's modules, run by PyTorch: what a layer hands to the next one is rounded to half precision."""
    manifest = bundle.manifest
    order, size = list(manifest.grid.frame_order), manifest.grid.frames_per_set
    parts = split(network, "fp16", manifest.fp32_only)

    def inputs(part: SubgraphModule, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        empty = part.inputs[len(given) :]  # states at the start of a video
        return *given, *(torch.zeros(s.concrete(1, 1), dtype=getattr(torch, s.dtype)) for s in empty)

    def run(clip: np.ndarray) -> np.ndarray:
        features = (torch.from_numpy(clip[order])[None].to(getattr(torch, parts[0].inputs[0].dtype)),)
        last: dict[str, tuple[SubgraphModule, torch.Tensor]] = {}
        for part in parts:
            if part.kind == "block":
                outputs = part.module(*inputs(part, features))
                features = outputs[: len(outputs) - len(part.states)]
            else:
                last[part.name] = (part, features[-1])
        logits = []
        for name, cell in zip(manifest.heads, manifest.route.cells, strict=True):
            (part, feature), seen = last[name], (cell.input_set + 1) * size
            row = inputs(part, (feature[:, :seen],))[:2]
            logits.append(part.module(*row, torch.from_numpy(frame_weights(seen, len(order))))[0][0].numpy())
        return np.stack(logits)

    return run


def compare(expected: np.ndarray, found: np.ndarray, labels: np.ndarray, thresholds: ThresholdVector) -> dict:
    """Return what differs between two runs' logits, [videos, checkpoints, classes].

    A video that leaves at another checkpoint is a flip; its distance is that of the reference's confidence from the threshold
    which the two runs answer differently.
    """
    videos, deviation = np.arange(len(labels)), np.abs(found - expected)
    confidences = [softmax(z).max(2).T for z in (expected, found)]
    exit_of = [exits(c, thresholds) for c in confidences]
    classes = [z[videos, k].argmax(1) for z, k in zip((expected, found), exit_of, strict=True)]
    flips = np.flatnonzero(exit_of[0] != exit_of[1])
    at = np.minimum(*exit_of)[flips]
    limits = np.array([thresholds[k] for k in at], float)
    return {
        "videos": len(labels),
        "exits_agree": len(labels) - len(flips),
        "flip_distances": np.abs(confidences[0][at, flips] - limits).tolist(),
        "classes_agree": int((classes[0] == classes[1]).sum()),
        "accuracy_reference": float((classes[0] == labels).mean()),
        "accuracy": float((classes[1] == labels).mean()),
        "largest_deviation": float(deviation.max()),
        "largest_deviation_in_std": float((deviation.max((0, 2)) / expected.std(2).mean(0)).max()),
    }


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@torch.no_grad()
def measure(folder: Path, clips: int) -> dict:
    network, root = load_training_checkpoint(CHECKPOINT).network, folder / "bundle"
    lists = {name: folder / name / "clips.csv" for name in SEEDS}
    for name, path in lists.items():
        if not path.exists():
            write_clips(path.parent, clips, SEEDS[name])
    bundle = Bundle.open(root) if root.exists() else export(network, root, source_sha256=sha256_of(CHECKPOINT))
    costs, route = bundle.manifest.costs, bundle.manifest.route
    macs = np.array([costs.checkpoint(route, k) for k in range(1, len(route.cells) + 1)])
    session = Session.open(bundle, open_backend("onnxruntime", 1))
    chosen = choose(trace(session, *load_frames(bundle, lists["calibration"])), macs)
    frames, rows = load_frames(bundle, lists["test"])
    if len(rows) != clips:
        raise SystemExit(f"{str(lists['test'])!r} lists {len(rows)} clips, {clips} are asked for: give another FOLDER")
    labels = np.array([CLASSES.index(row["label"]) for row in rows])
    runs = {
        "fp32 bundle, onnxruntime CPU": session_of(bundle, "fp32"),
        "fp16 bundle, onnxruntime CPU (fp16 storage, fp32 arithmetic)": session_of(bundle, "fp16"),
        "fp16 modules, PyTorch CPU (fp16 storage, every layer's result in fp16)": half_modules(network, bundle),
    }
    expected = np.stack([reference(network)(clip) for clip in frames])
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.processor() or platform.machine()}, 1 thread",
        "versions": {name: version(name) for name in ("dynvid", "torch", "onnxruntime", "av", "numpy")},
        "fp32_only": list(bundle.manifest.fp32_only),
        "q": chosen.q,
        "rule": chosen.rule,
        "thresholds": list(chosen.thresholds),
        "executors": {
            name: compare(expected, np.stack([run(clip) for clip in frames]), labels, chosen.thresholds)
            for name, run in runs.items()
        },
    }


def table(report: dict) -> str:
    lines = [
        f"{report['rule']} thresholds; kept in fp32: {', '.join(report['fp32_only']) or 'nothing'}; {report['machine']}; "
        f"{report['date']}; " + ", ".join(f"{name} {number}" for name, number in report["versions"].items()),
        "",
        "| executor | exits agree | flips: farthest from the threshold | classes agree | accuracy (reference) | largest logit deviation |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in report["executors"].items():
        flips, videos = row["flip_distances"], row["videos"]
        lines.append(
            f"| {name} | {row['exits_agree']} of {videos} ({row['exits_agree'] / videos:.2%}) "
            f"| {f'{len(flips)}: {max(flips):.1e}' if flips else 'none'} | {row['classes_agree']} of {videos} "
            f"| {row['accuracy']:.2%} ({row['accuracy_reference']:.2%}) "
            f"| {row['largest_deviation']:.1e} ({row['largest_deviation_in_std']:.1e} standard deviations) |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=2000, help="to choose on, and as many others to compare on")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report = measure(arguments.folder, arguments.clips)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))


if __name__ == "__main__":
    main()
