"""How this application is served: uvicorn with uvloop and httptools, and two things it does not do by itself.

A stream whose client does not read can only be dropped, not ended; that takes the transport, which ASGI does not show.
And at a stop, open streams must end first, or the server would wait for them until its patience is over.
"""

from __future__ import annotations

import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from retinue.kernel import Settings
from retinue.web.connection import ABORT
from retinue.web.streams import Streams

# Longer than the minute that proxies keep an idle connection: who closes first must not be this side, or a request
# meets a connection that is just going away.
_KEEP_ALIVE_SECONDS = 75


class _Http(HttpToolsProtocol):
    """Lets the application drop a connection."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: {"call": self.transport.abort}}


class _WebSocket(WebSocketsSansIOProtocol):
    """Lets the application drop a connection."""

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        if self.handshake_initiated and not self.handshake_complete:
            self.scope["extensions"] = {**self.scope["extensions"], ABORT: {"call": self.transport.abort}}


class Server(uvicorn.Server):
    """Serves the application; streams end before anything else does."""

    def __init__(self, app: FastAPI, settings: Settings, *, graceful_seconds: int = 10) -> None:
        self._app = app
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                loop="uvloop",
                http=_Http,
                ws=_WebSocket,
                ws_max_size=4096,  # clients have nothing to say
                ws_per_message_deflate=False,  # it would cost each delivery its sharing
                lifespan="on",
                log_config=None,
                access_log=False,  # tracing.py writes a better one
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=graceful_seconds,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: take no new connections, end the streams, let requests finish, then let the rooms close."""
        for server in self.servers:
            server.close()
        await self._app.state.services.get(Streams).close()
        await super().shutdown(sockets)
