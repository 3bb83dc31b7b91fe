"""Tenants, members and the emergency stop over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from retinue import tenancy
from retinue.kernel import Conflict, Scope
from retinue.ledger import Feed
from tests.support.scopes import scope_of
from tests.support.site import PASSWORD, Account, Site, bearer


async def found(account: Account, name: str = "Acme", **more: Any) -> str:
    response = await account.client.post("/v1/tenants", json={"name": name}, **more)
    assert response.status_code == 201, response.text
    tenant_id: str = response.json()["tenant_id"]
    return tenant_id


async def add(admin: Account, tenant: str, account: Account, role: str) -> httpx.Response:
    return await admin.client.put(f"/v1/tenants/{tenant}/members", json={"email": account.email, "role": role})


async def roles(account: Account, tenant: str) -> dict[str, str]:
    response = await account.client.get(f"/v1/tenants/{tenant}/members")
    assert response.status_code == 200, response.text
    return {one["email"]: one["role"] for one in response.json()["items"]}


async def events(site: Site, tenant: str) -> list[tuple[str, dict[str, Any]]]:
    return [(one.type, json.loads(one.data)) for one in await site.services.get(Feed).read(UUID(tenant), 0)]


# Organisations


async def test_who_founds_an_organisation_is_its_admin(site: Site) -> None:
    ann = await site.sign_up()
    tenant = await found(ann, "Acme")
    response = await ann.client.get(f"/v1/tenants/{tenant}")
    assert response.status_code == 200
    assert (response.json()["name"], response.json()["role"], response.json()["personal"]) == ("Acme", "admin", False)
    listed = (await ann.client.get("/v1/tenants")).json()["items"]
    assert [one["tenant_id"] for one in listed] == [str(ann.tenant_id), tenant]
    assert [one[0] for one in await events(site, tenant)] == ["tenant.created", "member.added"]
    # Nothing of it is in the tenant from which it was asked for.
    assert "tenant.created" not in [one[0] for one in (await events(site, str(ann.tenant_id)))[3:]]


async def test_an_organisation_asked_for_twice_with_one_key_is_one(site: Site) -> None:
    ann = await site.sign_up()
    headers = {"Idempotency-Key": uuid4().hex}
    assert await found(ann, headers=headers) == await found(ann, headers=headers)
    assert len((await ann.client.get("/v1/tenants")).json()["items"]) == 2


async def test_an_organisation_can_be_renamed_a_personal_tenant_cannot(site: Site) -> None:
    ann = await site.sign_up()
    tenant = await found(ann)
    assert (await ann.client.put(f"/v1/tenants/{tenant}", json={"name": "Other"})).json()["name"] == "Other"
    assert (await ann.client.put(f"/v1/tenants/{ann.tenant_id}", json={"name": "Other"})).status_code == 409


async def test_tenants_come_in_pages(site: Site) -> None:
    ann = await site.sign_up()
    expected = [str(ann.tenant_id), *[await found(ann, f"T{n}") for n in range(4)]]
    first = (await ann.client.get("/v1/tenants", params={"limit": 3})).json()
    rest = (await ann.client.get("/v1/tenants", params={"limit": 3, "cursor": first["next_cursor"]})).json()
    assert [one["tenant_id"] for one in first["items"] + rest["items"]] == expected
    assert rest["next_cursor"] is None


@pytest.mark.parametrize("body", [{}, {"name": ""}, {"name": "x" * 201}, {"name": 1}, {"name": "a\x00b"}, [], None])
async def test_a_bad_organisation_is_refused(site: Site, body: Any) -> None:
    ann = await site.sign_up()
    assert (await ann.client.post("/v1/tenants", json=body)).status_code == 422
    assert len((await ann.client.get("/v1/tenants")).json()["items"]) == 1


# Members


async def test_an_admin_admits_members(site: Site) -> None:
    ann, bob = await site.sign_up(), await site.sign_up(name="Bob")
    tenant = await found(ann)
    response = await add(ann, tenant, bob, "member")
    assert response.status_code == 200, response.text
    shown = response.json()
    assert (shown["user_id"], shown["email"], shown["name"], shown["role"]) == (
        str(bob.user_id),
        bob.email,
        "Bob",
        "member",
    )
    assert await roles(bob, tenant) == {ann.email: "admin", bob.email: "member"}
    profile = (await bob.client.get("/v1/my/profile")).json()
    assert [(one["tenant_id"], one["role"]) for one in profile["tenants"]] == [
        (str(bob.tenant_id), "admin"),
        (tenant, "member"),
    ]


async def test_a_member_can_be_added_by_id_and_again(site: Site) -> None:
    ann, bob = await site.sign_up(), await site.sign_up()
    tenant = await found(ann)
    for role in ("viewer", "viewer", "manager"):
        response = await ann.client.put(
            f"/v1/tenants/{tenant}/members", json={"user_id": str(bob.user_id), "role": role}
        )
        assert response.json()["role"] == role
    assert [one[0] for one in await events(site, tenant)] == [
        "tenant.created",
        "member.added",
        "member.added",
        "member.changed",
    ]


async def test_an_id_is_no_way_to_look_up_an_address(site: Site) -> None:
    ann, bob = await site.sign_up(), await site.sign_up(name="Bob")
    tenant = await found(ann)
    path = f"/v1/tenants/{tenant}/members"

    async def look(account: Account) -> list[Any]:
        (item,) = [one for one in (await account.client.get(path)).json()["items"] if one["user_id"] == user_id]
        return [item["email"], item["name"], item["role"]]

    user_id = str(bob.user_id)
    by_id = [
        await ann.client.put(path, json={"user_id": user_id, "role": "viewer"}),
        await ann.client.put(path, json={"user_id": user_id, "role": "member"}),
        await ann.client.put(f"{path}/{user_id}", json={"role": "manager"}),
    ]
    for response in by_id:
        assert response.status_code == 200
        assert "Bob" not in response.text
        assert bob.email not in response.text
    assert await look(ann) == [None, "", "manager"]
    assert await look(bob) == [bob.email, "Bob", "manager"]  # oneself, one sees
    # Who knows the address is told nothing new.
    assert (await add(ann, tenant, bob, "manager")).json()["email"] == bob.email
    assert await look(ann) == [bob.email, "Bob", "manager"]
    await ann.client.put(f"{path}/{user_id}", json={"role": "viewer"})
    assert await look(ann) == [bob.email, "Bob", "viewer"]
    # A membership that begins anew begins unknown.
    assert (await ann.client.delete(f"{path}/{user_id}")).status_code == 204
    await ann.client.put(path, json={"user_id": user_id, "role": "viewer"})
    assert await look(ann) == [None, "", "viewer"]


async def test_a_role_takes_effect_at_once(site: Site) -> None:
    ann, bob = await site.sign_up(), await site.sign_up()
    tenant = await found(ann)
    await add(ann, tenant, bob, "viewer")
    assert (await bob.client.post(f"/v1/tenants/{tenant}/stop", json={"reason": "x"})).status_code == 403
    path = f"/v1/tenants/{tenant}/members/{bob.user_id}"
    assert (await ann.client.put(path, json={"role": "manager"})).status_code == 200
    assert (await bob.client.post(f"/v1/tenants/{tenant}/stop", json={"reason": "x"})).status_code == 200
    assert (await ann.client.delete(path)).status_code == 204
    assert (await bob.client.get(f"/v1/tenants/{tenant}")).status_code == 404
    assert (await ann.client.delete(path)).status_code == 404
    assert (await ann.client.put(path, json={"role": "viewer"})).status_code == 404


@pytest.mark.parametrize("role", ["viewer", "member", "manager"])
async def test_only_admins_change_members(site: Site, role: str) -> None:
    ann, bob, eve = await site.sign_up(), await site.sign_up(), await site.sign_up()
    tenant = await found(ann)
    await add(ann, tenant, bob, role)
    assert (await add(bob, tenant, eve, "viewer")).status_code == 403
    assert (await add(bob, tenant, bob, "admin")).status_code == 403
    path = f"/v1/tenants/{tenant}/members/"
    assert (await bob.client.put(path + str(bob.user_id), json={"role": "admin"})).status_code == 403
    assert (await bob.client.delete(path + str(ann.user_id))).status_code == 403
    assert await roles(ann, tenant) == {ann.email: "admin", bob.email: role}


async def test_the_last_admin_stays(site: Site) -> None:
    ann, bob = await site.sign_up(), await site.sign_up()
    tenant = await found(ann)
    await add(ann, tenant, bob, "manager")
    path = f"/v1/tenants/{tenant}/members/{ann.user_id}"
    assert (await ann.client.put(path, json={"role": "member"})).status_code == 409
    assert (await add(ann, tenant, ann, "member")).status_code == 409
    assert (await ann.client.delete(path)).status_code == 409
    assert (await ann.client.post(f"/v1/tenants/{tenant}/leave")).status_code == 409
    assert (await ann.client.put(path, json={"role": "admin"})).status_code == 200
    await add(ann, tenant, bob, "admin")
    assert (await ann.client.post(f"/v1/tenants/{tenant}/leave")).status_code == 204
    assert await roles(bob, tenant) == {bob.email: "admin"}


async def test_two_admins_who_leave_at_once_do_not_both(site: Site) -> None:
    ann, bob = await site.sign_up(), await site.sign_up()
    for _ in range(5):
        tenant = await found(ann)
        await add(ann, tenant, bob, "admin")
        answers = await asyncio.gather(
            *(one.client.post(f"/v1/tenants/{tenant}/leave") for one in (ann, bob)),
        )
        assert sorted(one.status_code for one in answers) == [204, 409]


async def test_members_added_at_once_are_all_there(site: Site) -> None:
    ann = await site.sign_up()
    others = await asyncio.gather(*(site.sign_up() for _ in range(5)))
    tenant = await found(ann)
    answers = await asyncio.gather(*(add(ann, tenant, one, "member") for one in others))
    assert [one.status_code for one in answers] == [200] * 5
    assert len(await roles(ann, tenant)) == 6


async def test_a_member_who_leaves_loses_their_keys_there(site: Site) -> None:
    ann, bob = await site.sign_up(), await site.sign_up()
    tenant = await found(ann)
    await add(ann, tenant, bob, "member")
    made = await bob.client.post("/v1/my/keys", json={"name": "k"}, headers={"Retinue-Tenant": tenant})
    own = await bob.client.post("/v1/my/keys", json={"name": "k"})
    assert (await bob.client.post(f"/v1/tenants/{tenant}/leave")).status_code == 204
    assert (await site.client.get("/v1/my/keys", headers=bearer(made.json()["key"]))).status_code == 401
    assert (await site.client.get("/v1/my/keys", headers=bearer(own.json()["key"]))).status_code == 200
    # Coming back does not bring them back.
    await add(ann, tenant, bob, "member")
    assert (await site.client.get("/v1/my/keys", headers=bearer(made.json()["key"]))).status_code == 401


async def test_a_personal_tenant_has_one_member(site: Site) -> None:
    ann, bob = await site.sign_up(), await site.sign_up()
    assert (await add(ann, str(ann.tenant_id), bob, "viewer")).status_code == 409
    assert (await ann.client.post(f"/v1/tenants/{ann.tenant_id}/leave")).status_code == 409


async def test_an_unknown_user_cannot_be_added(site: Site) -> None:
    ann = await site.sign_up()
    path = f"/v1/tenants/{await found(ann)}/members"
    for body in ({"email": f"{uuid4().hex}@example.com"}, {"user_id": str(uuid4())}):
        assert (await ann.client.put(path, json={**body, "role": "viewer"})).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"role": "viewer"},
        {"email": "ann@example.com"},
        {"email": "ann@example.com", "user_id": str(uuid4()), "role": "viewer"},
        {"email": "ann@example.com", "role": "owner"},
        {"email": "nonsense", "role": "viewer"},
        {"user_id": "nonsense", "role": "viewer"},
        {"email": "ann@example.com", "role": ["viewer"]},
    ],
)
async def test_a_bad_member_is_refused(site: Site, body: dict[str, Any]) -> None:
    ann = await site.sign_up()
    response = await ann.client.put(f"/v1/tenants/{await found(ann)}/members", json=body)
    assert response.status_code == 422, response.text
    assert response.json()["errors"]


async def test_members_come_in_pages(site: Site) -> None:
    ann = await site.sign_up()
    tenant = await found(ann)
    for _ in range(4):
        await add(ann, tenant, await site.sign_up(), "viewer")
    first = (await ann.client.get(f"/v1/tenants/{tenant}/members", params={"limit": 3})).json()
    rest = (
        await ann.client.get(f"/v1/tenants/{tenant}/members", params={"limit": 3, "cursor": first["next_cursor"]})
    ).json()
    assert len({one["user_id"] for one in first["items"] + rest["items"]}) == 5
    assert rest["next_cursor"] is None


# Strangers


async def test_a_stranger_s_tenant_does_not_exist(site: Site) -> None:
    ann, eve = await site.sign_up(), await site.sign_up()
    tenant = await found(ann)

    async def sweep(named: str) -> list[tuple[int, str]]:
        answers = []
        for method, path, body in (
            ("GET", "", None),
            ("PUT", "", {"name": "x"}),
            ("GET", "/members", None),
            ("PUT", "/members", {"email": eve.email, "role": "admin"}),
            ("PUT", f"/members/{ann.user_id}", {"role": "viewer"}),
            ("DELETE", f"/members/{ann.user_id}", None),
            ("POST", "/leave", None),
            ("POST", "/stop", {"reason": "x"}),
            ("POST", "/resume", None),
            ("GET", "/secrets", None),
            ("PUT", "/secrets/openai", {"value": "x"}),
            ("DELETE", "/secrets/openai", None),
        ):
            response = await eve.client.request(method, f"/v1/tenants/{named}{path}", json=body)
            answers.append((response.status_code, response.json()["detail"]))
        response = await eve.client.get("/v1/my/profile", headers={"Retinue-Tenant": named})
        return [*answers, (response.status_code, response.json()["detail"])]

    expected = [(404, "There is no such tenant.")] * 13
    assert await sweep(tenant) == expected
    assert await sweep(str(uuid4())) == expected
    assert await sweep("nonsense") == expected
    assert [one[0] for one in await events(site, tenant)] == ["tenant.created", "member.added"]


async def test_the_tenant_in_the_path_counts_not_the_header(site: Site) -> None:
    ann, eve = await site.sign_up(), await site.sign_up()
    tenant = await found(ann)
    headers = {"Retinue-Tenant": str(eve.tenant_id)}
    assert (await eve.client.get(f"/v1/tenants/{tenant}", headers=headers)).status_code == 404
    headers = {"Retinue-Tenant": str(ann.tenant_id)}
    assert (await ann.client.get(f"/v1/tenants/{tenant}", headers=headers)).json()["tenant_id"] == tenant


# Emergency stop


@pytest.fixture
def told() -> Iterator[list[tuple[UUID, bool]]]:
    calls: list[tuple[UUID, bool]] = []

    async def hook(scope: Scope, stopped: bool) -> None:
        calls.append((scope.tenant_id, stopped))

    tenancy.stop_hooks.append(hook)
    yield calls
    tenancy.stop_hooks.remove(hook)


async def test_a_stop_lasts_until_it_is_resumed(site: Site, told: list[tuple[UUID, bool]]) -> None:
    ann = await site.sign_up()
    path = f"/v1/tenants/{ann.tenant_id}"
    for _ in range(2):
        response = await ann.client.post(f"{path}/stop", json={"reason": "an agent runs wild"})
        assert response.status_code == 200
        assert response.json()["stop_reason"] == "an agent runs wild"
        assert response.json()["stopped_at"] is not None
    async with scope_of(site.services, ann.tenant_id) as scope:
        assert await tenancy.is_stopped(scope)
        with pytest.raises(Conflict, match="an agent runs wild"):
            await tenancy.refuse_when_stopped(scope)
    for _ in range(2):
        response = await ann.client.post(f"{path}/resume")
        assert response.json()["stopped_at"] is None
    async with scope_of(site.services, ann.tenant_id) as scope:
        assert not await tenancy.is_stopped(scope)
        await tenancy.refuse_when_stopped(scope)
    assert told == [(ann.tenant_id, True), (ann.tenant_id, False)]
    assert [one[0] for one in await events(site, str(ann.tenant_id))][-2:] == ["tenant.stopped", "tenant.resumed"]


async def test_everybody_in_the_tenant_sees_a_stop(site: Site) -> None:
    ann = await site.sign_up()
    await ann.client.post(f"/v1/tenants/{ann.tenant_id}/stop", json={"reason": "x"})
    last = (await site.services.get(Feed).read(ann.tenant_id, 0))[-1]
    assert last.type == "tenant.stopped"
    assert last.meta.owner is None
    assert last.meta.actor == f"user:{ann.user_id}"


async def test_a_stop_whose_hook_fails_did_not_happen(site: Site) -> None:
    ann = await site.sign_up()

    async def fails(_scope: Scope, _stopped: bool) -> None:
        raise Conflict("not now")

    tenancy.stop_hooks.append(fails)
    try:
        response = await ann.client.post(f"/v1/tenants/{ann.tenant_id}/stop", json={"reason": "x"})
    finally:
        tenancy.stop_hooks.remove(fails)
    assert response.status_code == 409
    assert (await ann.client.get(f"/v1/tenants/{ann.tenant_id}")).json()["stopped_at"] is None


@pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": "x" * 1001}, {"reason": None}])
async def test_a_stop_needs_a_reason(site: Site, body: dict[str, Any]) -> None:
    ann = await site.sign_up()
    assert (await ann.client.post(f"/v1/tenants/{ann.tenant_id}/stop", json=body)).status_code == 422


async def test_a_neighbour_is_not_stopped(site: Site) -> None:
    ann, bob = await site.sign_up(), await site.sign_up()
    await ann.client.post(f"/v1/tenants/{ann.tenant_id}/stop", json={"reason": "x"})
    async with scope_of(site.services, bob.tenant_id) as scope:
        assert not await tenancy.is_stopped(scope)


async def test_signing_in_works_while_stopped(site: Site) -> None:
    ann = await site.sign_up()
    await ann.client.post(f"/v1/tenants/{ann.tenant_id}/stop", json={"reason": "x"})
    response = await site.client.post("/v1/auth/login", json={"email": ann.email, "password": PASSWORD})
    assert response.status_code == 200
