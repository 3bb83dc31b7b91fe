"""Sealed files as streams, in constant memory, without holding up the event loop.

Where the processor has instructions for AES, a segment takes about ten microseconds, and the way to a thread and back
costs more than the encryption of a megabyte. So the work is done here, segment by segment, and the loop gets its turn
every millisecond. Where AES is slow, threads do it. The measurements are in docs/decisions/0016.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from functools import lru_cache, partial
from typing import Any, TypeAlias, TypeVar

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from retinue.vault.sealing import KEY_BYTES, SealBroken
from retinue.vault.segments import HEADER, SEGMENT, Chunk, Cipher, Layout

Read: TypeAlias = Callable[[int, int], AsyncIterator[Chunk]]
"""Reads a sealed file from one byte up to, and without, another; both count from 0."""

T = TypeVar("T")

_SMALL = 1_048_576  # a sealed file of so many bytes is read whole: one request instead of three
_TURN = 0.001  # seconds after which the loop gets its turn
_SLOW = 500e6  # bytes a second; a processor that encrypts fewer has no instructions for it


def sealed_size(plain: int, segment: int = SEGMENT) -> int:
    """Return how many bytes a file of ``plain`` bytes has when it is sealed."""
    return Layout(segment).sealed_size(plain)


def plain_size(sealed: int, segment: int = SEGMENT) -> int:
    """Return how many bytes a sealed file of ``sealed`` bytes holds.

    Raises:
        SealBroken: no sealed file has that size.
    """
    return Layout(segment).plain_size(sealed)


async def encrypt_stream(
    key: bytes, source: AsyncIterator[Chunk], *, context: bytes, segment: int = SEGMENT
) -> AsyncGenerator[bytes]:
    """Seal a file piece by piece; what comes out opens only with the same ``key`` and ``context``.

    Holds a few megabytes, whatever the size of the file. ``source`` is closed at the end, also after a failure.

    Args:
        key: 256 bits, made for this file alone (:func:`new_data_key`).
        source: the file, in chunks of any size.
        context: what the file is tied to; it is not stored.
        segment: bytes of a sealed segment; whoever opens the file must know it.
    """
    layout, cipher, turns, index = Layout(segment), Cipher(key, context), _Turns(), 0
    yield cipher.header
    async with aclosing(_units(source, layout.first, layout.further)) as units:
        async for plain, last in units:
            yield await turns.do(partial(cipher.seal, plain, index, last=last))
            index += 1


async def decrypt_range(
    key: bytes,
    read: Read,
    sealed: int,
    *,
    context: bytes,
    start: int = 0,
    end: int | None = None,
    segment: int = SEGMENT,
) -> AsyncGenerator[bytes]:
    """Open a part of a sealed file. Nothing is handed on before it, and the length of the file, is authenticated.

    The last segment is always read and checked first: it alone proves that nothing was cut off or added. Of the
    others only those that hold the range are read. Holds a few megabytes.

    Args:
        key: the file's data key.
        read: reads the sealed file.
        sealed: the size of the sealed file in bytes, as the store has it.
        context: what the file was tied to when it was sealed.
        start: the first byte of the plain file that is wanted.
        end: the first byte that is not wanted any more; None means up to the end of the file.
        segment: bytes of a sealed segment.

    Raises:
        SealBroken: the file was changed, cut, extended or reordered, or this is not its key or context. What was
            handed on before is the true beginning of the range.
        ValueError: the range does not lie within the file.
    """
    layout = Layout(segment)
    total, final = layout.plain_size(sealed), layout.count(sealed) - 1
    end = total if end is None else end
    if not 0 <= start <= end <= total:
        raise ValueError(f"bytes {start} to {end} do not lie within a file of {total} bytes")
    if sealed <= _SMALL:
        read = _from_memory(await _exactly(read, 0, sealed))
    head, tail = await _both(_exactly(read, 0, HEADER), _exactly(read, final * segment, sealed))
    cipher = Cipher(key, context, head)
    last = cipher.open(tail, final, last=True)
    if start == end:
        return
    low, high = layout.index(start), layout.index(end - 1)
    async with aclosing(_opened(cipher, read, layout, low, min(high, final - 1))) as segments:
        async for position, plain in segments:
            yield _between(plain, start - position, end - position)
    if high == final:
        yield _between(last, start - layout.start(final), end - layout.start(final))


async def _opened(cipher: Cipher, read: Read, layout: Layout, low: int, high: int) -> AsyncGenerator[tuple[int, bytes]]:
    """Open the segments from ``low`` to ``high``, not the last of the file; each with its place in the plain file."""
    if low > high:
        return
    begin, until, index, turns = low * layout.segment, (high + 1) * layout.segment, low, _Turns()
    async with aclosing(_units(read(begin, until), layout.segment, layout.segment)) as units:
        async for segment, _last in units:
            if index > high:
                break
            yield layout.start(index), await turns.do(partial(cipher.open, segment, index, last=False))
            index += 1
    if index <= high:
        raise SealBroken(f"the sealed file does not give the bytes {begin} to {until}")


async def _units(source: AsyncIterator[Chunk], first: int, further: int) -> AsyncGenerator[tuple[memoryview, bool]]:
    """Cut a file into units; the last one, marked True, may be shorter, and is empty only when the file is.

    Args:
        source: the file, in chunks of any size; it is closed at the end.
        first: bytes of the first unit.
        further: bytes of every further unit.
    """
    kept, size = bytearray(), first
    async with closing(source):
        async for chunk in source:
            rest = memoryview(chunk)
            while len(kept) + len(rest) > size:
                if kept:
                    missing = size - len(kept)
                    kept += rest[:missing]
                    unit, kept, rest = memoryview(kept), bytearray(), rest[missing:]
                else:
                    unit, rest = rest[:size], rest[size:]
                yield unit, False
                size = further
            kept += rest
    yield memoryview(kept), True


def _between(plain: bytes, start: int, end: int) -> bytes:
    return plain if start <= 0 and end >= len(plain) else plain[max(start, 0) : end]


def _from_memory(sealed: bytes) -> Read:
    async def read(start: int, end: int) -> AsyncGenerator[Chunk]:
        yield memoryview(sealed)[start:end]

    return read


async def _exactly(read: Read, start: int, end: int) -> bytes:
    """Read a small part of a file whole. Raises SealBroken when the file does not have so much."""
    found, source = bytearray(), read(start, end)
    async with closing(source):
        async for chunk in source:
            found += chunk
            if len(found) > end - start:
                break
    if len(found) != end - start:
        raise SealBroken(f"the sealed file does not give the bytes {start} to {end}")
    return bytes(found)


@asynccontextmanager
async def closing(source: AsyncIterator[Chunk]) -> AsyncGenerator[None]:
    """Close an iterator at the end, if it is of those that can be closed."""
    try:
        yield
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()


async def _both(one: Coroutine[Any, Any, T], other: Coroutine[Any, Any, T]) -> tuple[T, T]:
    """Wait for two things at once; when one fails, the other is ended."""
    tasks = (asyncio.ensure_future(one), asyncio.ensure_future(other))
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


class _Turns:
    """Does the work of one stream on its segments, so that the event loop is not held up."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    async def do(self, work: Callable[[], bytes]) -> bytes:
        if _aes_speed() < _SLOW:
            return await asyncio.get_running_loop().run_in_executor(_threads(), work)
        done, now = work(), time.monotonic()
        if now - self._since > _TURN:
            await asyncio.sleep(0)
            self._since = now
        return done


@lru_cache(maxsize=1)
def _aes_speed() -> float:
    """Return how many bytes a second this processor encrypts, measured once, in well under a millisecond if it can."""
    aead, plain = AESGCM(bytes(KEY_BYTES)), bytes(SEGMENT)
    times = []
    for number in range(3):
        began = time.perf_counter()
        aead.encrypt(number.to_bytes(12, "big"), plain, None)
        times.append(time.perf_counter() - began)
    return SEGMENT / min(times)


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    """Return the threads that encrypt; of their own, so that no hanging tool keeps files from being sealed."""
    return ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1), thread_name_prefix="vault")
