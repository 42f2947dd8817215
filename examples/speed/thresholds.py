"""Time several thresholds against each other: ``thresholds.py BUNDLE LIST T.json T.json ... [--clips N --rounds N]``.

Each round runs every clip of the LIST's first N once with each T.json, in turn and in an order that alternates, on one
thread, through ``dynvid.load``. Printed as Markdown: mean multiply-adds and mean compute of a video (the median over the
rounds), and the ratio to the first T.json with the 95 % interval over videos.
"""

import argparse
import json
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import numpy as np

import dynvid
from dynvid.calibration.choosing.interval import of_mean
from dynvid.runtime.video.listing import read_list


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("listing", metavar="LIST", type=Path)
    parser.add_argument("thresholds", nargs="+", type=Path)
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    paths = [video.path for video in read_list(arguments.listing)[: arguments.clips]]
    with ExitStack() as stack:
        models = [
            stack.enter_context(dynvid.load(arguments.bundle, thresholds=path, threads=1, mode="latency"))
            for path in arguments.thresholds
        ]
        print(
            f"{models[0].runs}; dynvid {version('dynvid')}, onnxruntime {version('onnxruntime')}; {len(paths)} clips\n"
        )
        ms = np.zeros((len(models), arguments.rounds, len(paths)))
        gmacs = np.zeros((len(models), len(paths)))
        for number in range(-1, arguments.rounds):  # the first round warms up
            for place, path in enumerate(paths):
                turns = list(enumerate(models))
                for index, model in turns if (number + place) % 2 else turns[::-1]:
                    answer = model.classify(path)
                    gmacs[index, place] = answer.gmacs
                    if number >= 0:
                        ms[index, number, place] = answer.latency_ms
    each = np.median(ms, axis=1)  # [thresholds, videos]
    print("| thresholds | rule | mean GMACs | mean compute, ms | over the first |\n|---|---|---|---|---|")
    for path, spent, took in zip(arguments.thresholds, gmacs, each, strict=True):
        rule = json.loads(path.read_text()).get("rule", "geometric")
        ratio = took.mean() / each[0].mean()
        low, high = of_mean((took - ratio * each[0]) / each[0].mean())
        print(
            f"| {path.name} | {rule} | {spent.mean():.4f} | {took.mean():.3f} | {ratio:.3f} "
            f"({ratio + low:.3f} to {ratio + high:.3f}) |"
        )


if __name__ == "__main__":
    main()
