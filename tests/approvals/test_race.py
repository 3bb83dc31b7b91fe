"""Fault 13: approve, reject, cancel and expiry race. Exactly one outcome, and the run is woken for exactly that."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal
from uuid import UUID, uuid4

import msgspec
import pytest

from retinue.approvals import Ruling, commands, views
from retinue.approvals.rules import STATUS_OF, Approval
from retinue.database import Database
from retinue.kernel import Conflict, Scope
from retinue.ledger import Feed, stream_version
from tests.approvals.support import Tenant, tenant_on

ROUNDS = 1_000
SPREAD = 0.006  # seconds in which the racers start: about as long as one of them takes, so that they overlap
SIDE_BY_SIDE = 2  # races at once, of four each: as many as the pool has connections


@dataclass
class Race:
    """One approval, and what its racers were told."""

    run_id: UUID
    approval_id: UUID
    seed: int
    claims: list[str] = field(default_factory=list)

    async def run(self, tenant: Tenant) -> None:
        """Let four racers close the approval at about the same moment, in a seeded order.

        In half of the races the people come after the deadline, so that they meet the expiry.
        """
        chance = random.Random(self.seed)
        late = chance.random() < 0.5
        racers = [
            self._person(tenant, "approve", late),
            self._person(tenant, "reject", late),
            self._cancel(tenant),
            self._expiry(tenant),
        ]
        chance.shuffle(racers)
        told = await asyncio.gather(*(_if_first(racer, chance.random() * SPREAD) for racer in racers))
        self.claims = [claim for claim in told if claim is not None]

    async def _person(self, tenant: Tenant, decision: Literal["approve", "reject"], late: bool) -> str:
        async with tenant.late(tenant.owner_id) if late else tenant.scope() as scope:
            return (await commands.decide(scope, self.approval_id, Ruling(decision))).status

    async def _cancel(self, tenant: Tenant) -> str | None:
        async with tenant.scope() as scope:
            return "cancelled" if await commands.cancel_for_run(scope, self.run_id) else None

    async def _expiry(self, tenant: Tenant) -> str | None:
        async with tenant.late() as scope:
            return "expired" if await commands.expire(scope, self.approval_id) else None


async def _if_first(racer: Awaitable[str | None], start: float) -> str | None:
    await asyncio.sleep(start)
    try:
        return await racer
    except Conflict:
        return None


async def races(tenant: Tenant, rounds: int) -> list[Race]:
    """Ask ``rounds`` questions, and run a race for each."""
    found: list[Race] = []
    async with tenant.system() as scope:
        for seed in range(rounds):
            run_id = uuid4()
            found.append(Race(run_id, await commands.request(scope, tenant.request(run_id=run_id)), seed))
    places = asyncio.Semaphore(SIDE_BY_SIDE)

    async def one(race: Race) -> None:
        async with places:
            await race.run(tenant)

    await asyncio.gather(*(one(race) for race in found))
    return found


async def violations(tenant: Tenant, found: Sequence[Race]) -> list[str]:
    """Compare what every racer was told with the ledger, the view and the queue."""
    recorded, woken = await _recorded(tenant), await _woken(tenant)
    wrong: list[str] = []
    for race in found:
        async with tenant.system() as scope:
            stored = await views.by_id(scope, race.approval_id)
        assert stored is not None
        outcomes = recorded[str(race.approval_id)]
        wakes = woken[race.run_id]
        if outcomes != [stored.status]:
            wrong.append(f"seed {race.seed}: the ledger holds {outcomes}, the view {stored.status}")
        if race.claims != [stored.status]:
            wrong.append(f"seed {race.seed}: {race.claims} were told so; the outcome is {stored.status}")
        if wakes != (stored.status != "cancelled"):
            wrong.append(f"seed {race.seed}: {stored.status}, and the run was woken {wakes} times")
    return wrong


async def _recorded(tenant: Tenant) -> dict[str, list[str]]:
    """Return every outcome in the ledger, by approval."""
    found: dict[str, list[str]] = defaultdict(list)
    feed, position = tenant.services.get(Feed), 0
    while batch := await feed.read(tenant.tenant_id, position):
        position = batch[-1].position
        for one in batch:
            if one.type == "approval.decided":
                fact = msgspec.json.decode(one.data)
                found[fact["approval_id"]].append(STATUS_OF[fact["decision"]])
    return found


async def _woken(tenant: Tenant) -> dict[UUID, int]:
    """Return how many wake-ups wait in the queue for each run."""
    found: dict[UUID, int] = defaultdict(int)
    async with tenant.system() as scope:
        rows = await scope.queries.fetch("SELECT payload FROM dispatch.pgqueuer WHERE entrypoint = 'run.advance'")
    for row in rows:
        found[UUID(msgspec.json.decode(row["payload"])[1])] += 1
    return found


@pytest.mark.fault
@pytest.mark.timeout(600)
async def test_a_thousand_races_have_one_outcome_each(database: Database) -> None:
    tenant = tenant_on(database)
    found = await races(tenant, ROUNDS)
    assert await violations(tenant, found) == []
    # Every racer won now and then; otherwise it was no race.
    assert {race.claims[0] for race in found} == {"approved", "rejected", "expired", "cancelled"}


@pytest.mark.fault
async def test_a_decision_that_does_not_look_at_the_status_is_caught(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: no lock, everything looks pending, and the ledger is told what it wants to hear."""

    async def careless(scope: Scope, approval_id: UUID) -> Approval | None:
        found = await views.by_id(scope, approval_id)
        assert found is not None
        revision = await stream_version(scope, f"approval:{approval_id}")
        return replace(found, status="pending", revision=revision)

    monkeypatch.setattr(views, "locked", careless)
    tenant = tenant_on(database)
    assert await violations(tenant, await races(tenant, 100)) != []


@pytest.mark.fault
async def test_without_the_lock_the_ledger_still_takes_one_outcome(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second line of defence: who read before somebody else decided does not get its outcome in."""
    monkeypatch.setattr(views, "locked", views.by_id)
    tenant = tenant_on(database)
    assert await violations(tenant, await races(tenant, 100)) == []
