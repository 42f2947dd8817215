"""The demonstration's clips cut into the layouts of data sets, each with the traps of that data set planted.

In every layout the training list names 26 clips of 13 classes and one of them twice; one is missing and one is
truncated. The other list names 13 more, one of each class.
"""

import csv
import json
import os
import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av

from dynvid.training.clips import CLASSES, label_of, render, write_clips

SEED, TRAINED, COUNT = 3, 26, 39
MISSING, TRUNCATED, TWICE = 3, 7, 5
FRAMES = 5

NAMES = {label: label for label in CLASSES} | {
    "disc": "hurling (sport)",
    "square": "massaging person's head",
    "triangle": "air drumming",
    "ring": "tying knot (not on a tie)",
}  # moves_left and its like hold '_'
SPELLINGS = {
    "official": lambda name: name,
    "mmaction2": lambda name: name.replace(" ", "_"),
    "tsm": lambda name: re.sub("[()']", "", name.replace(" ", "_")),
    "older mmaction2": lambda name: name.replace(" ", "_").replace("(", "-").replace(")", "-"),
}


@dataclass
class Layout:
    """What a test gives to ``read_source``, and the names of the two splits."""

    source: Path
    format: str
    other: str = "validation"
    options: dict = field(default_factory=dict)
    classes: list = field(default_factory=lambda: sorted(NAMES.values()))
    listed: int = TRAINED + 1


class Clips:
    """The clips as files: ``put`` copies one to where a layout has it."""

    def __init__(self, folder: Path) -> None:
        write_clips(folder, COUNT, SEED)
        self.folder = folder
        self.images: dict[int, list[bytes]] = {}

    def name(self, index: int) -> str:
        return NAMES[label_of(SEED, index)]

    def put(self, index: int, path: Path) -> None:
        if index == MISSING:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"clips/{index:06d}.mp4"
        if index == TRUNCATED:
            path.write_bytes(file.read_bytes()[:200])
        else:
            os.link(file, path)

    def put_frames(self, index: int, folder: Path, pattern: str, first: int = 1) -> None:
        if index == MISSING:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if index not in self.images:
            self.images[index] = [jpeg(frame) for frame in render(SEED, index)[1][:FRAMES]]
        for number, image in enumerate(self.images[index], first):
            (folder / pattern.format(number)).write_bytes(image)
        if index == TRUNCATED:
            (folder / pattern.format(first)).write_bytes(b"no image")


def jpeg(frame) -> bytes:
    context = av.CodecContext.create("mjpeg", "w")
    context.height, context.width, context.pix_fmt, context.time_base = *frame.shape[:2], "yuvj420p", Fraction(1, 25)
    image = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuvj420p")
    return b"".join(bytes(packet) for packet in [*context.encode(image), *context.encode(None)])


def rows(indices):
    """Return the indices with the one that is listed twice."""
    return [*indices, TWICE] if TWICE in indices else [*indices]


def write(path: Path, lines, end="\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}{end}" for line in lines).encode())


TRAIN, OTHER = range(TRAINED), range(TRAINED, COUNT)


def kinetics(clips: Clips, root: Path, spelling: str = "official", suffix: str = "mp4") -> Layout:
    """Ids that begin with '-' or differ only by case, times such as 20.0, flat validation clips, quoted labels."""
    ids = {index: f"-{index:010d}" for index in range(COUNT)} | {1: "aBcDeFgHiJk", 2: "AbCdEfGhIjK"}
    for part, indices in (("train", TRAIN), ("val", OTHER)):
        path = root / "annotations" / f"{part}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL if part == "val" else csv.QUOTE_MINIMAL)
            writer.writerow(["label", "youtube_id", "time_start", "time_end", "split", "is_cc"])
            for index in rows(indices):
                start = f"{index}.0" if index % 2 else str(index)
                writer.writerow([clips.name(index), ids[index], start, index + 10, part, 0])
        for index in indices:
            name = f"{ids[index]}_{index:06d}_{index + 10:06d}" if index % 3 or part == "train" else ids[index]
            folder = SPELLINGS[spelling](clips.name(index)) if part == "train" else ""
            clips.put(index, root / part / folder / f"{name}.{suffix}")
    return Layout(root, "kinetics")


def something_v2(clips: Clips, root: Path, pattern: str | None = None) -> Layout:
    """The class is the template without brackets; the label is a sentence; the index is text; a test set of ids."""
    names = [f"{name}, then something" for name in NAMES.values()]
    write(root / "labels/labels.json", [json.dumps({name: str(number) for number, name in enumerate(names)})])
    for part, indices in (("train", TRAIN), ("validation", OTHER)):
        items = [
            {"id": str(1000 + index), "label": "a sentence", "template": f"{clips.name(index)}, then [something]"}
            for index in rows(indices)
        ]
        write(root / f"labels/something-something-v2-{part}.json", [json.dumps(items)])
        for index in indices:
            if pattern is None:
                clips.put(index, root / f"20bn-something-something-v2/{1000 + index}.webm")
            else:
                folder = root / f"frames/{1000 + index}"
                clips.put_frames(index, folder, pattern.replace("ID", str(1000 + index)))
    return Layout(root, "something-v2", classes=names)


def something_v1(clips: Clips, root: Path) -> Layout:
    names = [f"{name}, then something" for name in reversed(NAMES.values())]
    write(root / "something-something-v1-labels.csv", names)
    for part, indices in (("train", TRAIN), ("validation", OTHER)):
        lines = [f"{1000 + index};{clips.name(index)}, then something" for index in rows(indices)]
        write(root / f"something-something-v1-{part}.csv", lines)
        for index in indices:
            clips.put_frames(index, root / f"20bn-something-something-v1/{1000 + index}", "{:05d}.jpg")
    return Layout(root, "something-v1", classes=names)


def ucf101(clips: Clips, root: Path, flat_frames: bool = False) -> Layout:
    """Numbers from 1 in the training list only, CRLF, another case in the names of files."""
    names = list(reversed(NAMES.values()))
    lists = root / "ucfTrainTestlist"
    write(lists / "classInd.txt", [f"{number} {name}" for number, name in enumerate(names, 1)], "\r\n")
    for part, indices in (("train", TRAIN), ("test", OTHER)):
        lines = []
        for index in rows(indices):
            name = clips.name(index)
            number = f" {names.index(name) + 1}" if part == "train" else ""
            lines.append(f"{name}/v_{name}_g{index:02d}_c01.avi{number}")
        write(lists / f"{part}list01.txt", lines, "\r\n")
        for index in indices:
            name = clips.name(index)
            stem = f"v_{name.title()}_g{index:02d}_c01"
            if flat_frames:
                clips.put_frames(index, root / "frames" / stem, "img_{:05d}.jpg")
            else:
                clips.put(index, root / "UCF-101" / name / f"{stem}.avi")
    write(lists / "trainlist02.txt", [f"{names[0]}/v_none_g99_c01.avi 1"], "\r\n")
    return Layout(root, "ucf101", "test", classes=names)


def hmdb51(clips: Clips, root: Path) -> Layout:
    """Class names with '_', odd file names, clips in neither part, lines that end in a blank."""
    stems = {i: f"#20_(Rad)!_&;_{i}_{clips.name(i)}_f_cm_np1_le_med_{i}" for i in range(COUNT)}
    for name in NAMES.values():
        lines = [
            f"{stems[index]}.avi {1 if index < TRAINED else 2} "
            for index in rows(range(COUNT))
            if clips.name(index) == name
        ]
        write(root / f"splits/{name}_test_split1.txt", [*lines, f"x_{name}_f_cm_np1_le_med_0.avi 0 "])
        write(root / f"splits/{name}_test_split2.txt", [f"x_{name}_f_cm_np1_le_med_0.avi 1 "])
    for index in range(COUNT):
        clips.put(index, root / "videos" / clips.name(index) / f"{stems[index]}.avi")
    return Layout(root, "hmdb51", "test")


def listed_videos(clips: Clips, root: Path) -> Layout:
    """Rows 'path label' with spaces and brackets in the paths, and a label map."""
    names = list(reversed(NAMES.values()))
    write(root / "label_map.txt", names)
    for part, indices in (("train", TRAIN), ("val", OTHER)):
        paths = {index: f"videos {part}/{clips.name(index)}/{index}.mp4" for index in indices}
        lines = [f"{paths[index]} {names.index(clips.name(index))}" for index in rows(indices)]
        write(root / f"kinetics_{part}_list_videos.txt", lines)
        for index in indices:
            clips.put(index, root / paths[index])
    return Layout(root, "list", classes=names)


def listed_frames(clips: Clips, root: Path) -> Layout:
    """Rows 'folder frames label' from 1, with optical flow beside the frames."""
    names = list(reversed(NAMES.values()))
    write(root / "names.txt", names)
    for part, indices in (("train", TRAIN), ("val", OTHER)):
        lines = []
        for index in rows(indices):
            folder = f"{clips.name(index)}/a clip{index}"
            lines.append(f"{folder} {FRAMES} {names.index(clips.name(index)) + 1}")
        write(root / f"{part}_split1.txt", lines)
        for index in indices:
            folder = root / f"frames/{clips.name(index)}/a clip{index}"
            clips.put_frames(index, folder, "img_{:05d}.jpg")
            clips.put_frames(index, folder, "flow_x_{:05d}.jpg")
    options = {"videos": root / "frames", "labels": root / "names.txt", "first_label": 1}
    return Layout(root, "list", classes=names, options=options)


def table(clips: Clips, root: Path) -> Layout:
    """One CSV with the columns path, class and split, by semicolons, with a byte order mark."""
    lines = ["\ufeffpath;class;split"]
    for part, indices in (("train", TRAIN), ("val", OTHER)):
        for index in rows(indices):
            lines.append(f"clips/{index}.mkv;{clips.name(index)};{part}")
        for index in indices:
            clips.put(index, root / f"clips/{index}.mkv")
    write(root / "all.csv", lines)
    return Layout(root / "all.csv", "list")


def class_folders(clips: Clips, root: Path, spelling: str = "official", frames: bool = False) -> Layout:
    """Nothing is listed, so nothing is missing or twice; the splits spell their classes differently."""
    for part, indices in (("train", TRAIN), ("val", OTHER)):
        for index in indices:
            spelled = SPELLINGS["official" if part == "train" else spelling](clips.name(index))
            if frames:
                clips.put_frames(index, root / part / spelled / f"{index}", "frame{}.jpg", 0)
            else:
                clips.put(index, root / part / spelled / f"{index}.mp4")
    return Layout(root, "class-folders", listed=TRAINED - 1)


LAYOUTS = {
    **{f"kinetics, {spelling}": (kinetics, {"spelling": spelling}) for spelling in SPELLINGS},
    "kinetics, mkv": (kinetics, {"suffix": "mkv"}),
    "something v2": (something_v2, {}),
    **{
        f"something v2, {pattern}": (something_v2, {"pattern": pattern})
        for pattern in ("{:06d}.jpg", "img_{:05d}.jpg", "ID_{:06d}.jpg")
    },
    "something v1": (something_v1, {}),
    "ucf101": (ucf101, {}),
    "ucf101, flat frames": (ucf101, {"flat_frames": True}),
    "hmdb51": (hmdb51, {}),
    "path label": (listed_videos, {}),
    "folder frames label": (listed_frames, {}),
    "table": (table, {}),
    **{f"class folders, {spelling}": (class_folders, {"spelling": spelling}) for spelling in SPELLINGS},
    "class folders, frames": (class_folders, {"frames": True}),
}
