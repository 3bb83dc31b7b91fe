"""What every blob store must do, as tests for whoever adds one.

Subclass :class:`BlobStoreSuite` in a test module and give it a fixture ``store``: an empty
:class:`~retinue.vault.BlobStore`. The tests are coroutines; run them with pytest-asyncio in its automatic mode.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator

import pytest

from retinue.kernel import NotFound
from retinue.vault.blobs import BlobStore
from retinue.vault.sealing import SealBroken
from retinue.vault.segments import Chunk

_MEBIBYTE = 2**20
_PART = 5 * _MEBIBYTE
_SIZES = (0, 1, _MEBIBYTE - 1, _MEBIBYTE, _PART - 1, _PART, _PART + 1, 2 * _PART, 12 * _MEBIBYTE + 7)


class BlobStoreSuite:
    """The tests."""

    async def leftovers(self, store: BlobStore) -> int:
        """Return how many unfinished uploads the store holds that nobody sees; a suite that can look overrides this."""
        return 0

    @pytest.mark.parametrize("size", _SIZES)
    @pytest.mark.parametrize("chunk", [100_003, 3 * _MEBIBYTE])
    async def test_what_was_put_comes_back(self, store: BlobStore, size: int, chunk: int) -> None:
        content = _content(size)
        info = await store.put("tenant/one", _chunks(content, chunk))
        assert (info.name, info.size) == ("tenant/one", size)
        assert await store.size("tenant/one") == size
        assert await _read(store, "tenant/one", 0, size, size=size) == content

    async def test_any_range_comes_back(self, store: BlobStore) -> None:
        content = _content(3 * _MEBIBYTE + 5)
        await store.put("tenant/one", _chunks(content))
        places = [0, 1, 4096, _MEBIBYTE - 1, _MEBIBYTE, _MEBIBYTE + 1, 2 * _MEBIBYTE, len(content) - 1, len(content)]
        for start in places:
            for end in (place for place in places if place >= start):
                assert await _read(store, "tenant/one", start, end) == content[start:end]

    async def test_blobs_are_kept_apart_and_found_by_prefix(self, store: BlobStore) -> None:
        names = ["a/one", "a/two", "ab/one", "b"]
        for name in names:
            await store.put(name, _chunks(name.encode()))
        assert sorted([blob.name async for blob in store.list()]) == names
        assert {(blob.name, blob.size) async for blob in store.list("a")} == {("a/one", 5), ("a/two", 5)}
        assert [blob async for blob in store.list("nothing")] == []
        for name in names:
            assert await _read(store, name, 0, len(name)) == name.encode()

    async def test_a_deleted_blob_is_gone_and_may_be_deleted_again(self, store: BlobStore) -> None:
        await store.put("a/one", _chunks(b"x"))
        await store.put("a/two", _chunks(b"y"))
        for _again in range(2):
            await store.delete("a/one")
            assert not await store.exists("a/one")
        assert [blob.name async for blob in store.list()] == ["a/two"]
        with pytest.raises(NotFound):
            await _read(store, "a/one", 0, 1)

    async def test_what_was_never_there_is_not_found(self, store: BlobStore) -> None:
        assert await store.size("a/one") is None
        with pytest.raises(NotFound):
            await _read(store, "a/one", 0, 1, size=1)

    async def test_a_blob_of_another_size_is_noticed_before_anything_is_read(self, store: BlobStore) -> None:
        await store.put("a/one", _chunks(bytes(1000)))
        for size in (999, 1001, 3000):
            with pytest.raises(SealBroken):
                await _read(store, "a/one", 0, 10, size=size)
        for start, end in ((0, 1001), (1000, 1001), (5000, 5001)):
            with pytest.raises(SealBroken):
                await _read(store, "a/one", start, end)

    @pytest.mark.parametrize("after", [0, 1, _PART, 12 * _MEBIBYTE])
    async def test_a_source_that_fails_leaves_nothing(self, store: BlobStore, after: int) -> None:
        source = _Source(bytes(after), fails=True)
        with pytest.raises(_Broken):
            await store.put("a/one", source.chunks())
        assert source.closed
        await self._nothing(store)

    @pytest.mark.parametrize("after", [0, 1, _PART, 12 * _MEBIBYTE])
    async def test_a_cancelled_upload_leaves_nothing_and_nothing_is_seen_before_it_is_whole(
        self, store: BlobStore, after: int
    ) -> None:
        source = _Source(bytes(after))
        putting = asyncio.create_task(store.put("a/one", source.chunks()))
        await source.given.wait()
        assert not await store.exists("a/one")
        assert [blob async for blob in store.list()] == []
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        assert source.closed
        await self._nothing(store)

    async def test_an_upload_cancelled_at_any_moment_is_there_whole_or_not_at_all(self, store: BlobStore) -> None:
        content = bytes(6 * _MEBIBYTE)
        for turns in range(0, 60, 3):
            name = f"a/{turns}"
            putting = asyncio.create_task(store.put(name, _chunks(content, _MEBIBYTE)))
            for _turn in range(turns):
                await asyncio.sleep(0.0005)
            putting.cancel()
            done, _pending = await asyncio.wait({putting}, timeout=60)
            assert done, "the upload goes on after it was cancelled"
            assert await store.size(name) == (None if putting.cancelled() else len(content))
            await store.delete(name)
        await self._nothing(store)

    async def test_many_at_once(self, store: BlobStore) -> None:
        contents = {f"a/{number}": _content(number * 70_001) for number in range(20)}
        await asyncio.gather(*(store.put(name, _chunks(content)) for name, content in contents.items()))
        found = await asyncio.gather(*(_read(store, name, 0, len(content)) for name, content in contents.items()))
        assert found == list(contents.values())

    async def test_whoever_stops_reading_leaves_nothing_running(self, store: BlobStore) -> None:
        await store.put("a/one", _chunks(bytes(6 * _MEBIBYTE), _MEBIBYTE))
        before = asyncio.all_tasks()
        stream = store.read("a/one", 0, 6 * _MEBIBYTE)
        await anext(stream)
        await stream.aclose()
        assert asyncio.all_tasks() <= before

    @pytest.mark.parametrize(
        "name", ["", "/", "a/", "/a", "a//b", "..", "a/../b", "A", "a b", "a\0b", "a.b", "a#1", "é", "a/" * 20 + "a"]
    )
    async def test_a_name_that_no_server_makes_is_refused(self, store: BlobStore, name: str) -> None:
        source = _Source(b"x")
        with pytest.raises(ValueError):
            await store.put(name, source.chunks())
        for call in (store.size(name), store.delete(name), _read(store, name, 0, 1)):
            with pytest.raises(ValueError):
                await call

    async def test_a_sweep_leaves_whole_blobs_alone(self, store: BlobStore) -> None:
        await store.put("a/one", _chunks(b"x"))
        await store.sweep(0)
        assert await _read(store, "a/one", 0, 1) == b"x"

    async def _nothing(self, store: BlobStore) -> None:
        assert [blob async for blob in store.list()] == []
        assert await self.leftovers(store) == 0


class _Broken(Exception):
    """The source failed."""


class _Source:
    """Gives some content, tells that it has, and then hangs or fails."""

    def __init__(self, content: bytes, *, fails: bool = False) -> None:
        self.given = asyncio.Event()
        self.closed = False
        self._content = content
        self._fails = fails

    async def chunks(self) -> AsyncGenerator[Chunk]:
        try:
            async for chunk in _chunks(self._content):
                yield chunk
            self.given.set()
            if self._fails:
                raise _Broken
            await asyncio.Event().wait()
        finally:
            self.closed = True


def _content(size: int) -> bytes:
    return hashlib.shake_128(str(size).encode()).digest(size)


async def _chunks(content: bytes, size: int = 100_003) -> AsyncGenerator[Chunk]:
    for begin in range(0, len(content), size):
        yield content[begin : begin + size]


async def _read(store: BlobStore, name: str, start: int, end: int, *, size: int | None = None) -> bytes:
    return b"".join([bytes(chunk) async for chunk in store.read(name, start, end, size=size)])
