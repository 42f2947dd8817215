"""Two actors on Ray beside two plain processes: ``ray_rate.py BUNDLE T.json CLIPS FOLDER [ROUNDS]``.

Both classify the clips of the folder CLIPS, by turns. The rate is that between a fifth and nine tenths of the videos, so
that the start does not count; it is given apart, as are the memory, and the CPU time of all processes in between, which a busy machine
does not change much.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

LEAST = 0.9


def write_lists(folder: Path, clips: list[Path]) -> list[Path]:
    """Write the whole list, and its two halves."""
    paths = []
    for name, rows in (("whole", clips), ("half1", clips[::2]), ("half2", clips[1::2])):
        paths.append(folder / f"{name}.csv")
        paths[-1].write_text("video\n" + "".join(f"{clip}\n" for clip in rows))
    return paths


def start(bundle: str, thresholds: str, listing: Path, *options: str) -> subprocess.Popen[bytes]:
    command = ["classify", bundle, "--thresholds", thresholds, "--data", str(listing), "--threads", "1", *options]
    return subprocess.Popen([sys.executable, "-m", "dynvid.cli", *command], stderr=subprocess.DEVNULL)


def watch(processes: list[subprocess.Popen[bytes]], count: Callable[[], int], videos: int) -> dict[str, float]:
    """Return the rate of the middle, the seconds until the first video, and the most memory of all processes."""
    began, memory = time.perf_counter(), 0
    reached: dict[float, tuple[float, int, dict[int, float]]] = {}
    while any(process.poll() is None for process in processes):
        now, done = time.perf_counter() - began, count()
        for share in (0.0, 0.2, 0.9):
            if done > share * videos and share not in reached:
                used, held = used_below({process.pid for process in processes})
                reached[share], memory = (now, done, used), max(memory, held)
        time.sleep(0.2)
    assert all(process.returncode == 0 for process in processes)
    (start_s, first, used_then), (end_s, last, used) = reached[0.2], reached[0.9]
    return {
        "rate": (last - first) / (end_s - start_s),
        "cpu_ms_a_video": sum(s - used_then.get(pid, 0.0) for pid, s in used.items()) * 1e3 / (last - first),
        "first_s": reached[0.0][0],
        "whole_s": time.perf_counter() - began,
        "memory_mb": memory / 1e6,
    }


def used_below(roots: set[int]) -> tuple[dict[int, float], int]:
    """Return the CPU seconds of processes and all below them, and their memory (PSS: shared pages count once)."""
    parents, seconds = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.name)] = int(fields[1])
        # its own time, and that of its children that ended
        seconds[int(entry.name)] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    used, held = dict[int, float](), 0
    for pid in parents:
        above = pid
        while above not in roots and above in parents:
            above = parents[above]
        if above in roots:
            used[pid] = seconds[pid]
            try:
                held += int(Path(f"/proc/{pid}/smaps_rollup").read_text().split("Pss:")[1].split()[0]) * 1024
            except (OSError, IndexError):
                continue
    return used, held


def plain(bundle: str, thresholds: str, halves: list[Path], folder: Path, videos: int) -> dict[str, float]:
    outs = [folder / f"{half.stem}.jsonl" for half in halves]
    for out in outs:
        for left in (out, Path(f"{out}.run.json")):
            left.unlink(missing_ok=True)
    processes = [start(bundle, thresholds, half, "-o", str(out)) for half, out in zip(halves, outs, strict=True)]
    return watch(processes, lambda: sum(out.read_bytes().count(b"\n") for out in outs if out.exists()), videos)


def on_ray(bundle: str, thresholds: str, whole: Path, folder: Path, videos: int, rows: int = 200) -> dict[str, float]:
    out = folder / "ray"
    shutil.rmtree(out, ignore_errors=True)
    process = start(bundle, thresholds, whole, "-o", str(out), "--ray", "--actors", "2")
    return watch([process], lambda: rows * len(list((out / "checkpoint").glob("[!_]*[0-9].parquet"))), videos)


if __name__ == "__main__":
    bundle, thresholds, clips, place, *more = sys.argv[1:]
    folder = Path(place).absolute()
    found = sorted(Path(clips).absolute().glob("*.mp4"))
    whole, *halves = write_lists(folder, found)
    ratios = []
    for turn in range(int(more[0]) if more else 3):
        one = plain(bundle, thresholds, halves, folder, len(found))
        other = on_ray(bundle, thresholds, whole, folder, len(found))
        ratios.append(other["rate"] / one["rate"])
        for name, figures in (("two plain processes", one), ("two actors on Ray", other)):
            shown = ", ".join(f"{key} {value:.1f}" for key, value in figures.items())
            print(f"{turn + 1}: {name}: {shown}; load {os.getloadavg()[0]:.1f}", flush=True)
    shown = sorted(round(ratio, 3) for ratio in ratios)
    print(f"rate on Ray / plain: {statistics.median(ratios):.3f} (of {shown}), at least {LEAST}")
