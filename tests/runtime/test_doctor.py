"""The doctor tells of each backend what it saw it do, with and without a GPU."""

import re
import sys

import pytest
from host_device import HostDevice
from tensorrt_stub.stub import Stub

from dynvid.runtime import doctor
from dynvid.runtime.backends import openvino
from dynvid.runtime.backends import tensorrt as trt
from dynvid.runtime.backends.registry import NAMES


@pytest.fixture
def no_bindings(monkeypatch):
    for package in ("pycuda", "cuda"):
        for module in [m for m in sys.modules if m == package or m.startswith(f"{package}.")]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, package, None)


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Put a fake TensorRT 11.1 and a fake GPU here."""
    stub = Stub("11.1", "sm86").install(monkeypatch)

    def open_device(index=0):
        device = HostDevice("sm86")
        stub.recordings[device.stream] = device
        return device

    for module in (doctor, trt):
        monkeypatch.setattr(module, "open_device", open_device)
    return stub


def rows(report, precision="fp32"):
    return {row["name"]: row for row in report["backends"] if row["precision"] == precision}


@pytest.fixture
def no_openvino(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)


def test_without_a_gpu_the_cpu_works_and_every_other_row_says_what_to_do(no_bindings, no_openvino):
    report = doctor.examine()
    assert [row["name"] for row in report["backends"]] == [*NAMES, "openvino"]
    assert {row["name"] for row in report["backends"] if row["works"]} == {"onnxruntime", "null"}
    assert report["speed"]["ms"].keys() == {"onnxruntime"} and report["speed"]["timed"] == "four convolutions"
    assert report["gpu"]["name"] is None and "pip install cuda-python" in report["gpu"]["problem"]
    for row in report["backends"]:
        assert set(row) == {"name", "precision", "version", "builds", "works", "problem", "note"}
        assert row["works"] or re.search("pip install|onnxruntime", row["problem"])
    assert report["packages"]["pycuda"]["remedy"].startswith("pip install pycuda")


def test_tensorrt_rtx_builds_here_without_running(no_bindings):
    pytest.importorskip("tensorrt_rtx")
    row = rows(doctor.examine())["tensorrt-rtx"]
    assert (row["builds"], row["works"]) == (True, False)
    assert re.fullmatch(r"\d+(\.\d+){3}", row["version"]) and "GPU 0 cannot be used" in row["problem"]


def test_with_a_gpu_tensorrt_builds_and_runs(on_a_gpu):
    report = doctor.examine()
    assert report["gpu"]["compute_capability"] == "sm86" and report["gpu"]["cuda_graphs"] is True
    row = rows(report)["tensorrt"]
    assert (row["version"], row["builds"], row["works"], row["problem"]) == ("11.1.0.106", True, True, None)


def test_an_engine_that_computes_something_else_does_not_work(on_a_gpu, monkeypatch):
    monkeypatch.setattr(on_a_gpu.module.IExecutionContext, "execute_async_v3", lambda me, stream: True)
    row = rows(doctor.examine())["tensorrt"]
    assert (row["builds"], row["works"]) == (True, False)
    assert "computed [0.0, 0.0], expected [2.0, 5.0]" in row["problem"]


def test_a_builder_that_does_not_start_is_told(monkeypatch, no_bindings):
    Stub("11.1", None).install(monkeypatch)
    row = rows(doctor.examine())["tensorrt"]
    assert (row["version"], row["builds"], row["works"]) == ("11.1.0.106", False, False)
    assert "cannot start a builder" in row["problem"]


def test_one_cuda_binding_is_enough(monkeypatch):
    installed = {"cuda-bindings": "13.4.4", "numpy": "2.0"}
    monkeypatch.setattr(doctor, "_version", installed.get)
    packages = doctor.examine()["packages"]
    assert packages["cuda-python"] == {"version": "13.4.4", "remedy": None}
    assert packages["pycuda"] == {"version": None, "remedy": None}
    assert packages["av"]["remedy"] == "pip install dynvid"


def test_openvino_works_where_it_is_installed_and_bf16_where_the_cpu_has_it(no_bindings, monkeypatch):
    core = pytest.importorskip("openvino").Core
    capabilities = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    report = doctor.examine()
    found = rows(report)
    in_bf16 = rows(report, "bf16")
    assert found["openvino"]["works"] and found["openvino"]["version"] == in_bf16["openvino"]["version"]
    assert list(in_bf16) == ["openvino"] and in_bf16["openvino"]["works"] == ("BF16" in capabilities)
    names = ["onnxruntime", "openvino", *(["openvino, bf16"] if "BF16" in capabilities else [])]
    assert list(report["speed"]["ms"]) == names and all(ms > 0 for ms in report["speed"]["ms"].values())
    said = {"OPTIMIZATION_CAPABILITIES": ["FP32"], "FULL_DEVICE_NAME": "Old CPU"}
    monkeypatch.setattr(core, "get_property", lambda core, device, name: said[name])
    row = rows(doctor.examine(), "bf16")["openvino"]
    assert not row["works"] and "Old CPU has no bf16 arithmetic" in row["problem"]


def test_an_openvino_that_computes_something_else_does_not_work(no_bindings, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setattr(openvino.Compiled, "on", lambda me, *arguments: lambda: None)
    report = doctor.examine()
    assert "computed [0.0, 0.0], expected [2.0, 5.0]" in rows(report)["openvino"]["problem"]
    assert list(report["speed"]["ms"]) == ["onnxruntime"]


class Slow:
    """A backend whose calls take the milliseconds that its clock says."""

    def __init__(self, clock, ms):
        self.clock, self.ms, self.closed = clock, iter(ms), False

    def zeros(self, shape, dtype):
        return None

    def load(self, content, ports, name):
        return self

    def prepare(self, inputs, outputs):
        return lambda: self.clock.append(self.clock[-1] + next(self.ms) / 1e3)

    def close(self):
        self.closed = True


@pytest.fixture
def race(monkeypatch):
    """Return a function that compares backends whose calls take these milliseconds."""
    clock = [0.0]

    def compare(**ms):
        pairs = [(name.removesuffix("_bf16"), "bf16" if name.endswith("_bf16") else "fp32") for name in ms]
        backends = {pair: Slow(clock, spent) for pair, spent in zip(pairs, ms.values(), strict=True)}
        monkeypatch.setattr(doctor, "open_backend", lambda name, precision: backends[name, precision])
        monkeypatch.setattr(doctor.time, "perf_counter", lambda: clock[-1])
        monkeypatch.setattr(doctor.time, "sleep", lambda seconds: None)
        found = doctor.compare_speed(pairs)
        assert all(backend.closed for backend in backends.values())
        return found

    return compare


def test_the_fastest_in_fp32_is_advised_by_medians_without_the_first_call(race):
    found = race(onnxruntime=[1, 9, 9, 9, 1, 1], openvino=[99, 8, 8, 8, 80, 80], openvino_bf16=[3] * 6)
    assert found["ms"] == {"onnxruntime": 9.0, "openvino": 8.0, "openvino, bf16": 3.0}
    assert found["fastest"] == "openvino" and found["advice"].startswith("--backend openvino is the fastest in fp32")
    assert "--precision bf16 takes 3 ms" in found["advice"]
    found = race(onnxruntime=[7] * 6, openvino=[8] * 6)
    assert found["fastest"] == "onnxruntime" and "bf16" not in found["advice"]


def test_without_a_backend_of_the_cpu_nothing_is_compared():
    assert doctor.compare_speed([]) is None


def test_a_bundle_s_static_network_is_timed(tiny_bundle):
    found = doctor.compare_speed([("onnxruntime", "fp32")], tiny_bundle)
    assert (
        found["timed"] == f"the static network of {str(tiny_bundle.root)!r}, as cells"
        and found["ms"]["onnxruntime"] > 0
    )
    backend = doctor.open_backend("null")
    call = doctor._static(backend, tiny_bundle)
    call()
    assert {name for name, _ in backend.launches} == {"block0", "block1", "block2", "head2"}
    assert {frames for name, frames in backend.launches if name.startswith("block")} == {8}
