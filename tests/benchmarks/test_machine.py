"""What a report says of the machine."""

from host_device import HostDevice

from dynvid.benchmarks.machine import describe, gpu_name


def test_a_gpu_is_named_where_one_computes_and_nowhere_else(monkeypatch):
    device = HostDevice()
    monkeypatch.setattr("dynvid.runtime.device.open_device", lambda: device)
    assert describe(gpu_name())["device"] == device.name
    assert "device" not in describe()
