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

from dynvid.calibration.calibrate import calibrate
from dynvid.calibration.choosing.request import Request
from dynvid.calibration.choosing.sweep import costs_of
from dynvid.calibration.choosing.thresholds import ChosenExits, exits
from dynvid.calibration.scores.scores import Scores, check_scores
from dynvid.grid.bundle import Bundle
from dynvid.grid.thresholds import Thresholds
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.session import ArraySource, Session
from dynvid.runtime.video.decoder import Decoder
from dynvid.training.clips import CLASSES, LATE, LOOK_ALIKES

MAX_DROP = 0.007  # of accuracy on the calibration clips: 1 point less a margin of 0.3


@dataclass
class Traced:
    """Every checkpoint's probabilities, [checkpoints, videos, classes], and the rows of the list."""

    probabilities: np.ndarray
    labels: np.ndarray
    rows: list[dict[str, str]]

    @property
    def confidences(self) -> np.ndarray:
        return self.probabilities.max(-1)

    def accuracy(self, chosen=None) -> float:
        """Return the accuracy at exits ``chosen`` (zero-based), or at the last one."""
        chosen = np.full(len(self.labels), len(self.probabilities) - 1) if chosen is None else chosen
        return float((self.probabilities[chosen, np.arange(len(self.labels))].argmax(-1) == self.labels).mean())


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


def trace(session: Session, frames: np.ndarray, rows: list[dict[str, str]], shuffle: bool = False) -> Traced:
    """Return the answers of every checkpoint; with ``shuffle``, of the same frames in a random order each."""
    rng = np.random.default_rng(0)
    found = []
    for clip in frames:
        clip = clip[rng.permutation(len(clip))] if shuffle else clip
        found.append(np.stack(session.classify(ArraySource(clip), trace=True).probabilities))
    return Traced(np.stack(found, 1), np.array([CLASSES.index(row["label"]) for row in rows]), rows)


def choose(traced: Traced, macs: np.ndarray) -> ChosenExits:
    """Return the thresholds of least mean cost that lose at most MAX_DROP on these videos."""
    scores = check_scores(Scores(traced.probabilities, traced.labels, macs), "calibration clips")
    request = Request(max_drop=MAX_DROP, share=1.0)  # all of them choose; others evaluate
    return calibrate(scores, costs_of(scores.macs, None, len(macs)), request).exits


def among(traced: Traced, group: tuple[str, ...], checkpoint: int, only=None) -> float:
    """Return the accuracy among look-alikes: videos of the group, classes of the group."""
    indices = [CLASSES.index(name) for name in group]
    mask = np.isin(traced.labels, indices)
    if only is not None:
        mask &= np.array([only(row) for row in traced.rows])
    guess = np.array(indices)[traced.probabilities[checkpoint - 1][mask][:, indices].argmax(-1)]
    return float((guess == traced.labels[mask]).mean())


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
    session = Session.open(bundle, backend)
    found = choose(trace(session, *load_frames(bundle, calibration)), macs)
    thresholds = Thresholds(bundle.sha256, found.thresholds, found.q, rule=found.rule)

    frames, rows = load_frames(bundle, test)
    traced, shuffled = trace(session, frames, rows), trace(session, frames, rows, shuffle=True)
    chosen = exits(traced.confidences, found.thresholds)
    dynamic, full = Session.open(bundle, backend, found.thresholds), Session.open(bundle, backend, route=route.full)
    measure_time(dynamic, full, frames[:50])  # warm-up
    dynamic_ms, full_ms = measure_time(dynamic, full, frames)
    motion, endings = [g for g in LOOK_ALIKES if not g[0].startswith("falls")], LOOK_ALIKES[-1]
    by_name = lambda g: "/".join(g)  # noqa: E731
    report = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.processor() or platform.machine()}, 1 thread",
        "versions": {name: version(name) for name in ("dynvid", "onnxruntime", "av", "numpy")},
        "clips": {"calibration": len(read_rows(calibration)), "test": len(rows)},
        "rule": found.rule,
        "thresholds": list(found.thresholds),
        "accuracy_per_checkpoint": [traced.accuracy(np.full(len(rows), k)) for k in range(len(macs))],
        "accuracy_full": traced.accuracy(),
        "accuracy_dynamic": traced.accuracy(chosen),
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
        "in_order_among_look_alikes": {by_name(g): [among(traced, g, 6), 1 / len(g)] for g in LOOK_ALIKES},
        "late_endings_at_checkpoint_5": [among(traced, endings, 5, is_late), 1 / len(endings)],
        "early_endings_at_checkpoint_5": [among(traced, endings, 5, lambda row: not is_late(row)), 1 / len(endings)],
        "late_endings_at_checkpoint_6": [among(traced, endings, 6, is_late), 1 / len(endings)],
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
