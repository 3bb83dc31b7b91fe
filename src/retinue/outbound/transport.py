"""HTTP clients for requests that leave this server."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from functools import cache

import httpx2

from retinue.outbound.addresses import AddressCheck, Dial, Find, Resolve, any_address, resolve

_LIMITS = httpx2.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=5.0)


@cache
def system_tls() -> ssl.SSLContext:
    """Return the check of certificates against the system's authorities; made once, it takes a tenth of a second."""
    return httpx2.create_ssl_context(trust_env=False)


class OutboundTransport(httpx2.AsyncHTTPTransport):
    """Sends requests to what others named: a tenant, a model, a page.

    A name is resolved once, every address it has is checked, and the connection goes to a checked one, so that a second
    answer of the name server changes nothing. Redirects are requests too and pass through the same check. Proxies from
    the environment are not used: they would look the name up themselves. Requests that are refused raise
    :class:`AddressRefused`.

    Args:
        allow_private: whether private and loopback addresses may be reached.
        tls: how certificates are checked.
        most_bytes: the most bytes of a body that is not a stream of events; more ends the request.
        limits: how many connections are kept.
        resolve: finds the addresses of a name; replaced in tests.
        dial: connects to a checked address; replaced in tests.
    """

    def __init__(
        self,
        *,
        allow_private: bool,
        tls: ssl.SSLContext,
        most_bytes: int | None = None,
        limits: httpx2.Limits = _LIMITS,
        resolve: Resolve = resolve,
        dial: Dial | None = None,
    ) -> None:
        super().__init__(verify=tls, limits=limits, trust_env=False)
        self._most_bytes = most_bytes
        connect_by(self, AddressCheck(allow_private=allow_private, resolve=resolve).addresses, dial)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request.

        Raises:
            AddressRefused: the address must not be reached.
            httpx2.TransportError: no answer came.
        """
        response = await super().handle_async_request(request)
        kind = response.headers.get("content-type", "")
        if self._most_bytes is not None and not kind.startswith("text/event-stream"):
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _Bounded(response.stream, self._most_bytes)
        return response


def operator_client(
    *, tls: ssl.SSLContext, timeout: httpx2.Timeout, limits: httpx2.Limits = _LIMITS
) -> httpx2.AsyncClient:
    """Return a client for what the operator named: any address, through the proxies of the environment if there are.

    Args:
        tls: how certificates are checked.
        timeout: seconds for each part of a request.
        limits: how many connections are kept.
    """
    client = httpx2.AsyncClient(verify=tls, timeout=timeout, limits=limits)
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx2.AsyncHTTPTransport):  # None stands for an address without a proxy
            connect_by(transport, any_address, None)
    return client


def connect_by(transport: httpx2.AsyncHTTPTransport, find: Find, dial: Dial | None) -> None:
    """Have a transport's connections made by this package. For a transport that is new."""
    from retinue.outbound import connecting  # on first use: see there

    # httpcore2's pool takes a network as a parameter; httpx2, which makes the pool, has none to pass on.
    transport._pool._network_backend = connecting.Connector(find, dial or connecting.dial)


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
