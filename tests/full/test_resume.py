"""``dynvid classify -o`` killed at random times: every video exactly one line, the same bits as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from fake_av import crashing_av

from dynvid.exporter.engines.build import build_engines
from dynvid.training.clips import write_clips

PATIENCE_S = 120.0
TIMES = ("latency_ms", "decode_ms", "waited_ms", "elapsed_ms")


def write_list(folder, count):
    """Write ``count`` videos, arrays and encoded ones, and four that fail; return their LIST."""
    rng = np.random.default_rng(0)
    encoded = min(count // 10, 60)
    write_clips(folder, encoded, 0)
    names = [f"clips/{i:06d}.mp4" for i in range(encoded)]
    for i in range(count - encoded - 4):
        np.save(folder / f"{i}.npy", rng.integers(0, 256, (6 + i % 7, 40, 44, 3), np.uint8))
        names.append(f"{i}.npy")
    (folder / "text.mp4").write_text("this is not a video")
    (folder / "crash.mp4").write_bytes((folder / names[0]).read_bytes())
    np.save(folder / "numeric.npy", np.full((8, 3, 32, 32), 3e38, np.float32))
    names += ["text.mp4", "crash.mp4", "numeric.npy", "missing.npy"]
    random.Random(0).shuffle(names)
    listing = folder / "list.csv"
    listing.write_text("video\n" + "".join(f"{name}\n" for name in names))
    return listing


def by_video(path):
    """Return how many lines a file has, and each video's line without the times."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        assert not record.pop("cut", False)
        for field in TIMES:
            record.pop(field, None)
    return len(records), {record["video"]: record for record in records}


def same_bits(found, expected):
    """Assert that every line is the expected one; the work of decoding a file depends on the crashes beside it."""
    for video, record in found.items():
        if video.endswith(".mp4") and record["status"] == "ok":
            assert min(record["frames_decoded"], expected[video]["frames_decoded"]) > 0
            record = record | {"frames_decoded": expected[video]["frames_decoded"]}
        assert record == expected[video]


@pytest.fixture
def start(tiny_bundle, tmp_path):
    """Return a function that starts ``dynvid classify`` on a LIST, with the cells or with fused segments."""
    thresholds = tmp_path / "T.json"
    thresholds.write_text(json.dumps({"bundle_sha256": tiny_bundle.sha256, "thresholds": [0.45, 0.45, 0.45, None]}))
    (tmp_path / "hook").mkdir()
    crashing_av(tmp_path / "hook", "crash", "getpid", "SIGSEGV")
    paths = os.pathsep.join([str(tmp_path / "hook"), *map(os.path.abspath, sys.path)])

    rows = build_engines(tiny_bundle, tmp_path / "engines", "onnxruntime")
    assert {row.status for row in rows} == {"built"}

    def run(listing, out, what="cells"):
        command = ["classify", tiny_bundle.root, "--data", listing, "-o", out, "--thresholds", thresholds]
        options = ["--threads", 1, "--max-failures", 0.5]
        options += ["--engines", tmp_path / "engines"] if what == "fused" else []
        return subprocess.Popen(
            [sys.executable, "-m", "dynvid.cli", *map(str, command + options)],
            env=os.environ | {"PYTHONPATH": paths},
            stderr=subprocess.PIPE,
        )

    return run


def finish(process):
    """Wait for a process that is left alone; its message."""
    said = process.communicate(timeout=PATIENCE_S)[1].decode()
    assert process.returncode == 7, said
    return said


def written(path):
    return path.stat().st_size if path.exists() else 0


def kill_at_random(process, out, rng, pace_s):
    """Kill a process while it starts (one time in eight) or while it classifies; whether it still ran."""
    if rng.random() < 1 / 8:
        time.sleep(rng.uniform(0, 1))
    else:
        before, end = written(out), time.monotonic() + PATIENCE_S
        while written(out) == before and process.poll() is None and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 2 * pace_s))
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("count", "kills", "what"),
    [(60, 5, "cells"), (60, 5, "fused"), pytest.param(2000, 100, "fused", marks=pytest.mark.full)],
)
def test_kills_lose_nothing_double_nothing_and_change_no_bit(start, tmp_path, count, kills, what):
    listing, reference, rng = write_list(tmp_path / "videos", count), tmp_path / "reference.jsonl", random.Random(1)
    began = time.monotonic()
    assert f"4 of {count} videos could not be classified" in finish(start(listing, reference, what))
    pace_s = (time.monotonic() - began) / kills / 2
    lines, expected = by_video(reference)
    assert lines == len(expected) == count
    answers = list(expected.values())
    assert Counter(answer["status"] for answer in answers) == {"ok": count - 4, "damaged": 3, "numeric_error": 1}
    assert len({answer["checkpoint"] for answer in answers}) > 2
    (crashed,) = [answer for answer in answers if answer["video"].endswith("crash.mp4")]
    assert crashed["status"] == "damaged" and "the decoder process died (SIGSEGV)" in crashed["error"]

    done, outs = 0, [tmp_path / "0.jsonl"]
    while done < kills:
        out = outs[-1]
        kept = out.read_bytes() if out.exists() else b""
        killed = kill_at_random(start(listing, out, what), out, rng, pace_s)
        whole_lines = kept[: kept.rfind(b"\n") + 1]
        assert not kept or out.read_bytes().startswith(whole_lines)
        done += killed
        if not killed:  # it was through before: the other kills hit another run
            outs.append(tmp_path / f"{len(outs)}.jsonl")
    left = count - len(outs[-1].read_bytes().splitlines()) if outs[-1].exists() else count
    assert {"cells": "the cells of", "fused": "fused segments of"}[what] in finish(start(listing, outs[-1], what))
    print(f"{done} kills in {len(outs)} runs, {left} videos after the last")
    for out in outs:
        lines, found = by_video(out)
        assert lines == len(found) == count
        same_bits(found, expected)
