"""What a run writes: its configuration, logs, weights, and the state from which it goes on."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import pickle
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import torch

from ...grid.errors import ResourceError, TrainingCheckpointError, UsageError
from ...grid.storage.files import remedy_for, whole_file
from ...models.network import VideoNetwork
from ...models.training_checkpoint import save, to_pth
from ..data.clip_list import write_clip_list
from ..data.record import Record

_REMEDY = "give another -o"
_MARK = '"written_by": "dynvid train"'  # in environment.json


class RunFolder:
    """The folder of a run.

    ``config.toml``, ``environment.json``, ``classes.txt``, ``held_out.csv``: what began it. ``log.jsonl``: loss and times.
    ``results.csv``: the accuracy of every checkpoint. ``weights/best.pth`` and ``weights/last.pth``. ``broken.csv``: clips
    that could not be read. ``state.pth``: all that the next step depends on.
    """

    def __init__(self, path: Path) -> None:
        """Take the path; ``create`` makes a folder of it."""
        self.path = path
        self.best, self.last = path / "weights" / "best.pth", path / "weights" / "last.pth"
        self._state, self._log, self._results = path / "state.pth", path / "log.jsonl", path / "results.csv"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder if it is missing, and keep other processes from training into it for the time of the context.

        Raises:
            UsageError: If it cannot be a folder, holds other files than a run's, or another process trains into it.
        """
        with self._lock() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"another process trains into '{self.path}': wait, or give another -o") from None
            yield

    def _lock(self) -> IO[bytes]:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            found = sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith("."))
            begun = self.path / "environment.json"
            if found and not (begun.is_file() and _MARK in begun.read_text(errors="replace")):
                raise UsageError(
                    f"-o '{self.path}' holds other files, such as {found[0]!r}: give a new folder, or that of a run"
                )
            return (self.path / ".lock").open("wb")
        except OSError as error:
            raise UsageError(f"-o '{self.path}' cannot be a folder ({error.strerror}): give another") from None

    # The state

    @property
    def has_state(self) -> bool:
        """Whether a state was saved."""
        return self._state.exists()

    def state(self, fingerprint: str) -> dict[str, Any] | None:
        """Return the saved state, on the CPU; None if there is none.

        Raises:
            UsageError: If the run was begun with another ``fingerprint``.
            TrainingCheckpointError: If the state is damaged.
        """
        if not self._state.exists():
            return None
        try:
            state = torch.load(self._state, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
            state = None
        if not isinstance(state, dict) or "fingerprint" not in state:
            raise TrainingCheckpointError(f"'{self._state}' is damaged: remove it to start training over")
        if state["fingerprint"] != fingerprint:
            changed = _changed(json.loads(state["fingerprint"]), json.loads(fingerprint))
            raise UsageError(
                f"'{self.path}' was begun with another configuration ({', '.join(changed)}): go on with the first, remove "
                "the folder, or give another -o"
            )
        return state

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Replace the saved state; until the new one is complete, the old one stays.

        Raises:
            ResourceError: If it cannot be written.
        """
        with whole_file(self._state, "state of the run", _REMEDY) as file:
            file.write(to_pth(state))

    def save_weights(self, path: Path, network: VideoNetwork, facts: Mapping[str, Any]) -> None:
        """Write a training checkpoint, with facts about how it came about.

        Raises:
            ResourceError: If it cannot be written.
        """
        save(network, path, facts)

    # What a person reads

    def begin(self, config: str, classes: Sequence[str], held_out: Sequence[Record]) -> None:
        """Write what the run begins, or goes on, with.

        Raises:
            ResourceError: If it cannot be written.
        """
        names = ("dynvid", "torch", "numpy", "av")
        environment = {
            "written_by": "dynvid train",
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": sys.argv,
            "python": platform.python_version(),
            "machine": platform.processor() or platform.machine(),
            "versions": {name: version(name) for name in names},
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "threads": torch.get_num_threads(),
        }
        if not self.has_state:
            self._write("environment.json", json.dumps(environment, indent=1) + "\n")
        self._write("config.toml", config)
        self._write("classes.txt", "".join(f"{name}\n" for name in classes))
        if held_out:
            write_clip_list(self.path / "held_out.csv", held_out)

    def cut(self, step: int) -> None:
        """Drop the lines of steps after ``step``, which were not saved and are computed again, and torn ones.

        Raises:
            ResourceError: If they cannot be written.
        """
        if self._log.exists():
            kept = [line for line in self.lines() if line["step"] <= step]
            self._write("log.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
        if self._results.exists():
            rows = [row for row in self.results() if int(row["step"]) <= step]
            self._write("results.csv", _csv(rows) if rows else "")

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line to ``log.jsonl``.

        Raises:
            ResourceError: If it cannot be written.
        """
        self._append(self._log, json.dumps(line) + "\n")

    def result(self, row: Mapping[str, Any]) -> None:
        """Append one row to ``results.csv``; the first call writes the header.

        Raises:
            ResourceError: If it cannot be written.
        """
        text = _csv([row])
        fresh = not self._results.exists() or not self._results.stat().st_size
        self._append(self._results, text if fresh else text.partition("\n")[2])

    def results(self) -> list[dict[str, str]]:
        """Return the whole rows of ``results.csv``."""
        if not self._results.exists():
            return []
        reader = csv.DictReader(self._results.read_text(encoding="utf-8", errors="replace").splitlines())
        rows = [row for row in reader if None not in row and None not in row.values()]
        return [row for row in rows if row.get("step", "").isascii() and row["step"].isdigit()]

    def lines(self) -> list[dict[str, Any]]:
        """Return the whole lines of ``log.jsonl``; a crash may have torn one."""
        found = []
        for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines() if self._log.exists() else []:
            with suppress(ValueError):
                found.append(json.loads(line))
        return [line for line in found if isinstance(line, dict) and isinstance(line.get("step"), int)]

    def broken(self, clips: Sequence[tuple[str, str, str]]) -> None:
        """Write which clips could not be read: (split, video, reason).

        Raises:
            ResourceError: If it cannot be written.
        """
        rows = [dict(zip(("split", "video", "reason"), clip, strict=True)) for clip in clips]
        if rows:
            self._write("broken.csv", _csv(rows))

    def _write(self, name: str, text: str) -> None:
        with whole_file(self.path / name, name, _REMEDY) as file:
            file.write(text.encode())

    def _append(self, path: Path, text: str) -> None:
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            reason = error.strerror or error
            raise ResourceError(f"'{path}' cannot be written ({reason}): {remedy_for(error, _REMEDY)}") from None


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the names of the values that differ, a table's with its own name before it."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        one, other = old.get(key), new.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found += [
                f"{key}.{inner}" for inner in sorted(one.keys() | other.keys()) if one.get(inner) != other.get(inner)
            ]
        elif one != other:
            found.append(key)
    return found
