"""The curves of a run: loss, and the accuracy of every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...grid.storage.files import whole_file


def can_draw() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw_curves(path: Path, lines: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, str]]) -> None:
    """Draw ``lines`` of the log and ``results`` as a PNG.

    Raises:
        ResourceError: If it cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    loss.plot([line["epoch"] for line in lines], [line["loss"] for line in lines], color="#4477aa")
    loss.set(xlabel="epoch", ylabel="loss, sum over checkpoints", title="Training loss")
    epochs = [float(row["epoch"]) for row in results]
    names = [name for name in (results[0] if results else {}) if name.startswith("accuracy_")]
    for number, name in enumerate(names, 1):
        shade = 0.25 + 0.75 * number / len(names)
        values = [100 * float(row[name]) for row in results]
        accuracy.plot(epochs, values, color=(0.13, 0.4, 0.4, shade), marker=".", label=f"checkpoint {number}")
    accuracy.set(xlabel="epoch", ylabel="top-1 accuracy, %", title="Validation accuracy")
    if names:
        accuracy.legend(loc="lower right")
    with whole_file(path, "curves", "give another -o") as file:
        figure.savefig(file, format="png", dpi=110)
