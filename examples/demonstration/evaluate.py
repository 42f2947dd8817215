"""Measure the demonstration network: accuracy, multiply-adds and time along the route against the full run.

``evaluate.py BUNDLE CALIBRATION_CSV TEST_CSV [--json OUT]``. Thresholds come from the calibration clips alone.
"""

import argparse
import csv
import json
import platform
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from dynvid.calibration.thresholds import exits, geometric_thresholds
from dynvid.grid.bundle import Bundle
from dynvid.grid.thresholds import Thresholds
from dynvid.runtime.backends.base import open_backend
from dynvid.runtime.decoder import Decoder
from dynvid.runtime.session import ArraySource, Session
from dynvid.training.clips import CLASSES, LATE, LOOK_ALIKES

MAX_DROP = 0.007  # of accuracy on the calibration clips: 1 point less a margin of 0.3
RATIOS = [i / 20 for i in range(1, 60)]  # q of the geometric exit distribution


@dataclass
class Scores:
    """Every checkpoint's logits, [checkpoints, videos, classes], and the rows of the list."""

    logits: np.ndarray
    labels: np.ndarray
    rows: list[dict[str, str]]

    @property
    def confidences(self) -> np.ndarray:
        e = np.exp(self.logits - self.logits.max(-1, keepdims=True))
        return (e / e.sum(-1, keepdims=True)).max(-1)

    def accuracy(self, chosen=None) -> float:
        """Return the accuracy at exits ``chosen`` (zero-based), or at the last one."""
        chosen = np.full(len(self.labels), len(self.logits) - 1) if chosen is None else chosen
        return float((self.logits[chosen, np.arange(len(self.labels))].argmax(-1) == self.labels).mean())


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{**row, "video": str(path.parent / row["video"])} for row in csv.DictReader(file)]


def load_frames(bundle: Bundle, path: Path) -> tuple[np.ndarray, list[dict[str, str]]]:
    """Return the preprocessed frames of a list in temporal order, [videos, l, 3, crop, crop], and its rows."""
    rows, manifest = read_rows(path), bundle.manifest
    frames = []
    with Decoder() as decoder:
        for row in rows:
            with decoder.open(row["video"], manifest.preprocessing, manifest.grid.num_frames) as source:
                frames.append(source.read(range(manifest.grid.num_frames)))
    return np.stack(frames), rows


def score(session: Session, frames: np.ndarray, rows: list[dict[str, str]], shuffle: bool = False) -> Scores:
    """Return the scores of every checkpoint; with ``shuffle``, of the same frames in a random order each."""
    rng = np.random.default_rng(0)
    logits = []
    for clip in frames:
        clip = clip[rng.permutation(len(clip))] if shuffle else clip
        logits.append(np.stack(session.classify(ArraySource(clip), trace=True).logits))
    return Scores(np.stack(logits, 1), np.array([CLASSES.index(row["label"]) for row in rows]), rows)


def choose(scores: Scores, macs: np.ndarray) -> tuple[float, tuple[float | None, ...]]:
    """Return the ratio q and thresholds of least mean cost that lose at most MAX_DROP on these videos."""
    best = None
    for q in RATIOS:
        thresholds = geometric_thresholds(scores.confidences, q)
        chosen = exits(scores.confidences, thresholds)
        cost, drop = macs[chosen].mean(), scores.accuracy() - scores.accuracy(chosen)
        if drop <= MAX_DROP and (best is None or cost < best[0]):
            best = (cost, q, thresholds)
    if best is None:
        raise SystemExit(f"no q loses less than {MAX_DROP} of accuracy: train longer")
    return best[1], best[2]


def among(scores: Scores, group: tuple[str, ...], checkpoint: int, only=None) -> float:
    """Return the accuracy among look-alikes: videos of the group, classes of the group."""
    indices = [CLASSES.index(name) for name in group]
    mask = np.isin(scores.labels, indices)
    if only is not None:
        mask &= np.array([only(row) for row in scores.rows])
    guess = np.array(indices)[scores.logits[checkpoint - 1][mask][:, indices].argmax(-1)]
    return float((guess == scores.labels[mask]).mean())


def is_late(row: dict[str, str]) -> bool:
    return bool(row["event"]) and float(row["event"]) > LATE


def measure_time(dynamic: Session, full: Session, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the compute milliseconds of every video along the route and in full, taken in turn."""
    times = []
    for clip in frames:
        times.append([session.classify(ArraySource(clip)).latency_ms for session in (dynamic, full)])
    return np.array(times).T


def evaluate(bundle: Bundle, calibration: Path, test: Path) -> tuple[dict, Thresholds]:
    backend = open_backend("onnxruntime", 1)
    route, costs = bundle.manifest.route, bundle.manifest.costs
    macs = np.array([costs.checkpoint(route, k) for k in range(1, len(route.cells) + 1)])
    full_macs = costs.checkpoint(route.full, 1)
    traced = Session(bundle, backend)
    q, values = choose(score(traced, *load_frames(bundle, calibration)), macs)
    thresholds = Thresholds(bundle.sha256, values, q)

    frames, rows = load_frames(bundle, test)
    scores, shuffled = score(traced, frames, rows), score(traced, frames, rows, shuffle=True)
    chosen = exits(scores.confidences, values)
    dynamic, full = Session(bundle, backend, values), Session(bundle, backend, route=route.full)
    measure_time(dynamic, full, frames[:50])  # warm-up
    dynamic_ms, full_ms = measure_time(dynamic, full, frames)
    motion, endings = [g for g in LOOK_ALIKES if not g[0].startswith("falls")], LOOK_ALIKES[-1]
    by_name = lambda g: "/".join(g)  # noqa: E731
    report = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.processor() or platform.machine()}, 1 thread",
        "versions": {name: version(name) for name in ("dynvid", "onnxruntime", "av", "numpy")},
        "clips": {"calibration": len(read_rows(calibration)), "test": len(rows)},
        "q": q,
        "thresholds": list(values),
        "accuracy_per_checkpoint": [scores.accuracy(np.full(len(rows), k)) for k in range(len(macs))],
        "accuracy_full": scores.accuracy(),
        "accuracy_dynamic": scores.accuracy(chosen),
        "shares": np.bincount(chosen, minlength=len(macs)) / len(rows),
        "mean_gmacs": macs[chosen].mean() / 1e9,
        "full_gmacs": full_macs / 1e9,
        "macs_ratio": macs[chosen].mean() / full_macs,
        "dynamic_ms_mean": dynamic_ms.mean(),
        "full_ms_mean": full_ms.mean(),
        "dynamic_ms_median": np.median(dynamic_ms),
        "full_ms_median": np.median(full_ms),
        "time_ratio": dynamic_ms.mean() / full_ms.mean(),
        "shuffled_among_look_alikes": {by_name(g): [among(shuffled, g, 6), 1 / len(g)] for g in motion},
        "in_order_among_look_alikes": {by_name(g): [among(scores, g, 6), 1 / len(g)] for g in LOOK_ALIKES},
        "late_endings_at_checkpoint_5": [among(scores, endings, 5, is_late), 1 / len(endings)],
        "early_endings_at_checkpoint_5": [among(scores, endings, 5, lambda row: not is_late(row)), 1 / len(endings)],
        "late_endings_at_checkpoint_6": [among(scores, endings, 6, is_late), 1 / len(endings)],
    }
    plain = json.loads(json.dumps(report, default=lambda v: v.tolist()))
    return plain, thresholds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--thresholds", type=Path, help="T.json to write")
    arguments = parser.parse_args()
    started = time.monotonic()
    report, thresholds = evaluate(Bundle.open(arguments.bundle), arguments.calibration, arguments.test)
    report["seconds"] = round(time.monotonic() - started, 1)
    text = json.dumps(report, indent=1)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    if arguments.thresholds:
        thresholds.write(arguments.thresholds)
    print(text)


if __name__ == "__main__":
    main()
