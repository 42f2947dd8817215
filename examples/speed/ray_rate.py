"""Two actors on Ray beside two plain processes: ``ray_rate.py BUNDLE T.json CLIPS FOLDER [TURNS [ROWS]]``.

A shared machine changes its speed by a quarter within minutes. So both are started, and then run by turns of some
three seconds: all processes of one are stopped (SIGSTOP) while the other runs. Each turn gives two rates, and the median
is that of their ratios. The start is given apart, as are the CPU time of a video and the memory. The list names the clips of the
folder CLIPS again and again, so that it does not come to its end.
"""

import csv
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

LEAST = 0.9
TURN_S = 3.0
BLOCK = 50  # rows that an actor takes at once


class Side:
    """One of the two: its processes, and how many videos they have classified.

    Attributes:
        first_s: seconds until the first videos.
        rates: videos a second, of each turn.
    """

    def __init__(self, name: str, commands: list[list[str]], count: Callable[[], int]) -> None:
        self.name, self.count = name, count
        self.rates, self.ran_s, self.done = list[float](), 0.0, 0
        began = time.perf_counter()
        self._roots = [
            subprocess.Popen([sys.executable, "-m", "dynvid.cli", *command], stderr=subprocess.DEVNULL)
            for command in commands
        ]
        while not self.count():
            self._require_alive()
            time.sleep(0.02)
        self.first_s = time.perf_counter() - began
        self.run(2 * TURN_S)  # the first videos are slower
        self.rates.clear()
        self.ran_s, self.done, self._cpu_s = 0.0, 0, sum(used_below(self.roots).values())

    @property
    def roots(self) -> set[int]:
        return {process.pid for process in self._roots}

    def run(self, seconds: float) -> None:
        """Let it run, and count; it is stopped again on return."""
        self._signal(signal.SIGCONT)
        began, before = time.perf_counter(), self.count()
        while time.perf_counter() - began < seconds:
            self.count()  # notes what actors have done
            time.sleep(0.02)
        took_s, done = time.perf_counter() - began, self.count() - before
        self._require_alive()
        self._signal(signal.SIGSTOP)
        self.ran_s += took_s
        self.done += done
        self.rates.append(done / took_s)

    def __str__(self) -> str:
        cpu_ms = (sum(used_below(self.roots).values()) - self._cpu_s) * 1e3 / self.done
        return (
            f"{self.name}: median {statistics.median(self.rates):.1f} videos/s, {self.done} videos in {self.ran_s:.0f} s; "
            f"first after {self.first_s:.1f} s; {cpu_ms:.1f} ms of CPU a video; {memory_mb(self.roots):.0f} MB of memory"
        )

    def end(self) -> None:
        self._signal(signal.SIGKILL)
        for process in self._roots:
            process.wait()

    def _signal(self, number: signal.Signals) -> None:
        """Signal all its processes; those that start meanwhile, too."""
        told = set[int]()
        while new := used_below(self.roots).keys() - told:
            for pid in new:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
            told |= new

    def _require_alive(self) -> None:
        for process in self._roots:
            if process.poll() is not None:
                raise SystemExit(f"{self.name}: ended with {process.returncode}: give more ROWS, or fewer TURNS")


def used_below(roots: set[int]) -> dict[int, float]:
    """Return the CPU seconds of processes and all below them."""
    parents, seconds = dict[int, int](), dict[int, float]()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] in "ZX":
            continue
        parents[int(entry.name)] = int(fields[1])
        # its own time, and that of its children that ended
        seconds[int(entry.name)] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    found = dict[int, float]()
    for pid in parents:
        above = pid
        while above not in roots and above in parents:
            above = parents[above]
        if above in roots:
            found[pid] = seconds[pid]
    return found


def memory_mb(roots: set[int]) -> float:
    """Return the memory of processes and all below them; pages that they share count once (PSS)."""
    held = 0
    for pid in used_below(roots):
        try:
            held += int(Path(f"/proc/{pid}/smaps_rollup").read_text().split("Pss:")[1].split()[0]) * 1024
        except (OSError, IndexError):
            continue
    return held / 1e6


def write_list(path: Path, clips: list[Path], rows: range) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "video"), *((row, clips[row % len(clips)]) for row in rows)])
    return path


def command(bundle: str, thresholds: str, listing: Path, *options: str) -> list[str]:
    return ["classify", bundle, "--thresholds", thresholds, "--data", str(listing), "--id-column", "id", "--threads", "1",
            *options]  # fmt: skip


def plain(bundle: str, thresholds: str, clips: list[Path], folder: Path, rows: int) -> Side:
    commands, outs = [], [folder / "half1.jsonl", folder / "half2.jsonl"]
    for half, out in enumerate(outs):
        for left in (out, Path(f"{out}.run.json")):
            left.unlink(missing_ok=True)
        listing = write_list(out.with_suffix(".csv"), clips, range(half, rows, 2))
        commands.append(command(bundle, thresholds, listing, "-o", str(out)))
    return Side(
        "two plain processes", commands,
        lambda: sum(out.read_bytes().count(b"\n") for out in outs if out.exists()),
    )  # fmt: skip


def on_ray(bundle: str, thresholds: str, clips: list[Path], folder: Path, rows: int) -> Side:
    out, begun = folder / "ray", set[str]()
    shutil.rmtree(out, ignore_errors=True)

    def count() -> int:
        at_work = {path.name for path in (out / "tries").glob("*")}  # a block's file goes when the block is done
        begun.update(at_work)
        return BLOCK * len(begun - at_work)

    listing = write_list(folder / "whole.csv", clips, range(rows))
    options = ("-o", str(out), "--ray", "--actors", "2")
    return Side("two actors on Ray", [command(bundle, thresholds, listing, *options)], count)


def main(bundle: str, thresholds: str, clips: str, place: str, turns: int = 20, rows: int = 40_000) -> None:
    folder, found = Path(place).absolute(), sorted(Path(clips).absolute().rglob("*.mp4"))
    sides = list[Side]()
    try:
        for start in (plain, on_ray):
            sides.append(start(bundle, thresholds, found, folder, rows))
        for turn in range(turns):
            for side in sides if turn % 2 else reversed(sides):
                side.run(TURN_S)
        ratios = sorted(ray / one for one, ray in zip(*(side.rates for side in sides), strict=True))
        for side in sides:
            print(side)
        quarter = len(ratios) // 4
        print(
            f"rate on Ray / plain: median {statistics.median(ratios):.3f} of {turns} turns, half of them from "
            f"{ratios[quarter]:.2f} to {ratios[-1 - quarter]:.2f}, at least {LEAST}; of all videos "
            f"{sides[1].done / sides[1].ran_s / (sides[0].done / sides[0].ran_s):.3f}; load {os.getloadavg()[0]:.1f}"
        )
    finally:
        for side in sides:
            side.end()


if __name__ == "__main__":
    main(*sys.argv[1:5], *map(int, sys.argv[5:]))
