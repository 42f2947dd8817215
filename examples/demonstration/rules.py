"""Both rules of ``calibrate`` on scores: ``rules.py SCORES.npz [SPLITS [VIDEOS ...]]``.

For each number of VIDEOS and each drop of accuracy, as many random splits: thresholds are chosen on the videos, with none held out, and judged
on all others. Printed as Markdown: the mean over the splits of the measured drop and of the mean GMACs, with standard errors, what
``--rule optimal`` saves, and how often it fell back to the geometric rule.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from dynvid.calibration.answers import answers_of
from dynvid.calibration.calibrate import Request, calibrate
from dynvid.calibration.scores import read_scores
from dynvid.calibration.sweep import costs_of, outcome

DROPS = (0.005, 0.01, 0.02)


def main() -> None:
    scores, splits = read_scores(Path(sys.argv[1])), int(sys.argv[2]) if len(sys.argv) > 2 else 20
    answers, costs = answers_of(scores), costs_of(scores.macs, None, len(scores.probabilities))
    numbers = [int(number) for number in sys.argv[3:]] or [answers.videos // 2]
    print(
        "| videos | drop asked | geometric: drop, GMACs | optimal: drop, GMACs | saved | fell back |\n|---|---|---|---|---|---|"
    )
    for videos in numbers:
        for drop in DROPS:
            found = {"geometric": [], "optimal": []}
            fell_back = 0
            for seed in range(splits):
                order = np.random.default_rng(seed).permutation(answers.videos)
                part = replace(
                    scores,
                    probabilities=scores.probabilities[:, order[:videos]],
                    labels=scores.labels[order[:videos]],
                    videos=(),
                )
                for rule, rows in found.items():
                    chosen = calibrate(part, costs, Request(max_drop=drop, share=1.0, rule=rule)).exits
                    judged = outcome(answers.take(order[videos:]), chosen.thresholds, costs)
                    rows.append((judged.drop, judged.means["gmacs"]))
                    fell_back += rule == "optimal" and chosen.rule == "geometric"
            cells = []
            for rows in map(np.array, found.values()):
                mean, error = rows.mean(axis=0), rows.std(axis=0, ddof=1) / len(rows) ** 0.5
                cells.append(f"{mean[0]:.2%} ± {error[0]:.2%}, {mean[1]:.4f} ± {error[1]:.4f}")
            costs_by_rule = [np.mean([row[1] for row in rows]) for rows in found.values()]
            saved = 1 - costs_by_rule[1] / costs_by_rule[0]
            print(
                f"| {videos} | {drop:.1%} | {cells[0]} | {cells[1]} | {saved:.0%} | {fell_back} of {splits} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
