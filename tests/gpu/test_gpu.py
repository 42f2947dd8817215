"""The contract on a real GPU, for every backend that runs there.

``DYNVID_REQUIRE_GPU=1 pytest -m gpu -s`` on a machine with a GPU; a backend that is not there is then a failure.
``DYNVID_GPU_BACKENDS`` names those that are to be there, such as ``tensorrt,onnxruntime-cuda``; all of them by default.
"""

import os
from functools import partial

import contract
import pytest
from contract import BATCH, Case, Graphs, Plans
from samples import DEMONSTRATION, TINY

from dynvid.exporter.export import export
from dynvid.grid.bundle import Bundle
from dynvid.grid.errors import BackendError, EnvironmentFaultError, StaleEngineError
from dynvid.grid.storage.files import sha256_of
from dynvid.models.layouts import load_training_checkpoint
from dynvid.runtime.backends.registry import open_backend
from dynvid.runtime.backends.tensorrt import TensorRTBackend
from dynvid.runtime.backends.tensorrt_api import open_api
from dynvid.runtime.cuda.binding import open_device
from dynvid.runtime.cuda.device import BINDINGS

pytestmark = pytest.mark.gpu

BACKENDS = ("onnxruntime-cuda", "tensorrt", "tensorrt-rtx")
WANTED = os.environ.get("DYNVID_GPU_BACKENDS", ",".join(BACKENDS)).split(",")
REPLAY_AT_MOST = 3  # times the plain calls


@pytest.fixture(scope="module", params=BACKENDS)
def case(request, tmp_path_factory):
    name = request.param
    if name not in WANTED:
        pytest.skip("DYNVID_GPU_BACKENDS leaves it out")
    try:
        open_backend(name).close()
    except EnvironmentFaultError as error:
        if os.environ.get("DYNVID_REQUIRE_GPU") == "1":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    if name == "onnxruntime-cuda":
        content = Graphs()
    else:
        content = Plans(tmp_path_factory.mktemp(name), partial(contract.build_with_children, flavour=name))
    return Case(partial(open_backend, name), content)


@pytest.fixture(scope="module")
def planned(case):
    """Return the case where it runs engines."""
    if isinstance(case.content, Graphs):
        pytest.skip("it runs ONNX models")
    return case


@pytest.fixture(scope="module", params=["tiny", "demonstration"])
def pair(request, exports, tmp_path_factory):
    """Return a network and its bundle in both precisions."""
    if request.param == "tiny":
        return exports.network(TINY), exports.bundle(TINY, ("fp32", "fp16"))
    checkpoint = DEMONSTRATION / "network.pth"
    root = tmp_path_factory.mktemp("demonstration") / "bundle"
    network = load_training_checkpoint(checkpoint).network
    export(network, root, source_sha256=sha256_of(checkpoint), precisions=("fp32", "fp16"))
    return network, Bundle.open(root)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_split_is_whole(case, pair, precision):
    contract.split_is_whole(case, *pair, precision)


def test_exits_and_classes_agree(case, pair):
    contract.exits_and_classes_agree(case, *pair)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_rows_are_isolated(case, pair, precision):
    contract.rows_are_isolated(case, pair[1], precision)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_nothing_stays_of_a_poisoned_video(case, pair, precision):
    contract.nothing_stays_of_a_poisoned_video(case, pair[1], precision)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_cuda_graphs_change_nothing(case, pair, precision):
    contract.recorded_calls_change_nothing(case, pair[1], precision)


def test_tensors_hold_what_was_written(case):
    contract.tensors_hold_what_was_written(case)


def test_one_thread_owns_it_until_it_is_closed(case):
    contract.one_thread_owns_it_until_it_is_closed(case)


def test_an_engine_for_another_gpu_is_refused(planned, pair, monkeypatch):
    backend, segment = planned.open(), contract.fused_segments_of(pair[1])[0]
    planned.content.load(pair[1], backend, "fp32")(segment)
    monkeypatch.setattr(backend.device, "compute_capability", "sm70")
    with pytest.raises(StaleEngineError, match=r"targets .*needed sm70.*(dynvid build-engines|another --backend)"):
        planned.content.load(pair[1], backend, "fp32")(segment)
    with pytest.raises(BackendError, match="cannot load the engine of junk"):
        backend.load(b"junk" * 100, segment, "junk")
    backend.close()


@pytest.mark.parametrize("binding", BINDINGS)
def test_each_cuda_binding_moves_memory(planned, binding):
    try:
        open_device(0, binding).close()
    except EnvironmentFaultError as error:
        pytest.skip(str(error))  # one of them is enough

    def open_through():
        return TensorRTBackend(open_api(planned.open.args[0]), open_device(0, binding))

    contract.tensors_hold_what_was_written(Case(open_through, planned.content))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("batch", [1, BATCH])
def test_a_graph_is_not_slower_than_plain_calls(case, pair, precision, batch, request, capsys):
    plain, replayed = (contract.segment_ms(case, pair[1], precision, batch, graphs) for graphs in (False, True))
    device = open_device()
    with capsys.disabled():
        print(f"\n{case.open.args[0]} on {device.name}, driver's CUDA {device.cuda_version}, through {device.binding}")
        print(f"{request.node.callspec.id}, batch {batch}: ms a segment and its answer, plain and recorded")
        for k, (one, other) in enumerate(zip(plain, replayed, strict=True), 1):
            print(f"  t_{k} {one:8.3f} {other:8.3f}")
    device.close()
    for one, other in zip(plain, replayed, strict=True):
        assert other <= REPLAY_AT_MOST * one
