"""A scanner in front: what it finds does not come in, and without it nothing does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from retinue.artifacts import Infected, uploads
from retinue.artifacts.pieces import Writing, create
from retinue.artifacts.scanning import UNKNOWN, media_type_of
from retinue.house import House
from retinue.kernel import Settings, Unavailable
from retinue.ledger import read_stream
from tests.artifacts.support import Place, pieces, until

EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


class Clamd:
    """Speaks INSTREAM as clamd does; ``mood`` makes it fail."""

    def __init__(self) -> None:
        self.mood = ""
        self.seen = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(10) == b"zINSTREAM\0"
        content = bytearray()
        while size := int.from_bytes(await reader.readexactly(4), "big"):
            content += await reader.readexactly(size)
            self.seen += size
            if self.mood == "hangs up":
                return
            if self.mood == "too large":
                writer.write(b"INSTREAM size limit exceeded. ERROR\0")
                await writer.drain()
                return
        if self.mood == "silent":
            await asyncio.sleep(30)
        if self.mood == "nonsense":
            writer.write(b"stream: what?\0")
        elif EICAR in content:
            writer.write(b"stream: Eicar-Test-Signature FOUND\0")
        else:
            writer.write(b"stream: OK\0")
        await writer.drain()


@pytest.fixture(params=["unix", "tcp"])
async def clamd(
    request: pytest.FixtureRequest, house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Clamd]:
    found = Clamd()
    if request.param == "unix":
        path = tmp_path / "clamd.sock"
        server = await asyncio.start_unix_server(found, path)
        address = f"unix:{path}"
    else:
        server = await asyncio.start_server(found, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    settings = house.services.get(Settings)
    monkeypatch.setattr(settings, "clamd", address)
    monkeypatch.setattr(settings, "clamd_seconds", 2)
    yield found
    server.close()


async def test_what_is_clean_comes_in(place: Place, clamd: Clamd) -> None:
    stored = await place.store(bytes(700_000))
    assert clamd.seen == stored.size == 700_000


async def test_what_is_infected_does_not(place: Place, clamd: Clamd) -> None:
    with pytest.raises(Infected, match="Eicar-Test-Signature"):
        await place.store(bytes(300_000) + EICAR + bytes(300_000))
    await place.settled()
    assert (await place.used(), await place.blobs()) == (0, [])
    async with place.scope() as scope:
        row = await scope.queries.fetchrow("SELECT stream FROM events WHERE type = 'artifact.refused'")
        assert row is not None
        (fact,) = await read_stream(scope, row["stream"])
    assert fact.event.finding == "Eicar-Test-Signature"  # type: ignore[attr-defined]


@pytest.mark.parametrize("mood", ["hangs up", "too large", "silent", "nonsense"])
async def test_in_doubt_nothing_comes_in(place: Place, clamd: Clamd, mood: str) -> None:
    """It fails closed: an answer that is not "OK" is none."""
    clamd.mood = mood
    with pytest.raises(Unavailable):
        await place.store(bytes(3_000_000))
    await place.settled()
    assert await place.used() == 0


async def test_without_the_scanner_nothing_comes_in(
    place: Place, house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house.services.get(Settings), "clamd", str(tmp_path / "nobody"))
    with pytest.raises(Unavailable, match="scanner"):
        await place.store()
    await place.settled()


async def test_an_infected_upload_is_refused_when_it_is_whole(place: Place, clamd: Clamd) -> None:
    async with place.scope() as scope:
        upload = await create(scope, "up", len(EICAR))

    @asynccontextmanager
    async def caller():  # type: ignore[no-untyped-def]
        async with place.scope() as scope:
            yield scope

    async def check() -> None:
        return None

    writing = Writing(place.services, place.tenant_id, caller, upload.upload_id, whole=False)
    await writing.write(0, pieces(EICAR), check)

    async def refused() -> bool:
        async with place.scope() as scope:
            found = await uploads.find(scope, upload.upload_id)
        return found.state == "refused" and "Eicar" in (found.problem or "")

    await until(refused)
    await place.settled()
    assert (await place.used(), await place.blobs()) == (0, [])


TYPES = [
    (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "application/pdf"),
    (b"\x89PNG\r\n\x1a\n" + bytes(100), "image/png"),
    ("Gr\u00fc\u00dfe\n".encode(), "text/plain"),
    (("x" * 8191 + "\u00e9").encode()[:8192], "text/plain"),
    (b"", UNKNOWN),
    (b"\x00\x01\x02\x03", UNKNOWN),
]


@pytest.mark.parametrize("content, expected", TYPES, ids=range(len(TYPES)))
def test_types_by_content(content: bytes, expected: str) -> None:
    assert media_type_of(content) == expected
