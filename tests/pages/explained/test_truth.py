"""The picture tells the truth: what stands on the page is what the run did, and a planted difference is found."""

import math
import re
import time

import numpy as np
import pytest
from page_reader import data_of, read, require_alone

import dynvid
from dynvid.grid.thresholds import Thresholds
from dynvid.pages.explained.page import Setting, page
from dynvid.training.clips import write_clips

TOP = 0.999  # above any confidence of an untrained network


@pytest.fixture(scope="module")
def thresholds(tiny_bundle, tmp_path_factory):
    """Write thresholds under which videos leave at the second checkpoint."""
    path = tmp_path_factory.mktemp("thresholds") / "T.json"
    Thresholds(tiny_bundle.sha256, (TOP, 0.0, 0.5, None)).write(path)
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos") / "noise.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (12, 36, 44, 3), np.uint8))
    return path


@pytest.fixture(scope="module")
def explained(tiny_bundle, thresholds, video):
    (found,) = dynvid.explain(tiny_bundle.root, video, thresholds=thresholds)
    return found


def page_of(*found):
    return page(found, Setting("msdnet", "b", "cells", "T.json"))


@pytest.fixture(scope="module")
def written(explained):
    return page_of(explained)


def differences(text, answer, plan, thresholds):
    """Return in what a page and the trace of its run differ: cells, frames, confidences, times."""
    shown, (told,) = read(text), data_of(read(text))["videos"]
    exit_ = answer.checkpoint
    cells, call = {}, 0
    for segment in plan["segments"]:
        for span in segment["spans"]:
            call += 1
            for place in range(span["start"], span["stop"]):
                computed = segment["index"] <= exit_
                cells[f"{place},{span['block']}"] = (str(call), str(segment["index"]), str(computed).lower())
    drawn = {
        one.attributes["data-cell"]: tuple(one.attributes[f"data-{name}"] for name in ("call", "segment", "computed"))
        for one in shown.all("g", cls="cell")
    }
    filled = {one.attributes["data-cell"] for one in shown.all("g", cls="cell") if one.all("rect", cls="done")}
    sure = [max(p.tolist()) for p in answer.probabilities]
    bars = [
        (float(one.attributes["data-confidence"]), float(one.all("rect")[0].attributes["width"]) / 150)
        for one in shown.all("g", cls="said")
    ]
    rows = [
        [cell.text for cell in row if cell.tag in ("td", "th")]
        for row in shown.all("tr")
        if "data-checkpoint" in row.attributes
    ]
    used = [one.attributes["data-frame"] for one in shown.all("li", cls="used")]
    wanted = {
        "cells": drawn == cells and {key for key, (_, _, computed) in cells.items() if computed == "true"} == filled,
        "cells told": {f"{c['input_set']},{c['block']}": c["computed"] for c in told["grid"]["cells"]}
        == {key: computed == "true" for key, (_, _, computed) in cells.items()},
        "frames": sorted(used, key=int) == [str(f["frame"]) for f in told["frames"] if f["state"] == "used"]
        and len(used) == told_frames(plan, exit_),
        "confidences": [a for a, _ in bars] == sure and all(abs(a - b) < 1e-3 for a, b in bars),
        "confidences told": [c["confidence"] for c in told["checkpoints"]] == sure,
        "confidences in the table": [row[1] for row in rows] == [f"{one:.4f}" for one in sure],
        "thresholds": [c["threshold"] for c in told["checkpoints"]] == list(thresholds),
        "times": [c["segment_ms"] for c in told["checkpoints"]] == list(answer.segment_ms)
        and math.isclose(told["latency_ms"], sum(answer.segment_ms[:exit_])),
        "times in the table": [row[4] for row in rows] == [f"{ms:.2f}" for ms in answer.segment_ms],
        "multiply-adds drawn": [float(one.attributes["data-gmacs"]) for one in shown.all("g", cls="cost")]
        == [segment["gmacs"] for segment in plan["segments"][:exit_]],
        "classes at the bars": [one.all("text")[2].text for one in shown.all("g", cls="said")]
        == ["abcde"[int(p.argmax())] for p in answer.probabilities],
        "frames below the grid": [one.all("title")[0].text for one in shown.all("g", cls="samples")] == numbers_below(plan),
        "multiply-adds": [c["gmacs"] for c in told["checkpoints"]] == [c["gmacs"] for c in plan["checkpoints"]],
        "answer": (told["label"], told["checkpoint"]) == (answer.label, exit_)
        and f"Sure at checkpoint {exit_} of {len(sure)}: {answer.label}" in shown.text,
    }  # fmt: skip
    return [name for name, equal in wanted.items() if not equal]


def numbers_below(plan):
    """Return what the titles below the grid say of a video of 12 frames, of which 8 are sampled, two a set."""
    sampled = [0, 2, 3, 5, 6, 8, 9, 11]
    return [f"frames {sampled[2 * place]} {sampled[2 * place + 1]}" for place in plan["grid"]["set_order"]]


def told_frames(plan, exit_):
    """Return how many sampled frames the plan's segments read up to a checkpoint."""
    stops = [span["stop"] for s in plan["segments"][:exit_] for span in s["spans"] if span["block"] == 0]
    return max(stops) * plan["grid"]["frames_per_set"]


def test_the_page_is_the_trace(written, explained, tiny_bundle, video, thresholds):
    plan = dynvid.plan(tiny_bundle.root)
    assert differences(written, explained.answer, plan, (TOP, 0.0, 0.5, None)) == []
    with dynvid.load(tiny_bundle, thresholds=thresholds) as model:
        again = model.classify(video, trace=True)  # another run: all but its times
    assert again.checkpoint == explained.answer.checkpoint == 2
    assert np.array_equal(again.logits, explained.answer.logits)


PLANTED = {
    "cells": ('data-computed="true"', 'data-computed="false"'),
    "cells told": ('"computed": true', '"computed": false'),
    "frames": ('<li class="used"', '<li class="passed"'),
    "confidences": (r'data-confidence="0\.\d', 'data-confidence="0.9'),
    "confidences told": (r'"confidence": 0\.\d', '"confidence": 0.9'),
    "confidences in the table": (r'<td class="n">0\.\d', '<td class="n">0.9'),
    "thresholds": ('"threshold": 0.5', '"threshold": 0.6'),
    "times": (r'"segment_ms": \d', '"segment_ms": 7'),
    "multiply-adds drawn": (r'data-gmacs="\d', 'data-gmacs="7'),
    "classes at the bars": (r">[a-e]</text>", ">f</text>"),
    "frames below the grid": (r"<title>frames \d+", "<title>frames 99"),
    "multiply-adds": (r'"gmacs": 0\.\d', '"gmacs": 0.9'),
    "answer": ("Sure at checkpoint 2", "Sure at checkpoint 3"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_difference_is_found(written, explained, tiny_bundle, name):
    before, after = PLANTED[name]
    text = re.sub(before, after, written, count=1)
    assert text != written
    assert name in differences(text, explained.answer, dynvid.plan(tiny_bundle.root), (TOP, 0.0, 0.5, None))


def test_the_frames_called_used_are_those_that_the_answer_depends_on(explained, tiny_bundle, video, thresholds):
    """By experiment: of all sampled frames, each changed in turn, these alone change the logits of the exit."""
    frames = np.load(video)
    with dynvid.load(tiny_bundle, thresholds=thresholds) as model:
        before = model.classify(frames)
        for frame in explained.frames:
            changed = frames.copy()
            changed[frame.frame] = 255 - changed[frame.frame]
            differs = not np.array_equal(model.classify(changed).logits, before.logits)
            assert differs == (frame.state == "used"), frame
    assert {frame.state for frame in explained.frames} == {"used", "unread"}


def test_frames_of_a_file_are_what_its_decoder_passed(exports, tmp_path):
    """What reads as not decoded needs more packets; what reads as decoded was among those that the decoder was given."""
    from dynvid.runtime.video.file import VideoFile

    bundle = exports.demonstration()
    path = tmp_path / "T.json"
    Thresholds(bundle.sha256, (0.0,) + (1.0,) * 4 + (None,)).write(path)
    clips = sorted((write_clips(tmp_path / "clips", 8, 3).parent / "clips").glob("*.mp4"))
    manifest, seen = bundle.manifest, set()
    for one in dynvid.explain(bundle.root, clips, thresholds=path):
        used = [sample for frame in one.frames if frame.state == "used" for sample in frame.samples]
        for frame in one.frames:
            with VideoFile(one.video, manifest.preprocessing, manifest.grid.num_frames) as file:
                file.pixels([sample for sample in manifest.grid.frame_order if sample in used])
                before = file.frames_decoded
                assert before == one.answer.frames_decoded
                file.pixels([frame.samples[0]])
                assert frame.state != "unread" or file.frames_decoded > before, frame
                assert frame.state != "used" or file.frames_decoded == before, frame
        seen |= {frame.state for frame in one.frames}
    assert seen == {"used", "passed", "unread"}


@pytest.mark.parametrize(("codec", "ending"), [("h264", "mp4"), ("mpeg4", "avi"), ("h264", "ts")])
def test_no_frame_of_a_short_video_is_called_unread_that_the_decoder_was_given(exports, tmp_path, codec, ending):
    bundle, path, video = exports.demonstration(), tmp_path / "T.json", tmp_path / f"five.{ending}"
    Thresholds(bundle.sha256, (0.0,) + (1.0,) * 4 + (None,)).write(path)
    write_video(video, codec, 5)
    (one,) = dynvid.explain(bundle.root, video, thresholds=path)
    unread = [frame.frame for frame in one.frames if frame.state == "unread"]
    assert one.answer.frames_total == 5 and len(unread) == 5 - one.answer.frames_decoded
    assert [frame.frame for frame in one.frames] == [*range(5)]  # each once, though 16 are sampled


def write_video(path, codec, count):
    """Write a video of grey frames, one key frame; the encoder of H.264 orders them anew."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width = stream.height = 64
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 40 * index, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_a_frame_that_a_short_video_repeats_has_one_mark(tiny_bundle, thresholds, tmp_path):
    np.save(tmp_path / "short.npy", np.random.default_rng(1).integers(0, 256, (3, 36, 44, 3), np.uint8))
    (one,) = dynvid.explain(tiny_bundle.root, tmp_path / "short.npy", thresholds=thresholds)
    assert [frame.frame for frame in one.frames] == [0, 1, 2] and len(one.images) == 3
    assert sorted(sample for frame in one.frames for sample in frame.samples) == [*range(8)]
    assert one.used == sum(frame.state == "used" for frame in one.frames)
    assert f"frames used{one.used} of 3" in read(page_of(one)).all("dl")[0].text.replace("\n", "")


def test_it_stands_alone_and_is_small(written):
    shown = require_alone(written)
    assert len(written.encode()) < 200_000
    assert len(shown.all("article")) == 1 and len(shown.all("img")) == 8
    assert [len(shown.all("h1")), len(shown.all("h2")), len(shown.all("h3"))] == [1, 1, 3]


def test_an_explanation_takes_little_longer_than_its_run(tiny_bundle, thresholds, video, tmp_path):
    begun = time.monotonic()
    with dynvid.load(tiny_bundle, thresholds=thresholds) as model:
        model.classify(video, trace=True)
    run = time.monotonic() - begun
    dynvid.explain(tiny_bundle.root, video, tmp_path / "page.html", thresholds=thresholds)
    assert time.monotonic() - begun - run < run + 3.0
