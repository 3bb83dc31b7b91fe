"""Blob stores: where sealed files lie. A folder, or a bucket of an S3-compatible service; on obstore.

Names are made by the server, never taken from users. A name is written once; what it holds never changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore

from retinue.kernel import Fault, NotFound, StorageFull, Unavailable, to_its_end
from retinue.vault.sealing import SealBroken
from retinue.vault.segments import Chunk
from retinue.vault.streaming import closing

log = logging.getLogger(__name__)

Sweep: TypeAlias = Callable[[datetime], Awaitable[int]]

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,99}(/[a-z0-9][a-z0-9-]{0,99}){0,7}")
_PART = 5 * 1_048_576  # bytes of a part of an upload; S3 takes no smaller ones, and at most 10,000 of them: 48 GiB
_PARTS_AT_ONCE = 2
_WRITE = 524_288  # bytes handed to obstore at once: its threads are some way off
_WINDOW = 1_048_576  # bytes asked for at once when reading
_GRACE = 10.0  # seconds a cancelled step of an upload gets to end, so that it can be undone
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_WORDS = ("507 Insufficient Storage", "InsufficientStorage", "XMinioStorageFull", "QuotaExceeded")
_STAGED = re.compile(r".+#\d+")  # what obstore calls a file that is still being written


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """A stored blob: its name, and its size in bytes."""

    name: str
    size: int


class BlobStore:
    """Keeps blobs; a service of the house.

    Every method raises ``Unavailable`` when the store does not answer or refuses, and ``ValueError`` for a name that
    no server makes.
    """

    def __init__(self, store: ObjectStore, *, folder: Path | None = None, sweep: Sweep | None = None) -> None:
        """Keep blobs in a store.

        Args:
            store: obstore's store.
            folder: where that is, when it is a folder of this machine.
            sweep: removes what uploads left that were begun before a time and never ended; returns how many.
        """
        self._store = store
        self._folder = folder
        self._sweep = sweep

    @classmethod
    def in_folder(cls, folder: Path) -> BlobStore:
        """Keep blobs in a folder of this machine, which is made if it is not there."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

        async def sweep(before: datetime) -> int:
            return await asyncio.to_thread(_sweep_folder, folder, before.timestamp())

        return cls(LocalStore(folder), folder=folder, sweep=sweep)

    async def put(self, name: str, chunks: AsyncIterator[Chunk]) -> BlobInfo:
        """Store a blob. It is there whole when this returns, and not at all when this raises or is cancelled.

        Holds about 15 megabytes. ``chunks`` is closed at the end, also after a failure; what it raises is passed on.

        Args:
            name: a name that was never used before.
            chunks: the content, in pieces of any size.

        Raises:
            StorageFull: there is no room.
            Unavailable: also when the store kept another size than it was given.
        """
        upload = _Upload(self._store, _checked(name))
        async with closing(chunks):
            try:
                async for chunk in chunks:
                    await upload.write(chunk)
                await upload.finish()
                await self._make_sure(name, upload.written)
            except BaseException:
                await to_its_end(upload.undo(), patience=_GRACE)
                raise
        return BlobInfo(name, upload.written)

    async def _make_sure(self, name: str, written: int) -> None:
        found = await self.size(name)
        if found != written:
            log.error("the blob store kept %s bytes of %d; blob %s", found, written, name)
            raise Unavailable("The file store did not keep the whole file. Try again.")
        if self._folder is not None:
            await to_its_end(asyncio.to_thread(_flush, self._folder, name), patience=_GRACE)

    async def read(self, name: str, start: int, end: int, *, size: int | None = None) -> AsyncGenerator[Chunk]:
        """Read a blob from one byte up to, and without, another.

        Args:
            name: the blob.
            start: the first byte, counted from 0.
            end: the first byte that is not wanted any more.
            size: the size the blob has if it is whole; given, it is checked before anything is handed on.

        Raises:
            NotFound: there is no such blob.
            SealBroken: the blob has another size, or ends too early.
        """
        asked = (
            asyncio.ensure_future(self._window(name, begin, min(begin + _WINDOW, end), size))
            for begin in range(start, end, _WINDOW)
        )
        ahead = next(asked, None)
        try:
            while ahead is not None:
                chunk = await ahead
                ahead = next(asked, None)  # the next window is on its way while this one is worked on
                yield chunk
        finally:
            if ahead is not None:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)

    async def _window(self, name: str, start: int, end: int, size: int | None) -> Chunk:
        actual: int | None
        try:
            found = await obstore.get_async(self._store, _checked(name), options={"range": (start, end)})
            actual = found.meta["size"]
            content = memoryview(await found.bytes_async())
        except (OSError, BaseError) as error:
            actual = await self.size(name)
            if actual is None:
                raise NotFound("stored file") from None
            if actual > start and size in (None, actual):
                raise _fault(error, f"read {name}") from error
            content = memoryview(b"")
        if size not in (None, actual) or len(content) != end - start:
            raise SealBroken(f"the stored file has {actual} bytes, which is not what was stored")
        return content

    async def size(self, name: str) -> int | None:
        """Return the size of a blob in bytes, or None when there is none of that name."""
        try:
            meta = await obstore.head_async(self._store, _checked(name))
        except FileNotFoundError:
            return None
        except (OSError, BaseError) as error:
            raise _fault(error, f"look at {name}") from error
        return meta["size"]

    async def exists(self, name: str) -> bool:
        """Tell whether there is a blob of that name."""
        return await self.size(name) is not None

    async def delete(self, name: str) -> None:
        """Delete a blob; that there is none is fine."""
        with contextlib.suppress(FileNotFoundError):
            try:
                await obstore.delete_async(self._store, _checked(name))
            except FileNotFoundError:
                raise
            except (OSError, BaseError) as error:
                raise _fault(error, f"delete {name}") from error

    async def list(self, prefix: str | None = None) -> AsyncGenerator[BlobInfo]:
        """Go through the blobs whose names begin with ``prefix`` and a slash; in no particular order."""
        try:
            async for page in obstore.list(self._store, _checked(prefix) if prefix else None):
                for meta in page:
                    yield BlobInfo(meta["path"], meta["size"])
        except (OSError, BaseError) as error:
            raise _fault(error, "list the stored files") from error

    async def sweep(self, older_than: float) -> int:
        """Remove what uploads left behind that were begun more than ``older_than`` seconds ago and never ended.

        Returns how many there were. Whole blobs are not touched. A bucket that the machine's role opens, and not a
        key from the settings, is not swept: it wants a lifecycle rule.
        """
        return 0 if self._sweep is None else await self._sweep(datetime.now(UTC) - timedelta(seconds=older_than))


class _Upload:
    """One blob that is being written."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        self._store = store
        self._name = name
        self._writer = obstore.open_writer_async(store, name, buffer_size=_PART, max_concurrency=_PARTS_AT_ONCE)
        self._finishing = False
        self._kept: list[Chunk] = []
        self._keeps = 0
        self.written = 0

    async def write(self, chunk: Chunk) -> None:
        self._kept.append(chunk)
        self._keeps += len(chunk)
        if self._keeps >= _WRITE:
            await self._hand_on()

    async def finish(self) -> None:
        await self._hand_on()
        self._finishing = True
        await self._step(self._writer.close())

    async def _hand_on(self) -> None:
        content, size = b"".join(self._kept) if len(self._kept) != 1 else self._kept[0], self._keeps
        self._kept, self._keeps = [], 0
        await self._step(self._writer.write(content))
        self.written += size

    async def _step(self, step: Awaitable[Any]) -> None:
        try:
            await to_its_end(step, patience=_GRACE)
        except (OSError, BaseError) as error:
            raise _fault(error, f"store {self._name}") from error

    async def undo(self) -> None:
        """Leave nothing behind. What cannot be removed now is for the sweep."""
        try:
            if self._finishing:
                await obstore.delete_async(self._store, self._name)
            else:
                await self._writer.__aexit__(Exception, Exception(), None)
        except FileNotFoundError:
            pass
        except (OSError, BaseError) as error:
            log.warning("an upload that failed could not be undone: %s", _short(error))


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a blob")
    return name


def _fault(error: Exception, doing: str) -> Fault:
    """Return what a caller is told. The store's own words are for the log: they may name hosts and folders."""
    text = str(error)
    number = _OS_ERROR.search(text)
    full = number is not None and int(number[1]) in _FULL
    log.error("the blob store could not %s: %s", doing, _short(error))
    if full or any(word in text for word in _FULL_WORDS):
        return StorageFull("The file store is full. Delete files, or ask whoever runs the server for more room.")
    return Unavailable("The file store does not answer as it should. Try again later.", retry_after=5)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:500]}"


def _flush(folder: Path, name: str) -> None:
    """Have a file, and the folders that lead to it, written to the disk: what was acknowledged outlives a power cut."""
    place = folder / name
    for path in (place, *list(place.parents)[: name.count("/") + 1]):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sweep_folder(folder: Path, before: float) -> int:
    count = 0
    for where, _folders, files in os.walk(folder):
        for file in files:
            path = Path(where) / file
            with contextlib.suppress(FileNotFoundError):
                if _STAGED.fullmatch(file) and path.stat().st_mtime < before:
                    path.unlink()
                    count += 1
    return count
