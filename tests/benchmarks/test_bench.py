"""The whole benchmark on a small network: every figure is there, and hangs together with the others."""

import dataclasses
import json
import math
import sys
import threading

import numpy as np
import openvino
import pytest
from command_line import dynvid, process
from samples import TINY

from dynvid.benchmarks.bench import Options, bench
from dynvid.benchmarks.measure.call_table import measure_table
from dynvid.benchmarks.measure.clips import InOrder, random_clips, read_clips
from dynvid.benchmarks.measure.contestants import CELLS, COPY, HALVES, NO_EXITS, SPANS, STATIC, Loads
from dynvid.benchmarks.measure.peers import open_peer
from dynvid.benchmarks.measure.stream_bench import FILES, NEVER, OFFLINE
from dynvid.benchmarks.measure.stream_bench import STATIC as STATIC_STREAM
from dynvid.benchmarks.report.files import write_report
from dynvid.exporter.engines.build import build_engines
from dynvid.exporter.graphs.fuse import fuse
from dynvid.grid.errors import BackendError, ListError, MissingEngineError, MissingPackageError, UsageError
from dynvid.runtime.backends.onnxruntime import OnnxRuntimeBackend
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.execution.capacity import Limits, open_executor
from dynvid.runtime.exits import ExitRule
from dynvid.runtime.session import ArraySource, Session

CLIPS = 12
QUICK = Options(qs=(1.2, 2.0), batch=2, rounds=2, seconds=0.1, stream_seconds=0.01)


def loads_of(fused):
    return Loads(graph=fused, unshifted=lambda path: b"")


@pytest.fixture(scope="module")
def clips(tiny_bundle):
    return random_clips(tiny_bundle.manifest, CLIPS)


@pytest.fixture(scope="module")
def fused(tiny_bundle):
    return lambda segment: fuse(tiny_bundle, segment, "fp32")


@pytest.fixture(scope="module")
def engines(tiny_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines")
    build_engines(tiny_bundle, folder, "onnxruntime")
    return folder


@pytest.fixture(scope="module")
def measured(tiny_bundle, engines, fused):
    """Return a function that benches the bundle on onnxruntime's engines."""

    def run(clips, options, loads=None):
        return bench(
            tiny_bundle, "onnxruntime", engines, lambda: loads or Loads(more=fused, graph=fused), clips, options,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def report(clips, measured):
    return measured(dataclasses.replace(clips, labels=np.zeros(CLIPS, np.int64)), QUICK)


def point(report, name):
    return next(p for p in report.points if p.name == name)


def test_everyone_was_measured_on_every_clip_in_every_round(report):
    names = {STATIC, COPY, HALVES, CELLS, SPANS, NO_EXITS, "q = 1.2", "q = 2"}
    counted = {name: sum(s.contestant == name for s in report.samples) for name in names}
    assert counted == dict.fromkeys(names, 2 * CLIPS)
    assert {s.contestant for s in report.samples} == names


def test_operating_points_cost_what_their_exits_cost(report, tiny_bundle):
    manifest = tiny_bundle.manifest
    full = manifest.costs.checkpoint(manifest.route.full, 1) / 1e9
    assert [p.name for p in report.points] == ["q = 1.2", "q = 2", NO_EXITS, STATIC]
    along = [manifest.costs.checkpoint(manifest.route, k) / 1e9 for k in range(1, len(manifest.route.cells) + 1)]
    for found in report.points[:2]:
        assert found.gmacs == pytest.approx(np.dot(found.shares, along))
        assert found.fraction == pytest.approx(found.gmacs / full)
        left = [0 if latency is None else latency.videos for latency in found.exit_latency]
        assert left == [round(2 * CLIPS * share) for share in found.shares]
        assert found.latency.videos == 2 * CLIPS
    assert point(report, "q = 2").gmacs > point(report, "q = 1.2").gmacs
    assert (point(report, NO_EXITS).gmacs, point(report, STATIC).gmacs) == pytest.approx((along[-1], full))
    assert report.setting.gmacs == pytest.approx(full)


def test_agreement_and_accuracy_are_those_of_what_classify_runs(report, tiny_bundle, engines, clips):
    order, found = tiny_bundle.manifest.grid.frame_order, point(report, "q = 1.2")
    session, static = (
        Session(open_executor(tiny_bundle, engines=engines, limits=Limits(batch=1), full=full))
        for full in (False, True)
    )
    session.rule = ExitRule(session.route, found.thresholds, None)
    temporal = [ArraySource(clip[np.argsort(order)]) for clip in clips.frames]
    own = [session.classify(source) for source in temporal]
    wanted = [static.classify(source).class_index for source in temporal]
    assert found.agreement.value == np.mean([p.class_index == w for p, w in zip(own, wanted, strict=True)])
    assert found.accuracy.value == np.mean([p.class_index == 0 for p in own])
    assert [s.exit for s in report.samples if s.contestant == "q = 1.2" and s.round == 0] != []
    exits = {s.clip: s.exit for s in report.samples if s.contestant == "q = 1.2"}
    assert exits == {clip: p.checkpoint for clip, p in enumerate(own)}
    assert point(report, STATIC).agreement.value == 1.0


def test_ratios_follow_from_the_samples(report):
    by = {r.name: r for r in report.ratios}
    assert list(by) == [
        "split_overhead", "split_overhead_cells", "progressive_penalty", "flops_realisation", "flops_realisation_offline",
        "scheduler_efficiency", "latency_ratio_p50", "latency_ratio_p99",
    ]  # fmt: skip

    ms = {}
    for sample in report.samples:
        ms.setdefault((sample.round, sample.clip), {})[sample.contestant] = sample.ms

    def median(name, *others):
        return float(np.median([d[name] / np.mean([d[other] for other in others]) for d in ms.values()]))

    static = (HALVES,) if median(HALVES, STATIC, COPY) < 1 else (STATIC, COPY)
    assert by["split_overhead"].estimate.value == pytest.approx(median(SPANS, *static))
    assert by["split_overhead_cells"].estimate.value == pytest.approx(median(CELLS, *static))
    assert by["progressive_penalty"].estimate.value == pytest.approx(median(NO_EXITS, *static))
    main, exits = report.points[0], {s.clip: s.exit for s in report.samples if s.contestant == "q = 1.2"}
    shared = 0.0
    for left in set(exits.values()):
        found = [d["q = 1.2"] / np.mean([d[n] for n in static]) for (_, clip), d in ms.items() if exits[clip] == left]
        shared += len(found) / len(ms) * float(np.median(found))
    realised = main.fraction / shared
    assert by["flops_realisation"].estimate.value == pytest.approx(realised)
    for ratio in report.ratios:
        assert ratio.estimate.low <= ratio.estimate.value <= ratio.estimate.high
        below = ratio.bar.startswith("<=")
        bar = float(ratio.bar.split()[1])
        assert ratio.meets == (ratio.estimate.value <= bar if below else ratio.estimate.value >= bar)


def test_the_stream_served_every_video_and_counts_its_launches(report):
    measured = [run for run in report.streams if run.measured]
    assert [r.name for r in measured][:3] == [OFFLINE, NEVER, STATIC_STREAM]
    assert sum(r.rate_per_s is not None for r in measured) == 2
    for run in measured:
        entered = sum(n * count for n, count in enumerate(run.fills[0]))
        assert entered == run.videos >= 30
        assert run.in_flight >= 1
        assert all(row[0] == 0 for row in run.fills)
    through = next(r for r in measured if r.name == NEVER)
    assert [sum(n * c for n, c in enumerate(row)) for row in through.fills] == [through.videos] * len(through.fills)
    policies = [run.policy for run in report.streams if not run.measured]
    assert policies == ["static", "no compaction", "compaction only", "re-batched, throughput", "oracle"]
    assert report.launches
    assert {span.run for span in report.launches} == {run.name for run in measured}


def test_what_lies_between_ideal_and_measured_adds_up(report):
    for found in report.breakdowns:
        assert found.ideal_ms + sum(part.ms for part in found.parts) == pytest.approx(found.actual_ms)
    single, stream = report.breakdowns
    assert single.actual_ms == pytest.approx(report.points[0].latency.mean_ms.value)
    assert stream.actual_ms == pytest.approx(1e3 / report.points[0].offline_videos_per_s)


def test_the_table_has_every_call_and_the_files_are_written(report, tmp_path):
    segments = len(report.points[0].thresholds)
    assert [(e.index, e.batch) for e in report.table] == [(k, n) for k in range(segments + 1) for n in (1, 2)]
    write_report(report, tmp_path / "report")
    found = json.loads((tmp_path / "report" / "report.json").read_text())
    assert found["flops_realisation"]["estimate"]["value"] == report.ratios[3].estimate.value
    assert found["memory"]["slots"] == segments * (2 - 1) + 2


def test_a_run_beside_others_is_not_valid(measured, clips, monkeypatch):
    monkeypatch.setattr("dynvid.benchmarks.bench.others_share", lambda before, after: 0.3)
    found = measured(clips, QUICK)
    assert any("other processes used 30%" in fault for fault in found.setting.faults)
    assert found.points[0].accuracy is None


def test_two_streams_share_the_videos(measured, clips):
    options = dataclasses.replace(QUICK, streams=2, threads=None, rounds=1, load_videos=77)
    found = measured(clips, options)
    runs = [run for run in found.streams if run.measured]
    assert [run.videos for run in runs if run.rate_per_s is not None] == [77, 77]
    for run in runs:
        assert sum(n * count for n, count in enumerate(run.fills[0])) == run.videos
    oracle = next(run for run in found.streams if run.policy == "oracle")
    per_video = sum(
        share * sum(min(t.median_ms / t.batch for t in found.table if t.index == k) for k in range(1, left + 1))
        for left, share in enumerate(found.points[0].shares, 1)
    )
    assert oracle.videos_per_s == pytest.approx(2e3 / per_video, rel=0.1)
    assert found.setting.streams == 2 and found.memory.slots == 2 * (len(found.points[0].thresholds) + 2)
    stream = found.breakdowns[1]
    assert stream.name.endswith("2 streams") and stream.actual_ms == pytest.approx(
        2e3 / found.points[0].offline_videos_per_s
    )
    with pytest.raises(UsageError, match="0 streams"):
        measured(clips, dataclasses.replace(QUICK, streams=0))


def test_clips_of_files_are_also_served_from_their_files(tiny_bundle, tmp_path, measured, report):
    rng, rows = np.random.default_rng(2), ["video"]
    for number in range(CLIPS):
        np.save(tmp_path / f"{number}.npy", rng.integers(0, 256, (9, 40, 48, 3), np.uint8))
        rows.append(f"{number}.npy")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    read = read_clips(tmp_path / "list.csv", tiny_bundle.manifest, CLIPS)
    found = measured(read, dataclasses.replace(QUICK, rounds=1))
    by = {run.name: run for run in found.streams if run.measured}
    assert by[FILES].videos == by[NEVER].videos and by[FILES].videos_per_s > 0
    assert FILES in {span.run for span in found.launches}
    assert FILES not in {run.name for run in report.streams}  # clips in memory


def test_without_onnx_what_needs_it_is_left_out_and_said(measured, clips):
    found = measured(clips, QUICK, Loads())
    ratio = found.ratios[0]
    assert (ratio.name, ratio.estimate, ratio.meets) == ("split_overhead", None, None)
    assert "dynvid[export]" in ratio.note
    assert HALVES not in {s.contestant for s in found.samples}


class OfOneThread(OnnxRuntimeBackend):
    """A backend that, like a GPU's, may only be used by the thread that opened it."""

    def __init__(self):
        super().__init__()
        self.opener = threading.get_ident()

    def __getattribute__(self, name):
        if name in ("load", "zeros", "rows", "write", "fetch", "record", "close"):
            assert threading.get_ident() == object.__getattribute__(self, "opener")
        return object.__getattribute__(self, name)


def test_without_engines_nothing_is_measured_in_their_place(tiny_bundle, clips, tmp_path):
    with pytest.raises(MissingEngineError, match="no engine in .*Run 'dynvid build-engines"):
        bench(tiny_bundle, "onnxruntime", tmp_path, Loads, clips, QUICK)


@pytest.mark.parametrize("streams", [1, 3])
def test_each_stream_of_the_table_keeps_to_one_thread(tiny_bundle, engines, streams):
    opened = []

    def open_one(backend=None, **options):
        if backend is None:
            backend = OfOneThread()
            opened.append(backend)
        return open_executor(tiny_bundle, backend, engines=engines, **options)

    table = measure_table(open_one, 4, 2, streams, 0.01)
    assert len({backend.opener for backend in opened}) == len(opened) == streams
    assert [(e.index, e.batch) for e in table] == [(k, n) for k in range(5) for n in (1, 2)]


def test_a_stream_that_fails_ends_the_table_with_its_error(tiny_bundle, engines):
    opened = []

    def open_one(backend=None, **options):
        opened.append(backend)
        if opened.count(None) == 2 and backend is None:
            raise BackendError("no second GPU")
        return open_executor(tiny_bundle, backend or OfOneThread(), engines=engines, **options)

    with pytest.raises(BackendError, match="no second GPU"):
        measure_table(open_one, 4, 1, 2, 0.01)


# peers


@pytest.fixture
def peer(tiny_bundle, clips, fused, exports):
    """Return a function that opens a peer by its name; ``moved``: held against a wrong answer."""
    manifest = tiny_bundle.manifest
    static = Session.open(tiny_bundle, open_backend("onnxruntime"), route=manifest.route.full)
    wanted = static.classify(clips.sources(manifest)[0]).probabilities[0]
    checkpoint = exports.training_checkpoint(TINY)

    def opened(name, moved=False, checkpoint=checkpoint, loads=None, **options):
        answer = np.roll(wanted, 1) if moved else wanted
        return open_peer(name, tiny_bundle, clips, loads or loads_of(fused), answer, checkpoint, 1, **options)

    return opened


def test_peers_compute_the_static_network(peer):
    for name in ("openvino", "torch"):
        found = peer(name)
        assert (found.name.startswith(name), found.precision, found.run(0)) == (True, "fp32", 1)
    for name in ("openvino", "torch"):
        with pytest.raises(BackendError, match="computes something else"):
            peer(name, moved=True)
    for name in ("torch", "torch-compile", "nncf"):
        with pytest.raises(UsageError, match=f"'{name}' needs the training checkpoint"):
            peer(name, checkpoint=None)
    with pytest.raises(UsageError, match="expected one of openvino, openvino-bf16, nncf"):
        peer("tflite")


def test_without_onnx_torch_runs_and_the_others_say_what_they_need(peer):
    assert peer("torch", loads=Loads()).run(0) == 1
    for name in ("openvino", "openvino-bf16", "nncf"):
        with pytest.raises(MissingPackageError, match=rf"'{name}' needs torch and onnx"):
            peer(name, loads=Loads())


def test_a_peer_in_bf16_is_that_or_refused(peer):
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(BackendError, match="no bf16 instructions"):
            peer("openvino-bf16")
        return
    found = peer("openvino-bf16")
    assert found.name.endswith(", bf16") and (found.precision, found.run(0)) == ("bf16", 1)


def test_a_peer_that_is_not_installed_says_how_to_get_it(peer, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'dynvid\[export,nncf\]'"):
        peer("nncf")


def test_a_points_time_over_a_peers_is_that_of_their_samples(measured, clips, fused):
    found = measured(clips, dataclasses.replace(QUICK, peers=("openvino",), rounds=2), loads_of(fused))
    (over,) = [one.point_over for one in found.peers]
    mine = [s for s in found.samples if s.contestant == found.points[0].name]
    its = {(s.round, s.clip): s.ms for s in found.samples if s.contestant == found.peers[0].name}
    ratios = [s.ms / its[s.round, s.clip] for s in mine]
    assert min(ratios) <= over.low <= over.value <= over.high <= max(ratios)


def test_peers_are_measured_in_the_same_rounds(measured, clips, fused):
    found = measured(clips, dataclasses.replace(QUICK, peers=("openvino", "openvino"), rounds=1), loads_of(fused))
    assert [peer.latency.videos for peer in found.peers] == [CLIPS]
    with pytest.raises(UsageError, match="needs the training checkpoint"):
        measured(clips, dataclasses.replace(QUICK, peers=("torch",)))


# clips


def test_clips_in_permuted_order_give_views(tiny_bundle, clips):
    order = tiny_bundle.manifest.grid.frame_order
    source = InOrder(clips.frames[0], order)
    assert np.shares_memory(source.read(order[2:5]), clips.frames)
    assert source.read(order[2:5]).tobytes() == clips.frames[0, 2:5].tobytes()


def test_clips_of_a_list_are_decoded_labelled_and_timed(tiny_bundle, tmp_path):
    manifest, rng = tiny_bundle.manifest, np.random.default_rng(2)
    rows = ["video,label"]
    for number in range(10):
        np.save(tmp_path / f"{number}.npy", rng.integers(0, 256, (9, 40, 48, 3), np.uint8))
        rows.append(f"{number}.npy,{'abcde'[number % 5]}")
    path = tmp_path / "list.csv"
    path.write_text("\n".join(rows))
    found = read_clips(path, manifest, 9)
    assert found.labels.tolist() == [n % 5 for n in range(9)]
    assert found.frames.shape[:2] == (9, manifest.grid.num_frames)
    assert found.decode.videos == 9 and found.decode.mean_ms > 0
    assert "9 videos of list.csv" in found.source
    path.write_text("\n".join([*rows[:-1], "9.npy,none"]))
    with pytest.raises(ListError, match="not classes"):
        read_clips(path, manifest, 10)
    with pytest.raises(UsageError, match="2 clips: expected at least"):
        read_clips(path, manifest, 2)


# the command


def test_the_command_measures_and_writes(tiny_bundle, tmp_path):
    quick = ("--clips", 12, "--rounds", 1, "--seconds", 0.1, "--stream-seconds", 0.01, "--batch", 2, "--threads", 1)
    done = process("bench", tiny_bundle.root, "-o", tmp_path / "r", "--engines", tmp_path / "e", *quick, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name in ("split_overhead", "progressive_penalty", "flops_realisation", "scheduler_efficiency",
                 "latency_ratio_p50", "latency_ratio_p99"):  # fmt: skip
        assert math.isfinite(found[name]["estimate"]["value"])
    assert found["setting"]["command"].startswith("dynvid bench") and found["setting"]["backend"] == "onnxruntime"
    assert json.loads((tmp_path / "r" / "report.json").read_text()) == found
    assert (tmp_path / "r" / "report.html").read_text().startswith("<!")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--backend", "null"), 2, "computes nothing"),
        (("--clips", "3"), 2, "3 clips: expected at least"),
        (("--data", "nothing.csv"), 3, "nothing.csv"),
        (("--threads", "999"), 2, "999 threads"),
        (("--precision", "fp16", "--thresholds", "none.json"), 3, "none.json"),
        (("--q", "0"), 2, "--q"),
    ],
)
def test_wrong_inputs_are_refused_in_one_line(tiny_bundle, tmp_path, arguments, code, says):
    done = dynvid("bench", tiny_bundle.root, "-o", tmp_path / "r", "--engines", tmp_path / "e", *arguments)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert says in done.stderr and "Traceback" not in done.stderr


def test_a_folder_of_other_things_is_left_alone(tiny_bundle, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    done = dynvid("bench", tiny_bundle.root, "-o", tmp_path)
    assert done.returncode == 2 and "mine.txt" in done.stderr
