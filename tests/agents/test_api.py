"""Agents over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest

from retinue.agents.room import ROOM
from retinue.ledger import Feed
from tests.agents.served import served
from tests.support.databases import Cluster
from tests.support.site import Account, Site

AGENTS = "/v1/my/agents"


@pytest.fixture(scope="module")
async def site(postgres: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with served(postgres, tmp_path_factory.mktemp("site")) as found:
        yield found


@pytest.fixture
async def ada(site: Site) -> Account:
    return await site.sign_up()


async def make(account: Account, name: str = "Librarian", **fields: Any) -> dict[str, Any]:
    response = await account.client.post(AGENTS, json={"name": name, **fields})
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    return made


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = response.json()
    assert found["status"] == status
    return found


async def test_the_whole_life_of_an_agent(ada: Account) -> None:
    made = await make(ada, instructions="Help.", tools=["files"], limits={"budget": "1.50"})
    assert (made["version"], made["status"], made["running"], made["queued"]) == (1, "ready", 0, 0)
    assert made["limits"] == {
        "concurrency": 3,
        "queue": 100,
        "seconds": 600,
        "approval_seconds": 300,
        "tokens": None,
        "steps": 50,
        "budget": "1.5",
    }
    by_id, by_name = f"{AGENTS}/{made['agent_id']}", f"{AGENTS}/LIBRARIAN"
    for path in (by_id, by_name):
        response = await ada.client.get(path)
        assert (response.json(), response.headers["etag"]) == (made, '"1"')
    changed = await ada.client.put(by_id, json={"name": "Librarian", "instructions": "Help more."})
    assert (changed.json()["version"], changed.headers["etag"]) == (2, '"2"')
    assert changed.json()["tools"] == []
    versions = (await ada.client.get(f"{by_id}/versions")).json()["items"]
    assert [(one["version"], one["definition"]["instructions"]) for one in versions] == [
        (2, "Help more."),
        (1, "Help."),
    ]
    assert (await ada.client.post(f"{by_id}/pause")).json()["status"] == "paused"
    assert (await ada.client.post(f"{by_id}/resume")).json()["status"] == "ready"
    assert (await ada.client.delete(by_id)).status_code == 204
    for response in (await ada.client.get(by_id), await ada.client.delete(by_id), await ada.client.get(by_name)):
        problem(response, 404)


async def test_a_change_of_an_old_version_is_refused_with_the_present_state(ada: Account) -> None:
    made = await make(ada)
    path = f"{AGENTS}/{made['agent_id']}"
    first = await ada.client.put(path, json={"name": "A"}, headers={"If-Match": '"1"'})
    assert first.status_code == 200
    refused = problem(await ada.client.put(path, json={"name": "B"}, headers={"If-Match": '"1"'}), 412)
    assert refused["current"] == first.json()
    assert (await ada.client.get(path)).json() == first.json()


async def test_a_list_comes_in_pages(ada: Account) -> None:
    names = [f"Agent {n}" for n in range(5)]
    for name in names:
        await make(ada, name)
    found, cursor = [], None
    while True:
        page = (await ada.client.get(AGENTS, params={"limit": 2, **({"cursor": cursor} if cursor else {})})).json()
        found += [one["name"] for one in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == names
    versions = (await ada.client.get(f"{AGENTS}/Agent 0/versions", params={"limit": 1})).json()
    assert versions["next_cursor"] is None


async def test_a_name_is_taken_once(ada: Account) -> None:
    made = await make(ada)
    assert "Librarian" in problem(await ada.client.post(AGENTS, json={"name": "librarian"}), 409)["detail"].title()
    await make(ada, "Other")
    path = f"{AGENTS}/{made['agent_id']}"
    problem(await ada.client.put(path, json={"name": "OTHER"}), 409)


@pytest.mark.parametrize(
    "body, field",
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "  "}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": 3}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "01939d2c-8d0a-7cc1-9b3e-5a1f0c2d4e6f"}, "name"),
        ({"name": "a", "unknown": 1}, "unknown"),
        ({"name": "a", "instructions": "x" * 100_001}, "instructions"),
        ({"name": "a", "model": "gpt"}, "model"),
        ({"name": "a", "model": "nobody:gpt"}, "model"),
        ({"name": "a", "fallbacks": ["demo:a"] * 6}, "fallbacks"),
        ({"name": "a", "tools": ["nothing"]}, "tools[0]"),
        ({"name": "a", "tools": "files"}, "tools"),
        ({"name": "a", "mcp": [{"name": "w", "url": "https://10.0.0.1/"}]}, "mcp[0].url"),
        ({"name": "a", "mcp": [{"name": "w w"}]}, "mcp.0.name"),
        ({"name": "a", "mcp": [{"name": "w", "labels": {"t": {"assumed": True}}}]}, "mcp.0.labels.t.assumed"),
        ({"name": "a", "autonomy": "god"}, "autonomy"),
        ({"name": "a", "tool_policy": {"t": "perhaps"}}, "tool_policy.t"),
        ({"name": "a", "limits": {"concurrency": 0}}, "limits.concurrency"),
        ({"name": "a", "limits": {"queue": -1}}, "limits.queue"),
        ({"name": "a", "limits": {"seconds": 86_401}}, "limits.seconds"),
        ({"name": "a", "limits": {"budget": 1.5}}, "limits.budget"),
        ({"name": "a", "limits": {"budget": "-1"}}, "limits.budget"),
        ({"name": "a", "limits": {"budget": "1e3"}}, "limits.budget"),
        ({"name": "a", "limits": {"budget": "\u0661"}}, "limits.budget"),
        ({"name": "a", "limits": {"steps": True}}, "limits.steps"),
        ({"name": "a", "limits": None}, "limits"),
        ({"name": "a", "temperature": 2.1}, "temperature"),
        ({"name": "a", "priority": 101}, "priority"),
        ({"name": "a", "output_schema": {"type": "no"}}, "output_schema"),
        ({"name": "a", "output_schema": []}, "output_schema"),
    ],
)
async def test_bad_input_names_the_field(ada: Account, body: dict[str, Any], field: str) -> None:
    made = await make(ada, "Present")
    for response in (
        await ada.client.post(AGENTS, json=body),
        await ada.client.put(f"{AGENTS}/{made['agent_id']}", json=body),
    ):
        assert problem(response, 422)["errors"][0]["field"] == field


async def test_what_is_not_yours_does_not_exist(site: Site, ada: Account) -> None:
    made = await make(ada)
    stranger = await site.sign_up()
    for reference in (made["agent_id"], "Librarian", str(uuid4())):
        path = f"{AGENTS}/{reference}"
        answers = [
            await stranger.client.get(path),
            await stranger.client.put(path, json={"name": "Mine"}),
            await stranger.client.delete(path),
            await stranger.client.post(f"{path}/pause"),
            await stranger.client.post(f"{path}/resume"),
            await stranger.client.get(f"{path}/export"),
            await stranger.client.get(f"{path}/versions"),
        ]
        assert [problem(answer, 404)["detail"] for answer in answers] == ["There is no such agent."] * 7
    assert (await stranger.client.get(AGENTS)).json()["items"] == []
    elsewhere = {"Retinue-Tenant": str(ada.tenant_id)}
    problem(await stranger.client.get(f"{AGENTS}/{made['agent_id']}", headers=elsewhere), 404)
    assert (await ada.client.get(f"{AGENTS}/{made['agent_id']}")).json() == made


@pytest.mark.parametrize("reference", ["%00", "a%00b", "%ff", "%ed%a0%80", "x" * 3000, "..%2f", "%20", "'--"])
async def test_a_reference_that_makes_no_sense_is_not_found(ada: Account, reference: str) -> None:
    for method in ("GET", "DELETE"):
        problem(await ada.client.request(method, f"{AGENTS}/{reference}"), 404)


async def test_nobody_is_asked_to_sign_in(site: Site) -> None:
    problem(await site.client.get(AGENTS), 401)


async def test_an_export_is_imported_as_the_same_agent(site: Site, ada: Account) -> None:
    made = await make(
        ada,
        instructions="First line.\nSecond: with a colon.\n",
        tools=["files"],
        mcp=[{"name": "wiki", "url": "https://wiki.example/mcp", "labels": {"search": {"effect": "read"}}}],
        output_schema={"type": "object", "properties": {"n": {"type": "number"}}},
        limits={"budget": "0.000000001"},
    )
    export = await ada.client.get(f"{AGENTS}/Librarian/export")
    assert export.headers["content-type"] == "text/yaml; charset=utf-8"
    assert export.text.startswith("spec_version: 1\nname: Librarian\n")
    other = await site.sign_up()
    headers = {"Content-Type": "application/yaml"}
    response = await other.client.post(f"{AGENTS}/import", content=export.content, headers=headers)
    assert response.status_code == 201, response.text
    own = ("agent_id", "owner_id", "created_at", "changed_at")
    assert {**response.json(), **dict.fromkeys(own)} == {**made, **dict.fromkeys(own)}
    problem(await other.client.post(f"{AGENTS}/import", content=export.content, headers=headers), 409)


async def test_a_definition_kept_in_a_file_is_applied_again_and_again(ada: Account) -> None:
    async def apply(text: str, account: Account = ada) -> httpx.Response:
        headers = {"Content-Type": "text/yaml"}
        return await account.client.post(f"{AGENTS}/import?replace=true", content=text.encode(), headers=headers)

    text = "spec_version: 1\nname: Librarian\ninstructions: Quote.\n"
    first, second = await apply(text), await apply(text)
    assert (first.status_code, second.status_code) == (201, 200)
    assert (first.json()["version"], second.json()["version"]) == (1, 1)
    third = await apply(text.replace("name: Lib", "name: LIB").replace("Quote.", "Quote less."))
    assert (third.status_code, third.json()["version"], third.json()["name"]) == (200, 2, "LIBrarian")
    assert third.json()["agent_id"] == first.json()["agent_id"]
    problem(await apply(text + "model: nobody:x\n"), 422)
    key = await ada.client.post("/v1/my/keys", json={"name": "importer", "scopes": ["agents:import"]})
    limited = {"Authorization": f"Bearer {key.json()['key']}", "Content-Type": "text/yaml"}
    refused = await ada.client.post(f"{AGENTS}/import?replace=true", content=text.encode(), headers=limited)
    assert "may not change agents" in problem(refused, 403)["detail"]
    assert (await ada.client.get(f"{AGENTS}/librarian")).json()["version"] == 2


@pytest.mark.parametrize(
    "content, content_type, status, field",
    [
        (b"spec_version: 1\nname: a\n", "application/json", 415, None),
        (b"spec_version: 1\nname: a\n", "", 415, None),
        (b"spec_version: 1\nname: a\nlimits: {steps: many}\n", "text/yaml", 422, "limits.steps"),
        (b"spec_version: 1\nname: a\nuncalled: 1\n", "text/yaml", 422, "uncalled"),
        (b"spec_version: 1\nname: a\nmodel: nobody:x\n", "text/yaml", 422, "model"),
        (b"spec_version: 1\n", "text/yaml", 422, "name"),
        (b"spec_version: 9\n", "text/yaml", 422, "spec_version"),
        (b"a: &b [*b]", "text/yaml", 422, "body"),
        (b"", "text/yaml", 422, "body"),
        (b"x" * 600_000, "text/yaml", 413, None),
        (b"x" * 2_000_000, "text/yaml", 413, None),
    ],
)
async def test_bad_yaml_is_refused(
    ada: Account, content: bytes, content_type: str, status: int, field: str | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = await ada.client.post(f"{AGENTS}/import", content=content, headers=headers)
    found = problem(response, status)
    assert field is None or found["errors"][0]["field"] == field


async def test_an_idempotency_key_makes_one_agent(ada: Account) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    answers = [await ada.client.post(AGENTS, json={"name": "One"}, headers=key) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    key = {"Idempotency-Key": uuid4().hex, "Content-Type": "text/yaml"}
    yaml = [b"spec_version: 1\nname: Two\n", b"spec_version: 1\nname: Two\n", b"spec_version: 1\nname: Three\n"]
    answers = [await ada.client.post(f"{AGENTS}/import", content=one, headers=key) for one in yaml]
    assert answers[0].json() == answers[1].json()
    assert problem(answers[2], 422)["errors"][0]["field"] == "Idempotency-Key"
    assert len((await ada.client.get(AGENTS)).json()["items"]) == 2


async def test_a_viewer_reads_and_changes_nothing(site: Site, ada: Account) -> None:
    made = (await ada.client.post("/v1/tenants", json={"name": "Guild"})).json()
    inside = {"Retinue-Tenant": made["tenant_id"]}
    viewer = await site.sign_up()
    member = {"email": viewer.email, "role": "viewer"}
    added = await ada.client.put(f"/v1/tenants/{made['tenant_id']}/members", json=member)
    assert added.status_code < 300, added.text
    problem(await viewer.client.post(AGENTS, json={"name": "a"}, headers=inside), 403)
    assert (await viewer.client.get(AGENTS, headers=inside)).status_code == 200


async def test_the_live_stream_names_the_status(site: Site, ada: Account) -> None:
    made = await make(ada)
    await ada.client.post(f"{AGENTS}/{made['agent_id']}/pause")
    events = await site.services.get(Feed).read(ada.tenant_id, 0)
    own = [one for one in events if one.stream == f"agent:{made['agent_id']}"]
    assert [one.type for one in own] == ["agent.created", "agent.paused"]
    assert {one.meta.owner for one in own} == {ada.user_id}
    payload = ROOM.streamed["agent.paused"].payload(orjson.loads(own[1].data))
    assert payload == {"agent_id": made["agent_id"], "status": "paused"}
