"""A Ray cluster: how it is joined or started, and what its errors are in one line."""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from ..grid.errors import BackendError, DynvidError

LOCAL = "local"
CPUS_KEPT_FREE = 2.5
"""Ray's filter of rows that are done and its tasks that cut blocks take one CPU each, others a part."""

_ANSWER_S = 5.0


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine, until the end of the block; one that is joined is used."""
    import ray

    if ray.is_initialized():
        yield
        return
    cores = len(os.sched_getaffinity(0))
    local: dict[str, Any] = {"num_cpus": cores + math.ceil(CPUS_KEPT_FREE), "include_dashboard": False}
    require_listening(address)
    try:
        ray.init(
            address=address, log_to_driver=False, logging_level=logging.ERROR, **(local if address == LOCAL else {})
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise BackendError(
            f"--ray {address!r} cannot be reached ({str(error).splitlines()[0]}): expected the address of a cluster, "
            "auto, or none for a cluster on this machine"
        ) from None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # we raise its errors
    try:
        with redirect_stdout(sys.stderr):  # where Ray says that a process died
            yield
    finally:
        ray.shutdown()


def require_listening(address: str) -> None:
    """Check that somebody listens at the address of a cluster: Ray would try for minutes, and say so on every line.

    Raises:
        BackendError: If nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return  # auto, local, or what Ray refuses
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise BackendError(
            f"--ray {address!r} cannot be reached ({getattr(error, 'strerror', None) or error}): expected the address of a "
            "cluster, auto, or none for a cluster on this machine"
        ) from None


def get(reference: Any) -> Any:
    """Return what another process gives; raises as ``cause_of`` says."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        raise cause_of(error) from None


def cause_of(error: BaseException) -> DynvidError:
    """Return dynvid's own error of another process, or what Ray says in one line."""
    seen: BaseException | None = error
    while seen is not None:
        cause = getattr(seen, "cause", None)  # of Ray's error, which also is of the class of its cause
        if isinstance(seen, DynvidError) and cause is None:
            return seen
        seen = cause if isinstance(cause, BaseException) else seen.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return BackendError(f"Ray gave up: {lines[-1].strip()}. The same command goes on where it stopped")
