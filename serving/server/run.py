"""``dynvid serve``: KServe's HTTP and gRPC servers in front of a ``Service``. It needs the extra [serve]."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest import mock

from ...grid.errors import DynvidError, ResourceError

with mock.patch.object(sys, "argv", sys.argv[:1]):  # kserve reads the command line at import
    from kserve import ModelRepository
    from kserve.model_server import app
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
    from kserve.protocol.model_repository_extension import ModelRepositoryExtension
    from kserve.protocol.rest.server import RESTServer

import uvicorn
import uvloop
from grpc import aio

from ..service.queue import Service
from ..service.supervisor import Supervisor
from .address import require_free
from .http_guard import HttpGuard, Limits
from .metrics import Metrics
from .page import page
from .protocol import ERRORS, ErrorsToStatus, ServiceModel, ServicePlane, Servicer, answer_error, infer

LOG = logging.getLogger("dynvid")

_MOST_CALLS = 1024  # concurrent gRPC calls


@dataclass(frozen=True)
class Options:
    """How to serve.

    Attributes:
        host, port, grpc_port: where to listen.
        name: of the model in the protocol.
        most_waiting, longest_s: see ``Service``.
        silent_s, stuck_s: see ``Supervisor``.
        drain_s: how long requests may take to finish after SIGTERM.
        limits: on requests.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int = 8081
    name: str = "dynvid"
    most_waiting: int = 32
    longest_s: float = 60.0
    silent_s: float = 10.0
    stuck_s: float = 60.0
    drain_s: float = 30.0
    limits: Limits = field(default_factory=Limits)


def serve(model: Mapping[str, Any], options: Options, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP exchanges the bundle for what is on disk then.

    Args:
        model: arguments of ``open_model``, as JSON types.
        options: how to serve.
        ready: called with a line once requests are taken.

    Raises:
        DynvidError: As ``open_model``.
        UsageError: If the host is no address of this machine.
        ResourceError: If a port cannot be used.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(model, options, ready))


async def _serve(model: Mapping[str, Any], options: Options, ready: Callable[[str], None]) -> None:
    _quiet()
    require_free(options.host, options.port, options.grpc_port)
    supervisor = Supervisor(model, silent_s=options.silent_s, stuck_s=options.stuck_s)
    metrics = Metrics(supervisor)
    service = Service(
        supervisor,
        most_waiting=options.most_waiting,
        longest_s=options.longest_s,
        by_deadline=model["mode"] == "deadline",
        on_outcome=metrics.on_outcome,
    )
    metrics.service = service
    loop, stop, swaps = asyncio.get_running_loop(), asyncio.Event(), set[asyncio.Task[bool]]()

    def swap() -> None:
        swaps.add(task := asyncio.create_task(supervisor.swap()))
        task.add_done_callback(swaps.discard)

    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, stop.set)
    loop.add_signal_handler(signal.SIGHUP, swap)
    starting, stopping = asyncio.ensure_future(supervisor.start()), asyncio.ensure_future(stop.wait())
    await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait([starting])
        return
    await starting
    http, grpc, guard = await _listen(service, supervisor, options)
    try:
        facts = service.facts
        host = f"[{options.host}]" if ":" in options.host else options.host
        ready(
            f"serving {options.name!r} on http://{host}:{options.port} and grpc://{host}:"
            f"{options.grpc_port}; {facts.runs if facts else ''}"
        )
        gc.freeze()  # what is loaded now stays, so collections stay short
        serving = asyncio.ensure_future(http.serve())
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving
        LOG.info("stopping: requests that were taken are finished first")
        guard.stop()
        await service.drain(options.drain_s)
        http.should_exit = True
        await asyncio.gather(serving, grpc.stop(1.0))
    finally:
        await supervisor.close()


async def _listen(
    service: Service, supervisor: Supervisor, options: Options
) -> tuple[uvicorn.Server, aio.Server, HttpGuard]:
    """Return the HTTP server, which is still to be run, the gRPC server, and what stands before the first."""
    repository = ModelRepository()
    repository.update(model := ServiceModel(options.name, service))
    plane = ServicePlane(repository, supervisor, service)
    rest = RESTServer("kserve.model_server:app", plane, ModelRepositoryExtension(repository), options.port)
    rest.create_application()
    for kind in ERRORS:
        app.add_exception_handler(kind, answer_error)
    app.user_middleware.clear()  # KServe's logs every request
    app.router.redirect_slashes = False
    guard = HttpGuard(
        app,
        service,
        options.limits,
        f"/v2/models/{options.name}/infer",
        partial(infer, model),
        partial(page, options.name, service),
    )
    config = uvicorn.Config(
        guard,
        host=options.host,
        port=options.port,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=5,
        http="h11",  # httptools has no limit for headers
        h11_max_incomplete_event_size=1 << 16,
    )
    grpc = aio.server(
        ThreadPoolExecutor(max_workers=1),
        interceptors=(ErrorsToStatus(),),
        options=[
            ("grpc.max_receive_message_length", int(options.limits.body_mb * 1e6)),
            ("grpc.so_reuseport", 0),
        ],
        maximum_concurrent_rpcs=_MOST_CALLS,
    )
    grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
        Servicer(plane, ModelRepositoryExtension(repository)), grpc
    )
    try:
        require_free(options.host, options.port)  # again: the model took its time
        grpc.add_insecure_port(f"[{options.host}]:{options.grpc_port}" if ":" in options.host else
                               f"{options.host}:{options.grpc_port}")  # fmt: skip
    except (DynvidError, RuntimeError) as error:
        await supervisor.close()
        if isinstance(error, DynvidError):
            raise
        raise ResourceError(
            f"port {options.grpc_port} of {options.host!r} cannot be used: expected a free port. Give another with "
            "--grpc-port."
        ) from None
    await grpc.start()
    return _HttpServer(config), grpc, guard


class _HttpServer(uvicorn.Server):  # type: ignore[misc]
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to ``_serve``."""
        yield


def _quiet() -> None:
    """Keep tracebacks and what clients sent out of the log."""

    def without_traceback(record: logging.LogRecord) -> bool:
        record.exc_info = record.exc_text = None
        return True

    warnings.filterwarnings("ignore", "ORJSONResponse is deprecated")  # KServe's affair
    for name in ("kserve", "kserve.trace", "uvicorn", "uvicorn.error", "asyncio", "grpc", "grpc._cython.cygrpc"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        logger.addFilter(without_traceback)
