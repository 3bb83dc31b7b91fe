"""Operations of a month: who gets how many, who is warned, and what happens when many begin at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from retinue import metering
from retinue.database import Database
from retinue.kernel import ManualClock, QuotaExhausted, Scope, Services, new_id
from retinue.ledger import read_stream
from retinue.metering import quotas
from retinue.metering.events import QuotaUsedUp, QuotaWarned, TierName
from retinue.metering.tiers import Quota, Storage
from tests.metering.support import metering_services
from tests.support.scopes import scope_of

MIDDLE = datetime(2026, 1, 30, 12, tzinfo=UTC)


@dataclass
class Member:
    """A user of a tenant in some tier, who begins operations."""

    services: Services
    clock: ManualClock = field(default_factory=lambda: ManualClock(MIDDLE))
    tenant: UUID = field(default_factory=uuid4)
    user: UUID = field(default_factory=uuid4)

    @asynccontextmanager
    async def scope(self) -> AsyncIterator[Scope]:
        async with scope_of(self.services, self.tenant, user_id=self.user, clock=self.clock) as scope:
            yield scope

    async def put_into(self, tier: TierName) -> None:
        async with scope_of(self.services, self.tenant, clock=self.clock) as scope:
            await quotas.set_tier(scope, tier)

    async def begin(self, operation: UUID | None = None) -> None:
        async with self.scope() as scope:
            await metering.count_operation(scope, self.user, operation or new_id())

    async def begin_many(self, count: int) -> None:
        for _ in range(count):
            await self.begin()

    async def check(self) -> None:
        async with self.scope() as scope:
            await metering.check_quota(scope, self.user)

    async def used(self) -> int:
        async with self.scope() as scope:
            return (await quotas.quota_of(scope, self.user)).operations

    async def store(self) -> None:
        async with self.scope() as scope:
            await metering.note_storage(scope, self.user)

    async def told(self) -> list[tuple[Any, ...]]:
        """What is on the stream of the user's quota: kind, what, limit, used."""
        async with self.scope() as scope:
            found = [one.event for one in await read_stream(scope, f"quota:{self.user}")]
        assert all(isinstance(one, QuotaWarned | QuotaUsedUp) and one.user_id == self.user for one in found)
        return [(type(one).__name__, one.what, one.limit, one.used) for one in found]  # type: ignore[attr-defined]


@pytest.fixture
async def member(database: Database) -> Member:
    found = Member(metering_services(database))
    await found.put_into("free")
    return found


async def begin_at_once(member: Member, count: int) -> list[BaseException | None]:
    return await asyncio.gather(*(member.begin() for _ in range(count)), return_exceptions=True)


async def test_of_20_operations_at_once_against_one_left_one_begins(member: Member) -> None:
    await member.begin_many(9)
    results = await begin_at_once(member, 20)
    refused = [one for one in results if one is not None]
    assert len(refused) == 19
    assert all(isinstance(one, QuotaExhausted) for one in refused), refused
    assert await member.used() == 10
    assert [one[0] for one in await member.told()] == ["QuotaWarned", "QuotaUsedUp"]


async def test_without_the_lock_more_begin_than_are_left(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: the row is read, and not held. The test above would not pass."""
    await member.begin_many(9)

    async def only_read(scope: Scope, user_id: UUID) -> Quota:
        return await quotas.quota_of(scope, user_id)

    monkeypatch.setattr(quotas, "_locked", only_read)
    await begin_at_once(member, 20)
    assert await member.used() > 10


async def test_the_first_operations_of_a_user_at_once_are_all_counted(member: Member) -> None:
    results = await begin_at_once(member, 10)
    assert results == [None] * 10
    assert await member.used() == 10


async def test_an_operation_that_is_counted_again_takes_nothing_more(member: Member) -> None:
    operation = new_id()
    await member.begin(operation)
    await member.begin(operation)
    assert await member.used() == 1
    await member.begin_many(9)
    await member.begin(operation)  # what is counted may go on, though nothing is left
    with pytest.raises(QuotaExhausted):
        await member.begin()


async def test_an_operation_that_was_refused_is_not_counted_later_for_nothing(member: Member) -> None:
    await member.begin_many(10)
    operation = new_id()
    async with member.scope() as scope:
        with pytest.raises(QuotaExhausted):
            await metering.count_operation(scope, member.user, operation)
        # The scope commits all the same, as that of a route that answers with a problem of its own.
    with pytest.raises(QuotaExhausted):
        await member.begin(operation)


async def test_the_refusal_says_when_the_quota_begins_anew(member: Member) -> None:
    await member.begin_many(10)
    with pytest.raises(QuotaExhausted) as refused:
        await member.check()
    fault = refused.value
    assert (fault.kind, fault.status, fault.extra) == ("quota-exhausted", 429, {"begins_anew": "2026-02-01"})
    assert fault.headers == {"Retry-After": str(36 * 3600)}
    assert "2026-02-01" in fault.detail
    with pytest.raises(QuotaExhausted, match="10 operations"):
        await member.begin()


async def test_a_new_month_begins_in_utc_at_midnight_and_not_before(member: Member) -> None:
    await member.begin_many(10)
    member.clock.advance(timedelta(hours=35, minutes=59, seconds=59))
    with pytest.raises(QuotaExhausted):
        await member.begin()
    member.clock.advance(timedelta(seconds=1))
    await member.check()
    assert await member.used() == 0
    await member.begin_many(10)
    with pytest.raises(QuotaExhausted) as refused:
        await member.begin()
    assert refused.value.extra == {"begins_anew": "2026-03-01"}
    # Both months warned once and ended once.
    assert [one[0] for one in await member.told()] == ["QuotaWarned", "QuotaUsedUp"] * 2


async def test_a_process_whose_clock_is_behind_does_not_bring_the_old_month_back(member: Member) -> None:
    member.clock.advance(timedelta(days=2))
    await member.begin_many(10)
    member.clock.advance(-timedelta(days=2))
    with pytest.raises(QuotaExhausted):
        await member.begin()


async def test_december_is_followed_by_january(member: Member) -> None:
    member.clock.advance(datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC) - MIDDLE)
    await member.begin_many(10)
    with pytest.raises(QuotaExhausted) as refused:
        await member.check()
    assert refused.value.extra == {"begins_anew": "2027-01-01"}
    assert refused.value.headers == {"Retry-After": "1"}


async def test_the_user_is_warned_at_80_percent_and_told_at_the_end_once(member: Member) -> None:
    await member.begin_many(7)
    assert await member.told() == []
    await member.begin()
    assert await member.told() == [("QuotaWarned", "operations", 10, 8)]
    await member.begin_many(2)
    for _ in range(3):
        with pytest.raises(QuotaExhausted):
            await member.begin()
    assert await member.told() == [("QuotaWarned", "operations", 10, 8), ("QuotaUsedUp", "operations", 10, 10)]


async def test_users_of_a_tenant_and_tenants_of_a_user_have_their_own_quota(member: Member) -> None:
    await member.begin_many(10)
    fellow = Member(member.services, member.clock, member.tenant)
    await fellow.begin()
    elsewhere = Member(member.services, member.clock, user=member.user)
    await elsewhere.put_into("free")
    await elsewhere.begin()
    assert [await one.used() for one in (member, fellow, elsewhere)] == [10, 1, 1]


async def test_a_tenant_without_a_tier_has_no_end_and_is_counted(database: Database) -> None:
    member = Member(metering_services(database))
    await member.begin_many(12)
    assert await member.used() == 12
    assert await member.told() == []
    await member.check()


async def test_another_tier_counts_the_same_month_and_warns_of_its_own_limit(member: Member) -> None:
    await member.begin_many(10)
    await member.put_into("pro")
    await member.begin_many(70)
    assert await member.told() == [
        ("QuotaWarned", "operations", 10, 8),
        ("QuotaUsedUp", "operations", 10, 10),
        ("QuotaWarned", "operations", 100, 80),
    ]
    await member.put_into("free")
    assert (await member.told())[3:] == [("QuotaWarned", "operations", 10, 80), ("QuotaUsedUp", "operations", 10, 80)]
    with pytest.raises(QuotaExhausted):
        await member.begin()


async def test_a_tier_that_is_set_again_is_no_change(member: Member) -> None:
    await member.put_into("free")
    async with member.scope() as scope:
        assert len(await read_stream(scope, f"tier:{member.tenant}")) == 1


async def test_storage_is_warned_of_once_a_month(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = 0

    async def storage(scope: Scope, user_id: UUID) -> Storage:
        return Storage(stored, 10**9, None)

    await member.store()
    monkeypatch.setattr(quotas.hooks, "storage", storage)
    for stored in (799_999_999, 800_000_000, 900_000_000, 100, 1_000_000_000, 1_000_000_000):  # noqa: B007
        await member.store()
    told = [("QuotaWarned", "storage", 10**9, 800_000_000), ("QuotaUsedUp", "storage", 10**9, 10**9)]
    assert await member.told() == told
    await member.begin()  # storage has nothing to do with operations
    member.clock.advance(timedelta(days=2))
    stored = 800_000_000
    await member.store()
    assert await member.told() == [*told, told[0]]
