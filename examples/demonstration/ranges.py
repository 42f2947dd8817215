"""Peak memory of INT8's range pass over more and more clips: ``ranges.py BUNDLE LIST [COUNT ..]``. Prints Markdown (docs/lab/int8.md).

Each pass is a process of its own; the decoder's child process is not counted, it decodes one clip at a time.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dynvid.exporter.int8.range_observers import observe_ranges
from dynvid.exporter.int8.range_pass import find_ranges
from dynvid.grid.bundle import Bundle
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.execution.executor import Executor
from dynvid.runtime.video.decoder import Decoder
from dynvid.runtime.video.listing import read_list

COUNTS = (100, 500, 1000, 2000)


def measure(bundle: Path, clips: Path, count: int) -> None:
    watched, started = observe_ranges(Bundle.open(bundle)), time.monotonic()
    executor = Executor(watched.bundle, open_backend("onnxruntime", 1))
    with Decoder() as decoder, tempfile.TemporaryDirectory() as folder:
        keep = Path(folder) / "ranges.json"
        find_ranges(executor, watched.tensors, read_list(clips)[:count], keep, decoder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"| {count} | {peak:.0f} | {time.monotonic() - started:.0f} |", flush=True)


def main() -> None:
    bundle, clips, *counts = sys.argv[1:]
    if counts[:1] == ["--one"]:
        measure(Path(bundle), Path(clips), int(counts[1]))
        return
    print("| clips | peak memory, MiB | seconds |\n|---|---|---|", flush=True)
    for count in counts or COUNTS:
        subprocess.run([sys.executable, __file__, bundle, clips, "--one", str(count)], check=True)


if __name__ == "__main__":
    main()
