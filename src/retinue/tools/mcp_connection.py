"""One connection to an MCP server: made when it is needed, kept while it is used, made anew once when it breaks."""

from __future__ import annotations

import asyncio
import importlib
import logging
import math
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import anyio
import httpx2
from msgspec import Struct

from retinue import __version__
from retinue.tools.calls import ToolFault, ToolOutcome
from retinue.tools.mcp_results import presented

if TYPE_CHECKING:
    # At run time they are imported on first use: they are large, and many servers have no agent with MCP tools.
    from mcp import Client
    from mcp.types import CallToolResult, RequestParamsMeta

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 20.0
"""Seconds in which a server must have started, answered and listed its tools."""

IDLE_SECONDS = 300.0
"""A connection that nobody used for so long is closed; a listing of tools this old is asked for again."""

RETRY_SECONDS = 10.0
"""A server that did not list its tools is not asked again for so long: every run of its agents would wait for it."""

_MOST_TOOLS = 128
_MOST_PAGES = 20
_CLOSE_SECONDS = 8.0
_IDEMPOTENCY_META = "retinue/idempotency-key"

Streams = tuple[Any, Any]
"""Where messages of the protocol are read from and written to."""

Transport = Callable[[], AbstractAsyncContextManager[Streams]]


class RemoteTool(Struct, frozen=True):
    """A tool as its server describes it."""

    name: str
    description: str
    parameters: dict[str, Any]


class McpUnavailable(Exception):
    """The server cannot be reached or does not speak the protocol; the text says what happened."""


class McpConnection:
    """A server's tools, over a connection that comes and goes.

    Args:
        name: the server's name, for messages.
        transport: opens the streams to it.
        last_words: what the server's program last wrote to its error output, for messages.
    """

    def __init__(
        self,
        name: str,
        transport: Transport,
        *,
        last_words: Callable[[], str] = lambda: "",
        connect_seconds: float = CONNECT_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._name = name
        self._transport = transport
        self._last_words = last_words
        self._connect_seconds = connect_seconds
        self._idle_seconds = idle_seconds
        self._live: _Live | None = None
        self._connecting = asyncio.Lock()
        self._listing: tuple[float, list[RemoteTool]] | None = None
        self._refused: tuple[float, str] | None = None
        self.last_used = time.monotonic()

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""
        return self._live is not None and self._live.calls > 0

    async def tools(self) -> list[RemoteTool]:
        """Return the server's tools, from the last listing while it is fresh.

        Raises:
            McpUnavailable: there is no listing, or only an old one, and the server cannot be asked.
        """
        now = time.monotonic()
        if self._listing is None or now - self._listing[0] > self._idle_seconds:
            if self._refused is not None and now - self._refused[0] < RETRY_SECONDS:
                raise McpUnavailable(self._refused[1])
            try:
                self._listing = (now, await self._listed())
            except McpUnavailable as error:
                self._refused = (time.monotonic(), str(error))
                raise
        return self._listing[1]

    async def call(self, tool: str, arguments: dict[str, Any], *, key: str, repeatable: bool) -> ToolOutcome:
        """Call a tool. When the connection breaks, the call is made again once if that can do no harm.

        Args:
            tool: the name the server gives it.
            key: the idempotency key, sent along in ``_meta`` for servers that heed it.
            repeatable: whether it may be made again though nobody knows if it happened.

        Raises:
            ToolFault: the server cannot be reached; nothing was called.
        """
        from mcp import MCPError

        lost = ""
        for _ in range(2):
            live = await self._connected_for_call()
            try:
                return presented(await live.call_tool(tool, arguments, key))
            except MCPError as error:
                if not live.broken_by(error):
                    return ToolOutcome(f"{self._name}: {error.message[:1000]}", failed=True)
                lost = error.message[:300]
                await live.close()
                if not (repeatable or live.unsent(error)):
                    return self._uncertain(lost)
            except (RuntimeError, ValueError) as error:
                # What came back is not what the protocol or the tool's own schema says (pydantic's is a ValueError).
                return ToolOutcome(f"{self._name} answered what cannot be understood: {str(error)[:500]}", failed=True)
        return ToolOutcome(f"The connection to {self._name} broke twice: {lost}", failed=True)

    async def close(self) -> None:
        """Close the connection, if there is one, and end the server's program."""
        if self._live is not None:
            await self._live.close()
            self._live = None

    def _uncertain(self, reason: str) -> ToolOutcome:
        text = f"The connection to {self._name} broke during the call ({reason}). It is not known whether it happened."
        return ToolOutcome(text, failed=True, uncertain=True)

    async def _connected_for_call(self) -> _Live:
        try:
            return await self._connected()
        except McpUnavailable as error:
            raise ToolFault(str(error)) from None

    async def _connected(self) -> _Live:
        self.last_used = time.monotonic()
        async with self._connecting:
            if self._live is not None and not self._live.gone:
                return self._live
            await self.close()
            await _load_library()
            live = _Live(self._transport, self._connect_seconds, self._idle_seconds, self._forget_listing)
            if not await live.ready():
                reason = live.why_not() or f"no answer within {self._connect_seconds:g} seconds"
                words = self._last_words().strip()
                raise McpUnavailable(
                    f"The MCP server {self._name} is not available: {reason}" + (f"; it said: {words}" if words else "")
                )
            self._live = live
            return live

    def _forget_listing(self) -> None:
        self._listing = None

    async def _listed(self) -> list[RemoteTool]:
        from mcp import MCPError

        for last_try in (False, True):
            live = await self._connected()
            try:
                async with asyncio.timeout(self._connect_seconds):
                    return await live.list_tools()
            except MCPError as error:
                if last_try or not live.broken_by(error):
                    raise McpUnavailable(f"{self._name} does not list its tools: {error.message[:300]}") from None
                await live.close()
            except TimeoutError:
                raise McpUnavailable(f"{self._name} did not list its tools in time") from None
            except (RuntimeError, ValueError) as error:
                raise McpUnavailable(f"{self._name} lists tools that cannot be understood: {error!s:.300}") from None
        raise AssertionError("unreachable: the last try returns or raises")


async def _load_library() -> None:
    """Import the library away from the event loop: it takes half a second the first time."""
    if "mcp" not in sys.modules:
        await asyncio.to_thread(importlib.import_module, "mcp")


class _Live:
    """One open connection, held by a task of its own, because a client must be left by the task that entered it."""

    def __init__(
        self, transport: Transport, connect_seconds: float, idle_seconds: float, on_new_tools: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._connect_seconds = connect_seconds
        self._idle_seconds = idle_seconds
        self._on_new_tools = on_new_tools
        self._client: Client | None = None
        self._failure: BaseException | None = None
        self._settled = asyncio.Event()
        self._leave = anyio.Event()
        self._used = time.monotonic()
        self.calls = 0
        self.gone = False
        self._task = asyncio.create_task(self._hold(), name="mcp connection")

    async def ready(self) -> bool:
        """Wait until it is open; False when it cannot be opened. Cancelling the wait closes it."""
        try:
            await self._settled.wait()
        except asyncio.CancelledError:
            self._leave.set()
            raise
        return self._client is not None

    def why_not(self) -> str:
        """Say why it could not be opened, in a line."""
        return "; ".join(dict.fromkeys(str(leaf)[:300] or type(leaf).__name__ for leaf in _leaves(self._failure)))

    async def call_tool(self, tool: str, arguments: dict[str, Any], key: str) -> CallToolResult:
        """Send one call and wait for its result."""
        assert self._client is not None
        self.calls += 1
        try:
            meta = cast("RequestParamsMeta", {_IDEMPOTENCY_META: key})
            return await self._client.call_tool(tool, arguments, meta=meta)
        finally:
            self.calls -= 1
            self._used = time.monotonic()

    async def list_tools(self) -> list[RemoteTool]:
        """Ask for all tools, page by page, within bounds."""
        assert self._client is not None
        found: list[RemoteTool] = []
        cursor: str | None = None
        for _ in range(_MOST_PAGES):
            page = await self._client.list_tools(cursor=cursor, cache_mode="bypass")
            found += [RemoteTool(tool.name, tool.description or "", tool.input_schema) for tool in page.tools]
            cursor = page.next_cursor
            if cursor is None or len(found) >= _MOST_TOOLS:
                break
        return found[:_MOST_TOOLS]

    def broken_by(self, error: Any) -> bool:
        """Tell whether an error of the protocol means that this connection is of no use any more."""
        from mcp.types import CONNECTION_CLOSED

        broken = self.gone or error.code == CONNECTION_CLOSED or _session_forgotten(error)
        self.gone = self.gone or broken
        return broken

    def unsent(self, error: Any) -> bool:
        """Tell whether the server cannot have seen the call; to be asked after :meth:`close`."""
        leaves = _leaves(self._failure)
        never_connected = bool(leaves) and all(
            isinstance(leaf, httpx2.ConnectError | httpx2.ConnectTimeout) for leaf in leaves
        )
        return never_connected or _session_forgotten(error)

    async def close(self) -> None:
        """Leave the server; a program that does not end by itself is killed."""
        self._leave.set()
        done, _ = await asyncio.wait({self._task}, timeout=_CLOSE_SECONDS)
        if not done:
            self._task.cancel()

    async def _hold(self) -> None:
        deadline = anyio.current_time() + self._connect_seconds
        try:
            # A scope and not `asyncio.timeout`: cancelling a task outright would leave a server's program behind.
            with anyio.CancelScope(deadline=deadline) as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._cancel_when_left, scope)
                    async with self._opened() as client:
                        scope.deadline = math.inf
                        self._client = client
                        self._used = time.monotonic()
                        self._settled.set()
                        await self._until_left()
                    group.cancel_scope.cancel()
        except BaseException as error:
            self._failure = error
            if isinstance(error, asyncio.CancelledError):
                raise
            logger.debug("an MCP connection ended", exc_info=error)
        finally:
            self.gone = True
            self._settled.set()

    async def _cancel_when_left(self, scope: anyio.CancelScope) -> None:
        """While it is still being opened, leaving means giving up."""
        await self._leave.wait()
        if self._client is None:
            scope.cancel()

    async def _until_left(self) -> None:
        while not self._leave.is_set():
            left = self._used + self._idle_seconds - time.monotonic()
            if left <= 0 and not self.calls:
                break
            with anyio.move_on_after(left if left > 0 else self._idle_seconds):
                await self._leave.wait()
        self.gone = True  # from now on, not only when the program has ended

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Client]:
        from mcp import Client
        from mcp.types import Implementation

        async with Client(
            _watched(self._transport(), self._stream_ended),
            cache=None,
            client_info=Implementation(name="retinue", version=__version__),
            message_handler=self._heard,
        ) as client:
            yield client

    def _stream_ended(self) -> None:
        self.gone = True
        self._leave.set()

    async def _heard(self, message: object) -> None:
        from mcp.types import ToolListChangedNotification

        if isinstance(message, ToolListChangedNotification):
            self._on_new_tools()


@asynccontextmanager
async def _watched(
    transport: AbstractAsyncContextManager[Streams], on_end: Callable[[], None]
) -> AsyncIterator[Streams]:
    async with transport as (read, write):
        yield _WatchedStream(read, on_end), write


class _WatchedStream:
    """A stream of messages that tells when it has ended: the earliest sign that a server is gone."""

    def __init__(self, stream: Any, on_end: Callable[[], None]) -> None:
        self._stream = stream
        self._on_end = on_end

    @property
    def last_context(self) -> Any:
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> Any:
        return await self._stream.receive()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> _WatchedStream:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except BaseException:
            self._on_end()
            raise

    async def __aenter__(self) -> _WatchedStream:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *details: Any) -> bool | None:
        ended: bool | None = await self._stream.__aexit__(*details)
        return ended


def _session_forgotten(error: Any) -> bool:
    """Tell whether an HTTP server has answered 404 because it does not know the session (after it was restarted)."""
    from mcp.types import INVALID_REQUEST

    return bool(error.code == INVALID_REQUEST and error.message == "Session terminated")


def _leaves(error: BaseException | None) -> list[BaseException]:
    if error is None:
        return []
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
