"""What comes in is looked at on its way: what kind of file it is, and what a virus scanner says."""

from __future__ import annotations

import asyncio
import contextlib
from typing import ClassVar, Protocol

import puremagic

from retinue.kernel import Fault, Settings, Unavailable

SNIFFED = 8192
"""Bytes at the beginning of a file that tell its type."""

UNKNOWN = "application/octet-stream"
_PIECE = 262_144
_LONGEST_REPLY = 4096


class Infected(Fault):
    """A scanner found something in a file; ``finding`` is its name for it."""

    kind: ClassVar[str] = "infected"
    status: ClassVar[int] = 422
    title: ClassVar[str] = "The file is not taken in"

    def __init__(self, finding: str) -> None:
        super().__init__(f"The virus scanner found {finding} in the file.", extra={"finding": finding})
        self.finding = finding


def media_type_of(beginning: bytes) -> str:
    """Return the type of a file by its first bytes; what its name or its giver says plays no part."""
    if not beginning:
        return UNKNOWN
    try:
        found = puremagic.from_string(beginning, mime=True)
    except (puremagic.PureError, ValueError, IndexError):
        found = ""
    if found:
        return found
    return "text/plain" if _is_text(beginning) else UNKNOWN


def _is_text(beginning: bytes) -> bool:
    if b"\0" in beginning:
        return False
    for cut in range(4):  # the last letter may go on after what was looked at
        with contextlib.suppress(UnicodeDecodeError):
            beginning[: len(beginning) - cut].decode()
            return True
    return False


class Scan(Protocol):
    """A look at one file while it passes."""

    async def feed(self, piece: bytes) -> None:
        """Show it the next bytes."""
        ...

    async def verdict(self) -> None:
        """Return when the file is clean. Raises Infected, or Unavailable when nobody can tell."""
        ...

    async def close(self) -> None:
        """Let go, whatever came of it."""
        ...


class NoScan:
    """Where no scanner is configured."""

    async def feed(self, piece: bytes) -> None:
        """Do nothing."""

    async def verdict(self) -> None:
        """Find nothing."""

    async def close(self) -> None:
        """Do nothing."""


class ClamdScan:
    """One file through clamd's ``INSTREAM`` (clamd(8)); when in doubt the file is refused.

    Args:
        reader, writer: a connection to clamd.
        seconds: how long clamd may take for anything.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
        self._reader = reader
        self._writer = writer
        self._seconds = seconds
        writer.write(b"zINSTREAM\0")

    @classmethod
    async def begin(cls, address: str, seconds: float) -> ClamdScan:
        """Connect to clamd at ``host:port``, or at the socket whose path it is.

        Raises:
            Unavailable: nobody answers there.
        """
        try:
            async with asyncio.timeout(seconds):
                if "/" in address:
                    pair = await asyncio.open_unix_connection(address.removeprefix("unix:"))
                else:
                    host, _, port = address.rpartition(":")
                    pair = await asyncio.open_connection(host.strip("[]"), int(port))
        except (OSError, ValueError) as error:
            raise _away() from error
        return cls(*pair, seconds)

    async def feed(self, piece: bytes) -> None:
        """Send the next bytes.

        Raises:
            Unavailable: clamd has hung up, or takes nothing any more.
        """
        try:
            async with asyncio.timeout(self._seconds):
                for start in range(0, len(piece), _PIECE):
                    part = piece[start : start + _PIECE]
                    self._writer.write(len(part).to_bytes(4, "big") + part)
                    await self._writer.drain()
        except OSError as error:
            # It hangs up on a file that is larger than it takes, and says so first.
            await self._read()
            raise _away() from error

    async def verdict(self) -> None:
        """Read the answer.

        Raises:
            Infected: it found something.
            Unavailable: it gave no answer, or could not look at the file.
        """
        try:
            self._writer.write(b"\0\0\0\0")
            async with asyncio.timeout(self._seconds):
                await self._writer.drain()
        except OSError as error:
            await self._read()
            raise _away() from error
        await self._read()

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                raw = await self._reader.readuntil(b"\0")
        except asyncio.IncompleteReadError as error:
            raw = error.partial
        except (OSError, asyncio.LimitOverrunError) as error:
            raise _away() from error
        reply = raw[:_LONGEST_REPLY].rstrip(b"\0\r\n").decode("utf-8", "replace").removeprefix("stream: ")
        if reply == "OK":
            return
        if reply.endswith(" FOUND"):
            raise Infected(reply.removesuffix(" FOUND"))
        if "size limit" in reply:
            raise Unavailable(
                "The virus scanner takes no file of this size: its StreamMaxLength is below what this server takes."
            )
        raise _away()

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                await self._writer.wait_closed()


def _away() -> Unavailable:
    return Unavailable("The virus scanner does not answer; no file is taken in without it.", retry_after=5)


async def begin_scan(settings: Settings) -> Scan:
    """Begin to look at a file.

    Raises:
        Unavailable: a scanner is configured and does not answer.
    """
    return NoScan() if settings.clamd is None else await ClamdScan.begin(settings.clamd, settings.clamd_seconds)
