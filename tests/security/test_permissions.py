"""Every route, asked by everybody: the answer agrees with the permission table (tenancy/permissions.py).

The requests are about ids that nobody has. Who is allowed gets some answer about them; who is not gets 403 with the
cell that denies, before anything else is looked at. tests/tenancy/test_permissions.py tests the table itself.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from retinue.tenancy import ROLES, permits
from retinue.tenancy.permissions import SCOPES
from tests.security.estate import STREAMS, Operation, Things, operations, request_of
from tests.support.databases import Cluster
from tests.support.running import Person, RunningServer, running_server

_DENIED = re.compile(r"The role \w+( and the scopes of this key)? may not (\w+) (\w+) here\.")
# Leaving ends a membership, so whoever asks does it last.
_LAST = ("tenants_stop", "tenants_resume", "tenants_leave")


@pytest.fixture(scope="module")
async def server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    async with running_server(postgres, worker=False) as found:
        yield found


@pytest.fixture(scope="module")
async def document(server: RunningServer) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=server.base_url) as client:
        found: dict[str, Any] = (await client.get("/v1/openapi.json")).json()
        return found


@pytest.fixture(scope="module")
async def founder(server: RunningServer) -> Person:
    """The admin of an organisation, in which she works."""
    person = await server.person("founder")
    made = await person.call("POST", "/v1/tenants", 201, json={"name": "the organisation"})
    person.client.headers["Retinue-Tenant"] = made["tenant_id"]
    return person


def tenant_of(person: Person) -> str:
    return str(person.client.headers["Retinue-Tenant"])


def scoped_operations(document: dict[str, Any]) -> list[Operation]:
    """Return the operations with a permission, in an order in which one person can ask for them all."""
    found = [one for one in operations(document) if one.permission is not None]
    return sorted(found, key=lambda one: _LAST.index(one.name) if one.name in _LAST else -1)


def nothing(tenant_id: str) -> Things:
    """Return ids that nobody has, in a tenant that exists."""
    return replace(Things(*[""] * len(Things.__dataclass_fields__)).missing(), tenant_id=tenant_id)


async def verdict(client: httpx.AsyncClient, operation: Operation, tenant_id: str) -> str:
    """Ask for an operation and return ``allow``, ``deny`` (by the table) or ``nobody`` (401)."""
    method, path, request = request_of(operation, nothing(tenant_id))
    if operation.name in STREAMS:
        request["params"] = {"after": "0"}
    if operation.name == "identity_create_key":
        request["json"]["scopes"] = ["keys:create"]  # a key makes none that may do more than itself
    async with client.stream(method, path, **request) as response:
        if operation.name in STREAMS and response.status_code == 200:
            return "allow"  # it would not end
        await response.aread()
    assert response.status_code < 500, response.text
    if response.status_code == 401:
        return "nobody"
    if response.status_code == 403 and method == "HEAD":
        return "deny"  # it has no words
    said = _DENIED.match(response.json()["detail"]) if response.status_code == 403 else None
    if said is None:
        return "allow"
    assert (said[3], said[2]) == operation.cell, response.text
    return "deny"


@pytest.mark.parametrize("role", ROLES)
async def test_every_route_asks_the_table(
    server: RunningServer, document: dict[str, Any], founder: Person, role: str
) -> None:
    person = await server.person(role)
    tenant_id = tenant_of(founder)
    body = {"user_id": person.account["user_id"], "role": role}
    await founder.call("PUT", f"/v1/tenants/{tenant_id}/members", json=body)
    person.client.headers["Retinue-Tenant"] = tenant_id
    wrong = []
    for operation in scoped_operations(document):
        expected = permits(role, None, *operation.cell)
        found = await verdict(person.client, operation, tenant_id)
        if found != expected:
            wrong.append(f"{operation.method} {operation.path} as {role}: {found} instead of {expected}")
    assert not wrong, "\n".join(wrong)
    # The last thing asked for was to leave: it really happened.
    assert (await person.client.get("/v1/my/agents")).status_code == 404


@pytest.mark.parametrize("credential", [None, "Bearer nonsense", "Bearer rtn_live_" + "x" * 40, "Basic YTpi"])
async def test_nobody_gets_in(
    server: RunningServer, document: dict[str, Any], founder: Person, credential: str | None
) -> None:
    headers = {"Retinue-Tenant": tenant_of(founder)} | ({"Authorization": credential} if credential else {})
    async with httpx.AsyncClient(base_url=server.base_url, headers=headers) as client:
        for operation in scoped_operations(document):
            assert await verdict(client, operation, tenant_of(founder)) == "nobody", operation


def leaves(operation: Operation) -> bool:
    """An admin's key would leave the organisation; the roles above have tried that."""
    return operation.name == "tenants_leave"


async def test_a_key_does_what_its_scopes_say(server: RunningServer, document: dict[str, Any], founder: Person) -> None:
    """With exactly the scope of a route its key is let in; with every other scope but this one it is not."""
    by_cell: dict[tuple[str, str], list[Operation]] = {}
    for operation in scoped_operations(document):
        if not leaves(operation):
            by_cell.setdefault(operation.cell, []).append(operation)
    assert len(by_cell) > 35
    wrong: list[str] = []
    for cell, found in by_cell.items():
        scope = ":".join(cell)
        others = sorted(one for one in SCOPES if one not in (scope, f"{cell[0]}:*"))
        for scopes, expected in (([scope], "allow"), (others, "deny")):
            wrong += await _asked_with_key(server, founder, found, scopes, expected)
    assert not wrong, "\n".join(wrong)


async def _asked_with_key(
    server: RunningServer, founder: Person, found: list[Operation], scopes: list[str], expected: str
) -> list[str]:
    made = await founder.call("POST", "/v1/my/keys", 201, json={"name": "narrow", "scopes": scopes})
    wrong = []
    async with httpx.AsyncClient(
        base_url=server.base_url, headers={"Authorization": f"Bearer {made['key']}"}
    ) as client:
        for operation in found:
            given = await verdict(client, operation, tenant_of(founder))
            if given != expected:
                wrong.append(f"{operation.method} {operation.path} with {scopes}: {given} instead of {expected}")
    await founder.call("DELETE", f"/v1/my/keys/{made['key_id']}", 204)
    return wrong


async def test_a_key_is_bound_by_its_users_role(
    server: RunningServer, document: dict[str, Any], founder: Person
) -> None:
    viewer = await server.person("viewer")
    tenant_id = tenant_of(founder)
    body = {"user_id": viewer.account["user_id"], "role": "viewer"}
    await founder.call("PUT", f"/v1/tenants/{tenant_id}/members", json=body)
    viewer.client.headers["Retinue-Tenant"] = tenant_id
    made = await viewer.call("POST", "/v1/my/keys", 201, json={"name": "all there is"})
    headers = {"Authorization": f"Bearer {made['key']}"}
    async with httpx.AsyncClient(base_url=server.base_url, headers=headers) as client:
        for operation in scoped_operations(document):
            if not leaves(operation):
                expected = permits("viewer", None, *operation.cell)
                assert await verdict(client, operation, tenant_id) == expected, operation


async def test_a_changed_role_counts_from_the_next_request(
    server: RunningServer, document: dict[str, Any], founder: Person
) -> None:
    person = await server.person("rising")
    tenant_id, user_id = tenant_of(founder), person.account["user_id"]
    person.client.headers["Retinue-Tenant"] = tenant_id
    create = next(one for one in scoped_operations(document) if one.name == "agents_create")
    for role, expected in (("viewer", "deny"), ("member", "allow"), ("viewer", "deny")):
        body = {"user_id": user_id, "role": role}
        await founder.call("PUT", f"/v1/tenants/{tenant_id}/members", json=body)
        assert await verdict(person.client, create, tenant_id) == expected
