"""Which CPU backend is the faster one in INT8 is measured, and said where it matters."""

import sys
import time

import pytest
from int8_samples import NEEDS_VNNI

from dynvid import api
from dynvid.exporter.engines import backend_speed
from dynvid.exporter.engines.backend_speed import advise, static_ms
from dynvid.runtime.backends.openvino import OpenVinoBackend


@NEEDS_VNNI
def test_every_cpu_backend_is_timed_on_the_static_network(int8_bundle, monkeypatch):
    found = static_ms(int8_bundle)
    assert found.keys() == {"onnxruntime", "openvino"} and min(found.values()) > 0
    real = OpenVinoBackend.load

    def slow(self, *arguments):
        program = real(self, *arguments)
        prepare = program.prepare

        def prepared(*ports):
            call = prepare(*ports)
            return lambda: (time.sleep(0.1), call())

        monkeypatch.setattr(program, "prepare", prepared, raising=False)
        return program

    monkeypatch.setattr(OpenVinoBackend, "load", slow)
    assert static_ms(int8_bundle)["openvino"] > 100


def test_a_backend_that_is_not_there_is_left_out(int8_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert static_ms(int8_bundle).keys() == {"onnxruntime"}


@pytest.mark.parametrize(
    ("ms", "warned"),
    [
        ({"onnxruntime": 10.0, "openvino": 5.0}, True),
        ({"onnxruntime": 5.2, "openvino": 5.0}, False),
        ({"onnxruntime": 5.0, "openvino": 10.0}, False),
        ({"onnxruntime": 5.0}, False),
        ({"openvino": 5.0}, False),
    ],
)
def test_the_slower_backend_is_warned_of(int8_bundle, monkeypatch, caplog, ms, warned):
    monkeypatch.setattr(backend_speed, "static_ms", lambda bundle: ms)
    advise(int8_bundle, "onnxruntime")
    assert [record.levelname for record in caplog.records].count("WARNING") == warned
    if warned:
        assert "10 ms on onnxruntime, 5 ms on openvino: 'dynvid build-engines" in caplog.text
        assert "--int8 --backend openvino' builds the faster engines" in caplog.text


def test_what_was_built_is_compared_and_what_was_kept_is_not(int8_bundle, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(backend_speed, "static_ms", lambda bundle: asked.append(bundle.root) or {})
    for _ in range(2):
        api.build_engines(int8_bundle.root, backend="onnxruntime", precision="int8", engines=tmp_path, only=["full"])
    api.build_engines(int8_bundle.root, backend="onnxruntime", engines=tmp_path, only=["full"])
    api.build_engines(int8_bundle.root, backend="onnxruntime", precision="int8", engines=tmp_path, only=["segment1"])
    assert asked == [int8_bundle.root]
