"""A small HTTP/1.1 server on a unix socket, in the event loop that is running.

It is uvicorn's protocol without uvicorn's server: no signals, no ports, no lifespan. What it adds are bounds for a
caller that is not trusted: how long and how large a request's head may be, how many connections there are, and targets
that are paths and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from retinue.kernel import BadInput

App = Callable[[Any, Any, Any], Awaitable[None]]

_HEAD_SECONDS = 10.0
_ENDING_SECONDS = 10.0
_LARGEST_HEAD = 65_536
_MOST_CONNECTIONS = 128
_KEEP_ALIVE_SECONDS = 75
# `sun_path` has 108 bytes on Linux, 104 elsewhere.
_LONGEST_PATH = 100


class _Bounded(HttpToolsProtocol):
    """Bounds the head of a request."""

    _head = 0
    _in_head = True
    _clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > _MOST_CONNECTIONS:
            transport.abort()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head += len(data)
            if self._clock is None:
                self._await_head()
        super().data_received(data)
        # What came with the body in one piece counts as well; the bound is no exact one.
        if self._in_head and self._head > _LARGEST_HEAD and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head, self._head = False, 0
        self._stop_clock()
        # A target in absolute form names another server, and one without a path none at all: never a proxy.
        if not self.url.startswith(b"/"):
            self.url = b"/"
            self.headers.append((b"retinue-refused", b"target"))
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = True

    def _await_head(self) -> None:
        self._clock = self.loop.call_later(_HEAD_SECONDS, self._too_slow)

    def _too_slow(self) -> None:
        # Not while an answer is under way: its caller may send the next request's head in its own time.
        if getattr(self.cycle, "response_complete", True):
            self.transport.abort()

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None


@asynccontextmanager
async def serving(app: App, path: Path, mode: int, owner: tuple[int, int] | None) -> AsyncIterator[None]:
    """Serve an ASGI application on a unix socket as long as the block lasts; requests under way are then cancelled.

    Args:
        app: answers requests.
        path: of the socket; its folder is made if need be, for this account alone (0700).
        mode: the socket's access rights.
        owner: user and group the socket is given to; None: this process's own.

    Raises:
        BadInput: there is something at the path already that is no socket, or the socket cannot be made.
    """
    config = Config(
        app, http=_Bounded, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
        date_header=False, proxy_headers=False, timeout_keep_alive=_KEEP_ALIVE_SECONDS, interface="asgi3",
    )  # fmt: skip
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    listener = _bound(path, mode, owner)
    try:
        server = await loop.create_unix_server(
            lambda: _Bounded(config=config, server_state=state, app_state={}), sock=listener
        )
    except BaseException:
        listener.close()
        raise
    try:
        yield
    finally:
        server.close()
        _remove(path)
        # Whoever waits for an answer sees the connection break, which ends its call as if it had left.
        for connection in list(state.connections):
            connection.transport.abort()
        await _ended(state.tasks)


async def _ended(tasks: set[asyncio.Task[None]]) -> None:
    """Wait for tasks that are ending; cancel those that take too long."""
    left = set(tasks)
    if left:
        _, left = await asyncio.wait(left, timeout=_ENDING_SECONDS)
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left)


def _bound(path: Path, mode: int, owner: tuple[int, int] | None) -> socket.socket:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.is_socket():
        path.unlink()  # left by a process that died
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        listener.setblocking(False)
        # Nobody reaches it before it has the rights it is to have: nobody listens there yet.
        address = str(path) if len(os.fsencode(path)) <= _LONGEST_PATH else f"/proc/self/fd/{folder}/{path.name}"
        listener.bind(address)
        os.chmod(path, mode)
        if owner is not None:
            os.chown(path, *owner)
    except OSError as error:
        listener.close()
        raise BadInput(f"The gateway's socket {path} cannot be made: {error.strerror}.") from error
    finally:
        os.close(folder)
    return listener


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
