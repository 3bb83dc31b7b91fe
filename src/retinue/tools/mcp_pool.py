"""The connections to MCP servers of this process: one for each tenant and server, closed when idle."""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from uuid import UUID

import httpx2
import msgspec
from msgspec import structs

from retinue.kernel import Settings
from retinue.outbound import OutboundTransport, Resolve, resolve, system_tls
from retinue.tools.mcp_connection import (
    CONNECT_SECONDS,
    IDLE_SECONDS,
    McpConnection,
    McpUnavailable,
    Streams,
    Transport,
)
from retinue.tools.mcp_servers import McpServer

MOST_CONNECTIONS = 200
"""Servers this process remembers; the one not used for longest makes room."""

MOST_OF_A_TENANT = 20

_LARGEST_ANSWER = 16_000_000
_LAST_WORDS = 500

Key = tuple[UUID, bytes]


class McpPool:
    """Hands out connections.

    Args:
        settings: whether local programs and private addresses are allowed.
        resolve: finds the addresses of a name; replaced in tests.
        tls: how certificates are checked; the system's authorities when left out.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        resolve: Resolve = resolve,
        tls: ssl.SSLContext | None = None,
        connect_seconds: float = CONNECT_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._settings = settings
        self._resolve = resolve
        self._tls = tls
        self._connect_seconds = connect_seconds
        self._idle_seconds = idle_seconds
        self._connections: dict[Key, McpConnection] = {}

    async def connection(self, tenant_id: UUID, server: McpServer) -> McpConnection:
        """Return the tenant's connection to a server, which opens when it is first used.

        Raises:
            McpUnavailable: local programs are switched off, or too many connections are in use.
        """
        if server.command is not None and not self._settings.mcp_stdio:
            raise McpUnavailable("MCP servers that run as local programs are switched off here.")
        # Everything that decides where a connection leads and as whom, secrets included; the labels do not.
        config = msgspec.json.encode(structs.replace(server, labels={}))
        key = (tenant_id, hashlib.sha256(config).digest())
        if key not in self._connections:
            if self._tls is None:
                self._tls = await asyncio.to_thread(system_tls)
            await self._make_room(tenant_id)
            self._connections.setdefault(key, self._new(tenant_id, server))
        return self._connections[key]

    async def close(self) -> None:
        """Close all connections and end all programs."""
        connections = list(self._connections.values())
        self._connections.clear()
        await asyncio.gather(*(connection.close() for connection in connections))

    def _new(self, tenant_id: UUID, server: McpServer) -> McpConnection:
        words = _LastWords()
        if server.command is not None:
            folder = self._settings.data / "mcp" / str(tenant_id) / server.name
            transport: Transport = partial(_program, server, folder, words)
        else:
            transport = partial(self._http, server)
        return McpConnection(
            server.name,
            transport,
            last_words=words.text,
            connect_seconds=self._connect_seconds,
            idle_seconds=self._idle_seconds,
        )

    async def _make_room(self, tenant_id: UUID) -> None:
        own = [key for key in self._connections if key[0] == tenant_id]
        if len(own) >= MOST_OF_A_TENANT:
            await self._drop_oldest(own)
        elif len(self._connections) >= MOST_CONNECTIONS:
            await self._drop_oldest(list(self._connections))

    async def _drop_oldest(self, keys: list[Key]) -> None:
        idle = [key for key in keys if not self._connections[key].busy]
        if not idle:
            raise McpUnavailable("Too many MCP servers are in use; try again later.")
        oldest = min(idle, key=lambda key: self._connections[key].last_used)
        await self._connections.pop(oldest).close()

    def _http(self, server: McpServer) -> AbstractAsyncContextManager[Streams]:
        transport = OutboundTransport(
            allow_private=self._settings.allow_private_fetch,
            tls=self._tls or system_tls(),
            most_bytes=_LARGEST_ANSWER,
            resolve=self._resolve,
        )
        client = httpx2.AsyncClient(
            transport=transport,
            # The limit counts bytes as they come, so nothing may grow by being unpacked.
            headers={**server.headers, "Accept-Encoding": "identity"},
            event_hooks={"response": [_refuse_compressed]},
            timeout=httpx2.Timeout(30.0, read=IDLE_SECONDS),
            trust_env=False,
        )
        return _streams_over(client, server.url or "")


@asynccontextmanager
async def _streams_over(client: httpx2.AsyncClient, url: str) -> AsyncIterator[Streams]:
    # Imported on first use: many servers have no agent with MCP tools.
    from mcp.client.streamable_http import streamable_http_client

    async with client, streamable_http_client(url, http_client=client) as streams:
        yield streams


async def _refuse_compressed(response: httpx2.Response) -> None:
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise httpx2.DecodingError("the answer is compressed, which was not asked for", request=response.request)


@asynccontextmanager
async def _program(server: McpServer, folder: Path, words: _LastWords) -> AsyncIterator[Streams]:
    """Start a server's program, with a clean environment, in a folder of its own that is also its home."""
    from mcp import StdioServerParameters
    from mcp.client.stdio import stdio_client

    await asyncio.to_thread(folder.mkdir, 0o700, parents=True, exist_ok=True)
    # The library adds PATH, SHELL, TERM and the user's name; nothing else of this process gets through.
    parameters = StdioServerParameters(
        command=server.command or "", args=server.args, env={"HOME": str(folder), **server.env}, cwd=folder
    )
    read_end, write_end = os.pipe()
    errors = os.fdopen(write_end, "w")
    listening, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: words, os.fdopen(read_end, "rb"))
    try:
        async with stdio_client(parameters, errlog=errors) as streams:
            errors.close()  # the program has its own copy
            yield streams
    finally:
        errors.close()
        listening.close()


class _LastWords(asyncio.Protocol):
    """Keeps the end of what a program writes to its error output."""

    def __init__(self) -> None:
        self._data = b""

    def data_received(self, data: bytes) -> None:
        self._data = (self._data + data)[-_LAST_WORDS:]

    def text(self) -> str:
        return self._data.decode(errors="replace")
