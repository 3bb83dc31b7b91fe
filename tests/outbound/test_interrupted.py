"""Requests that are cancelled or run out of time leave no connection behind, wherever they were."""

from __future__ import annotations

import asyncio
import gc
import socket
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

import anyio
import httpcore2
import httpx2
import pytest
import uvloop

from retinue.outbound import OutboundTransport, connecting, operator_client
from retinue.tools import ToolFault
from retinue.tools.fetch import HttpFetch
from tests.outbound.interrupting import after_turns, at_wait, connections, ended
from tests.support.web import Page, WebServer, client_tls, server_tls

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
TURNS = 40
MOST_WAITS = 60


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    """What is left open stays open: nobody tidies up after a request."""
    gc.disable()
    yield
    gc.enable()


class Place:
    """A server, and how requests to it are made."""

    def __init__(self, url: str, port: int, *, silent: bool) -> None:
        self.url = url
        self.port = port
        self.silent = silent


@contextmanager
def answering(scheme: str) -> Iterator[Place]:
    """A server that answers."""
    page = Page(b"hello", headers={"Connection": "close"})
    with WebServer({"/": page}, tls=scheme == "https") as site:
        yield Place(site.url("/"), site.port, silent=False)


@contextmanager
def silent(scheme: str) -> Iterator[Place]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        port = listener.getsockname()[1]
        yield Place(f"{scheme}://127.0.0.1:{port}/", port, silent=True)


Get = Callable[[str], Awaitable[str]]


class ByFetch:
    """The tool ``http_fetch``, which has a client a request."""

    def __init__(self) -> None:
        self._fetch = HttpFetch(allow_private=True, tls=client_tls())

    async def get(self, url: str) -> str:
        context: Any = None
        return (await self._fetch(context, {"url": url})).content

    async def close(self) -> None:
        pass


class ByClient:
    """A client that is kept."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def get(self, url: str) -> str:
        return (await self._client.get(url)).text

    async def close(self) -> None:
        await self._client.aclose()


def checked() -> ByClient:
    return ByClient(httpx2.AsyncClient(transport=OutboundTransport(allow_private=True, tls=client_tls())))


def operators() -> ByClient:
    return ByClient(operator_client(tls=client_tls(), timeout=httpx2.Timeout(None)))


WAYS: dict[str, Callable[[], ByFetch | ByClient]] = {"fetch": ByFetch, "checked": checked, "operators": operators}


class Sweep:
    """Cancels a request at each point where it waits, and notes where that left a connection."""

    def __init__(self, way: Callable[[], ByFetch | ByClient], place: Place) -> None:
        self._way = way
        self._place = place
        self._before = connections(place.port)
        self.points = 0
        self.left: list[str] = []

    async def run(self) -> None:
        """Sweep."""
        way = self._way()
        try:
            for turns in range(TURNS):
                await self._try(way, f"after {turns} turns", after_turns(turns))
            for late in (False, True):
                for step in range(MOST_WAITS):
                    said = await self._try(way, f"wait {step}{' late' * late}", at_wait(step, late=late))
                    if said != "cancelled":
                        assert self._place.silent or "hello" in said
                        break
                else:
                    raise AssertionError("the request never ended")
        finally:
            await way.close()
            if connections(self._place.port) - self._before and not self.left:
                self.left.append("after it was closed")

    async def _try(self, way: ByFetch | ByClient, name: str, interruption: Any) -> str:
        before = connections(self._place.port)
        said = await ended(way.get(self._place.url), interruption, silent=self._place.silent)
        self.points += said == "cancelled"
        if connections(self._place.port) - before:
            self.left.append(name)
        return said


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scheme", ["https", "http"])
@pytest.mark.parametrize("server", [answering, silent])
def test_a_request_that_is_cancelled_leaves_no_connection(
    server: Callable[[str], Any], scheme: str, way: str, loop: str
) -> None:
    with server(scheme) as place, asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        sweep = Sweep(WAYS[way], place)
        runner.run(sweep.run())
        assert sweep.points > 5
        assert sweep.left == []


def test_a_request_through_a_proxy_that_is_cancelled_leaves_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with tunnelling() as place, asyncio.Runner() as runner:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{place.port}")
        sweep = Sweep(operators, place)
        runner.run(sweep.run())
        assert sweep.points > 5
        assert sweep.left == []


@contextmanager
def tunnelling() -> Iterator[Place]:
    """A proxy that says it has connected, and answers in the place of any server."""

    class Handler(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            self.connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            with server_tls().wrap_socket(self.connection, server_side=True) as secured:
                if secured.recv(65_536):  # a request is small: it comes in one piece
                    secured.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello")

        def log_message(self, *_: object) -> None:
            pass

    with WebServer({}, tls=False, handler=Handler) as proxy:
        yield Place("https://public.example/", proxy.port, silent=False)


class Upstream(httpcore2.AnyIOBackend):
    """The planted bug: the network as it comes with the library."""

    def __init__(self, *_: object) -> None:
        pass


class DropsWhatItConnected(connecting.Connector):
    """The planted bug: a connection that comes while the request is cancelled is nobody's."""

    async def _connected(self, *given: Any) -> anyio.abc.ByteStream:
        connected = await super()._connected(*given)
        await asyncio.sleep(0)
        return connected


@pytest.mark.parametrize(
    "bug, scheme", [(Upstream, "https"), (DropsWhatItConnected, "https"), (DropsWhatItConnected, "http")]
)
def test_a_network_that_leaves_connections_is_noticed(
    bug: type[Any], scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "Connector", bug)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        with silent(scheme) as place:
            before = connections(place.port)
            with asyncio.Runner() as runner:
                sweep = Sweep(checked, place)
                runner.run(sweep.run())
            assert sweep.left
            gc.collect()
            assert connections(place.port) == before


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_request_that_runs_out_of_time_leaves_no_connection(scheme: str, loop: str) -> None:
    async def hurried(url: str) -> None:
        fetch = HttpFetch(allow_private=True, tls=client_tls(), seconds=0.05)
        context: Any = None
        with pytest.raises(ToolFault, match=r"did not come within 0\.05 seconds|could not be fetched: .*[Tt]ime"):
            await fetch(context, {"url": url})
        for client in (
            httpx2.AsyncClient(transport=OutboundTransport(allow_private=True, tls=client_tls()), timeout=0.05),
            operator_client(tls=client_tls(), timeout=httpx2.Timeout(0.05)),
        ):
            async with client:
                with pytest.raises(httpx2.TimeoutException):
                    await client.get(url)

    with silent(scheme) as place, asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        before = connections(place.port)
        runner.run(hurried(place.url))
        assert connections(place.port) == before
