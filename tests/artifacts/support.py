"""A house in this process with the rooms as they are: real database, real store, no socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from retinue import artifacts
from retinue.artifacts import Artifact, Incoming, Received
from retinue.database import open_scope
from retinue.house import House
from retinue.kernel import Actor, ActorKind, Scope, Services, Settings
from retinue.vault import BlobStore
from tests.support.databases import Cluster


@dataclass
class Place:
    """One tenant with a user in an opened house."""

    services: Services
    folder: Path
    tenant_id: UUID
    user_id: UUID

    def other(self) -> Place:
        """Another user of the same tenant."""
        return Place(self.services, self.folder, self.tenant_id, uuid4())

    def stranger(self) -> Place:
        """Another tenant."""
        return Place(self.services, self.folder, uuid4(), uuid4())

    @asynccontextmanager
    async def scope(self, *, role: str = "member", grant_id: UUID | None = None) -> AsyncIterator[Scope]:
        """A transaction as the user, or as a grantee of the user's."""
        kind = ActorKind.USER if grant_id is None else ActorKind.GRANTEE
        async with open_scope(self.services, self.tenant_id, Actor(kind, self.user_id), user_id=self.user_id) as found:
            found.role = role if grant_id is None else "grantee"
            found.grant_id = grant_id
            yield found

    async def receive(self, content: bytes = b"hello", name: str = "hello.txt", **fields: Any) -> Received:
        incoming = Incoming(owner_id=self.user_id, name=name, **fields)
        return await artifacts.receive(self.services, self.tenant_id, incoming, pieces(content))

    async def store(self, content: bytes = b"hello", name: str = "hello.txt", **fields: Any) -> Artifact:
        received = await self.receive(content, name, **fields)
        async with self.scope() as scope:
            await artifacts.publish(scope, [received])
        async with self.scope(role="admin") as scope:
            return await artifacts.find(scope, received.artifact_id)

    async def content(self, artifact: Artifact, start: int = 0, end: int | None = None) -> bytes:
        return b"".join([piece async for piece in artifacts.open(self.services, self.tenant_id, artifact, start, end)])

    async def used(self, user_id: UUID | None = None) -> int:
        async with self.scope() as scope:
            return await artifacts.storage_used(scope, user_id or self.user_id)

    async def rows(self, table: str) -> int:
        async with self.scope() as scope:
            return int(await scope.queries.fetchval(f"SELECT count(*) FROM {table}"))

    async def blobs(self) -> list[str]:
        store = self.services.get(BlobStore)
        return sorted([one.name async for one in store.list(str(self.tenant_id))])

    async def checked(self) -> None:
        """Check what must hold whenever nothing is under way: every blob is somebody's, every byte counted once."""
        async with self.scope() as scope:
            owned = await scope.queries.fetch(
                "SELECT artifact_id AS blob_id FROM artifacts WHERE deleted_at IS NULL "
                "UNION ALL SELECT blob_id FROM upload_parts UNION ALL SELECT artifact_id FROM incoming_artifacts"
            )
            assert await self.blobs() == sorted(f"{self.tenant_id}/{row['blob_id']}" for row in owned)
            keys = await scope.queries.fetch(
                "SELECT artifact_id FROM artifact_keys WHERE artifact_id NOT IN ("
                "  SELECT artifact_id FROM artifacts WHERE deleted_at IS NULL UNION SELECT upload_id FROM uploads "
                "  UNION SELECT artifact_id FROM incoming_artifacts)"
            )
            assert not keys, "keys of nothing"
            wrong = await scope.queries.fetch(
                "WITH held (user_id, size) AS ("
                "  SELECT owner_id, size FROM artifacts WHERE deleted_at IS NULL"
                "  UNION ALL SELECT owner_id, reserved FROM incoming_artifacts"
                "  UNION ALL SELECT owner_id, length FROM uploads WHERE state IN ('open', 'finishing')) "
                "SELECT s.user_id, s.used, coalesce(sum(h.size), 0) AS counted FROM storage_used s "
                "LEFT JOIN held h ON h.user_id = s.user_id GROUP BY 1, 2 HAVING s.used <> coalesce(sum(h.size), 0)"
            )
            assert not wrong, f"bytes counted wrong: {[tuple(row[0:3]) for row in wrong]}"

    async def settled(self, seconds: float = 15) -> None:
        """Wait until nothing is left to be removed, and check."""
        await until(lambda: self._nothing_loose(), seconds)
        await self.checked()

    async def _nothing_loose(self) -> bool:
        return await self.rows("loose_blobs") == 0


async def pieces(content: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 15) -> None:
    """Wait for something that comes about by itself."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"it did not come about in {seconds} s"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def opened_house(postgres: Cluster, folder: Path, **settings: Any) -> AsyncIterator[House]:
    """A house on a database of its own, with a worker."""
    name = await postgres.clone()
    chosen: Mapping[str, Any] = {
        "data": folder,
        "database_url": postgres.dsn(name),
        "database_owner_url": postgres.dsn(name, "retinue_owner"),
        **settings,
    }
    house = House(Settings(**chosen))
    try:
        await house.open(serve=False, work=True)
        yield house
    finally:
        await house.close()
        await postgres.drop(name)


def place_in(house: House) -> Place:
    return Place(house.services, house.settings.data, uuid4(), uuid4())
