"""onnxruntime on CUDA, against a fake of its module: sessions compute on the CPU, on a late stream of a fake device."""

import os
import sys
import types

import contract
import numpy as np
import onnxruntime
import pytest
from contract import Case, Graphs
from host_device import HostDevice

from dynvid.grid.errors import BackendError, MissingPackageError
from dynvid.runtime.backends.onnxruntime_cuda import PROVIDER, OrtCudaBackend, open_ort_cuda
from dynvid.runtime.backends.registry import open_backend


class Node(types.SimpleNamespace):
    pass


class Part:
    def __init__(self, ep_name, *operators):
        self.ep_name, self._nodes = ep_name, [Node(op_type=name, name=f"node_{name}") for name in operators]

    def get_nodes(self):
        return self._nodes


class FakeOrt:
    """The names of onnxruntime that the backend uses; what a machine makes of them is set by attributes.

    Attributes:
        provider: what a session says that it runs on.
        parts: where it says that its nodes run.
        sessions: arguments of every session.
    """

    __version__ = "1.31.1"
    SessionOptions, RunOptions = onnxruntime.SessionOptions, onnxruntime.RunOptions

    def __init__(self):
        self.devices, self.sessions = {}, []
        self.provider = PROVIDER
        self.parts = [Part(PROVIDER, "Conv", "Relu"), Part("CPUExecutionProvider", "Shape", "Concat")]

    def open(self, cuda_graphs=True):
        device = HostDevice()
        self.devices[str(device.stream)] = device
        return OrtCudaBackend(self, device)

    def set_default_logger_severity(self, level):
        pass

    def preload_dlls(self, directory):
        print("Failed to load libcudnn.so.9")

    def InferenceSession(self, content, options, providers, enable_fallback):
        ((provider, given),) = providers
        assert provider == PROVIDER and not enable_fallback
        assert options.use_per_session_threads and options.intra_op_num_threads
        assert options.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"
        self.sessions.append(given)
        return FakeSession(self, content, self.devices[given["user_compute_stream"]])


class FakeSession:
    def __init__(self, ort, content, device):
        options = onnxruntime.SessionOptions()
        self._real = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], enable_fallback=False
        )
        self._ort, self._device = ort, device

    def get_providers(self):
        return [self._ort.provider, "CPUExecutionProvider"]

    def get_provider_graph_assignment_info(self):
        return self._ort.parts

    def io_binding(self):
        return FakeBinding(self._real.io_binding())

    def run_with_iobinding(self, binding, options):
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        self._device.append(lambda: self._real.run_with_iobinding(binding.real))


class FakeBinding:
    def __init__(self, real):
        self.real = real

    def bind_input(self, name, device, index, dtype, shape, address):
        assert (device, index) == ("cuda", 0)
        self.real.bind_input(name, "cpu", 0, dtype, shape, address)

    def bind_output(self, name, device, index, dtype, shape, address):
        assert (device, index) == ("cuda", 0)
        self.real.bind_output(name, "cpu", 0, dtype, shape, address)


@pytest.fixture
def ort(monkeypatch):
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    return FakeOrt()


@pytest.fixture
def case(ort):
    return Case(ort.open, Graphs())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_split_is_whole(case, tiny_network, tiny_bundle, precision):
    contract.split_is_whole(case, tiny_network, tiny_bundle, precision)


def test_the_contract_holds(case, tiny_network, tiny_bundle):
    contract.exits_and_classes_agree(case, tiny_network, tiny_bundle)
    contract.rows_are_isolated(case, tiny_bundle)
    contract.nothing_stays_of_a_poisoned_video(case, tiny_bundle)
    contract.recorded_calls_change_nothing(case, tiny_bundle)
    contract.tensors_hold_what_was_written(case)
    contract.one_thread_owns_it_until_it_is_closed(case)


def loaded(ort, tiny_bundle):
    subgraph = tiny_bundle.manifest.subgraphs[0]
    variant = subgraph.variant("fp32")
    return ort.open().load(tiny_bundle.read(variant), variant, subgraph.name)


def test_fp32_is_not_computed_in_tf32(ort, tiny_bundle, monkeypatch):
    loaded(ort, tiny_bundle)
    assert ort.sessions[0]["use_tf32"] == "0" and os.environ["NVIDIA_TF32_OVERRIDE"] == "0"


def test_what_onnxruntime_prints_about_its_libraries_is_not_on_stdout(ort, capsys):
    ort.open()
    printed = capsys.readouterr()
    assert printed.out == "" and "libcudnn" in printed.err


def test_a_session_on_another_provider_is_refused(ort, tiny_bundle):
    ort.provider = "CPUExecutionProvider"
    with pytest.raises(
        BackendError, match=r"block0 on CPUExecutionProvider, expected CUDA.*pip install 'dynvid\[gpu\]', with cuDNN"
    ):
        loaded(ort, tiny_bundle)


def test_data_computed_on_the_cpu_is_refused(ort, tiny_bundle):
    ort.parts.append(Part("CPUExecutionProvider", "Shape", "Softmax"))
    with pytest.raises(BackendError, match="does not run 1 nodes of block0 on CUDA: Softmax 'node_Softmax'"):
        loaded(ort, tiny_bundle)


def test_a_graph_that_does_not_load_is_refused(ort, tiny_bundle):
    variant = tiny_bundle.manifest.subgraphs[0].variant("fp32")
    with pytest.raises(BackendError, match="cannot load block0 on CUDA: "):
        ort.open().load(b"no graph", variant, "block0")


def test_frames_of_several_videos_are_no_view(ort):
    backend = ort.open()
    with pytest.raises(
        BackendError, match=r"frames 0 to 1 of a tensor \[2, 4, 3\]: expected frames that it has, of one video"
    ):
        backend.frames(backend.zeros((2, 4, 3), "float32"), 0, 1)
    with pytest.raises(BackendError, match="frames 2 to 5"):
        backend.frames(backend.zeros((1, 4, 3), "float32"), 2, 5)


def test_the_cpu_build_of_onnxruntime_gives_one_clear_error():
    with pytest.raises(
        BackendError, match=r"onnxruntime .* has .*CPUExecutionProvider, expected CUDA.*pip uninstall onnxruntime"
    ):
        open_backend("onnxruntime-cuda")


def test_without_onnxruntime_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'dynvid\[gpu\]'"):
        open_ort_cuda()


def test_a_fault_while_running_names_subgraph_and_shapes(ort, tiny_bundle, monkeypatch):
    backend = ort.open()
    subgraph = tiny_bundle.manifest.subgraphs[0]
    variant = subgraph.variant("fp32")
    program = backend.load(tiny_bundle.read(variant), variant, subgraph.name)
    tensors = [
        {s.name: backend.zeros(s.concrete(1, 2), s.dtype) for s in specs} for specs in (variant.inputs, variant.outputs)
    ]
    call = program.prepare(*tensors)

    def fail(self, binding, options):
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered\nmore")

    monkeypatch.setattr(FakeSession, "run_with_iobinding", fail)
    with pytest.raises(
        BackendError, match=r"failed in block0 on CUDA on .*\(1, 2, 3, 32, 32\).*CUDA failure 700: an illegal memory"
    ):
        call()
    assert np.isfinite(backend.read(tensors[1][variant.outputs[0].name])).all()


def test_ports_must_be_complete_and_calls_end_with_the_backend(ort, tiny_bundle):
    backend = ort.open()
    subgraph = tiny_bundle.manifest.subgraphs[0]
    variant = subgraph.variant("fp32")
    program = backend.load(tiny_bundle.read(variant), variant, subgraph.name)
    inputs, outputs = (
        {s.name: backend.zeros(s.concrete(1, 2), s.dtype) for s in specs} for specs in (variant.inputs, variant.outputs)
    )
    call = program.prepare(inputs, outputs)
    with pytest.raises(BackendError, match="ports frames are missing or unknown"):
        program.prepare({name: value for name, value in inputs.items() if name != "frames"}, outputs)
    call()
    backend.close()
    with pytest.raises(BackendError, match="is closed"):
        call()
