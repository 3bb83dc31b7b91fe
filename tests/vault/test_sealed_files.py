"""Sealed files: Tink reads and writes the same, any range is right, and nothing that was changed is ever handed on."""

from __future__ import annotations

import asyncio
import random
import time
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import pytest
import tink  # type: ignore[import-untyped]
from cryptography.exceptions import InvalidTag
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.vault import (
    HEADER,
    SEGMENT,
    Chunk,
    SealBroken,
    decrypt_range,
    encrypt_stream,
    plain_size,
    sealed_size,
    segments,
    streaming,
)
from tests.vault import stranger, tink_oracle
from tests.vault.files import CONTEXT, KEY, SMALL, chunks, opened, reader, sealed
from tests.vault.files import segments as cut

FIRST = SMALL - HEADER - 16  # plain bytes of the first segment
NEXT = SMALL - 16

BORDERS = sorted(
    {max(0, whole + around) for whole in (0, FIRST, FIRST + NEXT, FIRST + 5 * NEXT) for around in (-1, 0, 1)}
)
SIZES = st.one_of(st.sampled_from(BORDERS), st.integers(0, 6 * SMALL))
POSSIBLE = {sealed_size(plain, SMALL) for plain in range(5 * SMALL)}


def content_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without instructions for AES."""
    monkeypatch.setattr(streaming, "_aes_speed", lambda: 1.0)


# What others read and write


@pytest.mark.parametrize("segment", [SMALL, SEGMENT, 2**20])
@pytest.mark.parametrize("size", [0, 1, 4039, 4040, 4041, 65_480, 65_481, 130_999, 131_000, 131_001, 1_048_521])
async def test_tink_opens_what_was_sealed_here_and_the_other_way_round(segment: int, size: int) -> None:
    content = content_of(size)
    here = await sealed(content, segment=segment)
    there = tink_oracle.seal_file(KEY, content, CONTEXT, segment)
    assert len(here) == len(there) == sealed_size(size, segment)
    assert tink_oracle.open_file(KEY, here, CONTEXT, segment) == content
    assert await opened(there, segment=segment) == content


async def test_tink_refuses_what_was_sealed_for_another_place() -> None:
    """Catches a context that is left out of the key."""
    here = await sealed(b"content", context=b"one place")
    assert tink_oracle.open_file(KEY, here, b"one place", SMALL) == b"content"
    with pytest.raises(tink.TinkError):
        tink_oracle.open_file(KEY, here, b"another place", SMALL)


@given(size=SIZES)
@settings(max_examples=30, deadline=None)
async def test_a_stranger_with_the_decision_record_opens_it(size: int) -> None:
    content = content_of(size)
    here = await sealed(content)
    assert stranger.open_file(KEY, here, CONTEXT, SMALL) == content


async def test_the_stranger_refuses_a_flipped_bit() -> None:
    """Catches a stranger's reader that opens anything, and proves nothing."""
    here = bytearray(await sealed(b"content"))
    here[-1] ^= 1
    with pytest.raises(InvalidTag):
        stranger.open_file(KEY, bytes(here), CONTEXT, SMALL)


# Sizes and ranges


@given(size=SIZES, chunk=st.integers(1, 3 * SMALL), data=st.data())
@settings(max_examples=150, deadline=None)
async def test_any_range_of_any_size_is_right(size: int, chunk: int, data: st.DataObject) -> None:
    content = content_of(size)
    here = await sealed(content, size=chunk)
    assert len(here) == sealed_size(size, SMALL)
    assert plain_size(len(here), SMALL) == size
    start = data.draw(st.integers(0, size))
    end = data.draw(st.integers(start, size))
    assert await opened(here, start, end) == content[start:end]
    assert await opened(here) == content


@pytest.mark.usefixtures("in_threads")
@pytest.mark.parametrize("size", BORDERS)
async def test_threads_do_the_same(size: int) -> None:
    content = content_of(size)
    assert await opened(await sealed(content)) == content
    assert stranger.open_file(KEY, await sealed(content), CONTEXT, SMALL) == content


@given(plain=st.integers(0, 2**40), segment=st.sampled_from([SMALL, SEGMENT, 2**20]))
@settings(deadline=None)
def test_sizes_are_each_others_reverse(plain: int, segment: int) -> None:
    assert plain_size(sealed_size(plain, segment), segment) == plain


@given(size=st.integers(-SMALL, 5 * SMALL))
@settings(max_examples=500, deadline=None)
def test_a_size_that_no_file_has_is_refused(size: int) -> None:
    """A last segment that holds nothing is one more way to write a file: only one way is accepted."""
    if size in POSSIBLE:
        assert sealed_size(plain_size(size, SMALL), SMALL) == size
    else:
        with pytest.raises(SealBroken):
            plain_size(size, SMALL)


@pytest.mark.parametrize("start, end", [(-1, 1), (2, 1), (0, 101), (101, 101)])
async def test_a_range_outside_of_the_file_is_a_mistake_of_the_caller(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="do not lie within"):
        await opened(await sealed(bytes(100)), start, end)


@pytest.mark.parametrize("segment", [0, HEADER + 16, 2**31])
def test_a_segment_has_a_sensible_size(segment: int) -> None:
    with pytest.raises(ValueError, match="segment"):
        sealed_size(1, segment)


async def test_a_range_reads_its_segments_and_both_ends_only() -> None:
    content = content_of(4_000_000)
    here, asked = await sealed(content, segment=SEGMENT, size=2**20), list[tuple[int, int]]()
    stream = decrypt_range(KEY, reader(here, 2**20, asked), len(here), context=CONTEXT, start=2_000_000, end=2_004_096)
    assert b"".join([piece async for piece in stream]) == content[2_000_000:2_004_096]
    last = len(here) // SEGMENT * SEGMENT
    segment = (2_000_000 + HEADER + 16) // (SEGMENT - 16) * SEGMENT
    assert sorted(asked) == sorted([(0, HEADER), (last, len(here)), (segment, segment + SEGMENT)])


# Every change is noticed


async def refused(
    content: bytes, *, size: int | None = None, key: bytes = KEY, context: bytes = CONTEXT
) -> list[bytes]:
    """Open a file that must not open; return what was handed on before it was noticed."""
    pieces: list[bytes] = []
    with pytest.raises(SealBroken):
        await opened(content, size=size, key=key, context=context, pieces=pieces)
    return pieces


@pytest.mark.parametrize("size", [0, 1, 30])
async def test_every_single_flipped_bit_of_a_small_file_is_noticed(size: int) -> None:
    here = await sealed(content_of(size))
    for place in range(len(here) * 8):
        changed = bytearray(here)
        changed[place // 8] ^= 1 << place % 8
        assert await refused(bytes(changed)) == []


@given(place=st.integers(0), bit=st.integers(0, 7), size=st.sampled_from(BORDERS))
@settings(max_examples=100, deadline=None)
async def test_a_flipped_bit_anywhere_is_noticed_and_only_what_came_before_is_handed_on(
    place: int, bit: int, size: int
) -> None:
    content = content_of(size)
    changed = bytearray(await sealed(content))
    changed[place % len(changed)] ^= 1 << bit
    before = b"".join(await refused(bytes(changed)))
    assert content.startswith(before)
    assert len(before) <= max(0, place % len(changed) // SMALL * NEXT - HEADER)


@pytest.mark.parametrize("size", BORDERS)
async def test_a_file_that_was_cut_is_refused_before_anything_is_handed_on(size: int) -> None:
    """One byte less, the tag less, a segment less: also where only a range at the very start is asked for."""
    here = await sealed(content_of(size))
    for left in {*range(max(0, len(here) - 40), len(here)), *range(0, len(here), SMALL), *range(min(60, len(here)))}:
        assert await refused(here[:left]) == []
        with pytest.raises((SealBroken, ValueError)):
            await opened(here[:left], 0, min(1, size))


@given(more=st.binary(min_size=1, max_size=2 * SMALL), size=st.sampled_from(BORDERS))
@settings(max_examples=60, deadline=None)
async def test_a_file_that_was_made_longer_is_refused(more: bytes, size: int) -> None:
    assert await refused(await sealed(content_of(size)) + more) == []


async def test_a_file_whose_size_is_told_wrongly_is_refused() -> None:
    here = await sealed(content_of(FIRST + 3 * NEXT))
    for size in {*range(len(here) - 20, len(here) + 20), SMALL, 2 * SMALL} - {len(here)}:
        assert await refused(here, size=size) == []


async def test_segments_that_were_swapped_repeated_or_left_out_are_refused() -> None:
    parts = cut(await sealed(content_of(FIRST + 4 * NEXT)))
    assert len(parts) == 5
    for changed in (
        [parts[0], parts[2], parts[1], *parts[3:]],
        [parts[0], parts[1], parts[1], *parts[3:]],
        [parts[0], *parts[2:]],
        [*parts[:4], parts[3], parts[4]],
        [*parts[:3], parts[4], parts[3]],
    ):
        await refused(b"".join(changed))


async def test_a_segment_of_another_file_under_the_same_key_is_refused() -> None:
    """The salt gives each file its own key, so equal places of two files are not interchangeable."""
    one, other = cut(await sealed(content_of(3 * SMALL))), cut(await sealed(content_of(3 * SMALL + 1)))
    await refused(b"".join([one[0], other[1], *one[2:]]))


async def test_another_key_or_place_opens_nothing() -> None:
    here = await sealed(b"content")
    assert await refused(here, key=bytes(32)) == []
    assert await refused(here, context=b"elsewhere") == []


async def test_the_same_file_is_never_sealed_to_the_same_bytes() -> None:
    one, other = await sealed(b"content"), await sealed(b"content")
    assert one[1:33] != other[1:33]
    assert one[40:] != other[40:]


# A reader that misbehaves


async def gather(stream: AsyncIterator[bytes], pieces: list[bytes]) -> None:
    async for piece in stream:
        pieces.append(piece)


@pytest.mark.parametrize("lost", [1, SMALL, 3 * SMALL])
async def test_a_store_that_stops_in_the_middle_is_noticed(lost: int) -> None:
    """Also when it stops exactly between two segments, where every segment that came is in order."""
    content = content_of(600 * SMALL)
    here = await sealed(content)

    def read(start: int, end: int) -> AsyncIterator[Chunk]:
        return chunks(here[start : end - lost if end - start > SMALL else end])

    pieces: list[bytes] = []
    with pytest.raises(SealBroken):
        await gather(decrypt_range(KEY, read, len(here), context=CONTEXT, segment=SMALL), pieces)
    assert content.startswith(b"".join(pieces))


async def test_a_store_that_fails_is_not_hidden_and_is_closed() -> None:
    here, closed = await sealed(content_of(600 * SMALL)), list[int]()

    async def read(start: int, end: int) -> AsyncGenerator[Chunk]:
        try:
            yield here[start : min(end, start + 10 * SMALL)]
            if end - start > SMALL:
                raise ConnectionError("gone")
        finally:
            closed.append(start)

    with pytest.raises(ConnectionError):
        await gather(decrypt_range(KEY, read, len(here), context=CONTEXT, segment=SMALL), [])
    assert len(closed) == 3


async def test_whoever_stops_reading_closes_what_is_read_from() -> None:
    closed = asyncio.Event()

    async def source() -> AsyncGenerator[Chunk]:
        try:
            while True:
                yield bytes(SMALL)
        finally:
            closed.set()

    stream = encrypt_stream(KEY, source(), context=CONTEXT, segment=SMALL)
    for _count in range(3):
        await anext(stream)
    await stream.aclose()
    assert closed.is_set()


# Memory and the event loop


async def endless(size: int) -> AsyncGenerator[Chunk]:
    piece = bytes(65_536)
    for _count in range(size // len(piece)):
        yield piece


async def test_memory_does_not_grow_with_the_file() -> None:
    """The same peak for 8 and for 64 MiB: catches a file that is gathered before it is sealed or opened."""
    peaks = []
    for size in (8 * 2**20, 64 * 2**20):
        tracemalloc.start()
        async for _piece in encrypt_stream(KEY, endless(size), context=CONTEXT):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 2 * 2**20, peaks
    here = await sealed(bytes(16 * 2**20), segment=SEGMENT, size=2**20)
    tracemalloc.start()
    async for _piece in decrypt_range(KEY, reader(here, 2**20), len(here), context=CONTEXT):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 2**20


async def turns_during(work: Callable[[], AsyncIterator[Chunk]]) -> int:
    """Count how often something else gets its turn while a stream whose source never waits is worked on."""
    count = 0

    async def look() -> None:
        nonlocal count
        while True:
            count += 1
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    async for _piece in work():
        pass
    looking.cancel()
    return count


async def test_others_get_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches work that holds the event loop for the whole of a file. The clock is replaced: no speed is measured."""
    clock = iter(range(10**9))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock) * 0.0003)
    assert await turns_during(lambda: encrypt_stream(KEY, endless(16 * 2**20), context=CONTEXT)) >= 256 // 4
    here = await sealed(bytes(16 * 2**20), segment=SEGMENT, size=2**20)
    assert await turns_during(lambda: decrypt_range(KEY, reader(here, 2**20), len(here), context=CONTEXT)) >= 256 // 4


# Planted bugs


async def test_planted_a_reader_without_the_last_mark_accepts_a_cut_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the mark in the nonce, a file cut between two segments opens: so it is the mark that the tests watch."""

    def unmarked(self: segments.Cipher, index: int, *, last: bool) -> bytes:
        return self._prefix + index.to_bytes(4, "big") + b"\0"

    monkeypatch.setattr(segments.Cipher, "_nonce", unmarked)
    here = await sealed(content_of(FIRST + 3 * NEXT))
    assert await opened(here[: 2 * SMALL]) == content_of(FIRST + 3 * NEXT)[: FIRST + NEXT]


async def test_planted_without_the_index_swapped_segments_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def unnumbered(self: segments.Cipher, index: int, *, last: bool) -> bytes:
        return self._prefix + bytes(4) + bytes([last])

    monkeypatch.setattr(segments.Cipher, "_nonce", unnumbered)
    parts = cut(await sealed(content_of(FIRST + 4 * NEXT)))
    assert len(await opened(b"".join([parts[0], parts[2], parts[1], *parts[3:]]))) == FIRST + 4 * NEXT
