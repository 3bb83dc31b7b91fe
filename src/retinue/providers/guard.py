"""HTTP for addresses that a tenant chose: public ones only.

A tenant may bring a model endpoint of its own. Its name is looked up once, every address it has is checked, and the
connection goes to a checked one, so that neither a private name nor a change of DNS between check and use leads into
the server's own network. Proxies from the environment are not used: they would look the name up themselves.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

import httpcore2
import httpx2

from retinue.kernel import address_refusal


def is_public(address: str) -> bool:
    """Whether an IP address is a public one. An IPv4 address in the form of an IPv6 one is not: who knows its way?"""
    return address_refusal(ip_address(address)) is None


class _PublicOnly(httpcore2.AsyncNetworkBackend):
    """Connects to public addresses and to nothing else."""

    def __init__(self) -> None:
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout("the name could not be looked up in time") from error
        except OSError as error:
            raise httpcore2.ConnectError("the name is not known") from error
        addresses = [str(entry[4][0]) for entry in found]
        if not addresses or not all(is_public(address) for address in addresses):
            raise httpcore2.ConnectError("the address is not a public one")
        return await self._inner.connect_tcp(addresses[0], port, timeout, local_address, socket_options)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.AsyncNetworkStream:
        raise httpcore2.ConnectError("the address is not a public one")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


class PublicTransport(httpx2.AsyncHTTPTransport):
    """A transport whose connections all pass :class:`_PublicOnly`."""

    def __init__(self, ssl_context: ssl.SSLContext, limits: httpx2.Limits) -> None:
        super().__init__(verify=ssl_context, limits=limits)
        # The transport has no parameter for the network; the pool it builds is replaced before its first use.
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=ssl_context,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=_PublicOnly(),
        )
