"""A bundle behind a server: dynvid's own, or Triton."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..grid.packages import packages
from ..grid.storage.files import StrPath

if TYPE_CHECKING:
    from ..grid.manifest import Precision

LOG = logging.getLogger("dynvid")


def serve(
    bundle: StrPath,
    *,
    thresholds: StrPath | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    grpc_port: int = 8081,
    name: str = "dynvid",
    backend: str = "auto",
    precision: Precision = "fp32",
    engines: StrPath | None = None,
    threads: int | None = None,
    mode: str = "deadline",
    batch: int | None = None,
    streams: int = 1,
    decoders: int = 1,
    decode_timeout_s: float = 30.0,
    max_in_flight_mb: float | None = None,
    max_waiting: int = 32,
    timeout_s: float = 60.0,
    max_body_mb: float = 64.0,
    silent_after_s: float = 10.0,
    stuck_after_s: float = 60.0,
    drain_s: float = 30.0,
    report: Callable[[str], None] = LOG.info,
) -> None:
    """Serve a bundle over HTTP and gRPC until SIGTERM or SIGINT; SIGHUP exchanges it. For the main thread only.

    Args:
        bundle: the folder.
        thresholds: a T.json; None: every video runs to the end.
        host: address to listen on.
        port: of HTTP.
        grpc_port: of gRPC.
        name: of the model in the protocol.
        backend: as for ``load``.
        precision: as for ``load``.
        engines: as for ``load``.
        threads: as for ``load``.
        mode: as for ``load``; only ``deadline`` heeds the timeouts of requests within the model.
        batch: as for ``load``.
        streams: as for ``load``.
        decoders: as for ``load``.
        decode_timeout_s: as for ``load``.
        max_in_flight_mb: as for ``load``.
        max_waiting: how many requests may wait; beyond them, requests are refused.
        timeout_s: how long a request may take that sets no timeout.
        max_body_mb: largest request, in 10^6 bytes.
        silent_after_s: restart the model process if it says nothing for so long.
        stuck_after_s: restart it if it has videos, and answers none for so long.
        drain_s: how long requests that were taken may take after SIGTERM.
        report: called with a line once requests are taken.

    Raises:
        MissingPackageError: If the extra [serve] is not installed.
        DynvidError: As ``load``.
        ResourceError: If a port cannot be used.
    """
    with packages("serve,cpu"):
        from ..serving.server.http_guard import Limits
        from ..serving.server.run import Options
        from ..serving.server.run import serve as run_server

    model = {
        "bundle": os.path.abspath(bundle),
        "thresholds": None if thresholds is None else os.path.abspath(thresholds),
        "backend": backend,
        "precision": precision,
        "engines": engines if engines in (None, "none") else os.path.abspath(engines),
        "threads": threads,
        "mode": mode,
        "batch": batch,
        "streams": streams,
        "decoders": decoders,
        "decode_timeout_s": decode_timeout_s,
        "max_in_flight_mb": max_in_flight_mb,
    }
    options = Options(
        host, port, grpc_port, name, max_waiting, timeout_s, silent_after_s, stuck_after_s, drain_s, Limits(max_body_mb)
    )
    run_server(model, options, report)


def export_triton(
    bundle: StrPath,
    repository: StrPath,
    *,
    name: str = "dynvid",
    thresholds: StrPath | None = None,
    backend: str = "auto",
    precision: Precision = "fp32",
    engines: StrPath | None = None,
    threads: int | None = None,
    batch: int = 8,
    queue_delay_ms: float = 2.0,
) -> Path:
    """Write a model repository for Triton's Python backend; return the model's folder in it.

    Bundle, thresholds and engines are copied into it. An earlier export of this name is replaced.

    Args:
        bundle: the folder.
        repository: the folder of models to write to.
        name: of the model.
        thresholds: a T.json; None: every video runs to the end.
        backend: as for ``load``.
        precision: as for ``load``.
        threads: as for ``load``.
        engines: folder of the engines; None: ``BUNDLE.engines``, if it is there.
        batch: most videos in one call.
        queue_delay_ms: how long Triton waits for more requests.

    Raises:
        DynvidError: As ``load``, for a bundle or thresholds that cannot be used.
        UsageError: If the name is not one, or something else is there.
        ResourceError: If the repository cannot be written.
    """
    from ..serving.triton.repository import write_model

    return write_model(
        Path(bundle), Path(repository), name, None if thresholds is None else Path(thresholds), backend, precision,
        None if engines is None else Path(engines), threads, batch, queue_delay_ms,
    )  # fmt: skip
