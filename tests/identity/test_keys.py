"""API keys over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from retinue.database import Database
from retinue.ledger import Feed
from tests.support.scopes import scope_of
from tests.support.site import Account, Site, bearer

PROFILE = "/v1/my/profile"


async def make(account: Account, **fields: Any) -> dict[str, Any]:
    response = await account.client.post("/v1/my/keys", json={"name": "a key", **fields})
    assert response.status_code == 201, response.text
    found: dict[str, Any] = response.json()
    return found


async def status(site: Site, key: str, path: str = PROFILE, method: str = "GET", **more: Any) -> int:
    return (await site.client.request(method, path, headers=bearer(key), **more)).status_code


async def listed(account: Account) -> list[dict[str, Any]]:
    response = await account.client.get("/v1/my/keys")
    assert response.status_code == 200
    items: list[dict[str, Any]] = response.json()["items"]
    return items


async def test_a_key_acts_for_its_user(site: Site) -> None:
    account = await site.sign_up()
    made = await make(account, name="build server")
    assert made["key"].startswith("rtn_live_")
    response = await site.client.get(PROFILE, headers=bearer(made["key"]))
    assert response.json()["user_id"] == str(account.user_id)


async def test_a_key_is_shown_once(site: Site, database: Database) -> None:
    account = await site.sign_up()
    made = await make(account)
    (shown,) = await listed(account)
    assert made["key"] not in str(shown)
    assert made["key"].startswith(shown["hint"])
    assert {**shown, "key": made["key"]} == made
    async with scope_of(site.services, account.tenant_id) as scope:
        rows = await scope.queries.fetch("SELECT k::text AS text FROM api_keys k")
        assert made["key"][9:] not in str([row["text"] for row in rows])
    for one in await site.services.get(Feed).read(account.tenant_id, 0):
        assert made["key"][9:] not in one.data


async def test_a_revoked_key_is_refused_at_once(site: Site) -> None:
    account = await site.sign_up()
    made = await make(account)
    assert await status(site, made["key"]) == 200
    assert (await account.client.delete(f"/v1/my/keys/{made['key_id']}")).status_code == 204
    assert await status(site, made["key"]) == 401
    assert (await account.client.delete(f"/v1/my/keys/{made['key_id']}")).status_code == 404
    assert (await listed(account))[0]["revoked_at"] is not None
    types = [one.type for one in await site.services.get(Feed).read(account.tenant_id, 0)]
    assert types[-2:] == ["key.created", "key.revoked"]


async def test_a_key_ends_when_it_expires(site: Site) -> None:
    account = await site.sign_up()
    made = await make(account, expires_at=(site.clock.now() + timedelta(hours=1)).isoformat())
    assert await status(site, made["key"]) == 200
    site.clock.advance(timedelta(hours=1))
    assert await status(site, made["key"]) == 401


@pytest.mark.parametrize(
    "body, field",
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 201}, "name"),
        ({}, "name"),
        ({"name": "k", "scopes": ["agents"]}, "scopes.0"),
        ({"name": "k", "scopes": ["*:*"]}, "scopes.0"),
        ({"name": "k", "scopes": "agents:read"}, "scopes"),
        ({"name": "k", "scopes": ["agents:read"] * 201}, "scopes"),
        ({"name": "k", "scopes": ["unicorns:read"]}, "scopes.0"),
        ({"name": "k", "scopes": ["agents:list", "agents:fly"]}, "scopes.1"),
        ({"name": "k", "expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "k", "expires_at": "2030-01-01T00:00:00"}, "expires_at"),
        ({"name": "k", "expires_at": "tomorrow"}, "expires_at"),
    ],
)
async def test_a_bad_key_request_names_the_field(site: Site, body: dict[str, Any], field: str) -> None:
    account = await site.sign_up()
    response = await account.client.post("/v1/my/keys", json=body)
    assert response.status_code == 422, response.text
    assert field in [one["field"] for one in response.json()["errors"]]
    assert await listed(account) == []


async def test_scopes_limit_a_key(site: Site) -> None:
    account = await site.sign_up()
    narrow = await make(account, scopes=["keys:list"])
    wide = await make(account, scopes=["keys:*", "profile:read"])
    assert await status(site, narrow["key"], "/v1/my/keys") == 200
    assert await status(site, narrow["key"], PROFILE) == 403
    assert await status(site, narrow["key"], "/v1/my/keys", "POST", json={"name": "more"}) == 403
    assert await status(site, wide["key"], PROFILE) == 200
    assert await status(site, wide["key"], "/v1/tenants") == 403


@pytest.mark.parametrize(
    "scopes, expected",
    [
        (["keys:create"], 201),
        (["keys:*"], 201),
        (["profile:read"], 201),
        (["profile:*"], 403),
        (["agents:read"], 403),
        (None, 403),
    ],
)
async def test_a_key_makes_no_key_that_may_do_more(site: Site, scopes: list[str] | None, expected: int) -> None:
    account = await site.sign_up()
    made = await make(account, scopes=["keys:*", "profile:read"])
    assert await status(site, made["key"], "/v1/my/keys", "POST", json={"name": "more", "scopes": scopes}) == expected


async def test_a_key_does_not_widen_itself_by_replacing_another(site: Site) -> None:
    account = await site.sign_up()
    strong = await make(account)
    weak = await make(account, scopes=["keys:*"])
    path = f"/v1/my/keys/{strong['key_id']}/replace"
    assert await status(site, weak["key"], path, "POST", json={}) == 403


async def test_a_key_opens_one_tenant_only(site: Site) -> None:
    account = await site.sign_up()
    organisation = (await account.client.post("/v1/tenants", json={"name": "Acme"})).json()["tenant_id"]
    made = await make(account)
    headers = bearer(made["key"]) | {"Retinue-Tenant": organisation}
    assert (await site.client.get(PROFILE, headers=headers)).status_code == 404
    theirs = await account.client.post(
        "/v1/my/keys", json={"name": "in Acme"}, headers={"Retinue-Tenant": organisation}
    )
    response = await site.client.get("/v1/tenants", headers=bearer(theirs.json()["key"]))
    assert [one["tenant_id"] for one in response.json()["items"]] == [organisation]


async def test_a_key_founds_no_organisation(site: Site) -> None:
    account = await site.sign_up()
    made = await make(account)
    assert await status(site, made["key"], "/v1/tenants", "POST", json={"name": "Acme"}) == 403


async def test_a_key_can_be_replaced_without_a_gap(site: Site) -> None:
    account = await site.sign_up()
    former = await make(account, name="build server", scopes=["profile:read"])
    path = f"/v1/my/keys/{former['key_id']}/replace"
    response = await account.client.post(path, json={"overlap_seconds": 3600})
    assert response.status_code == 201, response.text
    fresh = response.json()
    assert (fresh["name"], fresh["scopes"]) == ("build server", ["profile:read"])
    assert await status(site, former["key"]) == await status(site, fresh["key"]) == 200
    assert (await account.client.post(path, json={})).status_code == 409  # two live keys, no more
    site.clock.advance(timedelta(hours=1))
    login = await site.client.post("/v1/auth/login", json={"email": account.email, "password": "correct horse battery"})
    assert await status(site, former["key"]) == 401
    assert await status(site, fresh["key"]) == 200
    shown = (await site.client.get("/v1/my/keys", headers=bearer(login.json()["access_token"]))).json()["items"]
    assert shown[0]["replaced_by"] == fresh["key_id"]


async def test_replacing_never_makes_a_key_live_longer(site: Site) -> None:
    account = await site.sign_up()
    ends = site.clock.now() + timedelta(minutes=10)
    former = await make(account, expires_at=ends.isoformat())
    response = await account.client.post(f"/v1/my/keys/{former['key_id']}/replace", json={"overlap_seconds": 86400})
    for one in (response.json(), (await listed(account))[0]):
        assert datetime.fromisoformat(one["expires_at"]) == ends


async def test_of_replacements_at_once_one_wins(site: Site) -> None:
    account = await site.sign_up()
    former = await make(account)
    path = f"/v1/my/keys/{former['key_id']}/replace"
    answers = await asyncio.gather(*(account.client.post(path, json={}) for _ in range(4)))
    assert sorted(one.status_code for one in answers) == [201, 409, 409, 409]


async def test_the_last_use_is_noted_once_a_minute(site: Site) -> None:
    account = await site.sign_up()
    made = await make(account)

    async def last_use() -> str | None:
        found: str | None = (await listed(account))[0]["last_used_at"]
        return found

    assert await last_use() is None
    await status(site, made["key"])
    first = await last_use()
    assert first is not None
    site.clock.advance(timedelta(seconds=59))
    await status(site, made["key"])
    assert await last_use() == first
    site.clock.advance(timedelta(seconds=1))
    await status(site, made["key"])
    assert await last_use() != first


@asynccontextmanager
async def held(site: Site, account: Account) -> AsyncIterator[None]:
    """Keep the key's row locked, as a long request of the same key would."""
    async with scope_of(site.services, account.tenant_id) as scope:
        await scope.queries.fetch("SELECT 1 FROM api_keys FOR UPDATE")
        yield


async def test_noting_the_last_use_waits_for_nobody(site: Site) -> None:
    account = await site.sign_up()
    made = await make(account)
    async with held(site, account):
        assert await asyncio.wait_for(status(site, made["key"]), 3) == 200


async def test_other_users_keys_do_not_exist(site: Site) -> None:
    account, stranger = await site.sign_up(), await site.sign_up()
    made = await make(account)
    for method, path in (("DELETE", ""), ("POST", "/replace")):
        path = f"/v1/my/keys/{made['key_id']}{path}"
        response = await stranger.client.request(method, path, json={} if method == "POST" else None)
        missing = await stranger.client.request(
            method, path.replace(made["key_id"], str(uuid4())), json={} if method == "POST" else None
        )
        assert response.status_code == missing.status_code == 404
        assert response.json()["detail"] == missing.json()["detail"]
    assert await listed(stranger) == []
    assert await status(site, made["key"]) == 200


async def test_keys_come_in_pages(site: Site) -> None:
    account = await site.sign_up()
    made = [(await make(account, name=f"key {n}"))["key_id"] for n in range(5)]
    found: list[str] = []
    cursor: str | None = None
    while True:
        response: httpx.Response = await account.client.get(
            "/v1/my/keys", params={"limit": 2} | ({"cursor": cursor} if cursor else {})
        )
        found.extend(one["key_id"] for one in response.json()["items"])
        cursor = response.json()["next_cursor"]
        if cursor is None:
            break
    assert found == made


async def test_a_key_has_no_login_to_end(site: Site) -> None:
    account = await site.sign_up()
    made = await make(account)
    assert await status(site, made["key"], "/v1/auth/logout", "POST") == 409
    body = {"current_password": "correct horse battery", "new_password": "another password"}
    assert await status(site, made["key"], "/v1/my/password", "POST", json=body) == 409


async def test_a_key_made_twice_with_one_idempotency_key_is_one_key(site: Site) -> None:
    account = await site.sign_up()
    headers = {"Idempotency-Key": uuid4().hex}
    answers = [await account.client.post("/v1/my/keys", json={"name": "once"}, headers=headers) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert len(await listed(account)) == 1
