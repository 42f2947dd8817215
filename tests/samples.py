"""A small network and every route of small grids, for all tests."""

from pathlib import Path

import numpy as np

from dynvid.calibration.scores.scores import Scores, check_scores
from dynvid.grid.route import Route
from dynvid.grid.topology import Cell, Grid

ROOT = Path(__file__).parents[1]
DEMONSTRATION = ROOT / "examples" / "demonstration"

TINY = {
    "network": "msdnet",
    "options": {
        "layers": [1, 1, 1], "channels": 8, "growth": 4, "growth_factors": [1, 2], "bottleneck_factors": [1, 2],
    },
    "classes": 5,
    "labels": ["a", "b", "c", "d", "e"],
    "input_sets": 4,
    "frames_per_set": 2,
    "route": "1,0 1,1 2,2 3,2",
    "head": {"width": 8},
    "preprocessing": {"short_side": 40, "crop": 32},
}  # fmt: skip

# other networks that several files of tests share, so that each is exported once
FIVE_BLOCKS = {**TINY, "input_sets": 8, "route": "joint", "options": {**TINY["options"], "layers": [1] * 5}}
TWO_BLOCKS = {
    **TINY, "input_sets": 3, "options": {**TINY["options"], "layers": [1, 1]}, "route": "2,0 2,1", "heads": [0, 1],
}  # fmt: skip
# what is rare, two at a time
UNSHIFTED = {**TINY, "shift": {"enabled": False}, "head": {"width": 8, "share_classifier": False}}
IN_TEMPORAL_ORDER = {**TINY, "permutation": "none", "frames_per_set": 1, "head": {"style": "linear"}}
# a bottleneck whose shortcut is its input; features of 32, 128 and more channels
RESNET = {
    **TINY, "network": "resnet", "options": {"layers": [2, 1, 1, 1], "width": 32}, "input_sets": 2,
    "route": "0,2 0,3 1,3 1,4", "head": {"style": "linear"},
}  # fmt: skip


def every_monotone_route(grid: Grid) -> list[Route]:
    """Return every route over ``grid``: every chain of cells in which no coordinate decreases."""
    cells = grid.cells()
    routes: list[tuple[Cell, ...]] = [(cell,) for cell in cells]
    grown = routes
    while grown:
        grown = [
            (*route, cell)
            for route in grown
            for cell in cells
            if cell != route[-1] and cell.input_set >= route[-1].input_set and cell.block >= route[-1].block
        ]
        routes += grown
    return [Route(grid, route) for route in routes]


def write_noise(folder: Path, videos: int) -> Path:
    """Write videos of noise, labelled as ``TINY``'s classes in turn, and the LIST of them; return its path."""
    rng, rows = np.random.default_rng(0), []
    for index in range(videos):
        np.save(folder / f"{index}.npy", rng.integers(0, 256, (12, 36, 44, 3), np.uint8))
        rows.append(f"{index}.npy,{TINY['labels'][index % 5]}\n")
    (folder / "list.csv").write_text("video,label\n" + "".join(rows))
    return folder / "list.csv"


def synthetic_scores(videos: int, seed: int = 0, exits: int = 6, classes: int = 13) -> Scores:
    """Return scores whose later exits are surer and more often right; some videos are hard for all of them."""
    rng = np.random.default_rng(seed)
    labels, hard = rng.integers(0, classes, videos), rng.normal(size=videos)
    probabilities = np.empty((exits, videos, classes), np.float32)
    for k in range(exits):
        logits = rng.normal(size=(videos, classes))
        logits[np.arange(videos), labels] += 2 + 0.6 * k - 1.6 * hard
        e = np.exp(1.5 * logits - 1.5 * logits.max(-1, keepdims=True))
        probabilities[k] = e / e.sum(-1, keepdims=True)
    return check_scores(Scores(probabilities, labels, np.cumsum(np.arange(1, exits + 1)) * 1e9), "synthetic")
