"""The blob stores that come with Retinue pass the suite for blob stores; and proof that it catches careless ones."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import obstore
import pytest
from obstore.store import MemoryStore

from retinue.vault import BlobInfo, BlobStore, Chunk, open_blobs
from retinue.vault.conformance import BlobStoreSuite
from tests.support.s3_server import bucket_settings, make_bucket, s3_server


class TestFolder(BlobStoreSuite):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> BlobStore:
        self.folder = tmp_path / "blobs"
        return BlobStore.in_folder(self.folder)

    async def leftovers(self, store: BlobStore) -> int:
        return sum(path.is_file() for path in self.folder.rglob("*"))


class TestMemory(BlobStoreSuite):
    @pytest.fixture
    async def store(self) -> BlobStore:
        return BlobStore(MemoryStore())


class TestS3(BlobStoreSuite):
    @pytest.fixture(scope="class")
    def url(self) -> Iterator[str]:
        with s3_server() as found:
            yield found

    @pytest.fixture
    async def store(self, url: str, tmp_path: Path) -> BlobStore:
        self.bucket = f"{url}/test-{uuid4()}"
        make_bucket(url, self.bucket.rpartition("/")[2])
        return open_blobs(bucket_settings(url, self.bucket.rpartition("/")[2], tmp_path))

    async def leftovers(self, store: BlobStore) -> int:
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(f"{self.bucket}?uploads")).text.count("<UploadId>")

    async def test_what_a_killed_process_left_is_swept(self, store: BlobStore) -> None:
        await store.put("a/one", _one())
        async with httpx.AsyncClient(trust_env=False) as client:
            for key in ("blobs/a/two", "blobs/a/three", "elsewhere/a"):
                (await client.post(f"{self.bucket}/{key}?uploads")).raise_for_status()
        assert await self.leftovers(store) == 3
        assert await store.sweep(60) == 2
        assert await self.leftovers(store) == 1
        assert [blob.name async for blob in store.list()] == ["a/one"]


async def _one() -> AsyncGenerator[Chunk]:
    yield b"x"


# Careless stores


class Visible(BlobStore):
    """Writes piece by piece under the final name."""

    async def put(self, name: str, chunks: AsyncIterator[Chunk]) -> BlobInfo:
        content = b""
        async for chunk in chunks:
            content += chunk
            await obstore.put_async(self._store, name, content)
        return BlobInfo(name, len(content))


class Blind(BlobStore):
    """Does not look at the size."""

    def read(self, name: str, start: int, end: int, *, size: int | None = None) -> AsyncGenerator[Chunk]:
        return super().read(name, start, end)


class Stubborn(BlobStore):
    """Ends what it has begun, whatever happens."""

    async def put(self, name: str, chunks: AsyncIterator[Chunk]) -> BlobInfo:
        writer = obstore.open_writer_async(self._store, name, buffer_size=5 * 2**20)
        written = 0
        try:
            async for chunk in chunks:
                await writer.write(chunk)
                written += len(chunk)
        finally:
            await writer.close()
        return BlobInfo(name, written)


async def test_a_store_that_shows_halves_does_not_pass() -> None:
    with pytest.raises(AssertionError):
        await BlobStoreSuite().test_a_cancelled_upload_leaves_nothing_and_nothing_is_seen_before_it_is_whole(
            Visible(MemoryStore()), 12 * 2**20
        )


async def test_a_store_that_does_not_look_at_the_size_does_not_pass() -> None:
    with pytest.raises(pytest.fail.Exception):
        await BlobStoreSuite().test_a_blob_of_another_size_is_noticed_before_anything_is_read(Blind(MemoryStore()))


async def test_a_store_that_keeps_what_failed_does_not_pass() -> None:
    with pytest.raises(AssertionError):
        await BlobStoreSuite().test_a_source_that_fails_leaves_nothing(Stubborn(MemoryStore()), 12 * 2**20)
