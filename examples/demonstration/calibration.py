"""Calibrate the demonstration network by the paper's rule, and measure what was promised: ``calibration.py FOLDER``.

Clips, bundle, times and scores are kept in FOLDER, so a second call takes a minute. Prints Markdown (docs/lab/calibration.md).
The seeds are fixed here: 10,000 clips that training never saw, of which the split gives 5,000 to each side.
"""

import csv
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from dynvid.benchmarks.measure.timing import measure
from dynvid.benchmarks.segment_times import read_timing
from dynvid.calibration.calibrate import calibrate, split
from dynvid.calibration.choosing.request import Request
from dynvid.calibration.choosing.sweep import Costs, costs_of
from dynvid.calibration.drift import compare
from dynvid.calibration.scores.scores import Scores
from dynvid.calibration.scores.scoring import score_videos
from dynvid.exporter.export import export
from dynvid.grid.bundle import Bundle
from dynvid.grid.storage.files import sha256_of
from dynvid.models.layouts import load_training_checkpoint
from dynvid.pages.calibration_curve import write_curve
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.exits import ExitRule
from dynvid.runtime.session import ArraySource, Session
from dynvid.runtime.video.decoder import Decoder
from dynvid.runtime.video.listing import ListedVideo, read_list
from dynvid.training.clips import write_clips

CLIPS, CLIPS_SEED, SPLIT_SEED = 10_000, 31, 0
NEW_CLIPS, NEW_SEED = 600, 32  # classified after calibration
TIMED, REPEATS = 1000, 5  # held-out clips on which thresholds are timed, and runs of each, of which the median counts
DRAWS = 200  # splits over which the interval's coverage is counted


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    listing = folder / "clips31" / "clips.csv"
    if not listing.exists():
        write_clips(listing.parent, CLIPS, CLIPS_SEED)
    checkpoint, root = Path(__file__).with_name("network.pth"), folder / "demo.bundle"
    if not root.exists():
        network = load_training_checkpoint(checkpoint).network
        export(network, root, source_sha256=sha256_of(checkpoint), precisions=("fp32",))
    bundle, backend, times = Bundle.open(root), open_backend("onnxruntime", 1), folder / "times.json"
    session, videos = Session.open(bundle, backend), read_list(listing)
    with Decoder() as decoder:
        scores = score_videos(session, videos, folder / "demo.npz", decoder)
    if not times.exists():
        measure(bundle, backend, 1, rounds=300, warmup=50).write(times)
    timing = read_timing(times, bundle)
    costs = costs_of(scores.macs, timing.checkpoint_ms(), len(scores.probabilities))
    print(f"{timing.machine['processor']}, 1 thread; {datetime.now(UTC):%Y-%m-%d}; " + ", ".join(
        f"{name} {version(name)}" for name in ("dynvid", "onnxruntime", "numpy", "av")
    ))  # fmt: skip
    print(f"{CLIPS} clips of seed {CLIPS_SEED}, split with seed {SPLIT_SEED}; bundle {bundle.sha256[:12]}")
    budgets(scores, costs)
    promises(scores, costs)
    temperatures(scores, costs)
    milliseconds(bundle, scores, costs, videos, backend)
    drift(bundle, scores, costs, folder, backend)
    critical = calibrate(scores, costs, Request(seed=SPLIT_SEED, rule="geometric"))
    write_curve(Path(__file__).parents[2] / "docs" / "lab" / "calibration_curve.svg", critical)
    curve(critical.report)


def percent(figures: dict, name: str) -> str:
    low, high = figures[f"{name}_interval"]
    return f"{figures[name]:.2%} ({low:.2%} to {high:.2%})"


def budgets(scores: Scores, costs: Costs) -> None:
    print(
        "\n| budget, GMACs | q | calibration mean | held-out mean (95 %) | interval of both draws | "
        f"of {DRAWS} splits it holds in | accuracy (95 %) |"
    )
    print("|---|---|---|---|---|---|---|")
    for budget in (0.03, 0.05, 0.07, 0.09, 0.11):
        r = calibrate(scores, costs, Request(budget=budget, seed=SPLIT_SEED, rule="geometric")).report
        low, high = r["mean_gmacs_interval"]
        wide_low, wide_high = r["budget"]["interval"]
        inside = "budget inside" if wide_low <= budget <= wide_high else "budget OUTSIDE"
        again = [
            calibrate(scores, costs, Request(budget=budget, seed=seed, rule="geometric")).report["budget"]["interval"]
            for seed in range(DRAWS)
        ]
        held = sum(low <= budget <= high for low, high in again)
        print(
            f"| {budget} | {r['q']:.4f} | {r['chosen_on']['mean_gmacs']:.5f} | {r['mean_gmacs']:.5f} ({low:.5f} to {high:.5f}) "
            f"| {wide_low:.5f} to {wide_high:.5f}: {inside} | {held} ({held / DRAWS:.1%}) | {percent(r, 'accuracy')} |"
        )


def promises(scores: Scores, costs: Costs) -> None:
    print("\n| promise | q | held-out drop (95 %) | mean GMACs | accuracy |")
    print("|---|---|---|---|---|")
    for bound, confidence in ((0.005, 0.9), (0.01, 0.9), (0.01, 0.99), (0.02, 0.9)):
        r = calibrate(
            scores, costs, Request(max_drop=bound, confidence=confidence, seed=SPLIT_SEED, rule="geometric")
        ).report
        print(
            f"| at most {bound:.1%} with {confidence:.0%} | {r['q']:.3f} | {percent(r, 'drop')} | {r['mean_gmacs']:.4f} "
            f"| {r['accuracy']:.2%} |"
        )


def temperatures(scores: Scores, costs: Costs) -> None:
    r = calibrate(scores, costs, Request(temperature=True, seed=SPLIT_SEED, rule="geometric")).report
    plain = calibrate(scores, costs, Request(seed=SPLIT_SEED, rule="geometric")).report
    print("\n| checkpoint | temperature | calibration error before | after |")
    print("|---|---|---|---|")
    for k, temperature in enumerate(r["temperatures"]):
        before, after = (r["reliability"][name][k]["ece"] for name in ("before", "after"))
        print(f"| {k + 1} | {temperature:.3f} | {before:.4f} | {after:.4f} |")
    print(
        f"\nQ* within 0.01: {plain['mean_gmacs']:.4f} GMACs at {plain['accuracy']:.2%}; tempered: {r['mean_gmacs']:.4f} at "
        f"{r['accuracy']:.2%}"
    )


def milliseconds(bundle: Bundle, scores: Scores, costs: Costs, videos: list[ListedVideo], backend) -> None:
    """Run thresholds for a budget in ms, and for the same share of GMACs, on held-out clips in turn."""
    ms, gmacs = costs["ms"], costs["gmacs"]
    print("\nms until each checkpoint: " + " ".join(f"{t:.3f}" for t in ms))
    _, evaluating = split(scores, Request(seed=SPLIT_SEED, rule="geometric"))
    wanted = {scores.videos[n] for n in evaluating[:TIMED]}
    print("\n| budget, ms | --cost ms: table, measured | same share of GMACs: table, measured | accuracy of each |")
    print("|---|---|---|---|")
    session, choices, rows = Session.open(bundle, backend), [], []
    for share in (0.3, 0.5, 0.7):
        request = Request(budget=float(share * ms[-1]), unit="ms", seed=SPLIT_SEED, rule="geometric")
        one = calibrate(scores, costs, request)
        other = calibrate(scores, costs, Request(budget=float(share * gmacs[-1]), seed=SPLIT_SEED, rule="geometric"))
        rows.append((request.budget, one, other))
        choices += [one.exits.thresholds, other.exits.thresholds]
    spent = []
    with Decoder() as decoder:
        for video in videos:
            if sha256_of(video.path) not in wanted:
                continue
            with decoder.open(video.path, bundle.manifest.preprocessing, bundle.manifest.grid.num_frames) as source:
                frames = source.read(range(bundle.manifest.grid.num_frames))
            spent.append(np.median([[timed(session, frames, t) for t in choices] for _ in range(REPEATS)], axis=0))
    means = np.mean(spent[20:], axis=0)  # the first are warm-up
    for index, (budget, one, other) in enumerate(rows):
        print(
            f"| {budget:.3f} | {one.report['mean_ms']:.3f}, {means[2 * index]:.3f} | {other.report['mean_ms']:.3f}, "
            f"{means[2 * index + 1]:.3f} | {one.report['accuracy']:.2%}, {other.report['accuracy']:.2%} |"
        )
    found = [
        calibrate(scores, costs, Request(max_drop=0.01, unit=unit, seed=SPLIT_SEED, rule="geometric")).exits
        for unit in ("ms", "gmacs")
    ]
    print(
        f"\nFor a drop of 0.01 both costs choose q = {found[0].q:g}"
        + ("" if found[0] == found[1] else " (they DIFFER)")
    )


def timed(session: Session, frames: np.ndarray, thresholds) -> float:
    session.rule = ExitRule(session.route, thresholds, None)
    return session.classify(ArraySource(frames)).latency_ms


def drift(bundle: Bundle, scores: Scores, costs: Costs, folder: Path, backend) -> None:
    """Run new clips of the same kind, and only the hard ones among them, against what calibration expects."""
    chosen = calibrate(scores, costs, Request(max_drop=0.01, confidence=0.9, seed=SPLIT_SEED, rule="geometric"))
    listing = folder / "clips32" / "clips.csv"
    if not listing.exists():
        write_clips(listing.parent, NEW_CLIPS, NEW_SEED)
    with listing.open(newline="") as file:
        difficulty = [float(row["difficulty"]) for row in csv.DictReader(file)]
    manifest = bundle.manifest
    print("\n| clips | exits: distance, by chance | with confidences: distance, by chance | warns |")
    print("|---|---|---|---|")
    for name, least in (("new, of the same kind", 0.0), ("the harder half of them", 0.5)):
        session = Session.open(bundle, backend, chosen.exits.thresholds, temperatures=chosen.temperatures)
        videos = [v for v, d in zip(read_list(listing), difficulty, strict=True) if d >= least]
        with Decoder() as decoder:
            for video in videos:
                with decoder.open(video.path, manifest.preprocessing, manifest.grid.num_frames) as source:
                    session.classify(source)
        found = compare(chosen.expected, session.tally.counts)
        print(
            f"| {found.videos} {name} | {found.exit_distance:.3f}, {found.exit_chance:.3f} "
            f"| {found.confidence_distance:.3f}, {found.confidence_chance:.3f} | {'yes' if found.drifted else 'no'} |"
        )


def curve(report: dict) -> None:
    print("\n| q | mean GMACs (95 %) | accuracy (95 %) | drop (95 %) |")
    print("|---|---|---|---|")
    for row in report["curve"][1::2]:
        of = row["held_out"]
        low, high = of["mean_gmacs_interval"]
        star = " Q*" if row["q"] == report["critical"]["q"] else ""
        print(
            f"| {row['q']:.2f}{star} | {of['mean_gmacs']:.4f} ({low:.4f} to {high:.4f}) | {percent(of, 'accuracy')} "
            f"| {percent(of, 'drop')} |"
        )


if __name__ == "__main__":
    main()
