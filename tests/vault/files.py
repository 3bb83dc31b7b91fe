"""Sealed files for these tests: in memory, sealed and opened as a server does."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from retinue.vault import Chunk, Read, decrypt_range, encrypt_stream

KEY = bytes(range(32))
CONTEXT = b"a file of these tests"
SMALL = 4096
"""Bytes of a segment, where a test wants many of them."""


async def chunks(content: Chunk, size: int = 1000) -> AsyncGenerator[Chunk]:
    """Give a file in chunks of so many bytes."""
    for begin in range(0, len(content), size):
        yield content[begin : begin + size]


async def sealed(
    content: bytes, *, key: bytes = KEY, context: bytes = CONTEXT, segment: int = SMALL, size: int = 1000
) -> bytes:
    """Seal a file."""
    stream = encrypt_stream(key, chunks(content, size), context=context, segment=segment)
    return b"".join([piece async for piece in stream])


def reader(content: bytes, size: int = 777, asked: list[tuple[int, int]] | None = None) -> Read:
    """Read from memory in chunks of so many bytes, and note what was asked for. Past the end there is nothing."""

    def read(start: int, end: int) -> AsyncIterator[Chunk]:
        if asked is not None:
            asked.append((start, end))
        return chunks(memoryview(content)[start:end], size)

    return read


async def opened(
    content: bytes,
    start: int = 0,
    end: int | None = None,
    *,
    key: bytes = KEY,
    context: bytes = CONTEXT,
    segment: int = SMALL,
    size: int | None = None,
    pieces: list[bytes] | None = None,
) -> bytes:
    """Open a part of a sealed file; ``pieces`` gets what is handed on, also when it fails in the middle."""
    found: list[bytes] = [] if pieces is None else pieces
    length = len(content) if size is None else size
    stream = decrypt_range(key, reader(content), length, context=context, start=start, end=end, segment=segment)
    async for piece in stream:
        found.append(piece)
    return b"".join(found)


def segments(content: bytes, segment: int = SMALL) -> Sequence[bytes]:
    """Cut a sealed file into its segments."""
    return [content[begin : begin + segment] for begin in range(0, len(content), segment)]
