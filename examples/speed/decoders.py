"""Time decoding against torchcodec, decord and OpenCV: ``decoders.py FOLDER [--rounds N]``; `pip install` the three.

Every video of FOLDER is opened anew in each round by each reader in turn, on one thread: open it and read the first set
of frames (two of 16), then the other seven sets in the order of the demonstration's route. A reader's frames are right
where every one has the number that was asked for in linear decoding: compared are thumbnails of 32 x 32 pixels, since
readers scale and convert differently. Printed as Markdown: medians in ms, fastest right reader in bold.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import av
import cv2
import decord
import numpy as np
import torch
from torchcodec.decoders import VideoDecoder

from dynvid.grid.preprocessing import Preprocessing, sample_frames
from dynvid.runtime.video.file import VideoFile
from dynvid.runtime.video.orientation import Orientation

SAMPLES = 16
SETS = [(2 * n, 2 * n + 1) for n in (0, 3, 5, 6, 1, 2, 4, 7)]
PREPROCESSING = Preprocessing(short_side=256, crop=224)
_NEAR = 12.0  # mean difference of thumbnails in grey levels, above which a frame is another one

Read = Callable[[Sequence[int]], np.ndarray]


def thumbnails(frames: np.ndarray) -> np.ndarray:
    return np.stack([cv2.resize(frame, (32, 32), interpolation=cv2.INTER_AREA) for frame in frames]).astype(np.float32)


def with_dynvid(path: Path) -> Read:
    source = VideoFile(path, PREPROCESSING, SAMPLES)
    return source.pixels


def with_torchcodec(path: Path) -> Read:
    decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1)
    indices = sample_frames(len(decoder), SAMPLES)
    return lambda samples: decoder.get_frames_at([indices[s] for s in samples]).data.numpy()


def with_decord(path: Path) -> Read:
    reader = decord.VideoReader(str(path), num_threads=1)
    indices = sample_frames(len(reader), SAMPLES)
    return lambda samples: reader.get_batch([indices[s] for s in samples]).asnumpy()


def with_opencv(path: Path) -> Read:
    reader = cv2.VideoCapture(str(path))
    indices = sample_frames(int(reader.get(cv2.CAP_PROP_FRAME_COUNT)), SAMPLES)

    def read(samples: Sequence[int]) -> np.ndarray:
        found = []
        for sample in samples:
            reader.set(cv2.CAP_PROP_POS_FRAMES, indices[sample])
            there, frame = reader.read()
            if not there:
                raise OSError("no frame")
            found.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        return np.stack(found)

    return read


READERS = {"dynvid": with_dynvid, "torchcodec": with_torchcodec, "decord": with_decord, "opencv": with_opencv}


def prepared(frames: np.ndarray) -> np.ndarray:
    """Return other readers' frames resized and cropped as dynvid's are, [frames, crop, crop, 3]."""
    height, width = PREPROCESSING.resized(*frames.shape[1:3])
    top, left = (height - PREPROCESSING.crop) // 2, (width - PREPROCESSING.crop) // 2
    crop = PREPROCESSING.crop
    return np.stack([cv2.resize(one, (width, height))[top : top + crop, left : left + crop] for one in frames])


def expected(path: Path) -> np.ndarray | None:
    """Return thumbnails of the wanted frames by linear decoding; None if nothing can be decoded."""
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = max(container.streams.video, key=lambda one: one.width * one.height)
            frames = list(container.decode(stream))
    except (av.FFmpegError, ValueError):
        return None
    wanted = [frames[i] for i in sample_frames(len(frames), SAMPLES)]
    shown = [Orientation.of(frame).shown(frame.to_ndarray(format="rgb24")) for frame in wanted]
    return thumbnails(prepared(np.stack(shown)))


def timed(name: str, path: Path) -> tuple[float, float, np.ndarray]:
    """Return ms to the first set, ms to all sets, and the frames by sample number."""
    started, found = time.perf_counter(), {}
    read = READERS[name](path)
    first_ms = 0.0
    for number, samples in enumerate(SETS):
        frames = read(samples)
        frames = frames if name == "dynvid" else prepared(frames)
        found.update(zip(samples, frames, strict=True))
        if number == 0:
            first_ms = (time.perf_counter() - started) * 1e3
    return first_ms, (time.perf_counter() - started) * 1e3, np.stack([found[sample] for sample in range(SAMPLES)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    names = list(READERS)
    print(", ".join(f"{one} {version(one)}" for one in ("av", "torchcodec", "decord", "opencv-python-headless")), "\n")
    print("| file | " + " | ".join(f"{name}: first, all" for name in names) + " |\n|" + "---|" * (len(names) + 1))
    near_first = fastest_all = counted = 0
    for path in sorted(arguments.folder.iterdir()):
        truth = expected(path)
        if truth is None or min(truth.shape) == 0:
            continue
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        right = dict.fromkeys(names, True)
        for turn in range(arguments.rounds + 1):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                if not right[name]:
                    continue
                try:
                    first_ms, all_ms, frames = timed(name, path)
                except (
                    decord.DECORDError,
                    RuntimeError,
                    OSError,
                    ValueError,
                    IndexError,
                    cv2.error,
                ):  # how the others refuse a file
                    if name == "dynvid":
                        raise
                    right[name] = False
                    continue
                away = np.abs(thumbnails(frames) - truth).mean(axis=(1, 2, 3))
                right[name] = bool(away.max() < _NEAR)
                if turn:
                    times[name].append((first_ms, all_ms))
        medians = {name: np.median(found, axis=0) for name, found in times.items() if right[name] and found}
        best = [min((one[k] for one in medians.values()), default=np.inf) for k in (0, 1)]
        cells = []
        for name in names:
            if name not in medians:
                cells.append("wrong")
                continue
            first, whole = (
                f"**{t:.1f}**" if t == least else f"{t:.1f}" for t, least in zip(medians[name], best, strict=True)
            )
            cells.append(f"{first}, {whole}")
        print(f"| {path.name} | " + " | ".join(cells) + " |", flush=True)
        if "dynvid" in medians:
            counted += 1
            near_first += bool(medians["dynvid"][0] <= 1.2 * best[0])
            fastest_all += bool(medians["dynvid"][1] == best[1])
    print(
        f"\nfirst set within 1.2 of the fastest: {near_first} of {counted}; all sets fastest: {fastest_all} of {counted}"
    )


if __name__ == "__main__":
    main()
