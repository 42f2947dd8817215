"""How long the first answer of a long list takes, and how much memory a row: ``long_list.py BUNDLE T.json CLIPS FOLDER``.

Writes a list of a million rows into FOLDER, which begins with the clips of the folder CLIPS; the other rows name files
that do not exist. Each command is ended once it has been measured.
"""

import subprocess
import sys
import time
from pathlib import Path

ROWS, ROUNDS, READ_S = 1_000_000, 3, 60.0
BARS_S = {"plain": 2.0, "shard 1/4": 10.0}


def write_list(path: Path, clips: list[Path], rows: int) -> Path:
    named = [*map(str, clips), *(f"videos/part{i % 1000:03d}/{i:07d}.mp4" for i in range(rows - len(clips)))]
    path.write_text("video,label\n" + "".join(f"{name},class {i % 400}\n" for i, name in enumerate(named)))
    return path


def memory_bytes(pid: int) -> int:
    """Return the most memory that a process has held."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def measure(bundle: str, thresholds: str, listing: Path, options: list[str], wait_s: float) -> tuple[float, int]:
    """Return the seconds from the start to the first line, and the most memory ``wait_s`` later."""
    out = listing.with_suffix(".jsonl")
    for left in (out, Path(f"{out}.run.json")):
        left.unlink(missing_ok=True)
    command = ["classify", bundle, "--thresholds", thresholds, "--data", str(listing), "-o", str(out), *options]
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "dynvid.cli", *command, "--max-failures", "1"], stderr=subprocess.DEVNULL
    )
    try:
        while not (out.exists() and out.stat().st_size):
            assert process.poll() is None, "it ended without an answer"
            time.sleep(0.005)
        first_s = time.perf_counter() - began
        time.sleep(wait_s)
        return first_s, memory_bytes(process.pid)
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    bundle, thresholds, clips, folder = sys.argv[1:]
    found = sorted(Path(clips).absolute().glob("*.mp4"))[:1000]
    long = write_list(Path(folder).absolute() / "long.csv", found, ROWS)
    short = write_list(Path(folder).absolute() / "short.csv", found, len(found))
    for name, bar_s in BARS_S.items():
        options = [] if name == "plain" else ["--shard", name.split()[1]]
        seconds = sorted(measure(bundle, thresholds, long, options, 0.0)[0] for _ in range(ROUNDS))
        print(f"{name}: first line after {seconds[ROUNDS // 2]:.2f} s (of {ROUNDS}: {seconds}), at most {bar_s:g} s")
    seconds = sorted(measure(bundle, thresholds, short, [], 0.0)[0] for _ in range(ROUNDS))
    print(f"{len(found)} rows: first line after {seconds[ROUNDS // 2]:.2f} s")
    bytes_of = {
        path: measure(bundle, thresholds, path, [], wait_s)[1] for path, wait_s in ((short, 5.0), (long, READ_S))
    }
    row = (bytes_of[long] - bytes_of[short]) / (ROWS - len(found))
    print(f"memory: {bytes_of[short] / 1e6:.0f} MB with {len(found)} rows, {bytes_of[long] / 1e6:.0f} MB with {ROWS}: "
          f"{row:.0f} bytes a row")  # fmt: skip
