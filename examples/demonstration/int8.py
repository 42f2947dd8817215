"""What INT8 keeps of the demonstration network: ``int8.py FOLDER``, see ``--help``. Prints Markdown (docs/lab/int8.md).

Ranges, and what stays in fp32, come from some clips; everything below is measured on others. Both precisions leave by thresholds
for q = 1.2 on their own scores of the first clips. With ``--nncf`` the static network, shift and all, is also quantised by NNCF
from 300 of the first clips, and answers the others on OpenVINO. Clips and bundles are kept in FOLDER.
"""

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np

from dynvid.benchmarks.measure.nncf_peer import quantised
from dynvid.calibration.choosing.thresholds import exits, geometric_thresholds
from dynvid.calibration.scores.scores import Scores
from dynvid.calibration.scores.scoring import score_videos
from dynvid.exporter.graphs.fuse import fuse
from dynvid.grid.bundle import Bundle
from dynvid.grid.segments import fused_full
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.execution.engine_lookup import open_engines
from dynvid.runtime.session import Session
from dynvid.runtime.video.decoder import Decoder
from dynvid.runtime.video.listing import read_list
from dynvid.training.clips import write_clips

CHECKPOINT = Path(__file__).with_name("network.pth")
SEEDS = {"calibration": 41, "test": 42}
Q = 1.2


def dynvid(*arguments: object) -> None:
    """Run the command line as a user would; end where it fails."""
    command = [str(Path(sys.executable).with_name("dynvid")), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise SystemExit(f"dynvid {arguments[0]} ended with exit code {done.returncode}")


def by_nncf(bundle: Bundle, lists: dict[str, Path]) -> tuple[str, np.ndarray]:
    """Return NNCF's version, and the classes of the test clips by its static network, in the order of their sha256."""
    import openvino

    manifest = bundle.manifest
    grid, full = manifest.grid, fused_full(manifest, "fp32")

    def clips(name: str, most: int | None = None) -> Iterator[np.ndarray]:
        with Decoder() as decoder:
            for video in sorted(read_list(lists[name]), key=lambda video: sha256(video.path.read_bytes()).digest())[
                :most
            ]:
                with decoder.open(video.path, manifest.preprocessing, grid.num_frames) as source:
                    yield source.read(grid.frame_order).copy()

    frames = np.stack(list(clips("calibration", 300)))
    model, version_of_it = quantised(fuse(bundle, full, "fp32"), frames)
    model.reshape({"frames": [1, *frames.shape[1:]]})
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    call = openvino.Core().compile_model(model, "CPU", settings)
    return version_of_it, np.array([call(clip[None])["logits"].argmax() for clip in clips("test")])


def difference(found: np.ndarray, other: np.ndarray) -> list[float]:
    """Return by how much more often ``found`` [clips] is true than ``other`` on the same clips, and its 95 % interval."""
    each = found.astype(float) - other
    around = 1.96 * each.std() / np.sqrt(len(each))
    return [each.mean(), each.mean() - around, each.mean() + around]


def measure(folder: Path, clips: int, test_clips: int, backend: str, nncf: bool) -> dict:
    lists = {name: folder / name / "clips.csv" for name in SEEDS}
    for (name, path), count in zip(lists.items(), (clips, test_clips), strict=True):
        if not path.exists():
            write_clips(path.parent, count, SEEDS[name])
    plain, int8 = folder / "bundle", folder / "bundle.int8"
    if not plain.exists():
        dynvid("export", CHECKPOINT, "-o", plain, "--precision", "fp32")
    if not int8.exists():
        dynvid("quantize", plain, CHECKPOINT, "--data", lists["calibration"], "--threads", 1)
    for root, flags in ((plain, ()), (int8, ("--int8",))):
        dynvid("build-engines", root, "--backend", backend, *flags)
    found: dict[tuple[str, str], Scores] = {}
    for root, precision in ((plain, "fp32"), (int8, "int8")):
        bundle, runs = Bundle.open(root), open_backend(backend, 1)
        session = Session.open(
            bundle, runs, precision=precision, programs=open_engines(bundle, runs, precision=precision).plan
        )
        for name, path in lists.items():
            keep = folder / f"{precision}.{backend}.{name}.npz"
            with Decoder() as decoder:
                found[precision, name] = score_videos(session, read_list(path), keep, decoder)
    left, answers = {}, {}
    for precision in ("fp32", "int8"):
        chosen = geometric_thresholds(found[precision, "calibration"].probabilities.max(axis=2), Q)
        test = found[precision, "test"]
        left[precision] = exits(test.probabilities.max(axis=2), chosen)
        answers[precision] = test.probabilities.argmax(axis=2)
    labels, macs = found["fp32", "test"].labels, found["fp32", "test"].macs / 1e9
    each, proof = np.arange(len(labels)), Bundle.open(int8).manifest.proof["int8"]
    right = {precision: found == labels for precision, found in answers.items()}
    more = {}
    if nncf:
        number, theirs = by_nncf(Bundle.open(plain), lists)
        more = {
            "nncf": number,
            "nncf_accuracy": float((theirs == labels).mean()),
            "nncf_classes_agree": float((theirs == answers["fp32"][-1]).mean()),
            "over_nncf": difference(right["int8"][-1], theirs == labels),
        }
    return {
        **more,
        "over_fp32": [difference(*pair) for pair in zip(right["int8"], right["fp32"], strict=True)],
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.processor() or platform.machine()}, 1 thread",
        "versions": {name: version(name) for name in ("dynvid", "torch", "onnxruntime", "openvino", "numpy")},
        "backend": backend,
        "videos": len(labels),
        "fp32_layers": proof["fp32_layers"],
        "accuracy": {p: (answers[p] == labels).mean(axis=1).tolist() for p in answers},
        "classes_agree": (answers["fp32"] == answers["int8"]).mean(axis=1).tolist(),
        "exits_agree": float((left["fp32"] == left["int8"]).mean()),
        "accuracy_at_exits": {p: float((answers[p][left[p], each] == labels).mean()) for p in answers},
        "mean_gmacs": {p: float(macs[left[p]].mean()) for p in left},
    }


def table(report: dict) -> str:
    kept = sum(map(len, report["fp32_layers"].values()))
    lines = [
        f"{report['videos']} clips; engines of {report['backend']}; {kept} convolutions in fp32; {report['machine']}; {report['date']}; "
        + ", ".join(f"{name} {number}" for name, number in report["versions"].items()),
        "",
        "| checkpoint | accuracy in fp32 | in INT8 | difference, points (95 % interval) | classes agree |",
        "|---|---|---|---|---|",
    ]
    rows = zip(*report["accuracy"].values(), report["over_fp32"], report["classes_agree"], strict=True)
    lines += [
        f"| {k} | {one:.2%} | {other:.2%} | {points(over)} | {agree:.2%} |"
        for k, (one, other, over, agree) in enumerate(rows, 1)
    ]
    at, gmacs = report["accuracy_at_exits"], report["mean_gmacs"]
    lines.append(f"| at the exits, q = {Q:g} | {at['fp32']:.2%} | {at['int8']:.2%} | | |")
    lines += [
        "",
        f"Exits agree for {report['exits_agree']:.2%} of the clips; mean GMACs {gmacs['fp32']:.4f} in fp32, {gmacs['int8']:.4f} in INT8 "
        f"({gmacs['int8'] / gmacs['fp32'] - 1:+.2%}).",
    ]
    if "nncf" in report:
        lines += [
            "",
            f"The static network quantised by NNCF {report['nncf']}: {report['nncf_accuracy']:.2%}, its class that of fp32 for "
            f"{report['nncf_classes_agree']:.2%} of the clips; dynvid's INT8 at the last checkpoint over it: {points(report['over_nncf'])} points.",
        ]
    return "\n".join(lines)


def points(difference: list[float]) -> str:
    """Return a difference with its interval in percentage points."""
    value, low, high = (100 * share for share in difference)
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=2000, help="to calibrate on")
    parser.add_argument("--test-clips", type=int, default=2000, help="others, to measure on")
    parser.add_argument(
        "--nncf", action="store_true", help="also quantise the static network by NNCF, which must be installed"
    )
    parser.add_argument("--backend", default="openvino", help="onnxruntime or openvino")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    report = measure(arguments.folder, arguments.clips, arguments.test_clips, arguments.backend, arguments.nncf)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))


if __name__ == "__main__":
    main()
