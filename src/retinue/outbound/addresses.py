"""Finds the addresses of a name, and keeps requests that others caused away from those they must not reach."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address

import httpx2
from anyio.abc import ByteStream

from retinue.kernel import Address, address_refusal

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Finds the addresses of a host and port, as texts. Raises OSError when there are none."""

Find = Callable[[str, int], Awaitable[list[Address]]]
"""Finds the addresses of a host and port that may be connected to."""

Dial = Callable[[Address, int], Awaitable[ByteStream]]
"""Connects to an address and port. Raises OSError when nobody answers there."""


class AddressRefused(httpx2.ConnectError):
    """The address must not be reached; the text says so without telling where a name leads."""


async def resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system for the addresses of a host.

    Raises:
        OSError: there are none, or nobody could say.
        UnicodeError: no host is called so.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def any_address(host: str, port: int) -> list[Address]:
    """Return the addresses of a host that the operator chose: wherever it leads.

    Raises:
        OSError, UnicodeError: as :func:`resolve`.
    """
    literal = _literal(host)
    return [literal] if literal else [ip_address(text) for text in await resolve(host, port)]


class AddressCheck:
    """Finds the addresses of a host and lets only those pass that may be reached.

    Args:
        allow_private: let private and loopback addresses pass. Metadata services of clouds stay closed.
        resolve: finds the addresses of a name; replaced in tests.
    """

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
        return found

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
