"""How much, for how long, and what storage costs."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from retinue import artifacts
from retinue.artifacts import Limits, Stored, finishing, hooks, lifetime, quota, uploads, work
from retinue.artifacts.pieces import Writing, create
from retinue.house import House
from retinue.kernel import Clock, Gone, NotFound, PayloadTooLarge, Scope, Settings, StorageFull, Unavailable
from retinue.vault import BlobStore, new_recipient, open_sealed
from tests.artifacts.support import Place, pieces, until

FULL = 100_000


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user may store 100,000 bytes."""

    async def limits(scope: Scope, user_id: UUID) -> Limits:
        return Limits(user_bytes=FULL, artifact_bytes=60_000, retention_seconds=3600)

    monkeypatch.setattr(hooks, "limits", limits)


async def twenty_at_once(place: Place, **fields: Any) -> list[Any]:
    """Twenty files of 10,000 bytes, of which ten fit."""

    async def one(n: int) -> Any:
        stored = await place.store(bytes(10_000), f"file {n}", **fields)
        return stored.artifact_id

    return await asyncio.gather(*(one(n) for n in range(20)), return_exceptions=True)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("announced", [True, False])
async def test_a_quota_is_exact_under_twenty_uploads_at_once(place: Place, announced: bool) -> None:
    """Announced sizes are reserved whole, others as they grow: neither goes over, and all of it can be used."""
    found = await twenty_at_once(place, **({"size_hint": 10_000} if announced else {}))
    stored = [one for one in found if isinstance(one, UUID)]
    refused = [one for one in found if isinstance(one, StorageFull)]
    assert len(stored) + len(refused) == 20, found
    assert len(stored) == 10
    await place.settled()
    assert await place.used() == FULL
    async with place.scope() as scope:
        await artifacts.delete(scope, stored[0])
    assert await place.used() == FULL - 10_000
    await place.store(bytes(10_000), "fits again")


@pytest.mark.usefixtures("small")
async def test_a_quota_that_is_looked_at_before_it_is_taken_is_noticed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: look, then add. Twenty who look at the same moment all find room."""

    async def look_then_add(scope: Scope, user_id: UUID, size: int, limits: Limits) -> None:
        if await quota.storage_used(scope, user_id) + size > limits.user_bytes:
            raise StorageFull("full")
        await asyncio.sleep(0.05)
        await scope.queries.execute(
            "INSERT INTO storage_used AS s (tenant_id, user_id, used) VALUES ($1, $2, $3) "
            "ON CONFLICT (tenant_id, user_id) DO UPDATE SET used = s.used + $3",
            scope.tenant_id,
            user_id,
            size,
        )

    monkeypatch.setattr("retinue.artifacts.receiving.reserve", look_then_add)
    found = await twenty_at_once(place, size_hint=10_000)
    assert len([one for one in found if isinstance(one, UUID)]) > 10


@pytest.mark.usefixtures("small")
async def test_nothing_is_written_that_has_no_room(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await place.store(bytes(50_000))
    written: list[str] = []
    put = BlobStore.put

    async def watched(store: BlobStore, name: str, chunks: Any) -> Any:
        written.append(name)
        return await put(store, name, chunks)

    monkeypatch.setattr(BlobStore, "put", watched)
    with pytest.raises(StorageFull) as caught:
        await place.receive(bytes(60_000), size_hint=60_000)
    assert caught.value.extra == {"used": 50_000, "limit": FULL}
    assert not written
    with pytest.raises(PayloadTooLarge):
        await place.receive(bytes(60_001), size_hint=60_001)
    with pytest.raises(PayloadTooLarge):
        await place.receive(bytes(60_001))
    with pytest.raises(PayloadTooLarge):
        await place.receive(bytes(101), max_bytes=100)
    await place.settled()
    assert await place.used() == 50_000


@pytest.mark.usefixtures("small")
async def test_a_file_that_is_larger_than_announced(place: Place) -> None:
    stored = await place.store(bytes(40_000), size_hint=10)
    assert (stored.size, await place.used()) == (40_000, 40_000)
    small = await place.store(bytes(10), size_hint=40_000)
    assert (small.size, await place.used()) == (10, 40_010)


# Time


async def test_an_artifact_ends_by_itself(place: Place) -> None:
    soon = await place.store(name="soon", retention_seconds=1)
    later = await place.store(name="later", retention_seconds=3600)

    async def gone() -> bool:
        return len(await place.blobs()) == 1

    await until(gone)
    await place.settled()
    async with place.scope() as scope:
        with pytest.raises(Gone, match="expired"):
            await artifacts.find(scope, soon.artifact_id)
        assert [one.artifact_id for one in await artifacts.list_artifacts(scope)] == [later.artifact_id]


async def test_the_end_of_a_grant_is_the_end_of_its_artifacts(place: Place) -> None:
    async with place.scope() as scope:
        end = scope.clock.now() + timedelta(seconds=60)
    stored = await place.store(retention_seconds=3600, expires_at=end)
    assert stored.expires_at == end
    default = await place.store()
    assert default.expires_at is not None
    assert default.expires_at - default.stored_at > timedelta(days=6.9)


async def test_what_has_expired_is_not_seen_before_the_sweep_comes(place: Place) -> None:
    stored = await place.store(retention_seconds=3600)
    async with place.scope(role="admin") as scope:
        scope.clock = Later(scope.clock, timedelta(hours=2))
        with pytest.raises(Gone):
            await artifacts.find(scope, stored.artifact_id)
        assert await artifacts.list_artifacts(scope) == []


class Later:
    """A clock that is ahead."""

    def __init__(self, clock: Clock, by: timedelta) -> None:
        self._clock = clock
        self._by = by

    def now(self) -> Any:
        return self._clock.now() + self._by


async def test_a_legal_hold_wins_over_the_end_of_its_time(place: Place) -> None:
    stored = await place.store(retention_seconds=1)
    async with place.scope() as scope:
        await artifacts.hold(scope, stored.artifact_id, "dispute")
    async with place.scope() as scope:
        scope.clock = Later(scope.clock, timedelta(hours=2))
        await lifetime.expire(scope, stored.artifact_id)  # as the wake-up does
    async with place.scope() as scope:
        scope.clock = Later(scope.clock, timedelta(hours=2))
        assert (await artifacts.find(scope, stored.artifact_id)).held_by is not None
        assert await artifacts.release(scope, stored.artifact_id) is None

    async def gone() -> bool:
        return not await place.blobs()

    await until(gone)
    await place.settled()


# Costs


async def test_storage_is_charged_by_the_byte_and_second(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    charged: list[Stored] = []

    async def charge(scope: Scope, used: list[Stored]) -> None:
        charged.extend(used)

    monkeypatch.setattr(hooks, "charge", charge)
    operation, grant = uuid4(), uuid4()
    first = await place.store(bytes(1000), "a", operation_id=operation, grant_id=grant)
    second = await place.store(bytes(500), "b", operation_id=operation, grant_id=grant)
    async with place.scope() as scope:
        scope.clock = Later(scope.clock, timedelta(seconds=100))
        now = scope.clock.now()
        await artifacts.accrue(scope)
    expected = sum(one.size * (now - one.stored_at).total_seconds() for one in (first, second))
    (only,) = charged
    assert (only.user_id, only.operation_id, only.grant_id) == (place.user_id, operation, grant)
    assert only.byte_seconds == pytest.approx(expected, abs=100)
    charged.clear()
    async with place.scope() as scope:
        scope.clock = Later(scope.clock, timedelta(seconds=110))
        await artifacts.delete(scope, first.artifact_id)
        after = scope.clock.now()
    assert [one.byte_seconds for one in charged] == [pytest.approx(1000 * (after - now).total_seconds(), abs=100)]
    charged.clear()
    async with place.scope() as scope:
        scope.clock = Later(scope.clock, timedelta(seconds=210))
        await artifacts.accrue(scope)
        last = scope.clock.now()
    assert [one.byte_seconds for one in charged] == [pytest.approx(500 * (last - now).total_seconds(), abs=100)]


async def test_storage_is_counted_every_day_as_long_as_there_is_any(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    charged: list[Stored] = []

    async def charge(scope: Scope, used: list[Stored]) -> None:
        charged.extend(used)

    monkeypatch.setattr(hooks, "charge", charge)
    stored = await place.store(bytes(1000))

    async def due() -> Any:
        async with place.scope() as scope:
            return await scope.queries.fetchval("SELECT due_at FROM storage_accruals")

    async def a_day_passes() -> None:
        async with place.scope() as scope:
            await scope.queries.execute("UPDATE storage_accruals SET due_at = now()")
            await scope.queries.execute("UPDATE artifacts SET accrued_at = accrued_at - interval '1 day'")
        await work.on_accrue(place.services, place.tenant_id, place.tenant_id)

    first = await due()
    assert first - stored.stored_at > timedelta(hours=23)
    await work.on_accrue(place.services, place.tenant_id, place.tenant_id)
    assert not charged, "counted before its time"
    await a_day_passes()
    assert [one.byte_seconds for one in charged] == [pytest.approx(86_400_000, rel=0.01)]
    assert await due() is not None
    async with place.scope() as scope:
        await artifacts.delete(scope, stored.artifact_id)
    await a_day_passes()
    assert await due() is None
    await place.store(bytes(1000))
    assert await due() is not None


# The store


async def test_a_deletion_is_finished_when_the_store_comes_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = await place.store()
    tried = asyncio.Event()
    delete = BlobStore.delete

    async def away(store: BlobStore, name: str) -> None:
        tried.set()
        raise Unavailable("the store is away")

    monkeypatch.setattr(BlobStore, "delete", away)
    async with place.scope() as scope:
        await artifacts.delete(scope, stored.artifact_id)
    await asyncio.wait_for(tried.wait(), 10)
    assert await place.rows("artifact_keys") == 0
    assert await place.used() == 0
    assert len(await place.blobs()) == 1
    monkeypatch.setattr(BlobStore, "delete", delete)
    await place.settled()
    assert await place.blobs() == []


@pytest.mark.parametrize("fault", [StorageFull("full"), Unavailable("away")], ids=["full", "away"])
async def test_a_store_that_refuses_leaves_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    async def refuse(store: BlobStore, name: str, chunks: Any) -> Any:
        async for _ in chunks:
            raise fault

    monkeypatch.setattr(BlobStore, "put", refuse)
    with pytest.raises(type(fault)):
        await place.receive(size_hint=5)
    await place.settled()
    assert (await place.used(), await place.rows("incoming_artifacts")) == (0, 0)


async def test_files_that_fail_in_the_middle_leave_nothing(place: Place) -> None:
    async def broken() -> AsyncIterator[bytes]:
        async for chunk in pieces(bytes(6_000_000)):
            yield chunk
        raise ConnectionError("the giver is gone")

    incoming = artifacts.Incoming(owner_id=place.user_id, name="broken")
    with pytest.raises((ConnectionError, Unavailable)):
        await artifacts.receive(place.services, place.tenant_id, incoming, broken())
    await place.settled()
    assert (await place.used(), await place.blobs()) == (0, [])


async def test_an_upload_in_many_small_pieces(place: Place) -> None:
    """Its pieces go one after the other when it is finished; none is left, and none is counted twice."""
    content = bytes(range(60))
    async with place.scope() as scope:
        upload = await create(scope, "crumbs", len(content))

    @asynccontextmanager
    async def caller() -> AsyncIterator[Scope]:
        async with place.scope() as scope:
            yield scope

    async def check() -> None:
        return None

    for n in range(len(content)):
        writing = Writing(place.services, place.tenant_id, caller, upload.upload_id, whole=False)
        await writing.write(n, pieces(content[n : n + 1]), check)

    async def stored() -> bool:
        async with place.scope() as scope:
            return (await uploads.find(scope, upload.upload_id)).state == "stored"

    await until(stored)
    await place.settled(30)
    async with place.scope() as scope:
        (only,) = await artifacts.list_artifacts(scope)
    assert await place.content(only) == content
    assert await place.used() == len(content)


async def test_many_who_finish_one_upload_make_one_artifact(place: Place) -> None:
    """A worker that was taken for dead goes on, too; it finds the pieces gone, and must not call that a refusal."""
    content = bytes(200_000)
    async with place.scope() as scope:
        upload = await create(scope, "raced", len(content))

    @asynccontextmanager
    async def caller() -> AsyncIterator[Scope]:
        async with place.scope() as scope:
            yield scope

    async def check() -> None:
        return None

    writing = Writing(place.services, place.tenant_id, caller, upload.upload_id, whole=False)
    upload = await writing.write(0, pieces(content), check)
    assert upload.state == "finishing"
    await asyncio.gather(*(finishing.finish(place.services, place.tenant_id, upload.upload_id) for _ in range(4)))

    async def look() -> uploads.Upload:
        async with place.scope() as scope:
            return await uploads.find(scope, upload.upload_id)

    async def ended() -> bool:
        return (await look()).state != "finishing"

    await until(ended)
    # The latest of all: it began when the pieces were there, and sees now that they are not.
    await finishing.refuse(place.services, place.tenant_id, upload, "pieces are gone")
    assert (await look()).state == "stored"
    await place.settled()
    assert await place.used() == len(content)
    async with place.scope() as scope:
        assert len(await artifacts.list_artifacts(scope)) == 1


async def test_an_upload_that_nobody_goes_on_with_is_given_up(
    place: Place, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house.services.get(Settings), "upload_seconds", 1)
    async with place.scope() as scope:
        upload = await create(scope, "forgotten", 5000)
    assert await place.used() == 5000

    async def gone() -> bool:
        return await place.rows("uploads") == 0

    await until(gone)
    await place.settled()
    assert await place.used() == 0
    async with place.scope() as scope:
        with pytest.raises(NotFound):
            await uploads.find(scope, upload.upload_id)


# Recipients


async def test_only_its_recipient_gets_the_sealed_key(place: Place) -> None:
    grant = uuid4()
    private, public = new_recipient()
    other_private, other = new_recipient()
    stored = await place.store(
        b"for you", grant_id=grant, recipients={artifacts.grantee_label(grant): public, "user": other}
    )
    async with place.scope(grant_id=grant) as scope:
        grantees = await artifacts.sealed_header(scope, stored)
    async with place.scope() as scope:
        owners = await artifacts.sealed_header(scope, stored)
    header = json.loads(grantees[12:])
    assert [one["label"] for one in header["recipients"]] == [artifacts.grantee_label(grant)]
    assert [one["label"] for one in json.loads(owners[12:])["recipients"]] == [artifacts.grantee_label(grant), "user"]
    sealed = base64.urlsafe_b64decode(header["recipients"][0]["sealed"] + "==")
    context = b"retinue artifact v1\0" + place.tenant_id.bytes + stored.artifact_id.bytes
    assert len(open_sealed(private, sealed, context)) == 32
    with pytest.raises(Exception, match="does not open"):
        open_sealed(other_private, sealed, context)
