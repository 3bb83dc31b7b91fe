"""Sealing and opening of a file in memory, beside `openssl speed`: `python -m bench.product.sealing`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, ClassVar

import msgspec

from bench.load.program import Program
from retinue.vault import Chunk, decrypt_range, encrypt_stream, new_data_key

_WINDOW = 1_048_576
_CONTEXT = b"bench"
_FLOOR = ("openssl", "speed", "-mr", "-evp", "aes-256-gcm", "-bytes", "65536", "-seconds", "1")


class SealingOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Seal and open a file of `size` bytes for about a second, `rounds` times, each beside OpenSSL."""

    size: int
    rounds: int


class Sealing(Program[SealingOrder]):
    """The result has bytes a second of processor time, one number for each round: OpenSSL, sealing, opening."""

    order_type: ClassVar[type[msgspec.Struct]] = SealingOrder

    async def prepare(self) -> None:
        self._key = new_data_key()
        self._sealed = memoryview(b"".join([piece async for piece in self._encrypt()]))
        opened = sum([len(piece) async for piece in self._decrypt()])
        if opened != self.order.size:
            raise RuntimeError(f"opened {opened} bytes of {self.order.size}")

    async def work(self) -> dict[str, Any]:
        openssl, sealing, opening = [], [], []
        for _round in range(self.order.rounds):
            openssl.append(await _openssl())
            sealing.append(await self._rate(self._encrypt))
            opening.append(await self._rate(self._decrypt))
        return {"openssl": openssl, "encrypt": sealing, "decrypt": opening}

    async def _rate(self, work: Any) -> float:
        # In processor time, as `openssl speed` counts: so that the ratio holds on a busy machine too.
        done, started = 0, time.process_time()
        while (spent := time.process_time() - started) < 1.0:
            async for _piece in work():
                pass
            done += self.order.size
        return done / spent

    def _encrypt(self) -> AsyncIterator[bytes]:
        return encrypt_stream(self._key, self._plain(), context=_CONTEXT)

    async def _plain(self) -> AsyncGenerator[Chunk]:
        piece = bytes(_WINDOW)
        for _count in range(self.order.size // _WINDOW):
            yield piece

    def _decrypt(self) -> AsyncIterator[bytes]:
        return decrypt_range(self._key, self._read, len(self._sealed), context=_CONTEXT)

    async def _read(self, start: int, end: int) -> AsyncGenerator[Chunk]:
        for begin in range(start, end, _WINDOW):
            yield self._sealed[begin : min(begin + _WINDOW, end)]


async def _openssl() -> float:
    """Return bytes a second of the machine's own `openssl speed`, one core, blocks of 64 KiB."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*_FLOOR, stdout=pipe, stderr=asyncio.subprocess.DEVNULL)
    said, _errors = await process.communicate()
    lines = [line for line in said.decode().splitlines() if line.startswith("+F:")]
    if process.returncode != 0 or not lines:
        raise RuntimeError("openssl speed could not measure AES-256-GCM")
    return float(lines[0].rpartition(":")[2])


if __name__ == "__main__":
    Sealing.main()
