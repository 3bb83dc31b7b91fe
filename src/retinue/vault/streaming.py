"""Sealed files as streams, in constant memory, with the encryption in threads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, TypeAlias, TypeVar

from retinue.vault.sealing import SealBroken
from retinue.vault.segments import HEADER, SEGMENT, Chunk, Cipher, Layout

Read: TypeAlias = Callable[[int, int], AsyncIterator[Chunk]]
"""Reads a sealed file from one byte up to, and without, another; both count from 0."""

T = TypeVar("T")

_RUN = 1_048_576  # bytes that one visit of a thread works on: about a tenth of a millisecond, and never a few
_INLINE = 131_072  # less than this costs less than the way to a thread and back


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
) -> AsyncGenerator[Chunk]:
    """Seal a file piece by piece; what comes out opens only with the same ``key`` and ``context``.

    Holds a few megabytes, whatever the size of the file. ``source`` is closed at the end, also after a failure.

    Args:
        key: 256 bits, made for this file alone (:func:`new_data_key`).
        source: the file, in chunks of any size.
        context: what the file is tied to; it is not stored.
        segment: bytes of a sealed segment; whoever opens the file must know it.
    """
    layout, cipher = Layout(segment), Cipher(key, context)
    yield cipher.header
    size, index = layout.first, 0
    async with aclosing(_runs(source, layout.first, layout.further, spare=1)) as runs:
        async for run, final in runs:
            sizes = _sizes(len(run), size, layout.further)
            yield await _in_thread(len(run), partial(cipher.seal, run, sizes, index, final=final))
            size, index = layout.further, index + len(sizes)


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
    if sealed <= _RUN:
        read = _from_memory(await _exactly(read, 0, sealed))  # one request instead of several
    head, tail = await _both(_exactly(read, 0, HEADER), _exactly(read, final * segment, sealed))
    cipher = Cipher(key, context, head)
    last = cipher.open(tail if final else tail[HEADER:], final, last=True)
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
    begin, until = low * layout.segment or HEADER, (high + 1) * layout.segment
    size, index, missing = layout.segment - (0 if low else HEADER), low, until - begin
    async with aclosing(_runs(read(begin, until), size, layout.segment, spare=0)) as runs:
        async for run, _final in runs:
            missing -= len(run)
            if missing < 0 or not run:
                break
            sizes = _sizes(len(run), size, layout.segment)
            for plain in await _in_thread(len(run), partial(cipher.open_run, run, sizes, index)):
                yield layout.start(index), plain
                index += 1
            size = layout.segment
    if missing:
        raise SealBroken(f"the sealed file does not give the bytes {begin} to {until}")


async def _runs(
    source: AsyncIterator[Chunk], first: int, further: int, *, spare: int
) -> AsyncGenerator[tuple[memoryview, bool]]:
    """Gather chunks of any size into runs of whole units; what is left at the end is the run marked True.

    Args:
        source: the chunks; it is closed at the end.
        first: bytes of the first unit.
        further: bytes of every further unit.
        spare: with 1, the run at the end is empty only when everything is; it may hold whole units too.
    """
    kept, enough = bytearray(), max(_RUN, further)
    async with _closing(source):
        async for chunk in source:
            if len(kept) + len(chunk) < enough + spare:
                kept += chunk
                continue
            kept += chunk if kept else b""
            whole, begin = memoryview(kept or chunk), 0
            while length := _whole_units(min(len(whole) - spare - begin, enough), first, further):
                yield whole[begin : begin + length], False
                begin, first = begin + length, further
            kept = bytearray(whole[begin:])
    yield memoryview(kept), True


def _whole_units(available: int, first: int, further: int) -> int:
    return 0 if available < first else available - (available - first) % further


def _sizes(length: int, first: int, further: int) -> list[int]:
    """Return the sizes of the units in a run; the last one may be smaller."""
    begins = [0, *range(first, length, further)]
    return [end - begin for begin, end in pairwise([*begins, length])]


def _between(plain: bytes, start: int, end: int) -> bytes:
    return plain if start <= 0 and end >= len(plain) else plain[max(start, 0) : end]


def _from_memory(sealed: bytes) -> Read:
    async def read(start: int, end: int) -> AsyncGenerator[Chunk]:
        yield memoryview(sealed)[start:end]

    return read


async def _exactly(read: Read, start: int, end: int) -> bytes:
    """Read a small part of a file whole. Raises SealBroken when the file does not have so much."""
    found, source = bytearray(), read(start, end)
    async with _closing(source):
        async for chunk in source:
            found += chunk
    if len(found) != end - start:
        raise SealBroken(f"the sealed file does not give the bytes {start} to {end}")
    return bytes(found)


@asynccontextmanager
async def _closing(source: AsyncIterator[Chunk]) -> AsyncGenerator[None]:
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


async def _in_thread(size: int, work: Callable[[], T]) -> T:
    """Do work on ``size`` bytes in a thread; a little is done here, where it takes less than the way there."""
    if size <= _INLINE:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_threads(), work)


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    """Return the threads that encrypt; of their own, so that no hanging tool keeps files from being sealed."""
    return ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1), thread_name_prefix="vault")
