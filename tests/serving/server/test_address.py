"""Where a server may listen."""

import socket

import pytest

from dynvid.grid.errors import ResourceError, UsageError
from dynvid.serving.server.address import require_free


@pytest.mark.parametrize("host", ["300.1.1.1", "", "no such host", "192.0.2.1", "a" * 100])
def test_what_is_no_address_of_this_machine_is_said(host):
    with pytest.raises(UsageError, match="^host '.*': expected an address of this machine, such as 127.0.0.1"):
        require_free(host, 0)


def test_a_port_that_is_taken_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ResourceError, match=rf"port {port} of '127.0.0.1' cannot be used \(Address already in use\)"
        ):
            require_free("127.0.0.1", 0, port)
    require_free("127.0.0.1", port)
    require_free("localhost", port)
