"""The doctor tells of each backend what it saw it do, with and without a GPU."""

import re
import sys

import pytest
from host_device import HostDevice
from tensorrt_stub.stub import Stub

from dynvid.runtime import doctor
from dynvid.runtime.backends import trt
from dynvid.runtime.backends.base import NAMES


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


def rows(report):
    return {row["name"]: row for row in report["backends"]}


def test_without_a_gpu_the_cpu_works_and_every_other_row_says_what_to_do(no_bindings):
    report = doctor.examine()
    assert [row["name"] for row in report["backends"]] == list(NAMES)
    assert {row["name"] for row in report["backends"] if row["works"]} == {"onnxruntime", "null"}
    assert report["gpu"]["name"] is None and "pip install cuda-python" in report["gpu"]["problem"]
    for row in report["backends"]:
        assert set(row) == {"name", "version", "builds", "works", "problem", "note"}
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
