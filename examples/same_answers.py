"""Whether two installations of dynvid answer alike: ``same_answers.py BEFORE AFTER BUNDLE LIST [T.json]``. Exits with 1 if not.

BEFORE and AFTER are folders that hold the package ``dynvid``. Each classifies the videos of LIST from the cells and from engines of
its own, to the end of the route with ``--trace`` and, with T.json, by its thresholds. Every field is compared, logits to the last
bit, but times and what only one of them prints.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TIMES = {"latency_ms", "decode_ms", "segment_ms", "elapsed_ms", "waited_ms"}


def dynvid(installation: Path, *arguments: object) -> str:
    code = "import sys; from dynvid.cli import main; sys.argv[0] = 'dynvid'; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(installation)},
        capture_output=True,
        text=True,
        cwd=tempfile.gettempdir(),
    )
    if done.returncode:
        raise SystemExit(f"{installation}: dynvid {' '.join(map(str, arguments))}: {done.stderr}")
    return done.stdout


def answers(installation: Path, bundle: Path, videos: Path, thresholds: Path | None, folder: Path) -> dict[str, dict]:
    """Return the records by video, by how they were made."""
    own, engines = folder / "b", folder / "e"
    shutil.copytree(bundle, own)
    found = {}
    for programs in ("cells", "fused"):
        if programs == "fused":
            dynvid(installation, "build-engines", own, "--backend", "onnxruntime", "--engines", engines)
        for how, more in (("trace", ["--trace"]), ("thresholds", ["--thresholds", thresholds])):
            if how == "thresholds" and thresholds is None:
                continue
            more = [*more, "--engines", engines] if programs == "fused" else more
            lines = dynvid(installation, "classify", own, "--data", videos, "--backend", "onnxruntime", "--json", *more)
            records = [json.loads(line) for line in lines.splitlines()]
            found[f"{programs}, {how}"] = {record.pop("video"): record for record in records}
    return found


def main() -> None:
    before, after, bundle, videos = (Path(name).absolute() for name in sys.argv[1:5])
    thresholds = Path(sys.argv[5]).absolute() if len(sys.argv) > 5 else None
    with tempfile.TemporaryDirectory() as folder:
        pair = []
        for number, installation in enumerate((before, after)):
            (Path(folder) / str(number)).mkdir()
            pair.append(answers(installation, bundle, videos, thresholds, Path(folder) / str(number)))
    differ = False
    for how in pair[0]:
        left, right = (found[how] for found in pair)
        if left.keys() != right.keys():
            raise SystemExit(f"{how}: {len(left.keys() ^ right.keys())} videos are answered by one of them only")
        fields = set.intersection(*(set(record) for records in (left, right) for record in records.values())) - TIMES
        only = sorted(set.union(*(set(r) for rs in (left, right) for r in rs.values())) - fields - TIMES)
        wrong = {f: sum(left[v][f] != right[v][f] for v in left) for f in sorted(fields)}
        said = ", ".join(f"{name} in {count}" for name, count in wrong.items() if count)
        print(f"{how}: {len(left)} videos, {len(fields)} fields ({', '.join(sorted(fields))}): {'differ: ' + said if said else 'the same'}"
              + (f"; not compared: {', '.join(only)}" if only else ""), flush=True)  # fmt: skip
        differ |= bool(said)
    sys.exit(int(differ))


if __name__ == "__main__":
    main()
