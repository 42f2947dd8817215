"""Ranges for INT8: the same file whatever the order and wherever the pass was killed; what gives none is refused."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import onnxruntime
import pytest

from dynvid.exporter.int8 import range_pass
from dynvid.exporter.int8.range_observers import observe_ranges
from dynvid.exporter.int8.range_pass import LEAST_VIDEOS, QUANTILE, LargestValues, find_ranges
from dynvid.exporter.int8.ranges import Ranges, read_ranges
from dynvid.grid.errors import RangesError, StaleRangesError, TooFewVideosError
from dynvid.runtime.backends.onnxruntime import session_options
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.execution.executor import Executor
from dynvid.runtime.video.decoder import Decoder
from dynvid.runtime.video.listing import ListedVideo


@pytest.fixture(scope="module")
def watched(tiny_bundle):
    return observe_ranges(tiny_bundle)


@pytest.fixture(scope="module")
def executor(watched):
    return Executor(watched.bundle, open_backend("onnxruntime"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for index in range(LEAST_VIDEOS):
        np.save(folder / f"{index}.npy", rng.integers(0, 256, (8 + index % 3, 40, 56, 3), np.uint8))
    return [ListedVideo(path, None) for path in sorted(folder.iterdir())]


@pytest.fixture
def find(executor, watched):
    def run(videos, keep, thresholds=None):
        with Decoder() as decoder:
            return find_ranges(executor, watched.tensors, videos, keep, decoder, thresholds)

    return run


def test_neither_order_nor_an_interruption_changes_a_byte(find, videos, tmp_path, monkeypatch):
    whole, other = tmp_path / "whole.json", tmp_path / "other.json"
    find(videos, whole)
    runs = []

    def interrupted(*arguments):
        if len(runs) == 20:
            raise KeyboardInterrupt
        runs.append(arguments[-1])
        return watch_one(*arguments)

    watch_one = range_pass._watch_one
    monkeypatch.setattr(range_pass, "_watch_one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        find(videos[::-1], other)
    assert not other.exists()
    runs.clear()
    find(np.random.default_rng(1).permutation(np.array(videos, object)).tolist(), other)
    assert len(runs) == len(videos) - 20  # it went on where it was
    assert other.read_bytes() == whole.read_bytes()


def test_nearly_all_videos_stay_below_them(find, tiny_bundle, watched, videos, tmp_path):
    """Compared with onnxruntime on the first block's own graph, all of its tensors as outputs."""
    found = find(videos, tmp_path / "ranges.json")
    model = onnx.load_model_from_string(tiny_bundle.read(tiny_bundle.manifest.subgraph("block0").variant("fp32")))
    inputs = {value.name for value in model.graph.input}
    names = [name for name in watched.tensors["block0"] if name not in inputs]
    assert len(names) > 3
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), session_options(onnxruntime, 1))
    variant, manifest = tiny_bundle.manifest.subgraph("block0").variant("fp32"), tiny_bundle.manifest
    largest = {name: [] for name in names}
    with Decoder() as decoder:
        for video in videos:
            with decoder.open(video.path, manifest.preprocessing, manifest.grid.num_frames) as source:
                frames = source.read(manifest.grid.frame_order)
            feeds = {s.name: np.zeros(s.concrete(1, 1), np.float32) for s in variant.inputs[1:]}
            for name, value in zip(names, session.run(names, {"frames": frames[None], **feeds}), strict=True):
                largest[name].append(float(np.abs(value).max()))
    # the route reads all frames in one chain, and so does this
    for name in names:
        wanted = np.quantile(largest[name], QUANTILE, method="inverted_cdf")
        assert wanted <= found.largest["block0"][name] <= 1.01 * wanted
    assert any(max(largest[name]) > found.largest["block0"][name] for name in names)


def test_late_cells_are_watched_on_the_videos_that_reach_them(find, videos, tmp_path, monkeypatch):
    monkeypatch.setattr(range_pass, "FLOOR", 5)
    everyone_leaves = find(videos, tmp_path / "some.json", (0.0, 0.0, 0.0, None))
    assert everyone_leaves.reached == (LEAST_VIDEOS, 5, 5, 5)
    to_the_end = find(videos, tmp_path / "all.json")
    assert to_the_end.reached == (LEAST_VIDEOS,) * 4
    some, all_ = everyone_leaves.largest["block2"], to_the_end.largest["block2"]
    assert any(some[name] != all_[name] for name in some)
    assert everyone_leaves.largest["head0"] == to_the_end.largest["head0"]


def test_a_kept_file_is_read_and_one_of_something_else_refused(find, videos, tmp_path, tiny_bundle):
    keep = tmp_path / "ranges.json"
    found = find(videos, keep)
    again = find(videos[::-1], keep)
    assert again == found
    with pytest.raises(StaleRangesError, match="belong to videos"):
        find([*videos[1:], ListedVideo(_copy(videos[0].path, tmp_path, 1), None)], keep)
    with pytest.raises(StaleRangesError, match="belong to bundle"):
        read_ranges(keep, "0" * 64, found.data_sha256, None)
    with pytest.raises(StaleRangesError, match=r"left by None, expected \(0\.5, 0\.5, 0\.5, None\)"):
        find(videos, keep, (0.5, 0.5, 0.5, None))
    changed = json.loads(keep.read_bytes())
    changed["largest"]["block0"][next(iter(changed["largest"]["block0"]))] = 1.0
    keep.write_text(json.dumps(changed))
    with pytest.raises(StaleRangesError, match="have changed"):
        read_ranges(keep, tiny_bundle.sha256, found.data_sha256, None)
    keep.write_text("{")
    with pytest.raises(RangesError, match="malformed"):
        read_ranges(keep, tiny_bundle.sha256, found.data_sha256, None)
    with pytest.raises(RangesError, match="cannot be read"):
        read_ranges(tmp_path / "none.json", tiny_bundle.sha256, found.data_sha256, None)


def test_few_videos_one_colour_and_nan_are_refused(find, executor, videos, tmp_path):
    with pytest.raises(TooFewVideosError, match=f"{LEAST_VIDEOS - 1} videos"):
        find(videos[1:], tmp_path / "few.json")
    grey = []
    for index in range(LEAST_VIDEOS):
        np.save(tmp_path / f"grey{index}.npy", np.full((8 + index, 40, 56, 3), 128, np.uint8))
        grey.append(ListedVideo(tmp_path / f"grey{index}.npy", None))
    with pytest.raises(RangesError, match=r"32 of 32 videos have a single colour"):
        find(grey, tmp_path / "grey.json")
    large = tmp_path / "large.npy"
    np.save(large, np.full((8, 3, 32, 32), 3e38, np.float32) * np.array([1, -1] * 4, np.float32)[:, None, None, None])
    with pytest.raises(RangesError, match=r"large\.npy.* is NaN or infinite"):
        find([*videos, ListedVideo(large, None)], tmp_path / "large.json")


@pytest.mark.full
def test_killed_with_kill_9_it_finds_the_same(find, videos, tiny_bundle, exports, tmp_path):
    find(videos, tmp_path / "whole.json")
    (tmp_path / "list.csv").write_text("video\n" + "".join(f"{video.path}\n" for video in videos))
    script = tmp_path / "run.py"
    script.write_text(f"""
import logging, time
from pathlib import Path
from dynvid.exporter.int8 import range_pass
from dynvid.exporter.int8.range_observers import observe_ranges
from dynvid.grid.bundle import Bundle
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.video.decoder import Decoder
from dynvid.runtime.execution.executor import Executor
from dynvid.runtime.video.listing import read_list

logging.getLogger("dynvid").setLevel(logging.DEBUG)
logging.getLogger("dynvid").addFilter(lambda _: time.sleep(0.02) or True)
watched = observe_ranges(Bundle.open(Path({str(tiny_bundle.root)!r})))
executor = Executor(watched.bundle, open_backend("onnxruntime"))
with Decoder() as decoder:
    range_pass.find_ranges(executor, watched.tensors, read_list(Path({str(tmp_path / "list.csv")!r})),
                           Path({str(tmp_path / "killed.json")!r}), decoder)
""")
    killed, journal = 0, tmp_path / "killed.json.journal"
    while not (tmp_path / "killed.json").exists():
        before = journal.stat().st_size if journal.exists() else 0
        run = subprocess.Popen([sys.executable, script])
        while run.poll() is None and (not journal.exists() or journal.stat().st_size < before + 400):
            time.sleep(0.005)
        if run.poll() is None:
            run.send_signal(signal.SIGKILL)
            killed += 1
        assert run.wait() in (0, -signal.SIGKILL)  # else it would be started for ever
    assert killed >= 2
    assert (tmp_path / "killed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_a_video_that_cannot_be_read_is_left_out(find, videos, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    whole = find(videos, tmp_path / "whole.json")
    found = find([*videos, ListedVideo(broken, None)], tmp_path / "broken.json")
    assert (found.videos, found.largest) == (whole.videos, whole.largest)
    with pytest.raises(TooFewVideosError, match="31 videos of 32 can be read"):
        find([*videos[1:], ListedVideo(broken, None)], tmp_path / "few.json")


def test_the_quantile_of_counted_values():
    values = LargestValues()
    assert values.quantile(0.95) == 0.0
    for value in (*range(1, 101), -1.0):  # the last one's video did not get there
        values.add(value)
    assert values.quantile(0.95) == pytest.approx(95, rel=0.01)
    assert values.quantile(0.95) >= 95
    dead = LargestValues()
    dead.add(0.0)
    assert dead.quantile(0.95) == 0.0


def test_equal_ranges_are_equal_bytes(tmp_path):
    ranges = Ranges("0" * 64, "1" * 64, 40, (0.5, None), (40, 12), {"block0": {"x": 1.5}})
    for name in ("a", "b"):
        ranges.write(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_ranges(tmp_path / "a", "0" * 64, "1" * 64, (0.5, None)) == ranges


def _copy(path, folder, change):
    copy = folder / f"copy{path.name}"
    shutil.copy(path, copy)
    frames = np.load(copy)
    frames[0, 0, 0, 0] += change
    np.save(copy, frames)
    return copy
