"""The TensorRT backend on fakes of three versions, whose engines compute by onnxruntime, and on a late stream."""

import gc
import re
from types import SimpleNamespace

import contract
import numpy as np
import onnx
import pytest
from contract import BATCH, Case, Graphs, Plans
from host_device import HostDevice
from tensorrt_stub.stub import Stub

from dynvid.exporter.engines.tensorrt_builder import build
from dynvid.grid.engines.cache import Profile
from dynvid.grid.errors import BackendError, StaleEngineError
from dynvid.grid.tensors import TensorSpec
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.backends.tensorrt import TensorRTBackend
from dynvid.runtime.backends.tensorrt_api import open_api

VERSIONS = ("10.16", "11.1", "rtx-1.7.1")


class Fake:
    """One fake TensorRT and its backends, each on a device of its own."""

    def __init__(self, version, monkeypatch, gpu="sm86"):
        self.stub = Stub(version, gpu).install(monkeypatch)
        self.gpu = gpu
        self.flavour = "tensorrt-rtx" if self.stub.rtx else "tensorrt"
        self.devices = []
        context = self.stub.module.IExecutionContext
        address = context.set_tensor_address

        def aligned(me, name, memory):
            assert memory % 256 == 0, f"{name} lies at {memory:#x}: TensorRT demands a multiple of 256"
            return address(me, name, memory)

        context.set_tensor_address = aligned

    def open(self, cuda_graphs=True, **device):
        self.devices.append(HostDevice(self.gpu, **device))
        self.stub.recordings[self.devices[-1].stream] = self.devices[-1]
        return TensorRTBackend(open_api(self.flavour), self.devices[-1], cuda_graphs)

    def build(self, bundle, folder, precision):
        targets = () if self.stub.rtx else (self.gpu,)
        contract.build_here(bundle, folder, precision, open_api(self.flavour), targets)


@pytest.fixture(params=VERSIONS)
def fake(request, monkeypatch):
    return Fake(request.param, monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("engines")


@pytest.fixture
def case(fake, folder):
    return Case(fake.open, Plans(folder / fake.stub.version, fake.build))


@pytest.fixture
def executor(case, tiny_bundle):
    return contract.fused(case, case.open(), tiny_bundle, batch=BATCH)


# the contract


def test_split_is_whole(case, tiny_network, tiny_bundle):
    contract.split_is_whole(case, tiny_network, tiny_bundle)


def test_split_is_whole_in_fp16(case, tiny_network, tiny_bundle):
    contract.split_is_whole(case, tiny_network, tiny_bundle, "fp16")


def test_exits_and_classes_agree(case, tiny_network, tiny_bundle):
    contract.exits_and_classes_agree(case, tiny_network, tiny_bundle)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_rows_are_isolated(case, tiny_bundle, precision):
    contract.rows_are_isolated(case, tiny_bundle, precision)


def test_nothing_stays_of_a_poisoned_video(case, tiny_bundle):
    contract.nothing_stays_of_a_poisoned_video(case, tiny_bundle)


def test_cuda_graphs_change_nothing(case, tiny_bundle):
    contract.recorded_calls_change_nothing(case, tiny_bundle)


def test_tensors_hold_what_was_written(case):
    contract.tensors_hold_what_was_written(case)


def test_one_thread_owns_it_until_it_is_closed(case):
    contract.one_thread_owns_it_until_it_is_closed(case)


# the same functions on the CPU, so that they are right


class Cpu(Case):
    def __init__(self):
        super().__init__(lambda cuda_graphs=True: open_backend("onnxruntime"), Graphs(), on_device=False)


def test_the_contract_holds_on_the_cpu(tiny_network, tiny_bundle):
    for precision in ("fp32", "fp16"):
        contract.split_is_whole(Cpu(), tiny_network, tiny_bundle, precision)
    contract.exits_and_classes_agree(Cpu(), tiny_network, tiny_bundle)
    contract.rows_are_isolated(Cpu(), tiny_bundle)
    contract.nothing_stays_of_a_poisoned_video(Cpu(), tiny_bundle)
    contract.recorded_calls_change_nothing(Cpu(), tiny_bundle)
    contract.tensors_hold_what_was_written(Cpu())


# what is the backend's own


def calls_of(executor, batch=1):
    """Return the call of every segment, prepared now."""
    return [executor._prepare(index, batch).call for index in range(1, len(executor.segments) + 1)]


def test_a_segment_is_one_graph_launch_after_one_warm_up(fake, case, tiny_bundle):
    backend = fake.open()
    device = fake.devices[-1]
    before = fake.stub.calls.count("execute_async_v3")
    calls = calls_of(contract.fused(case, backend, tiny_bundle))
    assert fake.stub.calls.count("execute_async_v3") - before == 2 * len(calls)  # the warm-up and the capture
    del device.calls[:]
    for call in calls:
        call()
    assert device.calls == ["launch"] * len(calls)
    assert fake.stub.calls.count("execute_async_v3") - before == 2 * len(calls)


def test_without_graphs_in_the_binding_recorded_calls_are_plain_ones(fake, case, tiny_bundle):
    backend = fake.open(supports_graphs=False)
    call = calls_of(contract.fused(case, backend, tiny_bundle))[0]
    before = fake.stub.calls.count("execute_async_v3")
    call()
    assert not backend.cuda_graphs and fake.stub.calls.count("execute_async_v3") == before + 1
    backend.record([])()


def test_what_cannot_be_captured_is_an_error_and_leaves_the_stream_usable(fake, executor, tiny_bundle):
    backend = executor.backend
    tensor = backend.zeros((1,), "float32")
    with pytest.raises(
        BackendError,
        match="1 calls cannot become a CUDA graph .a wait while the stream is captured.*without CUDA graphs",
    ):
        backend.record([lambda: backend.read(tensor)])
    assert np.isfinite(contract.run(executor, contract.clips_of(tiny_bundle, BATCH))).all()


def test_contexts_share_scratch_blocks(case, tiny_bundle):
    backend = case.open()
    executors = {batch: contract.fused(case, backend, tiny_bundle, batch=batch) for batch in (1, BATCH)}
    for batch, executor in executors.items():
        for call in calls_of(executor, batch):
            call()
    scratch = {(c.scratch.address, c.scratch.num_bytes) for p in backend._programs for c in p._contexts.values()}
    # the graphs of the smaller profile keep the block that they were captured with
    assert sorted(num_bytes for _, num_bytes in scratch) == [4096, 2 * 4096]


def test_scratch_that_became_too_small_stays_with_the_graphs_that_have_it(case, tiny_bundle):
    backend, clips = case.open(), contract.clips_of(tiny_bundle, BATCH)
    small = contract.fused(case, backend, tiny_bundle)
    expected = contract.run(small, clips[:1])
    large = contract.fused(case, backend, tiny_bundle, batch=BATCH)
    contract.run(large, clips)
    gc.collect()
    backend.zeros((1,), "float32")
    np.testing.assert_array_equal(contract.run(small, clips[:1]), expected)


def test_a_call_binds_its_tensors_again_only_after_another_call_of_the_same_shapes(fake, case, tiny_bundle):
    bound = []
    executor = contract.fused(case, fake.open(supports_graphs=False), tiny_bundle)
    context = fake.stub.module.IExecutionContext
    address = context.set_tensor_address
    context.set_tensor_address = lambda me, name, memory: bound.append(name) or address(me, name, memory)
    call = calls_of(executor)[0]
    for _ in range(3):
        call()
    assert len(bound) == len(set(bound)) > 3


def test_each_batch_runs_in_the_profile_that_expects_it(fake, case, tiny_bundle):
    backend = case.open()
    for batch, profile in ((1, 0), (BATCH, 1), (2, 1)):
        executor = contract.fused(case, backend, tiny_bundle, batch=batch)
        for call in calls_of(executor, batch):
            call()
        profiles = {key[0] for program in backend._programs for key in program._contexts}
        assert profiles == {profile}
        del executor, call
        gc.collect()


@pytest.fixture
def doubling(fake):
    """Return a backend and the program of y = x + x, for x [batch, frames, 3]: frames of 12 bytes."""
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", "frames", 3]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "x"], ["y"], "add")], "g", ports[:1], ports[1:])
    opset = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    specs = [(TensorSpec(name, "float32", ("batch", "frames", 3)),) for name in "xy"]
    backend, ports = fake.open(), SimpleNamespace(inputs=specs[0], outputs=specs[1])
    targets = () if fake.stub.rtx else (fake.gpu,)
    plan, _ = build(backend.api, model, ports, "double", (Profile((1, 1, 4), (1, 2, 8)),), targets)
    return backend, backend.load(plan, ports, "double")


def test_frames_that_lie_where_tensorrt_may_not_read_or_write_pass_through_copies(doubling):
    backend, program = doubling
    x, y = backend.zeros((1, 6, 3), "float32"), backend.zeros((1, 6, 3), "float32")
    call = program.prepare({"x": backend.frames(x, 1, 3)}, {"y": backend.frames(y, 3, 5)})
    for make in (call, backend.record([call])):
        array = np.random.default_rng(0).normal(size=(1, 6, 3)).astype(np.float32)
        backend.write(x, array)
        backend.write(y, array)
        make()
        expected = array.copy()
        expected[:, 3:5] = 2 * array[:, 1:3]
        np.testing.assert_array_equal(backend.read(y), expected)


def test_nothing_is_written_where_something_else_lies(doubling):
    backend, program = doubling
    x = backend.zeros((1, 6, 3), "float32")
    program.prepare({"x": backend.frames(x, 0, 3)}, {"y": backend.frames(x, 3, 6)})
    for start in (0, 1, 2):
        with pytest.raises(BackendError, match="y would be written where x lies"):
            program.prepare({"x": backend.frames(x, 0, 3)}, {"y": backend.frames(x, start, start + 3)})


def test_rows_are_not_taken_into_their_own_tensor(doubling):
    backend, _ = doubling
    rows, other = backend.zeros((3, 2), "float32"), backend.zeros((3, 4), "float32")
    for out, wanted in (
        (rows, [1]),
        (other, [1]),
        (backend.zeros((1, 2), "float32"), [0, 1]),
        (backend.zeros((3, 2), "float32"), [3]),
    ):
        with pytest.raises(
            BackendError, match="do not fit another one .*expected rows that it has, and separate memory"
        ):
            backend.take(rows, wanted, out)
        with pytest.raises(BackendError, match="do not fit another one"):
            backend.put(out, rows, wanted)
    with pytest.raises(BackendError, match=r"rows \[3\] of a tensor float32 \[3, 2\]: expected rows that it has"):
        backend.poison(rows, 3)
    with pytest.raises(BackendError, match=r"4 rows of a tensor \[3, 2\]"):
        backend.rows(rows, 4)


def test_the_stream_is_empty_before_it_is_captured(fake, doubling, monkeypatch):
    backend, program = doubling
    call = program.prepare({"x": backend.zeros((1, 1, 3), "float32")}, {"y": backend.zeros((1, 1, 3), "float32")})
    device, waiting = fake.devices[0], []
    capture = device.capture
    monkeypatch.setattr(device, "capture", lambda work: waiting.append(len(device._queue)) or capture(work))
    backend.record([call])
    assert waiting == [0]


def test_a_batch_beyond_the_profiles_is_refused_by_name(case, tiny_bundle):
    backend = case.open()
    plan = case.content.load(tiny_bundle, backend, "fp32")
    with pytest.raises(
        BackendError,
        match=r"segment1 has no profile .*profile 0 has \[1, 4, 3, 32, 32\] to \[1, 4, 3, 32, 32\], not "
        r"\[9, 4, 3, 32, 32\], for frames; profile 1 .*--max-batch",
    ):
        contract.Executor(tiny_bundle, backend, "fp32", plan, 9, [[9]] * 4).time_once(1, 9)


@pytest.mark.parametrize("which", ["shape", "dtype", "alias", "port", "output"])
def test_tensors_that_do_not_fit_are_refused(case, tiny_bundle, which):
    backend = case.open()
    segment = contract.fused_segments_of(tiny_bundle)[0]
    program = backend.load(case.content.load(tiny_bundle, backend, "fp32")(segment), segment, segment.name)
    inputs = {s.name: backend.zeros(s.concrete(1, 1), s.dtype) for s in segment.inputs}
    outputs = {s.name: backend.zeros(s.concrete(1, 1), s.dtype) for s in segment.outputs}
    program.prepare(inputs, outputs)()
    first = segment.inputs[0]
    if which == "shape":
        inputs["frames"] = backend.zeros((1, 3, *first.shape[2:]), "float32")
        message = "refuses the shape|has no profile"
    if which == "dtype":
        inputs["frames"] = backend.zeros(first.concrete(1, 1), "float16")
        message = "frames is float32, its tensor float16"
    if which == "alias":
        outputs["logits"] = backend.frames(inputs["frames"], 0, 1)
        message = "logits would be written where frames lies"
    if which == "port":
        del inputs["frames"]
        message = "ports frames are missing or unknown"
    if which == "output":
        outputs["logits"] = backend.zeros((1, 6), "float32")
        message = re.escape("output logits is [1, 5], its tensor [1, 6]")
    with pytest.raises(BackendError, match=message):
        program.prepare(inputs, outputs)


def test_an_engine_of_other_tensors_is_refused(case, tiny_bundle):
    backend = case.open()
    one, other = contract.fused_segments_of(tiny_bundle)[:2]
    plan = case.content.load(tiny_bundle, backend, "fp32")(one)
    with pytest.raises(
        BackendError, match="engine of segment2: its tensors are not those of the bundle .*build-engines"
    ):
        backend.load(plan, other, other.name)


def test_what_tensorrt_says_is_in_the_error(fake, case, tiny_bundle, monkeypatch):
    executor = contract.fused(case, fake.open(supports_graphs=False), tiny_bundle)

    def refuse(me, stream):
        me._stub.log(me._logger, "enqueueV3: an illegal memory access was encountered")
        return False

    monkeypatch.setattr(fake.stub.module.IExecutionContext, "execute_async_v3", refuse)
    with pytest.raises(
        BackendError, match=r"failed on frames \[1, 4, 3, 32, 32\] in segment1: enqueueV3: an illegal memory access"
    ):
        calls_of(executor)[0]()
    with pytest.raises(BackendError, match="cannot load the engine of junk: .*magicTag"):
        executor.backend.load(b"junk", executor.segments[0], "junk")


def test_an_engine_for_another_gpu_is_refused_with_the_command(fake, case, tiny_bundle):
    segment = contract.fused_segments_of(tiny_bundle)[0]
    case.content.load(tiny_bundle, case.open(), "fp32")(segment)
    fake.gpu = fake.stub.gpu = "sm75"
    with pytest.raises(StaleEngineError, match="targets .*needed sm75.*dynvid build-engines"):
        case.content.load(tiny_bundle, fake.open(), "fp32")(segment)


def test_memory_of_tensors_that_are_gone_is_used_again(fake, case):
    backend = case.open()
    device = fake.devices[0]
    kept = backend.zeros((1, 4), "float32")
    view = backend.frames(kept, 1, 2)
    before = device.blocks()
    for _ in range(5):
        backend.zeros((1000,), "float32")
    gc.collect()
    backend.zeros((1,), "float32")
    assert device.blocks() <= before + 2
    del kept
    gc.collect()
    backend.zeros((1,), "float32")
    backend.write(view, np.full((1, 1), 3, np.float32))
    assert backend.read(view).tolist() == [[3.0]]


def test_calls_after_close_are_errors_and_everything_is_given_back(fake, executor):
    backend = executor.backend
    call = calls_of(executor, BATCH)[0]
    backend.close()
    assert fake.devices[0].closed
    for use in (call, lambda: executor.time_once(1, BATCH)):
        with pytest.raises(BackendError, match="is closed"):
            use()


def test_a_recorded_call_keeps_what_it_works_on(fake, doubling):
    backend, program = doubling
    device = fake.devices[0]
    call = backend.record(
        [program.prepare({"x": backend.zeros((1, 2, 3), "float32")}, {"y": backend.zeros((1, 2, 3), "float32")})]
    )
    del program
    gc.collect()
    before = device.blocks()
    kept = backend.zeros((1,), "float32")
    assert device.blocks() == before + 1
    call()
    del call
    gc.collect()
    backend.read(kept)
    kept = backend.zeros((1,), "float32")
    assert device.blocks() < before + 1


@pytest.mark.parametrize(
    ("name", "answer", "message"),
    [
        ("set_tensor_address", False, r"refuses the address of x \[1, 2, 3\] in double: "),
        ("set_input_shape", False, r"refuses the shape \[1, 2, 3\] of x in double: "),
        ("set_optimization_profile_async", False, "refuses profile 0 in double: "),
        ("infer_shapes", ["x"], "double: shapes of x are unknown"),
    ],
)
def test_no_refusal_of_tensorrt_goes_unseen(fake, doubling, monkeypatch, name, answer, message):
    backend, program = doubling
    x, y = backend.zeros((1, 2, 3), "float32"), backend.zeros((1, 2, 3), "float32")
    monkeypatch.setattr(fake.stub.module.IExecutionContext, name, lambda me, *arguments: answer)
    with pytest.raises(BackendError, match=message):
        program.prepare({"x": x}, {"y": y})()


def test_contexts_go_before_engines_and_both_before_the_memory(fake, doubling, monkeypatch):
    backend, program = doubling
    program.prepare({"x": backend.zeros((1, 1, 3), "float32")}, {"y": backend.zeros((1, 1, 3), "float32")})()
    gone = []
    for kind in ("IExecutionContext", "ICudaEngine"):
        monkeypatch.setattr(
            getattr(fake.stub.module, kind), "__del__", lambda me, kind=kind: gone.append(kind), raising=False
        )
    close = fake.devices[0].close
    monkeypatch.setattr(fake.devices[0], "close", lambda: gone.append("device") or close())
    backend.close()
    assert gone == ["IExecutionContext", "ICudaEngine", "device"]
