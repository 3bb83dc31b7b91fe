"""Secrets over HTTP: they go in and never come out."""

from __future__ import annotations

from typing import Any

import pytest

from retinue.vault import ProviderSecret, provider_keys, provider_secrets
from tests.support.scopes import scope_of
from tests.support.site import Account, Site

SECRET = "sk-very-secret-value-0123456789"


def path(account: Account, name: str = "") -> str:
    return f"/v1/tenants/{account.tenant_id}/secrets{'/' + name if name else ''}"


async def test_a_secret_goes_in_and_does_not_come_out(site: Site) -> None:
    ann = await site.sign_up()
    body = {"value": SECRET, "base_url": "https://llm.example.com/v1"}
    answers = [await ann.client.put(path(ann, "openai"), json=body), await ann.client.get(path(ann))]
    assert [one.status_code for one in answers] == [200, 200]
    for answer in answers:
        assert SECRET not in answer.text
        assert SECRET[-4:] not in answer.text
    assert [one["name"] for one in answers[1].json()["items"]] == ["openai"]
    async with scope_of(site.services, ann.tenant_id) as scope:
        assert await provider_secrets(scope) == {"openai": ProviderSecret(SECRET, "https://llm.example.com/v1")}


async def test_a_secret_can_be_replaced_and_deleted(site: Site) -> None:
    ann = await site.sign_up()
    for value in ("the first", "the second"):
        assert (await ann.client.put(path(ann, "google"), json={"api_key": value})).status_code == 200
    async with scope_of(site.services, ann.tenant_id) as scope:
        assert await provider_secrets(scope) == {"google": ProviderSecret("the second", None)}
    assert (await ann.client.delete(path(ann, "google"))).status_code == 204
    assert (await ann.client.delete(path(ann, "google"))).status_code == 404
    assert (await ann.client.get(path(ann))).json()["items"] == []


async def test_a_short_text_is_a_key_only_where_keys_may_be_anything(site: Site) -> None:
    ann = await site.sign_up()
    refused = (await ann.client.put(path(ann, "openai"), json={"value": "x"})).json()
    assert refused["errors"] == [
        {"field": "value", "message": "A key of openai has at least 8 characters; this one has 1."}
    ]
    own = {"value": "x", "base_url": "https://llm.example.com/v1"}
    assert (await ann.client.put(path(ann, "openai"), json=own)).status_code == 200
    assert (await ann.client.put(path(ann, "pin"), json={"value": "1"})).status_code == 200


@pytest.mark.parametrize(
    "name, body",
    [
        ("openai", {}),
        ("openai", {"value": ""}),
        ("openai", {"value": "x" * 16_385}),
        ("openai", {"value": 7}),
        ("openai", {"value": "x"}),
        ("google", {"value": "1234567"}),
        ("openai", {"value": SECRET, "base_url": "ftp://x"}),
        ("openai", {"value": SECRET, "base_url": "https://a b"}),
        ("openai", {"value": SECRET, "more": 1}),
        ("UPPER", {"value": SECRET}),
        ("a" * 65, {"value": SECRET}),
        ("-a", {"value": SECRET}),
    ],
)
async def test_a_bad_secret_is_refused_without_repeating_it(site: Site, name: str, body: dict[str, Any]) -> None:
    ann = await site.sign_up()
    response = await ann.client.put(path(ann, name), json=body)
    assert response.status_code == 422, response.text
    assert SECRET not in response.text
    assert (await ann.client.get(path(ann))).json()["items"] == []


@pytest.mark.parametrize("role, listing, writing", [("member", 403, 403), ("manager", 200, 403), ("admin", 200, 200)])
async def test_who_may_do_what(site: Site, role: str, listing: int, writing: int) -> None:
    ann, bob = await site.sign_up(), await site.sign_up()
    tenant = (await ann.client.post("/v1/tenants", json={"name": "Acme"})).json()["tenant_id"]
    await ann.client.put(f"/v1/tenants/{tenant}/members", json={"email": bob.email, "role": role})
    assert (await bob.client.get(f"/v1/tenants/{tenant}/secrets")).status_code == listing
    response = await bob.client.put(f"/v1/tenants/{tenant}/secrets/openai", json={"value": SECRET})
    assert response.status_code == writing


async def test_secrets_come_in_pages(site: Site) -> None:
    ann = await site.sign_up()
    for name in ("b", "d", "a", "c"):
        await ann.client.put(path(ann, name), json={"value": name})
    first = (await ann.client.get(path(ann), params={"limit": 3})).json()
    rest = (await ann.client.get(path(ann), params={"limit": 3, "cursor": first["next_cursor"]})).json()
    assert [one["name"] for one in first["items"] + rest["items"]] == ["a", "b", "c", "d"]
    assert rest["next_cursor"] is None


async def test_a_tenant_has_so_many_secrets_and_no_more(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_keys, "MOST_SECRETS", 2)
    ann = await site.sign_up()
    statuses = [(await ann.client.put(path(ann, name), json={"value": name})).status_code for name in "abcab"]
    assert statuses == [200, 200, 409, 200, 200]
