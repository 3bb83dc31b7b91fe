"""Who holds a stream by a grant is asked for again, in one statement for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from retinue.kernel import ActorKind
from retinue.tenancy import DoorKeeper, doorkeeper
from retinue.web import Credential, Entry
from retinue_client import GranteeKey
from tests.support.running import Person
from tests.support.signing import granted
from tests.support.site import Site


def credential_of(grant_id: str, key: GranteeKey) -> Credential:
    claims = {"kind": "grant", "grant": grant_id, "grantee": key.keyid, "nonce": "n" * 16, "until": ""}
    return Credential("signature", f"grant:{grant_id}:{key.keyid}", claims=claims, digest="")


async def test_of_all_holders_those_stand_whose_grant_is_alive(site: Site, ann: Person) -> None:
    gate, key, tenant_id = DoorKeeper(site.services), GranteeKey.make(), UUID(ann.tenant_id)
    alive, revoked = [(await granted(ann, key))["grant_id"] for _ in range(2)]
    end = (site.clock.now() + timedelta(hours=1)).isoformat()
    expiring = (await granted(ann, key, expires_at=end))["grant_id"]
    await ann.call("DELETE", f"/v1/my/grants/{revoked}", 204)
    holders = [
        (credential_of(revoked, key), tenant_id),
        (credential_of(alive, key), tenant_id),
        (credential_of(alive, GranteeKey.make()), tenant_id),
        (credential_of(alive, key), uuid4()),
        (credential_of(expiring, key), tenant_id),
    ]
    found = await gate.standing(holders)
    assert [entry is not None for entry in found] == [False, True, False, False, True]
    entry = found[1]
    assert entry is not None
    assert (entry.actor.kind, entry.role, str(entry.grant_id)) == (ActorKind.GRANTEE, "grantee", alive)
    assert (str(entry.user_id), entry.audiences) == (ann.account["user_id"], frozenset())
    site.clock.advance(timedelta(hours=1))
    assert (await gate.standing(holders))[4] is None


async def test_a_standing_that_forgets_the_revoked_is_seen(
    site: Site, ann: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted mistake: whoever was let in once stays."""

    async def all_stand(
        self: DoorKeeper, _: object, holders: Sequence[tuple[Credential, UUID]], found: list[Entry | None]
    ) -> None:
        for n, (credential, _tenant) in enumerate(holders):
            claims = credential.claims
            user = UUID(ann.account["user_id"])
            found[n] = doorkeeper._grantee(user, "admin", UUID(claims["grant"]), claims["grantee"])

    monkeypatch.setattr(DoorKeeper, "_standing_grants", all_stand)
    with pytest.raises(AssertionError, match="True, True, True"):
        await test_of_all_holders_those_stand_whose_grant_is_alive(site, ann)
