"""Programs that the tests of blob stores run as processes of their own: on a small disk, under a limit, killed."""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from retinue.kernel import StorageFull
from retinue.vault import BlobStore, Chunk

MEBIBYTE = 2**20


async def some(size: int) -> AsyncGenerator[Chunk]:
    """Give so many bytes."""
    for _count in range(size // MEBIBYTE):
        yield bytes(MEBIBYTE)


def files(folder: Path) -> list[str]:
    """Return every file below a folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


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
        assert files(folder) == ["a/small"], files(folder)
        assert sum([len(chunk) async for chunk in store.read("a/small", 0, MEBIBYTE)]) == MEBIBYTE
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


def main() -> None:
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "endless":
        asyncio.run(endless(folder))
        return
    room = int(sys.argv[3])
    if what == "limited":
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    asyncio.run(full(folder, room))
    print("refused, and recovered")


if __name__ == "__main__":
    main()
