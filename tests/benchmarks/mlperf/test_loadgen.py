"""LoadGen drives a stream for real; whatever goes wrong in its process is a scenario that says so, in time."""

import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dynvid.benchmarks.mlperf.loadgen import LoadGenOrder, referee
from dynvid.benchmarks.mlperf.log import ACCURACY, read_answers
from dynvid.calibration.choosing.thresholds import geometric_thresholds
from dynvid.exporter.engines.build import build_engines
from dynvid.exporter.proof.clips import proof_clips
from dynvid.grid.errors import MissingPackageError, ResourceError, UsageError
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.child_process import ChildProcess
from dynvid.runtime.session import ArraySource, Session
from dynvid.runtime.video.decoder import Decoder
from dynvid.training.clips import write_clips

NAMES = ["SingleStream", "Offline", "Server"]


def order_of(bundle, clips, folder, **settings):
    """Return an order for one thread whose exits follow q = 1.2, with what a session says of each clip alone."""
    session = Session.open(bundle, open_backend("onnxruntime"))
    traced = [session.classify(ArraySource(clip), trace=True) for clip in clips]
    sure = np.array([[p.max() for p in found.probabilities] for found in traced]).T
    usable = np.isfinite(sure).all(0)
    thresholds = (*map(float, geometric_thresholds(sure[:, usable], 1.2)[:-1]), None)
    session = Session.open(bundle, open_backend("onnxruntime"), thresholds)
    alone = [session.classify(ArraySource(clip)) for clip in clips]
    answers = [[-1 if found.class_index is None else found.class_index, found.checkpoint] for found in alone]
    np.save(folder / "clips.npy", clips)
    np.save(folder / "expected.npy", np.array(answers, np.int32))
    build_engines(bundle, folder / "engines", "onnxruntime")
    costs, route = bundle.manifest.costs, bundle.manifest.route
    return LoadGenOrder(
        bundle=str(bundle.root),
        engines=str(folder / "engines"),
        backend="onnxruntime",
        precision="fp32",
        threads=1,
        batch=4,
        thresholds=thresholds,
        temperatures=None,
        clips=str(folder / "clips.npy"),
        expected=str(folder / "expected.npy"),
        gmacs=tuple(costs.checkpoint(route, k) / 1e9 for k in range(1, len(route.cells) + 1)),
        clip_s=float(np.median([found.latency_ms for found in traced])) / 1e3,
        logs=str(folder / "logs"),
        **settings,
    )


@pytest.fixture(scope="module")
def order(tiny_bundle, tmp_path_factory):
    manifest = tiny_bundle.manifest
    clips = proof_clips(24, manifest.grid.num_frames, manifest.preprocessing)
    clips[5] = 3e38  # ends with a numeric error
    folder = tmp_path_factory.mktemp("referee")
    return order_of(tiny_bundle, clips, folder, single_stream_s=0.3, offline_s=0.6, server_s=0.3)


@pytest.fixture(scope="module")
def scenarios(order):
    return referee(order)


REPLY = "from dynvid.runtime.child_process import open_replies, send; send(open_replies(), b'[1, 1, 1, 1]')"


def child_with(planted):
    """Return the real child with a fault."""
    return f"from dynvid.benchmarks.mlperf import loadgen_process as child\n{planted}\nchild.main()\n"


def replay(logs):
    """Return a child that writes what a run before wrote."""
    return f"import pathlib, shutil, sys; to = pathlib.Path(sys.argv[1]).parent; [shutil.copy(p, to) for p in (pathlib.Path({logs!r}) / to.name).iterdir() if p.name != 'order.json']; {REPLY}"


@pytest.fixture
def quick(order, tmp_path):
    """Return the order with other logs, and hardly any time."""
    return replace(order, logs=str(tmp_path / "logs"), single_stream_s=0.1, offline_s=0.1, server_s=0.1, clip_s=0.001)


def test_all_three_scenarios_come_to_their_end(order, scenarios):
    assert [s.name for s in scenarios] == NAMES
    for scenario in scenarios:
        assert scenario.validity in ("VALID", "INVALID"), scenario.reason
        assert (scenario.validity == "VALID") == (scenario.reason is None)
        assert scenario.samples >= {"SingleStream": 100, "Offline": 1, "Server": 1000}[scenario.name]
        assert scenario.seconds == pytest.approx(scenario.samples / scenario.samples_per_s)
        assert 0 < scenario.p50_ms <= scenario.p90_ms <= scenario.p99_ms
        assert scenario.mean_ms > 0


def test_every_answer_given_under_load_is_what_the_clip_gets_alone(order, scenarios):
    expected = np.load(order.expected)
    assert {exit for _, exit in expected} == {1, 2, 3, 4}
    assert expected[5].tolist() == [-1, 1]
    for scenario in scenarios:
        assert scenario.accuracy_sampled == scenario.samples > 0
        assert scenario.accuracy_differing == 0
        answers = read_answers(Path(order.logs) / scenario.name)
        assert {answer.exit for answer in answers} == {1, 2, 3, 4}
        assert scenario.mean_gmacs == pytest.approx(np.mean([order.gmacs[answer.exit - 1] for answer in answers]))


def test_server_is_asked_for_what_the_others_gave(order, scenarios):
    single, offline, server = scenarios
    assert single.target is None
    assert offline.target == "at least 0.6 s"
    assert server.target == f"{0.70 * offline.samples_per_s:.1f} queries/s, p99 <= {5 * single.p90_ms:.1f} ms"


def test_wrong_answers_are_counted(order, scenarios, quick, tmp_path):
    expected = np.load(order.expected)
    expected[3, 1] = expected[3, 1] % 4 + 1  # another exit
    expected[4, 0] += 1  # another class
    np.save(tmp_path / "expected.npy", expected)
    found = referee(replace(quick, expected=str(tmp_path / "expected.npy")), replay(order.logs))
    for scenario in found:
        counts = Counter(answer.clip for answer in read_answers(Path(order.logs) / scenario.name))
        assert scenario.accuracy_differing == counts[3] + counts[4] > 0


def test_a_child_that_crashes_is_aborted(quick):
    crash = "import os, signal, sys; print('first\\nlast words\\n', file=sys.stderr, flush=True); os.kill(os.getpid(), signal.SIGSEGV)"
    single, offline, server = referee(quick, crash)
    assert (single.name, single.validity, single.reason) == ("SingleStream", "ABORTED", "died (SIGSEGV): last words")
    assert (Path(quick.logs) / "SingleStream" / "stderr.txt").read_text() == "first\nlast words\n\n"
    assert offline.validity == "ABORTED"
    assert server.reason == "not run: its target comes from SingleStream, which was aborted"


def test_a_child_that_hangs_is_killed(quick, tmp_path):
    hang = f"import os, pathlib, time; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(1000)"
    single, _, _ = referee(quick, hang, grace_s=3.0)  # in which the child must start
    assert single.validity == "ABORTED"
    assert single.reason.startswith("did not answer within ") and single.reason.endswith(" s and was killed")
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()


def test_ctrl_c_ends_the_child_too(quick, monkeypatch):
    started = []

    def interrupted(child, timeout_s):
        started.append(child.process)
        raise KeyboardInterrupt

    monkeypatch.setattr(ChildProcess, "receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        referee(quick, "import time; time.sleep(1000)")
    assert [process.returncode for process in started] == [-9]


@pytest.mark.parametrize("callback", ["load", "issue", "_submit", "_answer"])
def test_an_exception_in_a_callback_ends_the_child_in_order(quick, callback):
    planted = f"def broken(self, *_): raise ValueError('planted')\nchild.SystemUnderTest.{callback} = broken"
    if callback == "load":  # not in the warm-up, which is no callback
        planted = "load = child.SystemUnderTest.load\ndef broken(self, indices):\n    if isinstance(indices, range): load(self, indices)\n    else: raise ValueError('planted')\nchild.SystemUnderTest.load = broken"
    single, _, _ = referee(quick, child_with(planted))
    assert (single.validity, single.reason) == ("ABORTED", "died (exit code 1): ValueError: planted")


def test_a_lost_answer_is_not_waited_for(quick):
    single, _, _ = referee(quick, child_with("child.SystemUnderTest._answer = lambda *_: None"), grace_s=4.0)
    assert single.validity == "ABORTED"
    assert single.reason.startswith("did not answer within ")


def test_an_error_of_ours_is_told_with_its_exit_code(quick, tmp_path):
    single, _, _ = referee(replace(quick, engines=str(tmp_path / "none")))
    assert single.validity == "ABORTED"
    assert (
        single.reason.startswith("died (exit code 4): MissingEngineError: ") and "dynvid build-engines" in single.reason
    )


def test_a_run_without_a_result_is_aborted_and_old_logs_are_not_taken_for_it(order, scenarios, quick):
    shutil.copytree(order.logs, quick.logs)
    single, offline, _ = referee(quick, REPLY)
    assert single.validity == offline.validity == "ABORTED"
    assert "mlperf_log_detail.txt cannot be read" in single.reason
    assert not (Path(quick.logs) / "Offline" / ACCURACY).exists()


def test_a_child_that_ends_without_an_answer_is_aborted(quick):
    single, _, _ = referee(quick, "pass")
    assert (single.validity, single.reason) == ("ABORTED", "died (exit code 0)")


def test_without_loadgen_nothing_runs(quick, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'dynvid\[bench\]'"):
        referee(quick)
    assert not Path(quick.logs).exists()


def test_expected_answers_must_fit(quick, tmp_path):
    np.save(tmp_path / "expected.npy", np.load(quick.expected)[:-1])
    with pytest.raises(UsageError, match=r"expected answers \[23, 2\]"):
        referee(replace(quick, expected=str(tmp_path / "expected.npy")))
    with pytest.raises(UsageError, match="gmacs has 3 checkpoints"):
        referee(replace(quick, gmacs=quick.gmacs[:3]))


def test_a_log_folder_that_cannot_be_made_is_an_error(quick):
    with pytest.raises(ResourceError, match="cannot be written"):
        referee(replace(quick, logs=quick.clips))


@pytest.mark.full
def test_two_streams_answer_loadgen_as_each_clip_is_answered_alone(exports, tmp_path):
    """Whether LoadGen finds the runs fast enough is for a quiet machine to say: docs/lab/benchmarks.md."""
    bundle = exports.demonstration()
    preprocessing, frames = bundle.manifest.preprocessing, bundle.manifest.grid.num_frames
    write_clips(tmp_path, 96, seed=4)
    with Decoder() as decoder:
        clips = np.stack(
            [decoder.open(path, preprocessing, frames).read(range(frames)) for path in sorted(tmp_path.rglob("*.mp4"))]
        )
    found = referee(order_of(bundle, clips, tmp_path, streams=2, offline_s=10.0, server_s=10.0))
    for scenario in found:
        print(scenario)
    assert [s.name for s in found] == list(NAMES)
    assert {s.validity for s in found} <= {"VALID", "INVALID"}
    assert all(s.accuracy_sampled == s.samples > 0 and s.accuracy_differing == 0 for s in found)
