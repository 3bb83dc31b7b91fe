"""The gate's questions below HTTP: one statement to enter, one for everybody who holds a stream."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from retinue.database import Database
from retinue.kernel import ActorKind, Clock, NotFound, Unauthenticated
from retinue.tenancy import DoorKeeper
from retinue.web import Credential, Entry
from tests.support.asking import asked
from tests.support.scopes import scope_of
from tests.support.site import Account, Site, bearer


@pytest.fixture
def gate(site: Site) -> DoorKeeper:
    return DoorKeeper(site.services)


async def credential(gate: DoorKeeper, text: str) -> Credential:
    found = await gate.identify(asked({"authorization": f"Bearer {text}"}))
    assert found is not None
    return found


async def enter(site: Site, gate: DoorKeeper, who: Credential, tenant_id: UUID) -> Entry:
    async with site.services.get(Database).transaction(tenant_id) as uow:
        return await gate.enter(who, tenant_id, uow)


async def make_key(account: Account, **fields: object) -> dict[str, str]:
    found: dict[str, str] = (await account.client.post("/v1/my/keys", json={"name": "k", **fields})).json()
    return found


async def test_without_a_header_there_is_no_credential(gate: DoorKeeper) -> None:
    assert await gate.identify(asked({})) is None


async def test_a_credential_never_holds_the_secret(site: Site, gate: DoorKeeper) -> None:
    ann = await site.sign_up()
    key = await make_key(ann)
    for text in (ann.tokens["access_token"], key["key"]):
        shown = repr(await credential(gate, text))
        assert text not in shown
        assert text[-20:] not in shown


async def test_a_login_enters_its_own_tenant(site: Site, gate: DoorKeeper) -> None:
    ann = await site.sign_up()
    who = await credential(gate, ann.tokens["access_token"])
    assert who.user_id == ann.user_id
    assert await gate.home(who) == ann.tenant_id
    entry = await enter(site, gate, who, ann.tenant_id)
    assert (entry.user_id, entry.role, entry.scopes, entry.actor.kind) == (ann.user_id, "admin", None, ActorKind.USER)
    with pytest.raises(NotFound, match="no such tenant"):
        await enter(site, gate, who, uuid4())


async def test_a_key_enters_as_itself_within_its_scopes(site: Site, gate: DoorKeeper) -> None:
    ann = await site.sign_up()
    key = await make_key(ann, scopes=["agents:read"])
    who = await credential(gate, key["key"])
    assert who.user_id is None
    assert who.tenant_id is None
    assert await gate.home(who) == ann.tenant_id
    entry = await enter(site, gate, who, ann.tenant_id)
    assert str(entry.actor) == f"api_key:{key['key_id']}"
    assert (entry.user_id, entry.scopes) == (ann.user_id, frozenset({"agents:read"}))


async def test_a_key_that_nobody_has_is_at_home_nowhere(site: Site, gate: DoorKeeper) -> None:
    from retinue.identity.key_text import new_key_text

    who = await credential(gate, new_key_text("live"))
    with pytest.raises(Unauthenticated):
        await gate.home(who)
    with pytest.raises(Unauthenticated):
        await enter(site, gate, who, uuid4())


async def test_entering_is_one_statement(site: Site, gate: DoorKeeper) -> None:
    ann = await site.sign_up()
    texts = [ann.tokens["access_token"], (await make_key(ann))["key"]]
    for text in texts:
        who = await credential(gate, text)
        async with site.services.get(Database).transaction(ann.tenant_id) as uow:
            counted: list[object] = []
            # The driver's own log of statements; the connection's proxy cannot be patched.
            with (await uow.begin()).query_logger(counted.append):  # type: ignore[attr-defined]
                await gate.enter(who, ann.tenant_id, uow)
        assert len(counted) == 1


async def test_who_holds_a_stream_is_asked_for_together(site: Site, gate: DoorKeeper) -> None:
    ann, bob, eve = [await site.sign_up() for _ in range(3)]
    key, revoked = await make_key(ann), await make_key(ann, scopes=["events:read"])
    who = {
        name: await credential(gate, text)
        for name, text in {
            "ann": ann.tokens["access_token"],
            "bob": bob.tokens["access_token"],
            "eve": eve.tokens["access_token"],
            "key": key["key"],
            "revoked": revoked["key"],
        }.items()
    }
    external = Credential("token", "external:x", claims={"kind": "external", "issuer": "i", "subject": "s"})
    holders = [
        (who["ann"], ann.tenant_id),
        (who["revoked"], ann.tenant_id),
        (who["bob"], ann.tenant_id),
        (who["bob"], bob.tenant_id),
        (who["key"], ann.tenant_id),
        (who["key"], bob.tenant_id),
        (who["eve"], eve.tenant_id),
        (external, ann.tenant_id),
    ]
    assert [one is not None for one in await gate.standing(holders)] == [
        True,
        True,
        False,
        True,
        True,
        False,
        True,
        False,
    ]
    await ann.client.delete(f"/v1/my/keys/{revoked['key_id']}")
    await eve.client.post("/v1/auth/logout")
    found = await gate.standing(holders)
    assert [n for n, one in enumerate(found) if one is not None] == [0, 3, 4]
    # Admins of their own tenants see what belongs to any team.
    assert found[0] == replace(await enter(site, gate, who["ann"], ann.tenant_id), audiences=frozenset({"*"}))
    assert found[4] == replace(await enter(site, gate, who["key"], ann.tenant_id), audiences=frozenset({"*"}))
    assert await gate.standing([]) == []


async def test_standing_is_one_statement_and_notes_no_use(site: Site, gate: DoorKeeper) -> None:
    ann = await site.sign_up()
    key = await make_key(ann)
    who = await credential(gate, key["key"])
    assert (await gate.standing([(who, ann.tenant_id)] * 50))[49] is not None
    shown = (await ann.client.get("/v1/my/keys")).json()["items"][0]
    assert shown["last_used_at"] is None


async def test_an_expired_login_is_over_for_streams_too(site: Site, gate: DoorKeeper) -> None:
    ann = await site.sign_up()
    who = await credential(gate, ann.tokens["access_token"])
    site.clock.advance(timedelta(days=31))
    assert await gate.standing([(who, ann.tenant_id)]) == [None]


async def test_nothing_of_the_caller_s_tenant_leaks_into_the_connection(site: Site) -> None:
    """A refused entry ends its transaction; the next user of the connection sees no tenant."""
    ann, eve = await site.sign_up(), await site.sign_up()
    for _ in range(20):
        headers = {"Retinue-Tenant": str(ann.tenant_id)}
        assert (await eve.client.get("/v1/my/keys", headers=headers)).status_code == 404
    async with site.services.get(Database).routing() as queries:
        assert await queries.fetchval("SELECT nullif(current_setting('app.tenant_id', true), '')") is None
        assert not await queries.fetch("SELECT * FROM members")


async def test_members_and_tenants_are_fenced(site: Site) -> None:
    ann, bob = await site.sign_up(), await site.sign_up()
    async with scope_of(site.services, ann.tenant_id) as scope:
        for table in ("tenants", "members"):
            rows = await scope.queries.fetch(f"SELECT tenant_id FROM {table}")
            assert [row["tenant_id"] for row in rows] == [ann.tenant_id]
        assert await scope.queries.execute("DELETE FROM members WHERE user_id = $1", bob.user_id) == "DELETE 0"


async def test_a_clock_is_what_the_gate_goes_by(site: Site) -> None:
    assert site.services.get(Clock) is site.clock  # type: ignore[type-abstract]  # services are found by their protocol
    ann = await site.sign_up()
    site.clock.advance(timedelta(seconds=901))
    response = await site.client.get("/v1/my/profile", headers=bearer(ann.tokens["access_token"]))
    assert response.status_code == 401
