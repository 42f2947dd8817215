"""Make the figures of the README: ``figures.py BUNDLE FOLDER``, where BUNDLE is the demonstration network's.

``explain.svg`` is one clip's way along the route, ``curve.svg`` accuracy against multiply-adds for both rules of choosing
thresholds. Clips and seeds are fixed here, so only the times in ``explain.svg`` differ from one run to the next;
``tests/full/test_figures.py`` makes the figures again and compares everything else.
"""

import argparse
import platform
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import dynvid
from dynvid.pages.calibration_curve import write_curve
from dynvid.runtime.video.listing import read_list
from dynvid.training.clips import write_clips

CALIBRATION, SEED, SHOWN_SEED = 600, 3, 4
MAX_DROP = 0.01
CLIP = 5
"""Which clip of the shown ones is explained."""


def make(bundle: Path, folder: Path) -> None:
    """Write the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as box:
        data = write_clips(Path(box) / "calibration", CALIBRATION, SEED)
        shown = read_list(write_clips(Path(box) / "shown", CLIP + 1, SHOWN_SEED))
        chosen = dynvid.calibrate(bundle, data=data, max_drop=MAX_DROP, threads=1)
        chosen.save(Path(box) / "T.json")
        write_curve(folder / "curve.svg", chosen)
        dynvid.explain(bundle, [shown[CLIP]], folder / "explain.svg", thresholds=Path(box) / "T.json", threads=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    make(arguments.bundle, arguments.folder)
    versions = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "av", "matplotlib"))
    print(f"{platform.processor() or platform.machine()}, 1 thread; {datetime.now(UTC):%Y-%m-%d}; {versions}")


if __name__ == "__main__":
    main()
