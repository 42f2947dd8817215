"""Write short, encoded video clips of synthetic actions: the demonstration network's data set.

About half of the classes can be told from one frame (a shape that trembles in place), a quarter only by motion over
time, and a quarter only by how the clip ends, as in Fig. 1 of the paper. The latter two show one ellipse:

- ``moves_left`` is ``moves_right`` played backwards and ``shrinks`` is ``grows`` played backwards, so neither
  a frame nor an unordered set of frames tells them apart.
- ``falls_*`` are drawn alike up to the event, when the ellipse reaches the floor. One event in three comes
  after sampled frame 13 of 16, so that only the last input set shows how these clips end.

All random numbers come from (seed, index), and within a group of look-alikes from the same draws.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

LOOK_ALIKES: tuple[tuple[str, ...], ...] = (
    ("moves_left", "moves_right"),
    ("grows", "shrinks"),
    ("falls_rests", "falls_bounces", "falls_breaks"),
)
SHAPES = ("disc", "square", "triangle", "cross", "ring", "star")
CLASSES: tuple[str, ...] = (*SHAPES, *LOOK_ALIKES[0], *LOOK_ALIKES[1], *LOOK_ALIKES[2])

SIZE = 64  # height and width, pixels
MIN_FRAMES, MAX_FRAMES, MIN_FPS, MAX_FPS = 32, 64, 15, 30
# Sampled frame i of 16 is frame (2i + 1) * L // 32, and 13 is the last one in the input sets 0, 3, 5 and 6.
LATE = 27 / 32  # an event later than this fraction of the clip shows in sampled frames 14 and 15 only

_CLASSES_STREAM, _PICTURES_STREAM = 0, 1  # independent streams of random numbers
_Y, _X = np.mgrid[:SIZE, :SIZE].astype(np.float32) + np.float32(0.5)  # pixel centres, each [height, width]

_Floats = NDArray[Any]  # float32, or float64 before conversion
_Row = _Floats | float
_Distance = Callable[[_Floats, _Floats], _Floats]


@dataclass(frozen=True, slots=True)
class Clip:
    """What is known about one clip.

    Attributes:
        index: position in its data set.
        label: one of ``CLASSES``.
        num_frames: length in frames.
        event: when the ellipse reaches the floor, as a fraction of the clip's length; None in other classes.
        difficulty: from 0 (plain) to 1 (small, faint, noisy, cluttered).
        fps: frames per second.
    """

    index: int
    label: str
    num_frames: int
    event: float | None
    difficulty: float
    fps: int


def label_of(seed: int, index: int) -> str:
    """Return the class of a clip: each run of ``len(CLASSES)`` clips holds every class once, in random order."""
    run, place = divmod(index, len(CLASSES))
    order = np.random.default_rng((seed, _CLASSES_STREAM, run)).permutation(len(CLASSES))
    return CLASSES[int(order[place])]


def render(seed: int, index: int) -> tuple[Clip, NDArray[np.uint8]]:
    """Draw one clip.

    Args:
        seed: of the data set, not negative.
        index: of the clip in the data set, not negative.

    Returns:
        The clip's record and its RGB frames, uint8 [num_frames, 64, 64, 3].
    """
    rng = np.random.default_rng((seed, _PICTURES_STREAM, index))
    label = label_of(seed, index)
    num_frames = int(rng.integers(MIN_FRAMES, MAX_FRAMES, endpoint=True))
    fps = int(rng.integers(MIN_FPS, MAX_FPS, endpoint=True))
    difficulty = float(rng.uniform())

    base = rng.uniform(70, 185, 3).astype(np.float32)  # the ground's colour, RGB
    contrast = math.copysign(_between(95, 28, difficulty) * rng.uniform(0.85, 1.15), 128 - base.mean())
    colour = base + (contrast + rng.uniform(-20, 20, 3)).astype(np.float32)  # the actor's colour
    ground = _ground(rng, base, colour, difficulty)

    event = None
    aspect = float(rng.uniform(1.7, 2.3))
    if label in SHAPES:
        track = _trembling(rng, num_frames, difficulty)
    elif label in LOOK_ALIKES[0]:
        track = _moving(rng, num_frames, difficulty, backwards=label == "moves_left")
    elif label in LOOK_ALIKES[1]:
        track = _growing(rng, num_frames, difficulty, backwards=label == "shrinks")
    else:
        track, floor, event_frame = _falling(rng, num_frames, difficulty, label, aspect)
        event = event_frame / num_frames
        ground += _cover(np.abs(_Y - floor) - 0.8)[..., None] * (0.8 * (colour - ground))

    frames = np.repeat(ground[None], num_frames, axis=0)  # [frames, height, width, channels]
    for _ in range(int(rng.uniform(0, 1) + 2 * difficulty)):  # specks that drift in any direction
        x, y = rng.uniform(0, SIZE, (2, 2)) @ np.linspace((1, 0), (0, 1), num_frames).T
        speck = _track(num_frames, x, y, radius=rng.uniform(1.2, 2.5))
        _paint(frames, _SHAPE_DISTANCES["disc"], speck, base + rng.uniform(0.3, 1) * (colour - base))
    _paint(frames, _SHAPE_DISTANCES.get(label, lambda u, v: np.hypot(u, aspect * v) - 1), track, colour)
    light = rng.normal(0, _between(0.5, 4, difficulty), (num_frames, 1, 1, 1)).astype(np.float32)
    grain = rng.standard_normal((num_frames, SIZE, SIZE, 1), dtype=np.float32)
    frames += light + grain * _between(1, 17, difficulty)
    clip = Clip(index, label, num_frames, event, difficulty, fps)
    return clip, np.clip(frames, 0, 255, out=frames).astype(np.uint8)


def encode(frames: NDArray[np.uint8], path: Path, fps: int) -> None:
    """Write frames as an H.264 mp4 file; equal frames give equal bytes.

    Args:
        frames: RGB, uint8 [frames, height, width, 3]; height and width even.
        path: of the file, with any suffix.
        fps: frames per second.
    """
    # A key frame every 12 frames, so that a reader can start in the middle. The second line makes bytes reproducible:
    # with B-frames and its fastest routines, x264 wrote pictures this small differently on each run.
    options = {"crf": "20", "preset": "veryfast", "g": "12"}
    options |= {"threads": "1", "bf": "0", "x264-params": "cpu-independent=1"}
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_clips(folder: Path, count: int, seed: int, progress: Callable[[int], None] | None = None) -> Path:
    """Write a data set: ``clips/000000.mp4`` and so on, and ``clips.csv`` last.

    The list exists only once all of its clips do: a folder with a list is complete, and the same call repairs one
    without. Existing clips are rewritten.

    Args:
        folder: of the data set; created if missing.
        count: number of clips.
        seed: of the data set, not negative.
        progress: called after each clip with the number of clips written.

    Returns:
        The path of ``clips.csv``, with a header and the columns ``video`` (a path relative to the list), ``label``,
        ``event`` (empty if there is none) and ``difficulty``.
    """
    listing = folder / "clips.csv"
    listing.unlink(missing_ok=True)
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    rows = [("video", "label", "event", "difficulty")]
    for index in range(count):
        clip, frames = render(seed, index)
        video = f"clips/{index:06d}.mp4"
        encode(frames, part := folder / f"{video}.part", clip.fps)
        os.replace(part, folder / video)
        event = "" if clip.event is None else f"{clip.event:.6f}"
        rows.append((video, clip.label, event, f"{clip.difficulty:.6f}"))
        if progress is not None:
            progress(index + 1)
    with (part := folder / "clips.csv.part").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    os.replace(part, listing)
    return listing


def _between(easy: float, hard: float, difficulty: float) -> float:
    return easy + (hard - easy) * difficulty


def _track(num_frames: int, x: _Row, y: _Row, radius: _Row, angle: _Row = 0.0, gap: _Row = 0.0) -> _Floats:
    """Return where an object is, [5, frames], in pixels and radians; its halves lie ``gap`` left and right of x."""
    return np.stack([np.broadcast_to(np.float32(row), num_frames) for row in (x, y, radius, angle, gap)])


def _trembling(rng: np.random.Generator, num_frames: int, difficulty: float) -> _Floats:
    """Return the track of a shape that trembles about its place, in slow waves that look alike in both directions."""
    radius = _between(14, 7, difficulty) * rng.uniform(0.9, 1.1)
    turns = rng.uniform(1, 3, (3, 1)) * np.linspace(0, 1, num_frames) + rng.uniform(0, 1, (3, 1))
    dx, dy, turn = np.sin(2 * np.pi * turns)
    x, y = rng.uniform(radius + 3, SIZE - radius - 3, 2)
    return _track(num_frames, x + 1.5 * dx, y + 1.5 * dy, radius, rng.uniform(-0.3, 0.3) + 0.12 * turn)


def _progress(rng: np.random.Generator, num_frames: int, *, backwards: bool) -> _Floats:
    """Return a rise from 0 to 1 within a random half or more of the clip, [frames]; backwards, a fall from 1 to 0."""
    length = rng.uniform(0.55, 1)
    start = rng.uniform(0, 1 - length)
    times = (np.arange(num_frames, dtype=np.float32) + 0.5) / num_frames
    progress = np.clip((times - start) / length, 0, 1)
    return progress[::-1] if backwards else progress


def _moving(rng: np.random.Generator, num_frames: int, difficulty: float, *, backwards: bool) -> _Floats:
    """Return the track of an ellipse that crosses part of the picture from left to right."""
    radius = _between(11, 8.5, difficulty) * rng.uniform(0.9, 1.1)
    distance = _between(34, 20, difficulty) * rng.uniform(0.9, 1.1)
    x = rng.uniform(9, SIZE - 9 - distance) + distance * _progress(rng, num_frames, backwards=backwards)
    return _track(num_frames, x, rng.uniform(14, SIZE - 14), radius, rng.uniform(-0.5, 0.5))


def _growing(rng: np.random.Generator, num_frames: int, difficulty: float, *, backwards: bool) -> _Floats:
    """Return the track of an ellipse that grows in place."""
    middle = _between(10.5, 8.5, difficulty) * rng.uniform(0.9, 1.1)
    ratio = _between(2.9, 2.0, difficulty) * rng.uniform(0.9, 1.1)
    radius = middle * ratio ** (_progress(rng, num_frames, backwards=backwards) - 0.5)
    x, y = rng.uniform(18, SIZE - 18, 2)
    return _track(num_frames, x, y, radius, rng.uniform(-0.5, 0.5))


def _falling(
    rng: np.random.Generator, num_frames: int, difficulty: float, label: str, aspect: float
) -> tuple[_Floats, float, float]:
    """Return the track of an ellipse that falls, then rests, bounces or breaks; the floor's y; the event's frame."""
    # One event in three is late, but still before sampled frame 14; the others come before sampled frame 13.
    first, last = 0.45 * num_frames, num_frames * 27 // 32 - 1.0
    if rng.uniform() < 1 / 3:
        first, last = LATE * num_frames, num_frames * 29 // 32 - 0.5
    event, floor = last - (last - first) * float(rng.uniform()), float(rng.uniform(50, 60))
    times = np.arange(num_frames, dtype=np.float32)
    radius = _between(11, 8.5, difficulty) * rng.uniform(0.9, 1.1)
    top, rest = rng.uniform(6, 16), floor - radius / aspect
    y = top + (rest - top) * np.minimum(times / event, 1) ** rng.uniform(1, 1.6)
    # Fast: sampled frame 15, two frames or more after the event, shows most of the ending.
    ending = 1 - np.exp(-np.maximum(times - event, 0) / (0.025 * num_frames))
    height, gap, x = rng.uniform(20, 28), rng.uniform(11, 14), rng.uniform(22, SIZE - 22)
    if label == "falls_bounces":
        y -= height * ending
    broken = ending * (label == "falls_breaks")
    return _track(num_frames, x, y, np.where(broken > 0, 0.75, 1) * radius, gap=gap * broken), floor, event


def _ground(rng: np.random.Generator, base: _Floats, colour: _Floats, difficulty: float) -> _Floats:
    """Return the static background, [height, width, channels]: a soft texture, spots and strokes."""
    knots = rng.normal(0, _between(2, 14, difficulty), (7, 7)).astype(np.float32)
    places = np.linspace(0, 6, SIZE, dtype=np.float32)
    weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(7, dtype=np.float32)))  # between knots
    ground: _Floats = base + (weights @ knots @ weights.T)[..., None]
    for _ in range(int(rng.uniform(0, 2) + 12 * difficulty)):
        x, y, turn, half_length, half_width = rng.uniform((0, 0, 0, 0, 0.5), (SIZE, SIZE, np.pi, 9, 1.6)).tolist()
        along = (_X - x) * math.cos(turn) + (_Y - y) * math.sin(turn)
        across = (_Y - y) * math.cos(turn) - (_X - x) * math.sin(turn)
        inside = _cover(np.hypot(np.maximum(np.abs(along) - half_length, 0), across) - half_width)
        ground += inside[..., None] * (base + float(rng.uniform(-0.5, 0.8)) * (colour - base) - ground)
    return ground


def _paint(frames: _Floats, shape: _Distance, track: _Floats, colour: _Floats) -> None:
    """Draw a shape along its track into frames [frames, height, width, channels], with soft borders."""
    x, y, radius, angle, gap = track[..., None, None]  # each [frames, 1, 1]
    reach = 1.2 * radius + gap + 2
    rows = slice(max(0, int((y - reach).min())), max(0, int((y + reach).max())))
    columns = slice(max(0, int((x - reach).min())), max(0, int((x + reach).max())))
    across, down = _X[rows, columns] - x, _Y[rows, columns] - y  # [frames, rows, columns]
    across -= np.sign(across) * gap
    u = (across * np.cos(angle) + down * np.sin(angle)) / radius
    v = (down * np.cos(angle) - across * np.sin(angle)) / radius
    window = frames[:, rows, columns]
    window += _cover(shape(u, v) * radius)[..., None] * (colour.astype(np.float32) - window)


def _cover(distance: _Floats) -> _Floats:
    """Return the share of a pixel that lies inside, from the signed distance to the border in pixels."""
    return np.clip(0.5 - distance, 0, 1)


def _star(u: _Floats, v: _Floats) -> _Floats:
    # Folded onto a tenth of the star, where its border is the line from the tip (1.1, 0) to the notch.
    turn = np.abs((np.arctan2(u, -v) + math.pi / 5) % (2 * math.pi / 5) - math.pi / 5)
    distance = np.hypot(u, v)
    run, rise = 1.1 - 0.46 * math.cos(math.pi / 5), 0.46 * math.sin(math.pi / 5)
    outward = rise * (distance * np.cos(turn) - 1.1) + run * distance * np.sin(turn)
    return outward / math.hypot(run, rise)


# Signed distances to the border, about 1 from the centre: negative inside; v points down.
_SHAPE_DISTANCES: dict[str, _Distance] = {
    "disc": lambda u, v: np.hypot(u, v) - 0.9,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) - 0.8,
    "triangle": lambda u, v: np.maximum(0.866 * abs(u) - v / 2, v) - 0.55,
    "cross": lambda u, v: np.maximum(np.maximum(abs(u), abs(v)) - 1, np.minimum(abs(u), abs(v)) - 0.28),
    "ring": lambda u, v: abs(np.hypot(u, v) - 0.76) - 0.2,
    "star": _star,
}
