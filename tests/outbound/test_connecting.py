"""Where requests may go, and which of a name's addresses they go to."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from typing import Any

import httpcore2
import httpx2
import pytest
from anyio.abc import ByteStream

from retinue.kernel import Address
from retinue.outbound import AddressCheck, AddressRefused, OutboundTransport, connecting, operator_client
from retinue.outbound.connecting import Connector, dial
from tests.support.web import Page, WebServer, client_tls

PUBLIC = "93.184.216.34"


class Names:
    """A name server: each question gets the next list of addresses, and the last one stays."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    async def getaddrinfo(self, host: str, port: int, **_: Any) -> list[Any]:
        """Answer as the loop does."""
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (text, port)) for text in await self(host, port)]


def client(names: Names, *, allow_private: bool = False, **changes: Any) -> httpx2.AsyncClient:
    transport = OutboundTransport(allow_private=allow_private, tls=client_tls(), resolve=names, **changes)
    return httpx2.AsyncClient(transport=transport)


@pytest.fixture
def plain() -> Iterator[WebServer]:
    """An http server with one page."""
    with WebServer({"/": Page(b"here")}, tls=False) as server:
        yield server


@pytest.mark.parametrize(
    "answer, allow_private, reason",
    [
        (["8.8.8.8", "10.0.0.1"], False, "models.example cannot be reached from here: it is not a public address"),
        (["127.0.0.1"], False, "models.example cannot be reached from here: it is not a public address"),
        (
            ["127.0.0.1", "169.254.169.254"],
            True,
            "models.example cannot be reached from here: it is an address of a metadata service or of this link",
        ),
        (["::ffff:8.8.8.8"], False, "models.example cannot be reached from here: it is an IPv4 address in another"),
        ([], False, "the name models.example has no address"),
        (["nonsense"], False, "nonsense is not an address"),
    ],
)
async def test_a_name_that_must_not_be_reached(answer: list[str], allow_private: bool, reason: str) -> None:
    dialled: list[Address] = []

    async def note(address: Address, port: int) -> ByteStream:
        dialled.append(address)
        raise ConnectionRefusedError

    async with client(Names(answer), allow_private=allow_private, dial=note) as http:
        with pytest.raises(AddressRefused) as refused:
            await http.get("https://models.example/")
    assert str(refused.value).startswith(reason)
    assert refused.value.request.url == "https://models.example/"
    assert dialled == []


@asynccontextmanager
async def two_servers() -> AsyncIterator[tuple[int, list[str]]]:
    """A server on 127.0.0.1 and another one on 127.0.0.2, at one port; both note who was called."""
    called: list[str] = []

    def answers(name: str) -> Any:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            called.append(name)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            writer.close()
            await writer.wait_closed()

        return answer

    async with await asyncio.start_server(answers("checked"), "127.0.0.1", 0) as first:
        port = first.sockets[0].getsockname()[1]
        async with await asyncio.start_server(answers("elsewhere"), "127.0.0.2", port):
            yield port, called


async def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", names.getaddrinfo)
    transport = OutboundTransport(allow_private=True, tls=client_tls())
    async with two_servers() as (port, called), httpx2.AsyncClient(transport=transport) as http:
        await http.get(f"http://models.example:{port}/")
    assert called == ["checked"]
    assert names.asked == ["models.example"]


async def test_a_connection_to_another_address_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: the address is checked, and then the name is connected to."""

    class Forgetful(Connector):
        async def connect_tcp(self, host: str, port: int, *rest: Any, **more: Any) -> httpcore2.AsyncNetworkStream:
            await self._find(host, port)
            return await httpcore2.AnyIOBackend().connect_tcp(host, port, *rest, **more)

    names = Names(["127.0.0.1"], ["127.0.0.2"])
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", names.getaddrinfo)
    monkeypatch.setattr(connecting, "Connector", Forgetful)
    transport = OutboundTransport(allow_private=True, tls=client_tls())
    async with two_servers() as (port, called), httpx2.AsyncClient(transport=transport) as http:
        await http.get(f"http://models.example:{port}/")
    assert called == ["elsewhere"]


@pytest.mark.parametrize(
    "answer, tried",
    [
        ([f"8.8.8.{n}" for n in range(9)], ["8.8.8.0", "8.8.8.1", "8.8.8.2", "8.8.8.3"]),
        (["2606:4700::1", "2606:4700::2", "8.8.8.8"], ["2606:4700::1", "8.8.8.8", "2606:4700::2"]),
        (
            ["8.8.8.8", "8.8.4.4", "2606:4700::1", "2606:4700::2", "2606:4700::3"],
            ["8.8.8.8", "2606:4700::1", "8.8.4.4", "2606:4700::2"],
        ),
    ],
)
async def test_four_addresses_are_tried_and_both_families_are_among_them(answer: list[str], tried: list[str]) -> None:
    dialled: list[str] = []

    async def refuse(address: Address, port: int) -> ByteStream:
        dialled.append(str(address))
        raise ConnectionRefusedError("nobody there")

    async with client(Names(answer), dial=refuse) as http:
        with pytest.raises(httpx2.ConnectError, match="All connection attempts failed") as failed:
            await http.get("https://models.example/")
    assert not isinstance(failed.value, AddressRefused)
    assert dialled == tried


async def test_an_address_that_says_nothing_does_not_keep_from_the_next(
    plain: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dial_the_second(address: Address, port: int) -> ByteStream:
        if str(address) == PUBLIC:
            await asyncio.Event().wait()
        return await dial(ip_address("127.0.0.1"), plain.port)

    monkeypatch.setattr(connecting, "PATIENCE", 0.01)
    async with client(Names([PUBLIC, "8.8.8.8"]), dial=dial_the_second) as http:
        assert (await http.get("http://models.example/")).text == "here"


async def test_connecting_has_a_time_limit() -> None:
    async def hang(_host: str, _port: int) -> Any:
        await asyncio.Event().wait()

    for late in (Connector(hang), Connector(AddressCheck(allow_private=False).addresses, hang)):  # type: ignore[arg-type]
        with pytest.raises(httpcore2.ConnectTimeout):
            await late.connect_tcp(PUBLIC, 443, timeout=0.01)


async def test_sockets_in_the_file_system_are_refused() -> None:
    with pytest.raises(httpcore2.ConnectError):
        await Connector(AddressCheck(allow_private=True).addresses).connect_unix_socket("/var/run/docker.sock")


async def test_a_server_that_floods_is_not_read_ahead_of() -> None:
    """A body is counted as it is read, so what nobody reads must stay with the kernel."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        connector = Connector(AddressCheck(allow_private=True).addresses)
        stream = await connector.connect_tcp("127.0.0.1", listener.getsockname()[1], timeout=60)
        flood, _ = listener.accept()
        with flood:
            flood.setblocking(False)
            sent = 0
            for _ in range(2_000):
                with suppress(BlockingIOError):
                    sent += flood.send(b"x" * 65_536)
                await asyncio.sleep(0)
            assert sent < 32_000_000
            await stream.aclose()


@pytest.mark.parametrize("excepted, through", [("", True), ("models.example", False)])
async def test_only_the_operators_requests_heed_the_proxies_of_the_environment(
    excepted: str, through: bool, plain: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", Names(["127.0.0.1"]).getaddrinfo)
    with WebServer({}, tls=False) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", excepted)
        url = f"http://models.example:{plain.port}/"
        async with client(Names(["127.0.0.1"]), allow_private=True) as http:
            assert (await http.get(url)).text == "here"
        assert proxy.seen == []
        async with operator_client(tls=client_tls(), timeout=httpx2.Timeout(60)) as http:
            assert (await http.get(url)).text == ("not here" if through else "here")
        assert [seen.path for seen in proxy.seen] == ([url] if through else [])


async def test_the_operator_may_reach_any_address(plain: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with operator_client(tls=client_tls(), timeout=httpx2.Timeout(60)) as http:
        assert (await http.get(plain.url("/"))).text == "here"
        assert (await http.get(plain.url("/", "localhost"))).text == "here"

        async def unknown(*_: Any, **__: Any) -> Any:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
        with pytest.raises(httpx2.ConnectError):
            await http.get("http://nowhere.example/")


async def test_an_answer_that_is_too_large(plain: WebServer) -> None:
    plain.pages["/large"] = Page(b"x" * 1_000_001)
    plain.pages["/stream"] = Page(b"x" * 1_000_001, "text/event-stream")
    async with client(Names([]), allow_private=True, most_bytes=1_000_000) as http:
        with pytest.raises(httpx2.ReadError, match="the answer is too large"):
            await http.get(plain.url("/large"))
        assert len((await http.get(plain.url("/stream"))).content) == 1_000_001


def test_the_network_is_loaded_with_the_first_request() -> None:
    """It takes a tenth of a second, which no start of a server need wait for."""
    program = "import sys, retinue.outbound; print('httpcore2' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
