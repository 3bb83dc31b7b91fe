"""Grants over HTTP, as people and applications meet them on a started server."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retinue.tenancy import GRANTEE_SCOPES
from retinue_client import Application, GranteeKey, Refused
from tests.grants.refusals import NO_GRANT
from tests.security.estate import operations
from tests.support.databases import Cluster
from tests.support.running import Person, RunningServer, running_server
from tests.support.signing import Signing, application_of, granted
from tests.support.waiting import until


@pytest.fixture(scope="module")
async def server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    async with running_server(postgres, worker=False) as found:
        yield found


@pytest.fixture(scope="module")
async def ann(server: RunningServer) -> Person:
    return await server.person("ann")


async def organisation(server: RunningServer) -> tuple[Person, Person, Person, str]:
    """An admin, two members, and their tenant, in which all three work."""
    admin, ben, cem = [await server.person(name) for name in ("admin", "ben", "cem")]
    tenant = str((await admin.call("POST", "/v1/tenants", 201, json={"name": "Acme"}))["tenant_id"])
    for one in (ben, cem):
        body = {"user_id": one.account["user_id"], "role": "member"}
        await admin.call("PUT", f"/v1/tenants/{tenant}/members", json=body)
    for one in (admin, ben, cem):
        one.client.headers["Retinue-Tenant"] = tenant
    return admin, ben, cem, tenant


async def test_an_application_sees_its_own_terms(ann: Person) -> None:
    wanted = {
        "drivers": ["qwen", "qwen"],
        "models": ["openai:*"],
        "uses": 3,
        "budget": "5.00",
        "limits": {"seconds": 60},
    }
    async with application_of(ann, **wanted) as application:
        terms = await application.grant()
    assert (terms["drivers"], terms["models"], terms["uses"], terms["used"]) == (["qwen"], ["openai:*"], 3, 0)
    assert (terms["budget"], terms["left"], terms["state"]) == ("5", "5", "active")
    assert (terms["limits"], terms["retention_seconds"]) == ({"seconds": 60}, None)
    assert "owner_id" not in terms, "who its user is, is not the application's to know"


async def test_people_have_no_terms_of_their_own(ann: Person) -> None:
    problem = await ann.call("GET", "/v1/grant", 404)
    assert "/v1/my/grants" in problem["detail"]


async def test_lists_come_in_pages_and_leave_out_what_is_over(server: RunningServer) -> None:
    bea = await server.person("bea")
    made = [(await granted(bea, GranteeKey.make()))["grant_id"] for _ in range(3)]
    await bea.call("DELETE", f"/v1/my/grants/{made[1]}", 204)
    first = await bea.call("GET", "/v1/my/grants?limit=2")
    rest = await bea.call("GET", f"/v1/my/grants?limit=2&cursor={first['next_cursor']}")
    assert [one["grant_id"] for one in first["items"] + rest["items"]] == made[::-1]
    alive = await bea.call("GET", "/v1/my/grants?alive=true")
    assert [one["grant_id"] for one in alive["items"]] == [made[2], made[0]]


async def test_members_see_their_own_grants_and_an_admin_all(server: RunningServer) -> None:
    admin, ben, cem, tenant = await organisation(server)
    grant_id = (await granted(ben, GranteeKey.make()))["grant_id"]
    own, anybodys = f"/v1/my/grants/{grant_id}", f"/v1/tenants/{tenant}/grants/{grant_id}"
    for path in (own, anybodys, f"{own}/events", f"{anybodys}/events"):
        await cem.call("GET", path, 404)
        await ben.call("GET", path, 200)
    await cem.call("DELETE", own, 404)
    await cem.call("DELETE", anybodys, 404)
    await admin.call("GET", own, 404)
    assert (await admin.call("GET", anybodys))["owner_id"] == ben.account["user_id"]
    assert [one["grant_id"] for one in (await admin.call("GET", f"/v1/tenants/{tenant}/grants"))["items"]] == [grant_id]
    assert (await cem.call("GET", f"/v1/tenants/{tenant}/grants"))["items"] == []
    await admin.call("DELETE", anybodys, 204)
    events = (await ben.call("GET", f"{own}/events"))["items"]
    assert [one["type"] for one in events] == ["grant.created", "grant.revoked"]
    assert events[1]["actor"] == f"user:{admin.account['user_id']}"


async def test_a_user_who_leaves_takes_the_grants_along(server: RunningServer) -> None:
    admin, ben, _, tenant = await organisation(server)
    async with application_of(ben) as application:
        await application.grant()
        await admin.call("DELETE", f"/v1/tenants/{tenant}/members/{ben.account['user_id']}", 204)
        with pytest.raises(Refused, match="revoked at") as refusal:
            await application.grant()
    assert refusal.value.status == 403
    found = await admin.call("GET", f"/v1/tenants/{tenant}/grants/{application.grant_id}/events")
    assert found["items"][-1]["data"]["reason"] == "left"


async def test_an_application_does_no_more_than_its_user_may(server: RunningServer) -> None:
    """A user who became a viewer can begin nothing any more, and so can nobody in the user's name."""
    admin, ben, _, tenant = await organisation(server)
    async with application_of(ben) as application:
        assert (await application.upload(b"figures", "figures.csv"))["size"] == 7
        body = {"role": "viewer"}
        await admin.call("PUT", f"/v1/tenants/{tenant}/members/{ben.account['user_id']}", json=body)
        with pytest.raises(Refused) as refusal:
            await application.upload(b"figures", "figures.csv")
        assert (refusal.value.status, refusal.value.kind) == (403, "forbidden")
        assert (await application.grant())["state"] == "active"
    await ben.call("DELETE", f"/v1/my/grants/{application.grant_id}", 204)


async def test_a_grant_ends_at_its_time(ann: Person) -> None:
    end = datetime.now(UTC) + timedelta(seconds=2)
    async with application_of(ann, expires_at=end.isoformat()) as application:
        assert (await application.grant())["state"] == "active"

        async def is_refused() -> bool:
            return (await application.http.get("/v1/grant")).status_code == 403

        await until(is_refused)
        with pytest.raises(Refused, match=f"expired at {end.isoformat()[:19]}Z"):
            await application.grant()
        assert datetime.now(UTC) >= end


async def test_no_route_lets_an_application_do_more_than_the_table_says(ann: Person) -> None:
    """Over the API's own description: what is not of grants, operations and artifacts is refused, at every route."""
    document = (await ann.client.get("/v1/openapi.json")).json()
    refused, passed = [], []
    async with application_of(ann) as application:
        for operation in operations(document):
            if operation.permission is None:
                continue
            named = operation.path.replace("{tenant_id}", ann.tenant_id)
            path = re.sub(r"{\w+}", lambda _: str(uuid4()), named)
            types = [one for one in operation.body if not one.startswith("multipart")]
            content = b"{}" if operation.method in ("POST", "PUT", "PATCH") else b""
            headers = {"Content-Type": types[0] if types else "application/json"} if content else {}
            answer = await application.http.request(operation.method, path, content=content, headers=headers)
            assert answer.status_code < 500, f"{operation.name}: {answer.text}"
            if operation.permission in GRANTEE_SCOPES:
                passed.append(operation.name)
                assert answer.status_code != 401, f"{operation.name}: {answer.text}"
            else:
                refused.append(operation.name)
                assert answer.status_code == 403, f"{operation.name}: {answer.status_code} {answer.text}"
                assert "The role grantee may not" in answer.json()["detail"]
    assert len(refused) > 100
    assert {"grants_own_terms", "operations_create", "artifacts_content"} <= set(passed)


async def test_a_stream_ends_with_its_grant(server: RunningServer, ann: Person) -> None:
    """A stream that was opened before must not go on: nobody would have to answer for what it shows."""
    async with application_of(ann) as application:
        operation = await application.operate("command", "wait", parameters={"argv": ["/bin/true"]})
        path = f"/v1/operations/{operation['operation_id']}/stream"
        opened = asyncio.Event()

        async def follow() -> str:
            text = ""
            async with application.http.stream("GET", path, timeout=30) as answer:
                assert answer.status_code == 200, await answer.aread()
                opened.set()
                async for piece in answer.aiter_text():
                    text += piece
            return text

        following = asyncio.create_task(follow())
        await asyncio.wait_for(opened.wait(), 10)
        await ann.call("DELETE", f"/v1/my/grants/{application.grant_id}", 204)
        began = time.monotonic()
        text = await asyncio.wait_for(following, 10)
        assert time.monotonic() - began < 5, "within five seconds, as keys are"
        assert "not allowed any more" in text
        with pytest.raises(Refused, match="revoked at"):
            await application.operation(operation["operation_id"])


async def test_requests_are_signed_for_the_public_address(postgres: Cluster) -> None:
    """Behind a proxy the server's own name is not what the client wrote; a setting says what is."""
    public = "https://agents.example.com/retinue"
    async with running_server(postgres, worker=False, RETINUE_PUBLIC_URL=f"{public}/") as behind:
        person = await behind.person()
        key = GranteeKey.make()
        grant_id = (await granted(person, key))["grant_id"]
        async with httpx.AsyncClient() as client:
            signed = Signing(public, grant_id, key).sign()
            answer = await client.get(f"{behind.base_url}/v1/grant", headers=signed)
            assert answer.status_code == 200, answer.text
            direct = Signing(behind.base_url, grant_id, key)
            assert (await direct.send(client)).status_code == 401


async def test_requests_of_an_application_are_limited(postgres: Cluster) -> None:
    async with running_server(postgres, worker=False, RETINUE_RATE_LIMIT="20/minute") as limited:
        person = await limited.person()
        async with application_of(person) as application:
            statuses = [(await application.http.get("/v1/grant")).status_code for _ in range(25)]
        assert set(statuses) == {200, 429}
        assert (await person.client.get("/v1/my/grants")).status_code == 429, "they count as their user's"


async def test_a_repeated_request_with_an_idempotency_key_makes_one_thing(ann: Person) -> None:
    """A client that lost the answer asks again, with a new signature and the same key."""
    async with application_of(ann, uses=5) as application:
        key = str(uuid4())
        asked = [
            await application.operate("command", "x", parameters={"argv": ["/bin/true"]}, idempotency_key=key)
            for _ in range(2)
        ]
        assert asked[0]["operation_id"] == asked[1]["operation_id"]
        assert (await application.grant())["used"] == 1


async def test_two_applications_may_use_the_same_idempotency_key(ann: Person) -> None:
    """One must not be told of the other's operation because it asks for the same under the same key."""
    key, argv = str(uuid4()), {"argv": ["/bin/true"]}
    async with application_of(ann) as one, application_of(ann) as other:
        asked = [await each.operate("command", "x", idempotency_key=key, parameters=argv) for each in (one, other)]
        assert asked[0]["operation_id"] != asked[1]["operation_id"]
        assert [each["grant_id"] for each in asked] == [one.grant_id, other.grant_id]


async def test_used_up_grants_begin_nothing_more(ann: Person) -> None:
    async with application_of(ann, uses=1) as application:
        await application.operate("command", "x", parameters={"argv": ["/bin/true"]})
        with pytest.raises(Refused, match="used up") as refusal:
            await application.operate("command", "x", parameters={"argv": ["/bin/true"]})
        assert refusal.value.status == 403
        assert (await application.grant())["state"] == "used_up"
        assert len(await application.artifacts()) == 0, "looking at what there is goes on"


async def test_one_grant_is_nothing_to_the_other_of_the_same_key(ann: Person) -> None:
    key = GranteeKey.make()
    first, second = [(await granted(ann, key))["grant_id"] for _ in range(2)]
    base_url = str(ann.client.base_url)
    async with Application(base_url, first, key) as one, Application(base_url, second, key) as other:
        artifact = await one.upload(b"figures", "figures.csv")
        with pytest.raises(Refused) as refusal:
            await other.read(artifact["artifact_id"])
        assert refusal.value.status == 404


_HEADER = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80).map(str.strip)


@given(
    changes=st.dictionaries(
        st.sampled_from(["Signature", "Signature-Input", "Retinue-Grant", "Content-Digest", "Content-Type"]), _HEADER
    ),
    body=st.one_of(st.binary(max_size=40), st.just(json.dumps({"application": "a"}).encode())),
    cut=st.integers(0, 300),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_comes_is_refused_and_nothing_breaks(
    ann: Person, changes: dict[str, str], body: bytes, cut: int
) -> None:
    key = FUZZ_KEY
    if "grant" not in FUZZED:
        FUZZED["grant"] = (await granted(ann, key))["grant_id"]
    request = Signing(str(ann.client.base_url), FUZZED["grant"], key, "POST", "/v1/my/grants").json(
        {"application": "a"}
    )
    headers = request.sign()
    headers["Signature-Input"] = headers["Signature-Input"][: len(headers["Signature-Input"]) - cut].rstrip()
    request.body = body
    async with httpx.AsyncClient() as client:
        answer = await request.send(client, headers | changes)
    assert answer.status_code in (401, 403, 415, 422, 400), f"{answer.status_code} {answer.text}"
    assert answer.headers["content-type"] == "application/problem+json"


FUZZ_KEY = GranteeKey.make()
FUZZED: dict[str, Any] = {}


async def test_a_grant_that_is_not_there_reads_like_a_strangers(ann: Person) -> None:
    async with Application(str(ann.client.base_url), uuid4(), GranteeKey.make()) as nobody:
        with pytest.raises(Refused) as refusal:
            await nobody.grant()
    assert (refusal.value.status, refusal.value.detail) == (401, NO_GRANT)
