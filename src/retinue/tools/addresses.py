"""Keeps requests that others caused away from addresses they must not reach.

A name is resolved once, every address it has is checked, and the connection goes to a checked address, so that a
second answer of the name server changes nothing. Redirects are requests too and pass through the same check.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import httpx2

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Finds the addresses of a host and port, as texts."""

_MOST_TRIED = 4
"""Addresses of one name that are tried before giving up."""

# IPv4 addresses in disguise: where they lead cannot be told from here, and nobody writes a URL so.
_DISGUISES = tuple(
    IPv6Network(text)
    for text in (
        "64:ff9b::/96",  # NAT64 (RFC 6052)
        "64:ff9b:1::/48",  # NAT64, local use (RFC 8215)
        "::/96",  # IPv4-compatible, deprecated (RFC 4291); loopback is let through before
        "::ffff:0:0/96",  # IPv4-mapped (RFC 4291)
        "::ffff:0:0:0/96",  # IPv4-translated (RFC 2765)
        "2001::/32",  # Teredo (RFC 4380)
        "2002::/16",  # 6to4 (RFC 3056)
    )
)

# Not public, though the standard library of some Python versions takes them for it.
_NOT_PUBLIC = (
    IPv4Network("192.88.99.0/24"),  # 6to4 relays (RFC 7526)
    IPv6Network("fec0::/10"),  # site-local, deprecated (RFC 3879)
    IPv6Network("5f00::/16"),  # segment routing (RFC 9602)
    IPv6Network("3fff::/20"),  # documentation (RFC 9637)
    IPv6Network("100:0:0:1::/64"),  # dummy prefix (RFC 9780)
)

# Where clouds hand out credentials: closed even when private addresses are open.
_CREDENTIALS = (
    IPv4Network("169.254.0.0/16"),
    IPv6Network("fe80::/10"),
    IPv4Network("168.63.129.16/32"),
    IPv4Network("100.100.100.200/32"),  # Alibaba Cloud
    IPv4Network("192.0.0.192/32"),  # Oracle Cloud
    IPv6Network("fd00:ec2::/32"),  # Amazon
    IPv6Network("fd20:ce::/32"),  # Google
    IPv6Network("fd00:42::/32"),  # Scaleway
)

_BROADCAST = IPv4Address("255.255.255.255")


class AddressRefused(httpx2.ConnectError):
    """The address must not be reached; the text says so without telling where a name leads."""


def refusal(address: Address, *, allow_private: bool = False) -> str | None:
    """Say why an address must not be reached; None when it may be.

    Args:
        allow_private: let private and loopback addresses pass. Metadata services of clouds stay closed.
    """
    if isinstance(address, IPv6Address):
        address = IPv6Address(address.packed)  # without its zone, which is part of no network
    if _within(address, _CREDENTIALS):
        return "it is an address of a metadata service or of this link"
    if address.is_multicast or address == _BROADCAST:
        return "it is an address of many machines"
    if allow_private and (address.is_loopback or address.is_unspecified):
        return None
    if _within(address, _DISGUISES):
        return "it is an IPv4 address in another form"
    if not allow_private and (not address.is_global or _within(address, _NOT_PUBLIC)):
        return "it is not a public address"
    return None


def _within(address: Address, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    return any(address in network for network in networks)


async def resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system for the addresses of a host."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@cache
def system_tls() -> ssl.SSLContext:
    """Return the check of certificates against the system's authorities; made once, it takes a tenth of a second."""
    return httpx2.create_ssl_context(trust_env=False)


class AddressCheck:
    """Finds the addresses of a host and lets only those pass that may be reached."""

    def __init__(self, *, allow_private: bool, resolve: Resolve = resolve) -> None:
        self._allow_private = allow_private
        self._resolve = resolve

    async def addresses(self, host: str, port: int) -> list[Address]:
        """Return the addresses of a host, all of them checked.

        Raises:
            AddressRefused: one of them must not be reached (one bad answer spoils the name), or there are none.
        """
        literal = _literal(host)
        found = [literal] if literal else [_read(text) for text in await self._asked(host, port)]
        for address in found:
            if reason := refusal(address, allow_private=self._allow_private):
                raise AddressRefused(f"{host} cannot be reached from here: {reason}")
        return found[:_MOST_TRIED]

    async def _asked(self, host: str, port: int) -> Sequence[str]:
        try:
            found = await self._resolve(host, port)
        except (OSError, UnicodeError):
            found = ()
        if not found:
            raise AddressRefused(f"the name {host} has no address")
        return found


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None


def _read(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        raise AddressRefused(f"{text[:100]} is not an address") from None


class CheckedTransport(httpx2.AsyncBaseTransport):
    """Sends requests to checked addresses, under the name they were asked for (``Host`` and TLS).

    One transport serves one host: connections are pooled by address, and two names may share one.

    Args:
        check: the address check.
        tls: how certificates are checked.
        inner: what connects; replaced in tests.
        most_bytes: the most bytes of a body that is not a stream of events; more ends the request.
    """

    def __init__(
        self,
        check: AddressCheck,
        *,
        tls: ssl.SSLContext,
        inner: httpx2.AsyncBaseTransport | None = None,
        most_bytes: int | None = None,
    ) -> None:
        self._check = check
        self._inner = inner or httpx2.AsyncHTTPTransport(verify=tls, trust_env=False)
        self._most_bytes = most_bytes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Resolve, check, connect; tries the next address when one does not answer."""
        url = request.url
        port = url.port or (443 if url.scheme == "https" else 80)
        addresses = await self._check.addresses(_ascii_host(url), port)
        for address in addresses[:-1]:
            try:
                return await self._send(request, address)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
        return await self._send(request, addresses[-1])

    async def _send(self, request: httpx2.Request, address: Address) -> httpx2.Response:
        pinned = httpx2.Request(
            request.method,
            request.url.copy_with(host=str(address)),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": _ascii_host(request.url)},
        )
        response = await self._inner.handle_async_request(pinned)
        kind = response.headers.get("content-type", "")
        if self._most_bytes is not None and not kind.startswith("text/event-stream"):
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _Bounded(response.stream, self._most_bytes)
        return response

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


def _ascii_host(url: httpx2.URL) -> str:
    return url.raw_host.decode("ascii")


class _Bounded(httpx2.AsyncByteStream):
    """A body that ends with an error when it grows beyond a limit."""

    def __init__(self, stream: httpx2.AsyncByteStream, most_bytes: int) -> None:
        self._stream = stream
        self._left = most_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._left -= len(chunk)
            if self._left < 0:
                raise httpx2.ReadError("the answer is too large")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
