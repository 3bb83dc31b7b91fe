"""People who share a tenant: what each role sees and may do with the runs of others; keys with scopes."""

from __future__ import annotations

import copy
from typing import Any

import httpx

from tests.story.support import Story
from tests.support.running import Person

WRITE = '!tool files_write {"path": "a.txt", "content": "x"}'


def _within(story: Story, person: Person, tenant_id: str) -> Person:
    """Return the same person, acting in a tenant."""
    headers = {"Authorization": person.client.headers["Authorization"], "Retinue-Tenant": tenant_id}
    client = httpx.AsyncClient(base_url=story.server.base_url, headers=headers, timeout=60)
    story.server.clients.append(client)
    return Person(client, copy.copy(person.account))


async def _organisation(story: Story, *roles: str) -> list[Person]:
    """Found an organisation and return its admin and one member of each role, acting in it."""
    founder = await story.server.person("founder")
    tenant: dict[str, Any] = await founder.call("POST", "/v1/tenants", 201, json={"name": "Office"})
    path = f"/v1/tenants/{tenant['tenant_id']}/members"
    people = [_within(story, founder, tenant["tenant_id"])]
    for role in roles:
        person = await story.server.person(role)
        await founder.call("PUT", path, json={"user_id": person.account["user_id"], "role": role})
        people.append(_within(story, person, tenant["tenant_id"]))
    return people


async def test_roles_decide_who_sees_and_does_what_in_runs(story: Story) -> None:
    _, member, colleague, manager, viewer = await _organisation(story, "member", "member", "manager", "viewer")
    agent = await member.agent(tools=["files"])
    accepted = await member.send(agent, WRITE)
    approval = await member.approval(accepted["run_id"])
    decide = f"/v1/my/approvals/{approval['approval_id']}/confirm"

    await viewer.call("POST", "/v1/my/agents", 403, json={"name": "mine"})
    body = {"content": "hello", "target_agent": agent["agent_id"]}
    await viewer.call("POST", f"/v1/my/chat/{agent['agent_id']}/messages", 403, json=body)
    for path in (accepted["url"], f"/v1/my/agents/{agent['agent_id']}"):
        await colleague.call("GET", path, 404)
    await colleague.call("POST", f"{accepted['url']}/cancel", 404)
    await colleague.call("POST", decide, 404, json={"decision": "approve"})

    assert (await manager.run(accepted["run_id"]))["status"] == "waiting"
    everything = await manager.call("GET", "/v1/my/approvals?everyone=true&status=pending")
    assert [one["approval_id"] for one in everything["items"]] == [approval["approval_id"]]
    await colleague.call("GET", "/v1/my/approvals?everyone=true", 403)
    decided = await manager.call("POST", decide, json={"decision": "approve", "comment": "go on"})
    assert decided["decided_by"].endswith(manager.account["user_id"])
    assert (await member.until(accepted["run_id"]))["status"] == "completed"


async def test_who_is_taken_out_is_out_at_once(story: Story) -> None:
    admin, member = await _organisation(story, "member")
    agent = await member.agent()
    assert (await member.ask(agent, "!say in"))["message"]["content"] == "in"
    tenant_id = str(member.client.headers["Retinue-Tenant"])
    await admin.call("DELETE", f"/v1/tenants/{tenant_id}/members/{member.account['user_id']}", 204)
    answer = await member.client.get("/v1/my/agents")
    assert answer.status_code in (403, 404)
    del member.client.headers["Retinue-Tenant"]
    assert (await member.call("GET", "/v1/my/agents"))["items"] == []


async def test_a_key_does_what_its_scopes_say_until_it_is_revoked(story: Story) -> None:
    ada = await story.server.person()
    agent = await ada.agent()
    scopes = ["messages:create", "runs:read"]
    key = await ada.call("POST", "/v1/my/keys", 201, json={"name": "a script", "scopes": scopes})
    script = _within(story, ada, ada.tenant_id)
    script.client.headers["Authorization"] = f"Bearer {key['key']}"
    accepted = await script.send(agent, "!say by key")
    assert (await script.until(accepted["run_id"]))["status"] == "completed"
    for method, path in [("GET", "/v1/my/agents"), ("POST", f"{accepted['url']}/cancel"), ("GET", "/v1/my/keys")]:
        await script.call(method, path, 403)
    await ada.call("DELETE", f"/v1/my/keys/{key['key_id']}", 204)
    await script.call("GET", accepted["url"], 401)
    # What the checks after each story look at is seen by the person again.
    script.client.headers["Authorization"] = ada.client.headers["Authorization"]
