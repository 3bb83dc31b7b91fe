"""The web server for tests leaves nothing open that a client has reset."""

from __future__ import annotations

import contextlib
import gc
import socket
import struct
import warnings

import pytest

from tests.support import web


def _reset() -> socket.socket:
    """Return the server's end of a connection that its client has reset."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.connect(listener.getsockname())
        taken, _ = listener.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        while True:
            taken.getpeername()
    return taken


def test_a_connection_that_is_reset_before_it_is_secured_is_closed() -> None:
    """With CPython 3.11 it fails without the closing; a Python that closes the socket itself has no need of it."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(OSError) as caught:
            web.server_tls().wrap_socket(_reset(), server_side=True)
        web._close_half_made(caught.value)
        del caught
        gc.collect()
    assert [str(one.message) for one in told] == []
