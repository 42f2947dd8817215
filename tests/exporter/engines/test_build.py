"""All engines of a bundle: kept, resumed after a kill, and one that fails loses no other."""

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import onnx
import pytest
from disguise import disguised
from engine_samples import graph_of
from tensorrt_stub.stub import Stub, write_package

from dynvid.commands.output import print_engines
from dynvid.exporter.engines import segment_graphs as engine_graphs
from dynvid.exporter.engines.build import Row, build_engines, exit_code
from dynvid.exporter.engines.builder_process import Children, Order
from dynvid.exporter.engines.dtype_census import graph_census
from dynvid.exporter.engines.jobs import jobs
from dynvid.exporter.engines.makers import choose_targets, for_onnxruntime
from dynvid.exporter.graphs.fuse import fuse
from dynvid.grid.bundle import Bundle, write_bundle
from dynvid.grid.engines.cache import EngineCache
from dynvid.grid.engines.key import this_processor
from dynvid.grid.errors import DeviceError, EngineBuildError, EngineFileError, LintError, ProofError, UsageError
from dynvid.runtime.backends.tensorrt_api import open_api

WAIT_S = 60.0


@pytest.fixture
def rtx():
    pytest.importorskip("tensorrt_rtx")


@pytest.fixture
def stub(monkeypatch, tmp_path):
    """TensorRT 11 on a machine with one GPU, here and in child processes; the text that is given is run in these."""

    def make(more="", gpu="sm86"):
        folder = tmp_path / "packages"
        folder.mkdir()
        write_package(folder, "11.1", gpu)
        with (folder / "tensorrt" / "__init__.py").open("a") as file:
            file.write(more)
        monkeypatch.syspath_prepend(folder)
        device = SimpleNamespace(compute_capability=gpu, close=lambda: None)
        monkeypatch.setattr("dynvid.runtime.cuda.binding.open_device", lambda *arguments, **named: device)
        return Stub("11.1", gpu).install(monkeypatch)

    return make


def planted(bundle, root, name, spoil):
    """Return a copy of ``bundle`` with whole hashes in which the fp32 graph of ``name`` went through ``spoil``."""
    files = {v.file: bundle.read(v) for s in bundle.manifest.subgraphs for v in s.variants.values()}
    subgraphs = []
    for part in bundle.manifest.subgraphs:
        if part.name == name:
            variant = part.variants["fp32"]
            files[variant.file] = content = spoil(files[variant.file])
            sha256 = hashlib.sha256(content).hexdigest()
            variant = dataclasses.replace(variant, sha256=sha256, bytes=len(content))
            part = dataclasses.replace(part, variants=part.variants | {"fp32": variant})
        subgraphs.append(part)
    return write_bundle(root, dataclasses.replace(bundle.manifest, subgraphs=tuple(subgraphs)), files)


def with_unknown_operator(content):
    """Return a graph whose last convolution's output goes through an operator that no TensorRT knows."""
    graph = onnx.load_model_from_string(content).graph
    at = max(i for i, node in enumerate(graph.node) if node.op_type == "Conv")
    conv = graph.node[at]
    sizes = onnx.helper.make_tensor("crop", onnx.TensorProto.INT64, [2], [4, 4])
    crop = onnx.helper.make_node("CenterCropPad", ["before", "crop"], list(conv.output), "odd_one", axes=[2, 3])
    conv.output[:] = ["before"]
    graph.node.insert(at + 1, crop)
    graph.initializer.append(sizes)
    opset = [onnx.helper.make_opsetid("", 20)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".plan", ".json")}


# tables


def test_rows_say_what_was_built_and_the_next_call_keeps_it(rtx, tiny_bundle, tmp_path, caplog):
    caplog.set_level("INFO", "dynvid")
    only = ["block1", "segment3"]
    arguments = {"precision": "fp16", "targets": ("sm120", "sm86", "sm86"), "max_batch": 4, "only": only}
    rows = build_engines(tiny_bundle, tmp_path / "e", **arguments)
    assert [(row.subgraph, row.status) for row in rows] == [("block1", "built"), ("segment3", "built")]
    assert exit_code(rows) == 0
    table = rows[0].to_json()
    assert list(table) == ["subgraph", "precision", "targets", "seconds", "bytes", "dtype_census", "status", "reason"]
    assert table["targets"] == ["sm86", "sm120"]
    assert table["seconds"] > 0
    assert table["bytes"] == len(EngineCache(tmp_path / "e").read(rows[0].engine))
    assert table["dtype_census"]["convolution"] == {"float16": 6}
    assert caplog.messages[-1] == "engines 2/2: segment3 fp16: built"
    before = files_of(tmp_path / "e")
    again = build_engines(tiny_bundle, tmp_path / "e", **arguments)
    assert [row.status for row in again] == ["kept", "kept"]
    assert [row.to_json() | {"status": "built"} for row in again] == [row.to_json() for row in rows]
    assert files_of(tmp_path / "e") == before


def test_another_batch_target_or_precision_is_another_engine(rtx, tiny_bundle, tmp_path):
    for arguments in ({}, {"max_batch": 2}, {"targets": ("sm89",)}, {"precision": "fp16"}):
        (row,) = build_engines(tiny_bundle, tmp_path, only=["head0"], **arguments)
        assert row.status == "built"
    assert len(EngineCache(tmp_path).engines().engines) == 4


@pytest.mark.parametrize(("precision", "workers"), [("fp32", 1), ("fp16", 4)])
def test_every_engine_of_a_bundle_is_built_for_tensorrt(stub, tiny_bundle, tmp_path, precision, workers):
    stub()
    rows = build_engines(tiny_bundle, tmp_path / "e", "tensorrt", precision, max_batch=8, workers=workers)
    assert [row.subgraph for row in rows] == [job.name for job in jobs(tiny_bundle, precision, 8)]
    assert {row.status for row in rows} == {"built"}
    ledger = EngineCache(tmp_path / "e").engines()
    assert not ledger.damaged
    assert {engine.key.targets for engine in ledger.engines} == {("sm86",)}
    assert {engine.key.version for engine in ledger.engines} == {"11.1.0.106"}
    for row, job in zip(rows, jobs(tiny_bundle, precision, 8), strict=True):
        assert row.engine.key.profiles == job.profiles
        assert row.engine.key.fusion == job.fusion
        assert row.engine.key.onnx_sha256 == hashlib.sha256(graph_of(job, tiny_bundle, precision)).hexdigest()


def test_exit_codes():
    error = EngineBuildError("it")
    good, bad = (
        Row("a", "fp32", "tensorrt-rtx", (), "kept", None, None),
        Row("b", "fp32", "tensorrt-rtx", (), "failed", None, error),
    )
    worse = Row("c", "fp32", "tensorrt-rtx", (), "failed", None, LintError("it"))
    assert exit_code([]) == 0
    assert exit_code([good, good]) == 0
    assert exit_code([good, bad, worse]) == 7
    assert exit_code([bad, worse]) == 5
    assert exit_code([worse, bad]) == 4
    assert bad.to_json()["reason"] == "it"
    assert bad.to_json()["bytes"] is None


# failures


def test_one_bad_cell_does_not_lose_the_rest(rtx, tiny_bundle, tmp_path):
    bundle = planted(tiny_bundle, tmp_path / "b", "block1", with_unknown_operator)
    only = ["block0", "block1", "segment1", "segment2", "head2"]
    rows = {row.subgraph: row for row in build_engines(bundle, tmp_path / "e", only=only, workers=2)}
    assert {name: row.status for name, row in rows.items()} == {
        "block0": "built", "block1": "failed", "segment1": "built", "segment2": "failed", "head2": "built",
    }  # fmt: skip
    assert exit_code(list(rows.values())) == 7
    assert "node 'odd_one' (CenterCropPad): unsupported node" in rows["block1"].to_json()["reason"]
    assert "node 'block1.0-2/odd_one' (CenterCropPad)" in rows["segment2"].to_json()["reason"]
    assert {engine.key.subgraph for engine in EngineCache(tmp_path / "e").engines().engines} == {
        "block0", "segment1", "head2",
    }  # fmt: skip


def test_a_graph_that_is_no_onnx_fails_alone(rtx, tiny_bundle, tmp_path):
    bundle = planted(tiny_bundle, tmp_path / "b", "block1", lambda content: b"no graph")
    only = ["block1", "segment2", "head2"]
    rows = build_engines(bundle, tmp_path / "e", only=only)
    assert [row.status for row in rows] == ["failed", "built", "failed"]
    assert "Failed to parse the ONNX model" in str(rows[0].error)
    assert isinstance(rows[2].error, LintError)


def test_a_graph_that_changed_since_export_fails_alone(rtx, tiny_bundle, tmp_path):
    bundle = planted(tiny_bundle, tmp_path / "b", "block1", lambda content: content)
    (bundle.root / "block1.onnx").write_bytes(b"changed")
    rows = build_engines(bundle, tmp_path / "e", only=["block1", "head2"])
    assert [row.status for row in rows] == ["failed", "built"]
    assert "block1.onnx has changed since export" in str(rows[0].error)


def test_graphs_in_another_precision_than_declared_fail(rtx, tiny_bundle, tmp_path, monkeypatch):
    """The fp32 graph behind fp16 ports, for which the builder has no complaint."""
    job = next(job for job in jobs(tiny_bundle, "fp16") if job.name == "block1")
    content = disguised(tiny_bundle.read(tiny_bundle.manifest.subgraph("block1").variant("fp32")), job)
    monkeypatch.setattr(Bundle, "read", lambda bundle, variant: content)
    (row,) = build_engines(tiny_bundle, tmp_path, precision="fp16", only=["block1"])
    assert row.status == "failed"
    assert exit_code([row]) == 4
    assert "'convolution': {'float32': 6}" in str(row.error)
    assert not EngineCache(tmp_path).engines().engines


def test_a_build_that_dies_is_lost_alone(stub, tiny_bundle, tmp_path):
    stub(
        "import os, signal\n"
        "trt = sys.modules[__name__]\n"
        "build = trt.Builder.build_serialized_network\n"
        "def die(builder, network, config):\n"
        "    names = {network.get_input(i).name for i in range(network.num_inputs)}\n"
        "    if 'state_in.1.layer0' in names:\n"
        "        print('free(): invalid pointer', file=sys.stderr, flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return build(builder, network, config)\n"
        "trt.Builder.build_serialized_network = die\n"
    )
    rows = build_engines(tiny_bundle, tmp_path / "e", "tensorrt", only=["block0", "block1", "head1"], workers=2)
    assert [row.status for row in rows] == ["built", "failed", "built"]
    assert isinstance(rows[1].error, EngineBuildError)
    assert "block1: the process that built it died (SIGKILL): free(): invalid pointer" in str(rows[1].error)


def test_a_build_that_breaks_is_lost_alone_and_says_how(stub, tiny_bundle, tmp_path):
    stub("def broken(*arguments):\n    raise LookupError('odd')\nsys.modules[__name__].OnnxParser.parse = broken\n")
    rows = build_engines(tiny_bundle, tmp_path / "e", "tensorrt", only=["block0"])
    assert "died (exit code 1): LookupError: odd" in str(rows[0].error)
    assert exit_code(rows) == 5


def test_what_a_builder_prints_does_not_land_among_the_replies(stub, tiny_bundle, tmp_path):
    stub(
        "import os\n"
        "def chatty(*arguments, build=sys.modules[__name__].Builder.build_serialized_network):\n"
        "    os.write(1, b'Internal Error')\n"
        "    return build(*arguments)\n"
        "sys.modules[__name__].Builder.build_serialized_network = chatty\n"
    )
    (row,) = build_engines(tiny_bundle, tmp_path / "e", "tensorrt", only=["block0"])
    assert row.status == "built", row.error


# kills

SLOW = (
    "import os, pathlib, time\n"
    "def wait(builder, network, config):\n"
    "    pathlib.Path({file!r}).write_text(str(os.getpid()))\n"
    "    time.sleep(600)\n"
    "sys.modules[__name__].Builder.build_serialized_network = wait\n"
)


def until(condition):
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def builder_process(bundle, folder, flavour, tmp_path):
    code = (
        "from pathlib import Path\n"
        "from dynvid.exporter.engines.build import build_engines\n"
        "from dynvid.grid.bundle import Bundle\n"
        "import dynvid.runtime.cuda.binding\n"
        "from types import SimpleNamespace\n"
        "gpu = SimpleNamespace(compute_capability='sm86', close=lambda: None)\n"
        "dynvid.runtime.cuda.binding.open_device = lambda: gpu\n"
        f"build_engines(Bundle.open(Path({str(bundle.root)!r})), Path({str(folder)!r}), {flavour!r}, 'fp16')\n"
    )
    paths = os.pathsep.join(map(os.path.abspath, sys.path))
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}, start_new_session=True,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def test_after_a_kill_the_finished_engines_are_not_built_again(rtx, tiny_bundle, tmp_path):
    folder = tmp_path / "e"
    process = builder_process(tiny_bundle, folder, "tensorrt-rtx", tmp_path)
    until(lambda: len(list(folder.glob("*.fp16.*.json"))) >= 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    ledger = EngineCache(folder).engines()
    finished = {engine.key.subgraph for engine in ledger.engines}
    assert not ledger.damaged
    assert 2 <= len(finished) < len(jobs(tiny_bundle, "fp16"))
    before = files_of(folder)
    rows = build_engines(tiny_bundle, folder, precision="fp16")
    assert {row.subgraph for row in rows if row.status == "kept"} == finished
    assert {row.status for row in rows} == {"kept", "built"}
    after = files_of(folder)
    assert before == {name: after[name] for name in before if name in after}
    assert len(EngineCache(folder).engines().engines) == len(rows)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_build_outlives_the_command(stub, tiny_bundle, tmp_path, number):
    file = tmp_path / "pid"
    stub(SLOW.format(file=str(file)))
    process = builder_process(tiny_bundle, tmp_path / "e", "tensorrt", tmp_path)
    until(lambda: file.exists() and file.read_text())
    os.kill(process.pid, number)  # the command alone, not its children
    process.wait(WAIT_S)
    until(lambda: gone(int(file.read_text())))
    assert not EngineCache(tmp_path / "e").engines().engines


def test_a_build_that_starts_after_the_end_is_killed(stub, tiny_bundle):
    stub()
    job = jobs(tiny_bundle, "fp32")[0]
    children = Children()
    children.kill()
    order = Order(job.name, "tensorrt", graph_of(job, tiny_bundle, "fp32"), job.source, job.profiles, ())
    with pytest.raises(EngineBuildError, match="died .SIGKILL."):
        children.build(order)


# arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 0}, "0 workers: expected at least 1"),
        ({"only": ["block9"]}, "engine 'block9': expected some of block0, head0"),
        ({"targets": ["sm90"]}, r"target 'sm90': tensorrt-rtx \S+ builds for sm75, sm80, sm86, sm89, sm120, sm121"),
        ({"targets": ["SM86"]}, "target 'SM86'"),
        ({"flavour": "tensor"}, "flavour 'tensor': expected one of tensorrt, tensorrt-rtx"),
        ({"flavour": "onnxruntime", "targets": ["sm86"]}, "target 'sm86': .* for processors, leave --target out"),
        ({"flavour": "onnxruntime", "max_batch": 2}, "at most 2 videos: .* take any number, leave --max-batch out"),
        ({"flavour": "onnxruntime", "expected": [1, 1, 1, 1]}, "leave --max-batch out"),
        ({"flavour": "onnxruntime", "only": ["block0"]}, "engine 'block0': expected some of segment1, .* full"),
        ({"flavour": "onnxruntime", "precision": "int8"}, "precision int8: .* holds fp32, fp16"),
    ],
)
def test_arguments_that_cannot_be_served_are_refused(monkeypatch, tiny_bundle, tmp_path, arguments, message):
    Stub("rtx-1.7.1", gpu=None).install(monkeypatch)
    with pytest.raises(UsageError, match=message):
        build_engines(tiny_bundle, tmp_path / "e", **arguments)
    assert not (tmp_path / "e").exists()


def test_tensorrt_builds_for_the_present_gpu_only(stub):
    stub(gpu="sm89")
    api = open_api("tensorrt")
    assert choose_targets(api, ()) == choose_targets(api, ["current"]) == ("sm89",)
    with pytest.raises(UsageError, match="target 'sm86': tensorrt builds for the present GPU only"):
        choose_targets(api, ["sm86"])


def test_rtx_builds_for_what_is_named_and_the_present_gpu_by_its_name(monkeypatch, stub):
    stub(gpu="sm89")
    api = open_api_of("rtx-1.7.1", monkeypatch)
    assert choose_targets(api, ()) == ()
    assert choose_targets(api, ["sm120", "sm86", "sm86"]) == ("sm86", "sm120")
    assert choose_targets(api, ["current", "sm75"]) == ("sm75", "sm89")


def open_api_of(version, monkeypatch):
    Stub(version).install(monkeypatch)
    return open_api("tensorrt-rtx")


def test_tensorrt_without_a_gpu_is_one_clear_error(monkeypatch, tiny_bundle, tmp_path):
    def no_device():
        raise DeviceError("GPU 0 cannot be used")

    Stub("11.1", gpu=None).install(monkeypatch)
    monkeypatch.setattr("dynvid.runtime.cuda.binding.open_device", no_device)
    with pytest.raises(DeviceError, match="GPU 0"):
        build_engines(tiny_bundle, tmp_path, "tensorrt")


# big networks

NETWORKS = {
    "msdnet38": {"network": "msdnet38", "classes": 400, "route": "joint"},
    "resnet50": {"network": "resnet50", "classes": 400, "route": "joint"},
}


@pytest.mark.full
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["demonstration", *NETWORKS])
def test_every_cell_and_segment_of_the_big_networks_builds(rtx, exports, tmp_path, name, precision):
    bundle = exports.demonstration() if name == "demonstration" else exports.bundle(NETWORKS[name], ("fp32", "fp16"))
    targets = ("sm86", "sm89", "sm120")
    rows = build_engines(bundle, tmp_path, "tensorrt-rtx", precision, targets, max_batch=8)
    print(f"\n{name} {precision}, kept in fp32: {', '.join(bundle.manifest.fp32_only) or 'none'}")
    for row in rows:
        assert row.status == "built", row.error
        convolutions = " ".join(f"{n} {dtype}" for dtype, n in row.engine.dtype_census["convolution"].items())
        print(f"  {row.subgraph:10} {row.engine.seconds:6.2f} s {row.engine.plan_bytes / 1e6:7.1f} MB  {convolutions}")
    assert [row.subgraph for row in rows] == [job.name for job in jobs(bundle, precision, 8)]
    assert {row.targets for row in rows} == {targets}
    counted = {dtype for row in rows for dtype in row.engine.dtype_census["convolution"]}
    kept = bool(bundle.manifest.fp32_only) or precision == "fp32"
    assert counted == ({"float16"} if precision == "fp16" else set()) | ({"float32"} if kept else set())


def test_no_segment_is_built_where_the_proof_of_the_fused_segments_fails(tiny_bundle, tmp_path):
    asked = []

    def prove(graphs):
        asked.append(graphs.precision)
        raise ProofError("proof failed: segment2")

    rows = build_engines(tiny_bundle, tmp_path / "e", only=["block0", "segment1", "segment2"], prove=prove)
    assert [row.status for row in rows] == ["built", "failed", "failed"]
    assert all("proof failed: segment2" in str(row.error) for row in rows[1:])
    assert len(asked) == 1 and exit_code(rows) == 7
    again = build_engines(tiny_bundle, tmp_path / "e", only=["block0"], prove=prove)
    assert [row.status for row in again] == ["kept"] and len(asked) == 1


# onnxruntime, whose engines are the fused graphs, rewritten and optimised


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_fused_graphs_are_onnxruntimes_engines(tiny_bundle, tmp_path, precision):
    proofs = []
    rows = build_engines(tiny_bundle, tmp_path, "onnxruntime", precision, prove=lambda graphs: proofs.append(1))
    assert [row.subgraph for row in rows] == ["segment1", "segment2", "segment3", "segment4", "full"]
    assert {row.status for row in rows} == {"built"} and proofs == [1]
    for row, job in zip(rows, [job for job in jobs(tiny_bundle, precision) if job.fusion], strict=True):
        graph = EngineCache(tmp_path).read(row.engine)
        assert graph == for_onnxruntime(graph_of(job, tiny_bundle, precision))
        assert row.targets == row.engine.key.targets == (this_processor(),) and row.engine.key.cuda == ""
        assert all(row.engine.key.profiles[0].holds(batch, ()) for batch in (1, 3, 4096))
    before = files_of(tmp_path)
    again = build_engines(tiny_bundle, tmp_path, "onnxruntime", precision, prove=lambda graphs: proofs.append(1))
    assert {row.status for row in again} == {"kept"} and proofs == [1]
    assert [row.to_json() | {"status": "built"} for row in again] == [row.to_json() for row in rows]
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_census_of_a_graph_is_that_of_its_network(rtx, tiny_bundle, tmp_path, precision):
    (built,) = build_engines(tiny_bundle, tmp_path, "tensorrt-rtx", precision, only=["segment3"])
    job = next(job for job in jobs(tiny_bundle, precision) if job.name == "segment3")
    counted, network = graph_census(graph_of(job, tiny_bundle, precision)), built.engine.dtype_census
    for kind in ("convolution", "parts", "inputs", "outputs"):
        assert counted[kind] == network[kind]
    assert sum(counted["matrix_multiply"].values()) == sum(network["matrix_multiply"].values()) > 0


def test_a_graph_in_another_precision_is_no_engine_of_onnxruntime_either(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_graphs, "fuse", lambda bundle, segment, precision: fuse(bundle, segment, "fp32"))
    (row,) = build_engines(tiny_bundle, tmp_path, "onnxruntime", "fp16", only=["segment1"])
    assert row.status == "failed" and exit_code([row]) == 4
    assert not EngineCache(tmp_path).engines().engines


def test_onnxruntime_has_no_engine_that_is_not_proved(tiny_bundle, tmp_path):
    def prove(graphs):
        raise ProofError("proof failed: segment2")

    rows = build_engines(tiny_bundle, tmp_path, "onnxruntime", only=["segment1", "full"], prove=prove)
    assert [(row.status, str(row.error)) for row in rows] == [("failed", "proof failed: segment2")] * 2
    assert not EngineCache(tmp_path).engines().engines


def test_a_corrupted_engine_of_onnxruntime_is_built_again(tiny_bundle, tmp_path):
    (row,) = build_engines(tiny_bundle, tmp_path, "onnxruntime", only=["segment2"])
    plan = tmp_path / row.engine.plan
    whole = plan.read_bytes()
    plan.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(EngineFileError, match=r"sha256.*--backend onnxruntime"):
        EngineCache(tmp_path).read(row.engine)
    (again,) = build_engines(tiny_bundle, tmp_path, "onnxruntime", only=["segment2"])
    assert again.status == "built" and plan.read_bytes() == whole


def test_the_table_of_onnxruntimes_engines(tiny_bundle, tmp_path, capsys):
    rows = build_engines(tiny_bundle, tmp_path, "onnxruntime", only=["full"])
    print_engines(rows)
    assert f"full    fp32       {this_processor():7}  built" in capsys.readouterr().out
