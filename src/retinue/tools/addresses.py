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
from ipaddress import ip_address

import httpx2

from retinue.kernel import Address, address_refusal

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Finds the addresses of a host and port, as texts."""

_MOST_TRIED = 4
"""Addresses of one name that are tried before giving up."""


class AddressRefused(httpx2.ConnectError):
    """The address must not be reached; the text says so without telling where a name leads."""


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
            if reason := address_refusal(address, allow_private=self._allow_private):
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
