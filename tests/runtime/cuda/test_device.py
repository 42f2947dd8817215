"""The device through each CUDA binding, against fakes of the two packages that hold host memory."""

import ctypes
import gc
import sys
import threading
import types
from collections import Counter

import numpy as np
import pytest

from dynvid.grid.errors import DeviceError, ResourceError, UsageError
from dynvid.runtime.cuda.binding import open_device
from dynvid.runtime.cuda.device import ALIGNMENT_BYTES

GIB = 1 << 30


class FakeGpu:
    """One machine: what both fake packages work on.

    Attributes:
        alive: how many of each kind of thing have not been given back.
        broken: functions that fail, with CUDA's code.
        depths: of each thread's stack of contexts, which pycuda wants empty when the thread ends.
    """

    def __init__(self):
        self.alive, self.broken, self.gpus = Counter(), {}, 1
        self.memory, self.work, self.depths = {}, None, Counter()

    def allocate(self, kind, num_bytes):
        block = np.full(num_bytes + ALIGNMENT_BYTES, 0x7B, np.uint8)
        address = -(-block.ctypes.data // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        self.memory[address] = block
        self.alive[kind] += 1
        return address

    def free(self, kind, address):
        del self.memory[int(address)]
        self.alive[kind] -= 1

    def do(self, function, *arguments):
        """Run at once, as an idle stream does; a captured one keeps it."""
        if self.work is None:
            function(*arguments)
        else:
            self.work.append(lambda: function(*arguments))


class FakeDriver(types.ModuleType):
    """``cuda.bindings.driver``: functions give their code and what they return."""

    CUstream = int
    CUdevice_attribute = types.SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=75, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=76
    )
    CUstreamCaptureMode = types.SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)

    def __init__(self, gpu):
        super().__init__("cuda.bindings.driver")
        self._gpu = gpu
        self._graphs = {}
        for name in [n for n in dir(type(self)) if n.startswith("_cu")]:
            setattr(self, name[1:], self._checked(name))

    def _checked(self, name):
        def call(*arguments):
            code = self._gpu.broken.get(name[1:], 0)
            if isinstance(code, Exception):
                raise code
            if code:
                return code, None
            result = getattr(self, name)(*arguments)
            return (0,) if result is None else (0, *result) if isinstance(result, tuple) else (0, result)

        return call

    def cuGetErrorString(self, code):
        return 0, {2: b"out of memory", 100: b"no CUDA-capable device is detected"}.get(code, b"some failure")

    def _cuInit(self, flags):
        return None

    def _cuDeviceGetCount(self):
        return self._gpu.gpus

    def _cuDeviceGet(self, index):
        return index

    def _cuDeviceGetName(self, length, device):
        return b"Fake GPU\0" + bytes(length - 9)

    def _cuDeviceGetAttribute(self, attribute, device):
        return {75: 12, 76: 0}[attribute]

    def _cuDriverGetVersion(self):
        return 13010

    def _cuDevicePrimaryCtxRetain(self, device):
        self._gpu.alive["context"] += 1
        return "context"

    def _cuDevicePrimaryCtxRelease(self, device):
        self._gpu.alive["context"] -= 1

    def _cuCtxSetCurrent(self, context):
        assert context == "context"

    def _cuStreamCreate(self, flags):
        assert flags == 1, "a stream that waits for the default one"
        self._gpu.alive["stream"] += 1
        return 99

    def _cuStreamDestroy(self, stream):
        self._gpu.alive["stream"] -= 1

    def _cuStreamSynchronize(self, stream):
        assert stream == 99

    def _cuMemAlloc(self, num_bytes):
        return self._gpu.allocate("memory", num_bytes)

    def _cuMemFree(self, address):
        self._gpu.free("memory", address)

    def _cuMemHostAlloc(self, num_bytes, flags):
        return self._gpu.allocate("pinned", num_bytes)

    def _cuMemFreeHost(self, address):
        self._gpu.free("pinned", address)

    def _cuMemGetInfo(self):
        return GIB, 2 * GIB

    def _cuMemcpyHtoDAsync(self, to, source, num_bytes, stream):
        self._gpu.do(ctypes.memmove, to, source, num_bytes)

    _cuMemcpyDtoHAsync = _cuMemcpyDtoDAsync = _cuMemcpyHtoDAsync

    def _cuMemsetD8Async(self, address, byte, num_bytes, stream):
        self._gpu.do(ctypes.memset, address, byte, num_bytes)

    def _cuEventCreate(self, flags):
        self._gpu.alive["event"] += 1
        return "event"

    def _cuEventDestroy(self, event):
        self._gpu.alive["event"] -= 1

    def _cuEventRecord(self, event, stream):
        assert stream == 99

    def _cuEventSynchronize(self, event):
        assert event == "event"

    def _cuEventElapsedTime(self, start, stop):
        return 1.5

    def _cuStreamBeginCapture(self, stream, mode):
        assert mode == 1, "a capture that other threads disturb"
        self._gpu.work = []
        self._gpu.alive["graph"] += 1

    def _cuStreamEndCapture(self, stream):
        work, self._gpu.work = self._gpu.work, None
        return work

    def _cuGraphInstantiate(self, graph, flags):
        self._gpu.alive["executable"] += 1
        self._graphs[len(self._graphs) + 1] = graph
        return len(self._graphs)

    def _cuGraphDestroy(self, graph):
        self._gpu.alive["graph"] -= 1

    def _cuGraphExecDestroy(self, executable):
        self._gpu.alive["executable"] -= 1

    def _cuGraphLaunch(self, executable, stream):
        for work in self._graphs[executable]:
            work()


class FakePycuda(types.ModuleType):
    """``pycuda.driver``: objects, and a stack of contexts for each thread."""

    class Error(Exception):
        pass

    class MemoryError(Error):
        pass

    def __init__(self, gpu):
        super().__init__("pycuda.driver")
        depths = gpu.depths

        def check(name):
            code = gpu.broken.get(name)
            if code:
                raise (self.MemoryError if code == 2 else self.Error)(
                    f"{name} failed: {FakeDriver.cuGetErrorString(None, code)[1].decode()}"
                )

        class Context:
            def push(self):
                depths[threading.get_ident()] += 1
                gpu.alive["context"] += 1

            def pop(self):
                depths[threading.get_ident()] -= 1
                assert min(depths.values()) == 0, "popped in another thread than it was pushed in"

            def detach(self):
                gpu.alive["context"] -= 1

        class Device:
            @staticmethod
            def count():
                return gpu.gpus

            def __init__(self, index):
                pass

            def name(self):
                return "Fake GPU"

            def compute_capability(self):
                return 12, 0

            def retain_primary_context(self):
                return Context()

        class Stream:
            handle = 99

            def __init__(self, flags):
                assert flags == 1
                gpu.alive["stream"] += 1

            def __del__(self):
                gpu.alive["stream"] -= 1

            def synchronize(self):
                check("cuStreamSynchronize")

        class Event:
            def record(self, stream):
                assert stream.handle == 99

            def synchronize(self):
                pass

            def time_till(self, other):
                return 1.5

        class Block:
            def __init__(self, kind, num_bytes):
                check("cuMemAlloc")
                assert depths[threading.get_ident()] == 1, "no context is current in this thread"
                self.kind, self.address = kind, gpu.allocate(kind, num_bytes)
                self.__array_interface__ = {
                    "shape": (num_bytes,),
                    "typestr": "|u1",
                    "data": (self.address, False),
                    "version": 3,
                }

            def __int__(self):
                return self.address

            def free(self):
                gpu.free(self.kind, self.address)

        def copy_in(to, array, stream):
            gpu.do(ctypes.memmove, to, array.ctypes.data, array.nbytes)

        def copy_out(array, source, stream):
            gpu.do(ctypes.memmove, array.ctypes.data, source, array.nbytes)

        self.init = lambda: check("cuInit")
        self.get_driver_version = lambda: 13010
        self.Device, self.Stream, self.Event = Device, Stream, Event
        self.mem_alloc = lambda num_bytes: Block("memory", num_bytes)
        self.pagelocked_empty = lambda num_bytes, dtype: np.asarray(Block("pinned", num_bytes))
        self.memcpy_htod_async, self.memcpy_dtoh_async = copy_in, copy_out
        self.memcpy_dtod_async = lambda to, source, num_bytes, stream: gpu.do(ctypes.memmove, to, source, num_bytes)
        self.memset_d8_async = lambda address, byte, num_bytes, stream: gpu.do(ctypes.memset, address, byte, num_bytes)
        self.mem_get_info = lambda: (GIB, 2 * GIB)


@pytest.fixture
def gpu():
    return FakeGpu()


@pytest.fixture
def bindings(monkeypatch, gpu):
    """Install fakes of the bindings that are named, and no other."""

    def install(*names):
        driver, pycuda = FakeDriver(gpu), FakePycuda(gpu)
        for module, fake, name in (
            ("cuda.bindings.driver", driver, "cuda-python"),
            ("pycuda.driver", pycuda, "pycuda"),
        ):
            package, _, _ = module.partition(".")
            monkeypatch.setitem(sys.modules, package, types.ModuleType(package) if name in names else None)
            monkeypatch.setitem(sys.modules, "cuda.bindings", types.ModuleType("cuda.bindings"))
            monkeypatch.setitem(sys.modules, module, fake if name in names else None)
        return driver if "cuda-python" in names else pycuda

    return install


@pytest.fixture(params=["pycuda", "cuda-python"])
def binding(request, bindings):
    bindings("pycuda", "cuda-python")
    return request.param


def in_a_thread(work):
    """Run ``work`` in a thread of its own, which ends."""
    failed = []

    def run():
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    gc.collect()


def test_a_device_says_what_it_is(binding):
    def work():
        device = open_device(0, binding)
        facts = (
            device.binding,
            device.index,
            device.name,
            device.compute_capability,
            device.cuda_version,
            device.stream,
        )
        assert facts == (binding, 0, "Fake GPU", "sm120", (13, 1), 99)
        assert device.free_bytes() == (GIB, 2 * GIB)
        device.close()

    in_a_thread(work)


def test_memory_is_copied_and_filled_to_the_byte(binding):
    def work():
        device = open_device(0, binding)
        a, b = device.allocate(1000), device.allocate(1000)
        assert a % ALIGNMENT_BYTES == b % ALIGNMENT_BYTES == 0
        source, target = device.pin(1000), device.pin(1000)
        source[:] = np.arange(1000) % 251
        device.copy_in(a, source)
        device.copy(b, a, 1000)
        device.fill(b + 10, 7, 20)
        device.copy_in(b + 40, source[:5])
        device.copy_out(target, b)
        device.synchronize()
        expected = source.copy()
        expected[10:30], expected[40:45] = 7, source[:5]
        np.testing.assert_array_equal(target, expected)
        device.close()

    in_a_thread(work)


def test_events_are_recorded_and_timed(binding):
    def work():
        device = open_device(0, binding)
        start, stop = device.event(), device.event()
        for event in (start, stop):
            device.record(event)
            device.wait(event)
        assert device.elapsed_ms(start, stop) == 1.5
        device.close()

    in_a_thread(work)


def test_captured_work_runs_when_it_is_launched_and_not_before(binding, gpu):
    def work():
        device = open_device(0, binding)
        address, array = device.allocate(8), device.pin(8)
        device.fill(address, 1, 8)
        graph = device.capture(lambda: (device.fill(address, 2, 8), device.copy_out(array, address)))
        device.copy_out(array, address)
        assert set(array) == {1}
        device.launch(graph)
        assert set(array) == {2}
        del graph
        gc.collect()
        other = device.capture(lambda: None)
        assert gpu.alive["executable"] == 1 and gpu.alive["graph"] == 0
        device.close()
        assert gpu.alive["executable"] == 0 and other is not None

    in_a_thread(work)


def test_a_capture_that_fails_ends(binding, gpu):
    def work():
        device = open_device(0, binding)
        with pytest.raises(KeyError):
            device.capture(lambda: {}["a fault of the work's own"])
        assert gpu.work is None and gpu.alive["graph"] == 0
        device.close()

    in_a_thread(work)


def test_everything_is_given_back(binding, gpu):
    def work():
        device = open_device(0, binding)
        freed, unpinned = device.allocate(10), device.pin(10)
        device.allocate(10), device.pin(10), device.event()
        device.free(freed)
        device.unpin(unpinned)
        assert gpu.alive["memory"] == gpu.alive["pinned"] == 1
        device.capture(lambda: None)
        device.close()
        device.close()

    in_a_thread(work)
    assert set(gpu.alive.values()) == {0}


def test_a_thread_that_ends_without_closing_leaves_no_context_behind(binding, gpu):
    def work():
        open_device(0, "pycuda").allocate(10)

    in_a_thread(work)
    assert gpu.alive["context"] == 0 and list(gpu.depths.values()) == [0]


def test_devices_of_one_thread_close_in_any_order(binding):
    def work():
        first, second = open_device(0, binding), open_device(0, binding)
        first.close()
        second.free(second.allocate(10))
        second.close()

    in_a_thread(work)


def test_memory_that_has_run_out_is_a_resource_error(binding, gpu):
    def work():
        device = open_device(0, binding)
        gpu.broken["cuMemAlloc"] = 2
        with pytest.raises(ResourceError, match="GPU memory: .*1234.* failed.* Use a smaller batch, or free the GPU"):
            device.allocate(1234)
        device.close()

    in_a_thread(work)


def test_failed_work_is_a_device_error(binding, gpu):
    def work():
        device = open_device(0, binding)
        gpu.broken["cuStreamSynchronize"] = 700
        with pytest.raises(DeviceError, match="cuStreamSynchronize.*some failure"):
            device.synchronize()
        gpu.broken.clear()
        device.close()

    in_a_thread(work)


def test_pycuda_alone_has_no_graphs_and_says_what_has(bindings):
    bindings("pycuda")

    def work():
        device = open_device()
        assert device.binding == "pycuda" and not device.supports_graphs
        with pytest.raises(
            DeviceError, match="pycuda has no CUDA graphs. Install cuda-python beside it: pip install cuda-python"
        ):
            device.capture(lambda: None)
        device.close()

    in_a_thread(work)


@pytest.mark.parametrize(
    ("installed", "chosen"),
    [(("pycuda", "cuda-python"), "pycuda"), (("pycuda",), "pycuda"), (("cuda-python",), "cuda-python")],
)
def test_pycuda_is_taken_first(bindings, installed, chosen):
    bindings(*installed)

    def work():
        device = open_device()
        assert (device.binding, device.supports_graphs) == (chosen, "cuda-python" in installed)
        device.close()

    in_a_thread(work)


def test_without_any_binding_the_error_says_how_to_get_each(bindings):
    bindings()
    expected = r"GPU 0 cannot be used. pycuda: it is not installed .*pip install pycuda.*; cuda-python: .*pip install cuda-python"
    with pytest.raises(DeviceError, match=expected):
        open_device()


def test_without_a_driver_the_error_says_what_each_binding_says(bindings, monkeypatch, gpu):
    bindings("pycuda", "cuda-python")

    class Unloadable:
        def find_spec(self, name, path, target=None):
            if name == "pycuda.driver":
                raise ImportError("libcuda.so.1: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "pycuda.driver")
    monkeypatch.setattr(sys.modules["pycuda"], "__path__", [], raising=False)
    monkeypatch.setattr(sys, "meta_path", [Unloadable(), *sys.meta_path])
    gpu.broken["cuInit"] = RuntimeError('"cuda" can only be found via system search. Ensure the driver is installed.')
    with pytest.raises(
        DeviceError, match="pycuda: it does not load .libcuda.so.1.*; cuda-python: cuInit: .*install an NVIDIA driver"
    ):
        open_device()


@pytest.mark.parametrize("binding_name", ["pycuda", "cuda-python", "auto"])
def test_without_a_gpu_the_error_says_so(bindings, gpu, binding_name):
    bindings("pycuda", "cuda-python")
    gpu.broken["cuInit"] = 100
    with pytest.raises(DeviceError, match="cuInit.*no CUDA-capable device is detected"):
        open_device(0, binding_name)
    gpu.broken.clear()
    with pytest.raises(DeviceError, match="there are 1 GPUs, expected more than 3"):
        open_device(3, binding_name)


def test_one_thread_stays_on_one_gpu_through_pycuda(bindings, gpu):
    bindings("pycuda")
    gpu.gpus = 2

    def work():
        open_device(1).close()
        with pytest.raises(DeviceError, match="this thread uses GPU 1, expected that GPU: use another thread"):
            open_device(0)

    in_a_thread(work)


def test_an_unknown_binding_is_refused():
    with pytest.raises(UsageError, match="CUDA binding 'cupy': expected auto or one of pycuda, cuda-python"):
        open_device(0, "cupy")
