"""The Python front door: what a user types first, from any thread, and what is left when they are done."""

import asyncio
import gc
import itertools
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from samples import synthetic_scores, write_noise

import dynvid
from dynvid.exporter.proof.clips import proof_clips
from dynvid.grid.errors import FramesError, QueueFullError, UsageError, VideoError
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.session import ArraySource, Session

COUNT = 12


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("videos"), COUNT)


@pytest.fixture(scope="module")
def videos(listed):
    return [listed.parent / f"{index}.npy" for index in range(COUNT)]


@pytest.fixture
def model(tiny_bundle):
    with dynvid.load(tiny_bundle.root) as model:
        yield model


def plain(answer):
    """Return what of an answer does not depend on time."""
    return answer.status, answer.label, answer.confidence, answer.checkpoint, answer.gmacs, answer.frames_total


def test_importing_is_quick_and_loads_nothing_heavy():
    code = (
        "import sys, numpy; before = set(sys.modules); import dynvid; new = set(sys.modules) - before\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'av'} & new, new\n"
        "dir(dynvid)\n"
        "try: dynvid.laod\n"
        "except AttributeError as error: assert 'load' in str(error)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_video_as_a_path_text_raw_frames_or_preprocessed_ones(model, videos, tiny_bundle):
    answer = model.classify(videos[0])
    assert answer.status == "ok" and answer.label in "abcde" and answer.error is None
    assert plain(model.classify(str(videos[0]))) == plain(model.classify(np.load(videos[0]))) == plain(answer)
    manifest = tiny_bundle.manifest
    clip = proof_clips(1, manifest.grid.num_frames, manifest.preprocessing)[0]
    expected = Session.open(tiny_bundle, open_backend("onnxruntime")).classify(ArraySource(clip), trace=True)
    found = model.classify(clip, trace=True)
    np.testing.assert_array_equal(found.logits, expected.logits)
    assert len(model.classify(clip).logits) == 4 and "cells of" in model.runs and "onnxruntime, fp32" in model.runs


def test_thresholds_are_a_path_an_object_or_none(tiny_bundle, tmp_path, videos):
    path = tmp_path / "T.json"
    path.write_text(f'{{"bundle_sha256": "{tiny_bundle.sha256}", "q": null, "thresholds": [0.0, 1.0, 1.0, null]}}')
    with dynvid.load(tiny_bundle.root, thresholds=path) as model:
        assert model.classify(videos[0]).checkpoint == 1
        traced = model.classify(videos[0], trace=True)
        assert (traced.checkpoint, len(traced.logits)) == (1, 4)
        with dynvid.load(tiny_bundle, thresholds=model.thresholds) as again:
            assert again.classify(videos[0]).checkpoint == 1


def test_what_cannot_be_read_is_an_error_of_its_own(model, tmp_path, videos):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoError, match="text.mp4"):
        model.classify(tmp_path / "text.mp4")
    with pytest.raises(FramesError, match=r"frames given: float64"):
        model.classify(np.zeros((8, 3, 32, 32)))
    with pytest.raises(VideoError):
        model.submit(tmp_path / "text.mp4").result()
    mixed = [videos[0], tmp_path / "text.mp4", np.zeros((8, 3, 32, 32)), videos[1]]
    for ordered in (True, False):
        found = list(model.classify_many(mixed, ordered=ordered))
        assert len(found) == 4 and sum(answer.error is not None for _, answer in found) == 2
        for video, answer in found:
            assert (answer.error is None) == any(video is one for one in (videos[0], videos[1]))
            assert answer.error is None or (answer.label, answer.checkpoint, answer.status) == (None, None, "damaged")


def test_what_is_no_video_is_told_by_its_type(model, videos):
    for wrong in (None, 3, [videos[0]]):
        with pytest.raises(UsageError, match=f"a video of type {type(wrong).__name__}: expected a path"):
            model.classify(wrong)
    for one in (str(videos[0]), videos[0], np.zeros((9, 40, 40, 3), np.uint8)):
        with pytest.raises(UsageError, match="classify_many takes several videos"):
            model.classify_many(one)
    with pytest.raises(UsageError, match="a video of type NoneType"):
        list(model.classify_many([videos[0], None]))


def test_many_videos_as_they_finish_or_in_order(model, videos):
    alone = [plain(model.classify(video)) for video in videos]
    found = dict(model.classify_many(videos))
    assert [plain(found[video]) for video in videos] == alone
    ordered = list(model.classify_many(videos, ordered=True))
    assert [video for video, _ in ordered] == videos and [plain(answer) for _, answer in ordered] == alone


@pytest.mark.parametrize("ordered", [True, False])
def test_an_endless_iterator_is_taken_no_further_than_what_is_in_flight(model, videos, ordered):
    taken = []

    def endless():
        for video in itertools.cycle(videos):
            taken.append(video)
            yield video

    answers = model.classify_many(endless(), ordered=ordered)
    for count in range(1, 30):
        next(answers)
        assert len(taken) <= count + model._streams.most
    answers.close()
    assert model.classify(videos[0]).status == "ok"


def test_threads_share_a_model(model, videos):
    alone = [plain(model.classify(video)) for video in videos]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda video: plain(model.classify(video)), videos * 3))
    assert together == alone * 3


def test_futures_and_asyncio(model, videos):
    async def all_of_them():
        return await asyncio.gather(*(asyncio.wrap_future(model.submit(video)) for video in videos))

    assert [plain(answer) for answer in asyncio.run(all_of_them())] == [plain(model.classify(v)) for v in videos]


def test_more_pending_than_allowed_is_refused(tiny_bundle, videos):
    with dynvid.load(tiny_bundle.root, max_pending=2) as model:
        held = threading.Event()

        class Waiting(ArraySource):
            def read(self, samples):
                assert held.wait(60)
                return super().read(samples)

        clip = np.zeros((8, 3, 32, 32), np.float32)
        model._source = lambda video: Waiting(clip)
        futures = [model.submit(videos[0]) for _ in range(2)]
        with pytest.raises(QueueFullError, match="2 videos are waiting for answers, expected at most 2"):
            model.submit(videos[0])
        held.set()
        assert [future.result().status for future in futures] == ["ok", "ok"]
        assert model.submit(videos[0]).result().status == "ok"


def test_a_list_goes_on_where_it_was_and_says_so(model, listed, tmp_path, caplog):
    output, records = tmp_path / "out.jsonl", []
    summary = model.classify_list(listed, output, on_record=records.append)
    assert (summary.tried, summary.failed, summary.videos, len(records)) == (COUNT, 0, COUNT, COUNT)
    model.classify_list(listed, output, on_record=records.append)
    assert len(records) == COUNT and caplog.messages == [f"{output}: {COUNT} of {COUNT} videos are done already"]
    assert len(output.read_text().splitlines()) == COUNT


def test_closed_pickled_or_forked_it_says_what_to_do(tiny_bundle, videos):
    model = dynvid.load(tiny_bundle.root)
    with pytest.raises(UsageError, match="cannot be pickled.*open the bundle in that process"):
        pickle.dumps(model)
    model._process = os.getpid() + 1  # as after a fork
    with pytest.raises(UsageError, match="open it after the fork"):
        model.classify(videos[0])
    model._process = os.getpid()
    model.close()
    model.close()
    for use in (model.classify, model.submit, lambda video: next(model.classify_many([video]))):
        with pytest.raises(UsageError, match="closed"):
            use(videos[0])


def test_a_forgotten_model_leaves_no_thread_and_no_child(tiny_bundle, tmp_path):
    before = set(threading.enumerate())
    model = dynvid.load(tiny_bundle.root)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoError):
        model.classify(tmp_path / "text.mp4")  # starts a decoder's child
    assert set(threading.enumerate()) - before
    del model
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
    assert not set(threading.enumerate()) - before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_wrong_arguments_are_refused(tiny_bundle, tmp_path):
    for wrong, match in (
        ({"streams": 0}, "streams 0: expected a whole number of at least 1"),
        ({"backend": "cuda"}, "backend 'cuda': expected one of"),
        ({"backend": "null"}, "computes nothing"),
        ({"precision": "int8"}, "int8"),
        ({"batch": 0}, "expected"),
    ):
        with pytest.raises(UsageError, match=match):
            dynvid.load(tiny_bundle.root, **wrong)


def test_what_the_commands_do_python_does_and_tells_the_log(tiny_bundle, listed, videos, tmp_path, caplog):
    planned = dynvid.plan(tiny_bundle.root)
    assert planned["network"] == "msdnet" and len(planned["checkpoints"]) == 4
    assert dynvid.plan("resnet50", frames=16)["full"]["gmacs"] > 60
    caplog.set_level("INFO", "dynvid")
    found = dynvid.calibrate(tiny_bundle.root, data=listed, scores=tmp_path / "s.npz", q=1.0, split=1)
    assert caplog.messages[-1] == "choosing thresholds" and found.report["q"] == 1.0
    found.save(tmp_path / "T.json")
    with dynvid.load(tiny_bundle.root, thresholds=found.thresholds) as model:
        exits = [answer.checkpoint for _, answer in model.classify_many(videos)]
        model.classify_list(listed, tmp_path / "r.jsonl")
    assert [exits.count(k) for k in (1, 2, 3, 4)] == found.report["chosen_on"]["counts"]
    drifted = dynvid.drift(tiny_bundle.root, tmp_path / "T.json", tmp_path / "r.jsonl")
    assert not drifted.drifted and drifted.videos == COUNT
    times = dynvid.time(tiny_bundle.root, rounds=5)
    assert len(times.segments) == 4 and times.static.median_ms > 0 and not times.is_fused
    times.write(tmp_path / "t.json")
    cheaper = dynvid.calibrate(
        tiny_bundle.root, scores=tmp_path / "s.npz", cost="ms", cost_table=tmp_path / "t.json", q=0.5
    )
    assert cheaper.report["cost"] == "ms"


def test_thresholds_of_scores_without_a_bundle_are_for_none(tmp_path):
    scores = synthetic_scores(300)
    np.savez(tmp_path / "s.npz", probabilities=scores.probabilities, labels=scores.labels)
    found = dynvid.calibrate(scores=tmp_path / "s.npz", q=1.0)
    with pytest.raises(UsageError, match="they belong to one"):
        found.save(tmp_path / "T.json")
