"""How long a nonce is remembered: as long as its signature could be accepted, and not for ever."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from retinue.database import Database
from retinue.tenancy import doorkeeper
from tests.grants.refusals import Desk
from tests.support.running import Person
from tests.support.site import Site


async def kept(site: Site, ann: Person) -> set[str]:
    async with site.services.get(Database).transaction(UUID(ann.tenant_id)) as uow:
        return {row["nonce"] for row in await uow.queries.fetch("SELECT nonce FROM signature_nonces")}


async def test_a_request_cannot_be_sent_again_up_to_its_last_second(site: Site, desk: Desk) -> None:
    request = desk.look(options={"life": 300})
    headers = request.sign()
    assert (await request.send(desk.client, headers)).status_code == 200
    for seconds, reason in ((0, "used before"), (298, "used before"), (3, "it has expired")):
        site.clock.advance(timedelta(seconds=seconds))
        # Others' requests clear away what is old.
        assert (await desk.look().send(desk.client)).status_code == 200
        answer = await request.send(desk.client, headers)
        assert answer.status_code == 401, answer.text
        assert reason in answer.json()["detail"]


async def test_a_nonce_that_is_forgotten_too_early_is_seen(
    site: Site, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted mistake: nonces are kept for a minute, as most signatures live, and not as long as this one."""
    original = doorkeeper._USE_UP
    monkeypatch.setattr(
        doorkeeper, "_USE_UP", original.replace("expires_at < $5", "expires_at - interval '4 minutes' < $5")
    )
    with pytest.raises(AssertionError):
        await test_a_request_cannot_be_sent_again_up_to_its_last_second(site, desk)


async def test_what_is_over_is_cleared_away(site: Site, desk: Desk, ann: Person) -> None:
    first = uuid4().hex
    assert (await desk.look(options={"nonce": first}).send(desk.client)).status_code == 200
    assert first in await kept(site, ann)
    site.clock.advance(timedelta(seconds=60 + 61))
    assert (await desk.look().send(desk.client)).status_code == 200
    assert len(await kept(site, ann)) == 1


async def test_who_has_no_grant_leaves_nothing_behind(site: Site, desk: Desk, ann: Person) -> None:
    """Anybody can make a key and sign: a table that kept such nonces could be filled by anybody."""
    for grant_id in (desk.strangers_grant, str(uuid4())):
        assert (await desk.look(grant_id=grant_id).send(desk.client)).status_code == 401
    assert await kept(site, ann) == set()
