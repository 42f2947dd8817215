"""A fake ``tensorrt`` or ``tensorrt_rtx`` that has exactly the names of one real version and enforces its order of calls.

``api.json`` lists the public names of each class, taken from the bindings of that version. A name that is not in the list
raises AttributeError; a name that is, but that nothing here needs, can be looked up and not called. What lies behind
the others works: a network is parsed from its ONNX, and an engine computes by onnxruntime, on the memory at the addresses
that it was given. So a fake device is a dictionary of numpy arrays, and a CUDA graph is a list of calls:

    stub = Stub("11.1", gpu="sm86").install(monkeypatch)
    stub.recordings[stream] = calls = []       # from here on, execute_async_v3 on that stream is kept, not run
    del stub.recordings[stream]                # ends the capture; to replay: for call in calls: call()

Calls that TensorRT would answer with None or False are answered so, with a line to the logger. Those that it would let
pass and that are wrong all the same raise ``Misuse``.
"""

import enum
import json
import sys
import types
from pathlib import Path

API = {
    version: {name: names.split() for name, names in classes.items()}
    for version, classes in json.loads(Path(__file__).with_name("api.json").read_text()).items()
}
FULL_VERSION = {"10.16": "10.16.1.11", "11.1": "11.1.0.106", "rtx-1.7.1": "1.7.1.116"}
MODULE = {"10.16": "tensorrt", "11.1": "tensorrt", "rtx-1.7.1": "tensorrt_rtx"}

# classes that the lists leave out: the documented names that are needed
UNLISTED = {
    "INetworkDefinition": "num_inputs num_outputs num_layers get_input get_output get_layer get_flag name",
    "ILayer": "name type num_inputs num_outputs get_input get_output get_output_type",
    "ITensor": "name dtype shape is_network_input is_network_output",
    "ILogger": "INTERNAL_ERROR ERROR WARNING INFO VERBOSE Severity log",
}
LAYER_TYPES = (
    "CONVOLUTION ACTIVATION POOLING SOFTMAX CONCATENATION ELEMENTWISE UNARY SHUFFLE REDUCE GATHER MATRIX_MULTIPLY CONSTANT "
    "CAST SLICE SHAPE SQUEEZE UNSQUEEZE IDENTITY SELECT PADDING QUANTIZE DEQUANTIZE"
)
_VALUES = {
    "DataType": "FLOAT HALF INT8 INT32 BOOL UINT8 FP8 BF16 INT64 INT4 FP4 E8M0",
    "TensorIOMode": "NONE INPUT OUTPUT",
}


class Misuse(AssertionError):
    """A call in the wrong order, or with arguments that corrupt memory on a GPU."""


class Stub:
    """One fake module and the machine it runs on.

    Attributes:
        version: ``10.16``, ``11.1`` or ``rtx-1.7.1``.
        gpu: compute capability such as ``sm86``; None: no GPU.
        module: to be put in ``sys.modules``.
        calls: the name of every call, in order.
        recordings: streams that are being captured, and the calls captured so far.
    """

    def __init__(self, version="11.1", gpu="sm86"):
        from . import building, parsing, running

        self.version, self.gpu = version, gpu
        self.full_version = FULL_VERSION[version]
        self.rtx = version.startswith("rtx")
        self.calls, self.recordings = [], {}
        self.module = types.ModuleType(MODULE[version])
        self.module.__version__ = self.full_version
        self.module.__getattr__ = lambda name: _missing(f"module {MODULE[version]}", name, self.full_version)
        fakes = building.FAKES | parsing.FAKES | running.FAKES
        listed = API[version] | {name: names.split() for name, names in UNLISTED.items()}
        listed["LayerType"] = LAYER_TYPES.split()
        for name, names in listed.items():
            if name in fakes:
                made = self._class(name, names, fakes[name])
            elif names and all(n[0].isupper() for n in names):
                made = self._enum(name, names)
            else:
                made = self._class(name, names, object)
            setattr(self.module, name, made)
        severity = self._enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])
        self.module.ILogger.Severity = severity
        for member in severity:
            setattr(self.module.ILogger, member.name, member)
        self.module.Dims = Dims

    def install(self, monkeypatch):
        """Make ``import tensorrt`` (or ``tensorrt_rtx``) give this module, in this process; return the stub."""
        monkeypatch.setitem(sys.modules, MODULE[self.version], self.module)
        return self

    def log(self, logger, line):
        """Tell a logger of an error, and of the noise that follows every error on a machine without a driver."""
        logger.log(self.module.ILogger.ERROR, line)
        if self.gpu is None:
            noise = "Error Code 1: Cuda Runtime (cudaError 35: CUDA driver version is insufficient for CUDA runtime version)"
            logger.log(self.module.ILogger.ERROR, noise)

    def _class(self, name, names, fake):
        body = {n: fake.__dict__.get(n, _unused(name, n)) for n in names}
        body |= {
            n: value
            for n, value in fake.__dict__.items()
            if n.startswith("_") and n not in ("__dict__", "__weakref__", "__module__")
        }
        body |= {"_stub": self, "__getattr__": lambda me, n: _missing(name, n, self.full_version)}

        def guard(me, attribute, value):
            if type(me) is made and not attribute.startswith("_") and attribute not in names:
                _missing(name, attribute, self.full_version)
            object.__setattr__(me, attribute, value)

        made = type(name, (), body | {"__setattr__": guard})
        return made

    def _enum(self, name, names):
        order = _VALUES.get(name, "").split()
        body = _NamedEnum.__prepare__(name, (enum.Enum,))
        body["__int__"] = body["__index__"] = lambda me: me.value
        for value, member in enumerate(sorted(names, key=order.index) if order else names):
            body[member] = value
        made = _NamedEnum(name, (enum.Enum,), body)
        made._full_version = self.full_version
        return made


def write_package(folder, version="11.1", gpu="sm86"):
    """Write a package into ``folder`` that is such a module, for child processes with that folder on their path."""
    package = folder / MODULE[version]
    package.mkdir()
    lines = [
        "import sys",
        "from tensorrt_stub.stub import Stub",
        f"sys.modules[__name__] = Stub({version!r}, {gpu!r}).module",
    ]
    (package / "__init__.py").write_text("\n".join(lines) + "\n")


class _NamedEnum(enum.EnumMeta):
    def __getattr__(cls, name):
        if name.startswith("_"):
            raise AttributeError(name)
        _missing(cls.__name__, name, cls._full_version)


class Dims(tuple):
    """The dimensions of a tensor."""

    MAX_DIMS = 8


def _missing(owner, name, full_version):
    raise AttributeError(f"TensorRT {full_version}: {owner} has no attribute {name!r}")


def _unused(owner, name):
    def call(*arguments, **named):
        raise NotImplementedError(f"the stub has {owner}.{name} but nothing behind it")

    return call
