"""Both rules of ``calibrate`` on scores, over many random splits.

``rules.py SCORES.npz [--splits N] [--videos N ...] [--confidence C] [--harder LIST]``. For each number of videos and each drop of
accuracy: thresholds are chosen on so many videos, with none held out, and judged on all others; with ``--harder`` on
the harder half of the others alone (``make_clips.py`` writes the difficulty into its LIST), chosen on the harder half
as well. Printed as Markdown: the mean over the splits of the measured drop and of the mean GMACs with 95 % intervals of
these means, what ``optimal`` saves, and how often it left the choice to the geometric rule. With ``--confidence`` the
drop is promised; how often the measured drop is beyond it is counted, over the splits in which a promise can be given.
"""

import argparse
import csv
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from dynvid.calibration.calibrate import calibrate
from dynvid.calibration.choosing.interval import of_mean
from dynvid.calibration.choosing.request import Request
from dynvid.calibration.choosing.sweep import costs_of, outcome
from dynvid.calibration.scores.answers import answers_of
from dynvid.calibration.scores.scores import Scores, read_scores
from dynvid.grid.errors import GuaranteeError, TooFewVideosError

DROPS = (0.005, 0.01, 0.02)
HEAD = "| videos | drop asked | geometric: drop, mean GMACs | optimal: drop, mean GMACs | saved | left to geometric |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scores", type=Path)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--videos", type=int, nargs="*", help="[default: half of them]")
    parser.add_argument("--confidence", type=float, help="promise the drop")
    parser.add_argument("--harder", type=Path, metavar="LIST")
    arguments = parser.parse_args()
    scores = read_scores(arguments.scores)
    if arguments.harder is not None:
        scores = harder_half(scores, arguments.harder)
    print(f"{HEAD}\n|{'---|' * 6}")
    for videos in arguments.videos or [scores.probabilities.shape[1] // 2]:
        for drop in DROPS:
            request = Request(max_drop=drop, confidence=arguments.confidence, share=1.0)
            print(compared(scores, videos, request, arguments.splits), flush=True)


def harder_half(scores: Scores, listing: Path) -> Scores:
    with listing.open(newline="") as file:
        difficulty = {
            hashlib.sha256((listing.parent / row["video"]).read_bytes()).hexdigest(): float(row["difficulty"])
            for row in csv.DictReader(file)
        }
    each = np.array([difficulty[video] for video in scores.videos])
    return taken(scores, np.flatnonzero(each >= np.median(each)))


def taken(scores: Scores, videos: np.ndarray) -> Scores:
    return replace(
        scores, probabilities=scores.probabilities[:, videos], labels=scores.labels[videos], videos=(), failed=()
    )


def compared(scores: Scores, videos: int, request: Request, splits: int) -> str:
    answers, costs = answers_of(scores), costs_of(scores.macs, None, len(scores.probabilities))
    found, left = [], 0  # found: [split, rule, drop and GMACs]
    for seed in range(splits):
        order = np.random.default_rng(seed).permutation(answers.videos)
        part, judged = taken(scores, order[:videos]), answers.take(order[videos:])
        try:
            report = calibrate(part, costs, request).report
        except (TooFewVideosError, GuaranteeError):
            continue
        if report["rules"]["geometric"] is None:
            continue
        chosen = report["rules"]["geometric"]["thresholds"], report["thresholds"]
        seen = [outcome(judged, tuple(thresholds), costs) for thresholds in chosen]
        found.append([(one.drop, one.means["gmacs"]) for one in seen])
        left += report["rule"] == "geometric"
    by_rule = np.array(found).transpose(1, 2, 0)
    cells = []
    for drops, gmacs in by_rule:
        beyond = "" if request.confidence is None else f" beyond it {(drops > request.max_drop).sum()} times,"
        cells.append(f"{interval(100 * drops, '.2f')} %,{beyond} {interval(gmacs, '.4f')}")
    saved = 1 - by_rule[1, 1].mean() / by_rule[0, 1].mean()
    return f"| {videos} | {request.max_drop:.1%} | {cells[0]} | {cells[1]} | {saved:.0%} | {left} of {len(found)} |"


def interval(values: np.ndarray, form: str) -> str:
    low, high = of_mean(values)
    return f"{values.mean():{form}} ({low:{form}} to {high:{form}})"


if __name__ == "__main__":
    main()
