"""Makes the connections of requests, and closes what is not wanted any more.

Upstream a request that is cancelled while its connection is made may leave the socket open until the garbage collector
finds it: ``anyio.connect_tcp`` does so around its race for addresses, and httpcore2 during the TLS handshake. Here each
step is awaited directly and closes what it holds, whatever interrupts it.

Loading this takes a tenth of a second, so nobody does before a request leaves.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest
from typing import Any

import httpcore2
from anyio._core._eventloop import get_async_backend
from anyio.abc import ByteStream
from httpcore2._backends.anyio import AnyIOStream

from retinue.kernel import Address
from retinue.outbound.addresses import Dial, Find

MOST_TRIED = 4
"""Addresses of one name that are tried before giving up."""

PATIENCE = 2.0
"""Seconds an address has to answer while another one is left to try."""


async def dial(address: Address, port: int) -> ByteStream:
    """Connect to an address.

    Raises:
        OSError: nobody answers there.
    """
    # What anyio.connect_tcp does for each address of a name, without the race between them in which it loses some.
    return await get_async_backend().connect_tcp(str(address), port)


class Connector(httpcore2.AnyIOBackend):
    """The network as requests see it: TCP, to addresses that were found and checked once.

    Args:
        find: says which addresses of a host may be connected to.
        dial: connects to one of them; replaced in tests.
    """

    def __init__(self, find: Find, dial: Dial = dial) -> None:
        self._find = find
        self._dial = dial

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to a host, within ``timeout`` seconds.

        Raises:
            AddressRefused: the host must not be reached.
            httpcore2.ConnectError, httpcore2.ConnectTimeout: nobody answers there.
        """
        if local_address is not None or socket_options is not None:
            raise NotImplementedError("no client here asks for a local address or for options of sockets")
        try:
            async with asyncio.timeout(timeout):
                return _Stream(await self._connected(await self._find(host, port), port))
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout("the connection was not made in time") from error
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError("All connection attempts failed") from error

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.AsyncNetworkStream:
        """Refuse: no request leaves through a file."""
        raise httpcore2.ConnectError("sockets in the file system are not connected to")

    async def _connected(self, addresses: Sequence[Address], port: int) -> ByteStream:
        """Return a connection to the first address that answers."""
        *first, last = _mixed(addresses)[:MOST_TRIED]
        for address in first:
            try:
                async with asyncio.timeout(PATIENCE):
                    return await self._dial(address, port)
            except OSError:  # a TimeoutError is one
                continue
        return await self._dial(last, port)


def _mixed(addresses: Sequence[Address]) -> list[Address]:
    """Order addresses so that those of both families take turns: one family may lead nowhere (RFC 8305, section 4)."""
    leading = [one for one in addresses if one.version == addresses[0].version]
    others = [one for one in addresses if one.version != addresses[0].version]
    return [one for one in chain.from_iterable(zip_longest(leading, others)) if one is not None]


class _Stream(AnyIOStream):
    """A connection that closes when its TLS handshake comes to nothing."""

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        try:
            secured = await super().start_tls(ssl_context, server_hostname, timeout)
        except BaseException:  # a cancellation too, which is where upstream lets go of it
            await self.aclose()
            raise
        assert isinstance(secured, AnyIOStream)
        return _Stream(secured._stream)
