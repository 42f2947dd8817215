"""Build one TensorRT plan from one ONNX graph.

No precision is left to the builder: networks are strongly typed, and TF32 is off, so that fp32 means fp32.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from ...grid.engines.key import Profile
from ...grid.errors import EngineBuildError, UsageError
from ...grid.tensors import Ports
from ...runtime.backends.tensorrt_api import Api
from .dtype_census import Census, census_of, require_ports

_TELL_EVERY_S = 0.2


def build(
    api: Api,
    content: bytes,
    ports: Ports,
    name: str,
    profiles: tuple[Profile, ...],
    targets: tuple[str, ...] = (),
    tell: Callable[[str], None] = lambda _: None,
    workspace_bytes: int | None = None,
) -> tuple[bytes, Census]:
    """Return the plan of an ONNX model, and the dtype census of its layers and ports.

    Args:
        api: the TensorRT to build with.
        content: the ONNX model.
        ports: the ports that it must have.
        name: for errors.
        profiles: shapes that the engine must support.
        targets: some of ``api.targets`` to build for; empty: TensorRT-RTX's default, or the present GPU.
        tell: called with a line about each phase, possibly from another thread.
        workspace_bytes: most scratch memory on the GPU; None: all of it.

    Raises:
        EngineBuildError: If the graph or its profiles are refused, with the parser's or the builder's reasons.
        CensusError: If the graph's ports are not the declared ones.
        BackendError: If no builder can be started.
    """
    trt = api.trt
    builder = api.create_builder()
    network = api.create_network(builder)
    parser = trt.OnnxParser(network, api.logger)  # must live as long as the network
    api.errors.clear()
    if not parser.parse(content):
        raise _refused(api, name, "the parser refuses it", _parser_reasons(parser) or api.errors.reason())
    require_ports(api, network, ports, name)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    user_allocation = api.flag("REQUIRE_USER_ALLOCATION")  # CUDA graphs need it, in versions that have it
    if user_allocation is not None:
        config.set_flag(user_allocation)
    if workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    _set_targets(api, config, targets, name)
    for number, profile in enumerate(profiles):
        _add_profile(api, builder, config, ports, profile, number, name)
    census = census_of(api, network)
    api.errors.clear()
    monitor = _monitor(trt, tell)  # must live as long as the build
    config.progress_monitor = monitor
    memory = builder.build_serialized_network(network, config)
    if memory is None:
        raise _refused(api, name, "the builder refuses it", api.errors.reason())
    return bytes(memory), census


def _refused(api: Api, name: str, what: str, reason: str) -> EngineBuildError:
    return EngineBuildError(
        f"{name}: {api.flavour} {api.version} cannot build an engine: {what}: {reason.rstrip('.')}. "
        "Run 'dynvid verify BUNDLE'; if the bundle is intact, use another --backend."
    )


def _parser_reasons(parser: Any) -> str:
    lines = []
    for error in (parser.get_error(i) for i in range(parser.num_errors)):
        where = f"node {error.node_name()!r} ({error.node_operator()}): " if error.node_operator() else ""
        told = " ".join(error.desc().split())[:300]
        if told == "false":  # the parser does not know the operator
            told = error.code().name.lower().replace("_", " ")
        lines.append(where + told)
    return "; ".join(lines)


def _set_targets(api: Api, config: Any, targets: tuple[str, ...], name: str) -> None:
    if not targets or not api.targets:
        return
    config.num_compute_capabilities = len(targets)  # first, because it makes room for the targets
    for place, target in enumerate(targets):
        if not config.set_compute_capability(api.compute_capability(target), place):
            raise _refused(api, name, f"target {target}", api.errors.reason())


def _add_profile(api: Api, builder: Any, config: Any, ports: Ports, profile: Profile, number: int, name: str) -> None:
    api.errors.clear()
    made, told = builder.create_optimization_profile(), []
    for spec in ports.inputs:
        if profile.frames is None and "frames" in spec.shape:
            raise UsageError(
                f"{name}: profile {number} ({profile}) gives no frames, but input {spec.name} has {spec.shape}"
            )
        frames = profile.frames or (1, 1, 1)
        shapes = [spec.concrete(*sizes) for sizes in zip(profile.batch, frames, strict=True)]
        told.append(f"{spec.name} {' '.join(map(str, map(list, shapes)))}")
        try:
            made.set_shape(spec.name, *shapes)
        except ValueError as error:
            raise _refused(api, name, f"profile {number} ({told[-1]})", str(error)) from None
    if config.add_optimization_profile(made) != number:
        raise _refused(api, name, f"profile {number} ({', '.join(told)})", api.errors.reason())


def _monitor(trt: Any, tell: Callable[[str], None]) -> Any:
    """Return a progress monitor that tells a few lines per second."""
    lock = threading.Lock()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._told = -_TELL_EVERY_S

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with lock:
                self._steps[phase_name] = num_steps
            self._tell(phase_name.lower())

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(f"{phase_name.lower()} {step + 1}/{self._steps.get(phase_name, 0)}")
            return True

        def phase_finish(self, phase_name: str) -> None:
            pass

        def _tell(self, line: str) -> None:
            with lock:
                if time.monotonic() - self._told >= _TELL_EVERY_S:
                    tell(line)
                    self._told = time.monotonic()

    return Monitor()
