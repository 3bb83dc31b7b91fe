"""Grants below HTTP: what is counted, what is left, who sees them, and what happens at their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from retinue import grants
from retinue.database import Database
from retinue.grants import commands, views
from retinue.grants.commands import Wanted
from retinue.grants.room import ROOM as GRANTS
from retinue.kernel import BadInput, Forbidden, ManualClock, NotFound, Scope, Services
from retinue.ledger import read_stream
from retinue_client import GranteeKey
from tests.support.scopes import ledger_services, scope_of
from tests.support.site import hooks_of

DOLLAR = 1_000_000_000
KEY = GranteeKey.make()


@dataclass
class Giver:
    """A tenant with a user who grants."""

    services: Services
    clock: ManualClock
    tenant: UUID = field(default_factory=uuid4)
    user: UUID = field(default_factory=uuid4)

    @asynccontextmanager
    async def scope(self, **changes: Any) -> AsyncIterator[Scope]:
        async with scope_of(self.services, self.tenant, user_id=self.user, clock=self.clock) as scope:
            yield replace(scope, **changes)

    async def grant(self, **terms: Any) -> UUID:
        async with self.scope() as scope:
            made = await commands.grant(scope, Wanted(**{"application": "app", "grantee": KEY.keyid} | terms))
        return made.grant_id

    async def use(self, grant_id: UUID, budget: int | None = None, operation_id: UUID | None = None) -> grants.Terms:
        async with self.scope() as scope:
            return await grants.use(scope, grant_id, operation_id or uuid4(), budget)

    async def terms(self, grant_id: UUID) -> grants.Terms:
        async with self.scope() as scope:
            return await grants.terms(scope, grant_id)

    async def history(self, grant_id: UUID) -> list[str]:
        async with self.scope() as scope:
            return [one.type for one in await read_stream(scope, f"grant:{grant_id}")]


@pytest.fixture
def giver(database: Database) -> Iterator[Giver]:
    clock = ManualClock(datetime.now(UTC))
    with hooks_of([GRANTS]):
        yield Giver(ledger_services(database, [views.PROJECTION]), clock)


async def test_uses_are_counted_to_the_last_and_no_further(giver: Giver) -> None:
    grant_id = await giver.grant(uses=2)
    assert (await giver.use(grant_id)).used == 1
    assert (await giver.use(grant_id)).state(giver.clock.now()) == "used_up"
    with pytest.raises(Forbidden, match="used up: it was for 2 operations"):
        await giver.use(grant_id)
    assert await giver.history(grant_id) == ["grant.created", "grant.used", "grant.used"]


async def test_twenty_at_once_do_not_use_it_more_often_than_granted(giver: Giver) -> None:
    """A count that is read before the lock is waited for is too small: this is the test that sees it."""
    grant_id = await giver.grant(uses=5, budget=100 * DOLLAR)
    outcomes = await asyncio.gather(*(giver.use(grant_id, DOLLAR) for _ in range(20)), return_exceptions=True)
    refused = [one for one in outcomes if isinstance(one, BaseException)]
    assert len(refused) == 15
    assert all(isinstance(one, Forbidden) for one in refused), refused
    assert (await giver.terms(grant_id)).used == 5


async def test_a_count_without_the_lock_is_seen(giver: Giver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted mistake: nobody waits for anybody."""

    async def unlocked(*_: object) -> bool:
        return True

    monkeypatch.setattr(views, "lock", unlocked)
    with pytest.raises(AssertionError):
        await test_twenty_at_once_do_not_use_it_more_often_than_granted(giver)


async def test_a_budget_is_set_aside_and_settled(giver: Giver) -> None:
    grant_id, first, second = await giver.grant(budget=10 * DOLLAR), uuid4(), uuid4()
    assert (await giver.use(grant_id, 6 * DOLLAR, first)).left() == 4 * DOLLAR
    with pytest.raises(Forbidden, match="has 4 dollars left, of 10"):
        await giver.use(grant_id, 5 * DOLLAR, second)
    async with giver.scope() as scope:
        await grants.settle(scope, grant_id, first, 1 * DOLLAR)
        await grants.settle(scope, grant_id, first, 7 * DOLLAR)  # a second time changes nothing
    found = await giver.terms(grant_id)
    assert (found.spent, found.reserved, found.left(), found.used) == (DOLLAR, 0, 9 * DOLLAR, 1)
    assert (await giver.use(grant_id, None, second)).left() == 0


async def test_an_operation_that_is_tried_again_counts_once(giver: Giver) -> None:
    grant_id, operation_id = await giver.grant(uses=1, budget=10 * DOLLAR), uuid4()
    await giver.use(grant_id, 4 * DOLLAR, operation_id)
    assert (await giver.use(grant_id, 4 * DOLLAR, operation_id)).reserved == 4 * DOLLAR, "it is under way"
    async with giver.scope() as scope:
        await grants.settle(scope, grant_id, operation_id, 2 * DOLLAR)
    again = await giver.use(grant_id, 4 * DOLLAR, operation_id)
    assert (again.used, again.spent, again.reserved) == (1, 2 * DOLLAR, 4 * DOLLAR)
    with pytest.raises(Forbidden, match="used up"):
        await giver.use(grant_id, 1, uuid4())


async def test_the_end_of_an_operation_waits_for_nobody_who_holds_the_grant(giver: Giver) -> None:
    """A run that ends holds its lane; if it waited for the grant, two operations could wait for each other."""
    grant_id, operation_id = await giver.grant(budget=DOLLAR), uuid4()
    await giver.use(grant_id, DOLLAR, operation_id)
    async with giver.scope() as holder:
        await grants.terms(holder, grant_id, lock=True)
        async with asyncio.timeout(5), giver.scope() as scope:
            await grants.settle(scope, grant_id, operation_id, 0)


async def test_a_grant_that_is_over_cannot_be_used(giver: Giver) -> None:
    expiring = await giver.grant(expires_at=giver.clock.now() + timedelta(hours=1))
    revoked = await giver.grant()
    async with giver.scope() as scope:
        await commands.revoke(scope, revoked)
    with pytest.raises(Forbidden, match="revoked at"):
        await giver.use(revoked)
    await giver.use(expiring)
    giver.clock.advance(timedelta(hours=1))
    with pytest.raises(Forbidden, match="expired at"):
        await giver.use(expiring)
    with pytest.raises(NotFound):
        async with giver.scope() as scope:
            await commands.revoke(scope, revoked)


async def test_those_who_must_stop_what_runs_hear_of_every_end_once(
    giver: Giver, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[UUID] = []

    async def hear(_: Scope, grant_id: UUID) -> None:
        heard.append(grant_id)

    monkeypatch.setattr(grants, "on_revoke", [])  # whatever other rooms registered needs their tables
    monkeypatch.setattr(commands, "on_revoke", [hear])
    revoked, expiring = await giver.grant(), await giver.grant(expires_at=giver.clock.now() + timedelta(hours=1))
    left = await giver.grant()
    async with giver.scope() as scope:
        await commands.revoke(scope, revoked)
    async with giver.scope() as scope:
        await commands.expire(scope, expiring)
    assert heard == [revoked], "its time is not over yet"
    giver.clock.advance(timedelta(hours=1))
    for _ in range(2):
        async with giver.scope() as scope:
            await commands.expire(scope, expiring)
    async with giver.scope(user_id=uuid4()) as scope:
        await commands._revoke_of_leaver(scope, giver.user)
    assert heard == [revoked, expiring, left]
    assert await giver.history(expiring) == ["grant.created", "grant.expired"]
    assert (await giver.terms(left)).revoked_at is not None


async def test_who_sees_a_grant(giver: Giver) -> None:
    mine, other = await giver.grant(), await giver.grant()
    async with giver.scope(grant_id=mine) as scope:
        assert (await grants.terms(scope, mine)).grant_id == mine
        for forbidden in (grants.terms(scope, other), grants.use(scope, other, uuid4(), None)):
            with pytest.raises(NotFound):
                await forbidden
        assert [one.grant_id for one in await commands.listed(scope, None, 10)] == [mine]
    async with giver.scope(user_id=uuid4(), role="member") as scope:
        with pytest.raises(NotFound):
            await grants.terms(scope, mine)
        with pytest.raises(NotFound):
            await grants.note(scope, mine, "artifact.opened", "x")
        assert await commands.listed(scope, None, 10) == []
    async with giver.scope(user_id=uuid4(), role="admin") as scope:
        assert {one.grant_id for one in await commands.listed(scope, None, 10)} == {mine, other}
        await commands.revoke(scope, other)
    async with giver.scope(user_id=None) as scope:
        assert (await grants.terms(scope, mine)).owner_id == giver.user


async def test_every_use_is_recorded_even_twenty_at_once(giver: Giver) -> None:
    grant_id = await giver.grant()

    async def opened(n: int) -> None:
        async with giver.scope(grant_id=grant_id) as scope:
            await grants.note(scope, grant_id, "artifact.opened", str(n))

    await asyncio.gather(*(opened(n) for n in range(20)))
    assert (await giver.history(grant_id)).count("grant.used") == 20


async def test_what_is_asked_for_is_held_against_the_schema(giver: Giver) -> None:
    schema = {"type": "object", "properties": {"language": {"enum": ["en", "de"]}}, "additionalProperties": False}
    found = await giver.terms(await giver.grant(parameters=schema))
    grants.check_parameters(found, {"language": "de"})
    for wrong in ({"language": "fr"}, {"language": "de", "shell": True}):
        with pytest.raises(Forbidden, match="does not allow this"):
            grants.check_parameters(found, wrong)
    free = await giver.terms(await giver.grant())
    grants.check_parameters(free, {"anything": [1]})


@pytest.mark.parametrize(
    "terms, field",
    [
        ({"grantee": "ed25519:short"}, "grantee"),
        ({"grantee": "ed25519:" + "A" * 43}, "grantee"),
        ({"grantee": "eip155:0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD"}, "grantee"),
        ({"grantee": KEY.keyid + "="}, "grantee"),
        ({"seal_to": "A" * 43}, "seal_to"),
        ({"seal_to": "AAAA"}, "seal_to"),
        ({"parameters": {"type": "array"}}, "parameters"),
        ({"parameters": {"type": "object", "$ref": "https://evil.example/schema"}}, "parameters"),
        ({"parameters": {"type": "object", "description": "x" * 20_000}}, "parameters"),
    ],
    ids=["short", "small order", "mistyped address", "padded", "zero", "cut", "array", "elsewhere", "large"],
)
async def test_grants_that_make_no_sense_are_not_given(giver: Giver, terms: dict[str, Any], field: str) -> None:
    with pytest.raises(BadInput) as refusal:
        await giver.grant(**terms)
    assert refusal.value.field == field


async def test_a_key_grants_no_more_than_it_may_do(giver: Giver) -> None:
    wanted = Wanted(application="app", grantee=KEY.keyid)
    async with giver.scope(scopes=frozenset({"grants:create"})) as scope:
        with pytest.raises(Forbidden, match="operations:create"):
            await commands.grant(scope, wanted)
    async with giver.scope(scopes=frozenset({"grants:*", "operations:*", "artifacts:*"})) as scope:
        await commands.grant(scope, wanted)


async def test_files_and_drivers_are_looked_at_by_who_knows_them(giver: Giver, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody_has_it(_: Scope, wanted: Wanted) -> None:
        for one in (*(wanted.files or ()), *wanted.drivers):
            raise BadInput(f"There is no {one}.", field="files")

    monkeypatch.setattr(commands, "grant_checks", [nobody_has_it])
    for terms in ({"files": [uuid4()]}, {"drivers": ["qwen"]}):
        with pytest.raises(BadInput, match="There is no"):
            await giver.grant(**terms)
    await giver.grant(files=[])
