"""One interface to TensorRT 10 and 11 and TensorRT-RTX: the only module that imports them and knows their differences.

Features are detected as attributes of the module, so a name that a version lacks is never used.
"""

from __future__ import annotations

import importlib
import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from ...grid.errors import BackendError, MissingPackageError, UsageError
from ...grid.tensors import DType

ApiFlavour = Literal["tensorrt", "tensorrt-rtx"]
_MODULES: dict[str, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_MAJORS: dict[str, tuple[int, ...]] = {"tensorrt": (10, 11), "tensorrt-rtx": (1,)}
_DTYPES: dict[str, DType] = {"FLOAT": "float32", "HALF": "float16"}
_NEWEST_CUDA = 20


def open_api(flavour: str) -> Api:
    """Return the installed TensorRT; needs no GPU.

    Args:
        flavour: ``tensorrt`` or ``tensorrt-rtx``.

    Raises:
        UsageError: If the flavour is unknown.
        MissingPackageError: If its package is not installed.
        BackendError: If its libraries do not load, or dynvid does not know its version.
    """
    if flavour not in _MODULES:
        raise UsageError(f"TensorRT flavour {flavour!r}: expected one of {', '.join(_MODULES)}")
    try:
        trt = importlib.import_module(_MODULES[flavour])
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"backend {flavour!r} cannot run: {error}. Install it: pip install {flavour}"
        ) from None
    except (ImportError, OSError) as error:
        raise BackendError(
            f"backend {flavour!r}: its libraries do not load ({first_line(str(error))}). Reinstall it: pip install "
            f"--force-reinstall {flavour}"
        ) from None
    majors = _MAJORS[flavour]
    found = str(trt.__version__)
    if not found.split(".")[0].isdigit() or int(found.split(".")[0]) not in majors:
        raise BackendError(
            f"{flavour} {found}: expected version {' or '.join(f'{m}.x' for m in majors)}. Install it: pip install "
            f"'{flavour}>={majors[0]},<{majors[-1] + 1}'"
        )
    return Api("tensorrt" if flavour == "tensorrt" else "tensorrt-rtx", trt)


class ErrorLines:
    """The errors that TensorRT logged, in order. Its calls return None or False; only the log says why."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, line: str) -> None:
        """Keep a line; safe to call from several threads."""
        self._lines.append(first_line(line))

    def clear(self) -> None:
        """Forget all lines, before the next attempt."""
        self._lines.clear()

    def reason(self) -> str:
        """Return the first two errors.

        Without a driver, a line about it follows every other error; it counts only if it comes first.
        """
        lines = list(dict.fromkeys(self._lines))
        told = [n for n, line in enumerate(lines) if n == 0 or "CUDA driver version is insufficient" not in line]
        return "; ".join(lines[n] for n in told[:2]) or "it gave no reason"


class Api:
    """One TensorRT module.

    Attributes:
        flavour: which of the two.
        version: its full version, such as ``1.7.1.116``.
        cuda: major version of the CUDA that it was built for, such as ``13``; empty if its package does not tell.
        trt: the module.
        logger: for its builders, parsers and runtimes.
        errors: what ``logger`` received.
    """

    def __init__(self, flavour: ApiFlavour, trt: Any) -> None:
        self.flavour: ApiFlavour = flavour
        self.version = str(trt.__version__)
        self.cuda = _cuda_of(flavour)
        self.trt = trt
        self.errors = ErrorLines()
        self.logger = _logger(trt, self.errors)
        self._runtime: Any = None

    # building

    @property
    def targets(self) -> tuple[str, ...]:
        """The compute capabilities that engines can be built for here, ascending; empty: only the present GPU's."""
        if not hasattr(self.trt, "ComputeCapability"):
            return ()
        members = (re.fullmatch(r"SM(\d+)", name) for name in dir(self.trt.ComputeCapability))
        return tuple(f"sm{number}" for number in sorted(int(member[1]) for member in members if member))

    def compute_capability(self, target: str) -> Any:
        """Return TensorRT's value for one of ``targets`` or ``current``."""
        return getattr(self.trt.ComputeCapability, target.upper())

    def create_builder(self) -> Any:
        """Return a builder.

        Raises:
            BackendError: If it cannot start; ``tensorrt`` needs a GPU for that.
        """
        self.errors.clear()
        try:
            return self.trt.Builder(self.logger)
        except (TypeError, RuntimeError):  # its constructor returned a null pointer
            raise BackendError(
                f"{self.flavour} {self.version} cannot start a builder: {self.errors.reason()}. Run 'dynvid doctor'."
            ) from None

    def create_network(self, builder: Any) -> Any:
        """Return an empty network whose precisions are decided by the graph's own types."""
        flag = getattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        network = builder.create_network(0 if flag is None else 1 << int(flag))
        if flag is not None and not network.get_flag(flag):
            raise BackendError(
                f"{self.flavour} {self.version} made a network that is not strongly typed, expected one that is: "
                "it would choose the precisions itself"
            )
        return network

    def flag(self, name: str) -> Any | None:
        """Return the builder flag ``name``, or None if this version lacks it."""
        return getattr(self.trt.BuilderFlag, name, None)

    # running

    def deserialize(self, plan: bytes, name: str) -> Any:
        """Return the engine of a plan that the cache has checked; ``name`` is for errors.

        Raises:
            BackendError: If this TensorRT or this GPU refuses it.
        """
        self.errors.clear()
        try:
            if self._runtime is None:
                self._runtime = self.trt.Runtime(self.logger)
            engine = self._runtime.deserialize_cuda_engine(plan)
        except (TypeError, RuntimeError):  # its constructor returned a null pointer
            engine = None
        if engine is None:
            raise BackendError(
                f"{self.flavour} {self.version} cannot load the engine of {name}: {self.errors.reason()}. "
                "Run 'dynvid doctor'."
            )
        return engine

    def create_context(self, engine: Any, name: str) -> Any:
        """Return an execution context whose scratch memory the caller provides.

        Raises:
            BackendError: If TensorRT refuses.
        """
        self.errors.clear()
        choice = self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if hasattr(self.trt, "DynamicShapesKernelSpecializationStrategy"):
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(choice)
            # compile before the first run, not in the background: a CUDA graph would keep the slow kernels for ever
            config.dynamic_shapes_kernel_specialization_strategy = (
                self.trt.DynamicShapesKernelSpecializationStrategy.EAGER
            )
            choice = config
        context = engine.create_execution_context(choice)
        if context is None:
            raise BackendError(
                f"{self.flavour} {self.version} cannot create a context for {name}: {self.errors.reason()}. "
                "Run 'dynvid doctor'."
            )
        return context

    def scratch_bytes(self, engine: Any, profile: int) -> int:
        """Return the most scratch memory that a context needs under one profile."""
        if hasattr(engine, "get_device_memory_size_for_profile_v2"):
            return int(engine.get_device_memory_size_for_profile_v2(profile))
        return int(engine.get_device_memory_size_for_profile(profile))

    def set_scratch(self, context: Any, address: int, scratch_bytes: int) -> None:
        """Give a context its scratch memory, at an address that is a multiple of 256."""
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(address, scratch_bytes)
        else:
            context.device_memory = address

    def dtype(self, dtype: Any) -> str:
        """Return a ``DataType`` by the name that ports use: float32, float16; others in lower case."""
        name = str(dtype.name)
        return _DTYPES.get(name, name.lower())


def first_line(text: str) -> str:
    """Return the first line of a message, at most 400 characters."""
    return text.strip().split("\n")[0][:400]


def _logger(trt: Any, errors: ErrorLines) -> Any:
    kept = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in kept:
                errors.add(message)

    return Logger()


def _cuda_of(flavour: str) -> str:
    """Return the CUDA version in the name of the installed wheel, whose libraries bundle CUDA."""
    for major in range(_NEWEST_CUDA, 10, -1):
        try:
            version(f"{flavour}-cu{major}")
        except PackageNotFoundError:
            continue
        return str(major)
    return ""
