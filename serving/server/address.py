"""Where a server listens, checked before it loads anything."""

from __future__ import annotations

import errno
import os
import socket

from ...grid.errors import ResourceError, UsageError


def require_free(host: str, *ports: int) -> None:
    """Check that a server can listen there.

    Raises:
        UsageError: If ``host`` is no address of this machine.
        ResourceError: If a port cannot be used.
    """
    wanted = "expected an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all of them. Give another --host"
    try:
        found = socket.getaddrinfo(host or "none given", None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UsageError(f"host {host!r}: {wanted}") from None
    family, kind, _, _, address = found[0]
    for port in ports:
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address[0], port))
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise UsageError(f"host {host!r}: {wanted}") from None
                raise ResourceError(
                    f"port {port} of {host!r} cannot be used ({os.strerror(error.errno or 0)}): expected a free port. "
                    "Give others with --port and --grpc-port."
                ) from None
