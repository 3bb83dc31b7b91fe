"""Which addresses a tenant's endpoint may have."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httpcore2
import pytest

from retinue.providers import guard
from retinue.providers.guard import is_public


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.1.2.3", "224.0.0.1",
        "255.255.255.255", "198.18.0.1", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "fd00:ec2::254",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::1",
        "::ffff:8.8.8.8", "168.63.129.16", "192.88.99.1", "5f00::1",
    ],
)  # fmt: skip
def test_private_addresses(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


class Names:
    """Stands in for DNS: each look-up gets the next list of addresses."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    async def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (ip, port)) for ip in self.answers.pop(0)]


async def test_one_private_address_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", Names(["8.8.8.8", "10.0.0.1"]))
    with pytest.raises(httpcore2.ConnectError):
        await guard._PublicOnly().connect_tcp("models.example", 443, timeout=5)


async def test_a_name_without_addresses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", Names([]))
    with pytest.raises(httpcore2.ConnectError):
        await guard._PublicOnly().connect_tcp("models.example", 443, timeout=5)


async def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        called.append("here")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    # The first answer passes the check; whoever asks again is led elsewhere.
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    monkeypatch.setattr(guard, "is_public", lambda address: address == "127.0.0.1")
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", names)
    stream = await guard._PublicOnly().connect_tcp("models.example", port, timeout=5)
    await stream.read(1, timeout=5)
    assert called == ["here"]
    assert names.answers == [["127.0.0.2"]]
    await stream.aclose()
    server.close()
