"""What a report says of the machine."""

import subprocess
import sys

from host_device import HostDevice

from dynvid.benchmarks.measure.machine import cpu_seconds, describe, gpu_name, others_share


def test_a_gpu_is_named_where_one_computes_and_nowhere_else(monkeypatch):
    device = HostDevice()
    monkeypatch.setattr("dynvid.runtime.cuda.binding.open_device", lambda: device)
    assert describe(gpu_name())["device"] == device.name
    assert "device" not in describe()


def test_child_processes_that_have_ended_are_no_others():
    before = cpu_seconds()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"], check=True)
    after = cpu_seconds()
    assert after[1] - before[1] >= 0.4  # counted in hundredths, of which some are lost


def test_the_share_of_others_is_over_this_ones_time():
    assert others_share((10.0, 1.0), (16.0, 5.0)) == 0.5
    assert others_share((10.0, 1.0), (13.0, 5.0)) == 0.0
    assert others_share(None, (1.0, 1.0)) is None
