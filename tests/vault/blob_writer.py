"""Programs that the tests of blob stores run as processes of their own: on a small disk, under a limit, killed."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import sys
from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path

from retinue.kernel import StorageFull
from retinue.vault import BlobStore, Chunk, decrypt_range, encrypt_stream, new_data_key

MEBIBYTE = 2**20


async def some(size: int) -> AsyncGenerator[Chunk]:
    """Give so many bytes."""
    for _count in range(size // MEBIBYTE):
        yield bytes(MEBIBYTE)


def files(folder: Path) -> list[str]:
    """Return every file below a folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


async def until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds; TimeoutError if it does not come to hold."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the condition is in obstore's threads
            await asyncio.sleep(0.005)


async def full(folder: Path, room: int) -> None:
    """Fill a store that has ``room`` bytes; it must refuse, keep no half, go on reading, and recover by itself."""
    store = BlobStore.in_folder(folder)
    await store.put("a/small", some(MEBIBYTE))
    for size in (room + MEBIBYTE, 4 * room):
        try:
            await store.put("a/large", some(size))
        except StorageFull:
            pass
        else:
            raise AssertionError(f"{size} bytes went where there is room for {room}")
        await until(lambda: files(folder) == ["a/small"])
        assert sum([len(chunk) async for chunk in store.read("a/small", 0, MEBIBYTE)]) == MEBIBYTE
    # obstore's threads let go of the file a moment after it is removed; only then is there room again.
    await until(lambda: shutil.disk_usage(folder).free > room // 2)
    await store.put("a/other", some(room // 2 // MEBIBYTE * MEBIBYTE))
    assert files(folder) == ["a/other", "a/small"]


async def endless(folder: Path) -> None:
    """Write until killed; says so once the first part is on the disk."""

    async def source() -> AsyncGenerator[Chunk]:
        count = 0
        while True:
            yield bytes(MEBIBYTE)
            count += 1
            if count == 12:
                print("writing", flush=True)
                await asyncio.Event().wait()

    await BlobStore.in_folder(folder).put("a/one", source())


async def growth(folder: Path) -> int:
    """Store and read a large sealed file after a small one; return by how many bytes the peak of the memory grew."""
    store, key = BlobStore.in_folder(folder), new_data_key()
    peaks = []
    for size in (16 * MEBIBYTE, 256 * MEBIBYTE):
        info = await store.put(f"a/{size}", encrypt_stream(key, some(size), context=b""))
        read = partial(store.read, info.name, size=info.size)
        opened = sum([len(piece) async for piece in decrypt_range(key, read, info.size, context=b"")])
        assert opened == size
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    return peaks[1] - peaks[0]


def main() -> None:
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "growth":
        print(asyncio.run(growth(folder)))
        return
    if what == "endless":
        asyncio.run(endless(folder))
        return
    room = int(sys.argv[3])
    if what == "limited":
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    asyncio.run(full(folder, room))
    print("refused, and recovered", flush=True)
    # A thread of obstore that still lets go of a refused part can abort the process while the interpreter ends.
    os._exit(0)


if __name__ == "__main__":
    main()
