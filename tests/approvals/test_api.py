"""Approvals over HTTP: the inbox, decisions, rules."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from retinue.approvals import ApprovalRequest, Resume, commands
from retinue.approvals.events import ApprovalDecided
from retinue.ledger import read_stream
from tests.agents.served import served
from tests.approvals.support import SCHEMA
from tests.support.databases import Cluster
from tests.support.scopes import scope_of
from tests.support.site import Account, Site

APPROVALS = "/v1/my/approvals"
RULES = "/v1/my/approval-rules"


@pytest.fixture(scope="module")
async def site(postgres: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with served(postgres, tmp_path_factory.mktemp("site")) as found:
        yield found


@pytest.fixture
async def ada(site: Site) -> Account:
    return await site.sign_up()


async def ask(site: Site, owner: Account, *, tenant_id: UUID | None = None, **fields: Any) -> str:
    """Ask as a run of the owner does; return the approval's path."""
    run_id = uuid4()
    wanted: dict[str, Any] = {
        "kind": "tool",
        "run_id": run_id,
        "agent_id": uuid4(),
        "tool": "files_write",
        "arguments": {"path": "a.md"},
        "parameters": SCHEMA,
        "effect": "write",
        "seconds": 300,
        "resume": Resume(kind="run.advance", subject_id=run_id),
        "owner_id": owner.user_id,
        **fields,
    }
    async with scope_of(site.services, tenant_id or owner.tenant_id, clock=site.clock) as scope:
        return f"{APPROVALS}/{await commands.request(scope, ApprovalRequest(**wanted))}"


async def decisions(site: Site, account: Account, path: str) -> list[str]:
    async with scope_of(site.services, account.tenant_id) as scope:
        recorded = await read_stream(scope, f"approval:{path.rpartition('/')[2]}")
    return [one.event.decision for one in recorded if isinstance(one.event, ApprovalDecided)]


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = response.json()
    assert found["status"] == status
    return found


async def test_a_decision_is_made_once(site: Site, ada: Account) -> None:
    path = await ask(site, ada)
    assert (await ada.client.get(path)).json()["status"] == "pending"
    body = {"decision": "approve", "comment": "fine", "edited_arguments": {"path": "b.md"}}
    decided = await ada.client.post(f"{path}/confirm", json=body)
    assert decided.status_code == 200
    shown = decided.json()
    assert (shown["status"], shown["comment"], shown["edited_arguments"]) == ("approved", "fine", {"path": "b.md"})
    assert (shown["arguments"], shown["decided_by"]) == ({"path": "a.md"}, f"user:{ada.user_id}")
    assert (await ada.client.get(path)).json() == shown
    for decision in ("approve", "reject"):
        refused = problem(await ada.client.post(f"{path}/confirm", json={"decision": decision}), 409)
        assert refused["outcome"] == "approved"
    assert await decisions(site, ada, path) == ["approve"]


async def test_a_decision_that_comes_too_late_is_refused_and_the_expiry_stays(site: Site, ada: Account) -> None:
    path = await ask(site, ada)
    site.clock.advance(timedelta(seconds=301))
    try:
        key = {"Idempotency-Key": uuid4().hex}
        answers = [await ada.client.post(f"{path}/confirm", json={"decision": "approve"}, headers=key) for _ in "12"]
        for answer in answers:
            refused = problem(answer, 409)
            assert (refused["outcome"], refused["type"]) == ("expired", "urn:retinue:problem:conflict")
            assert refused["trace_id"]
        assert (await ada.client.get(path)).json()["status"] == "expired"
        assert await decisions(site, ada, path) == ["expired"]
    finally:
        site.clock.advance(timedelta(seconds=-301))


@pytest.mark.parametrize(
    "body, field",
    [
        ({}, "decision"),
        ({"decision": "maybe"}, "decision"),
        ({"decision": "expired"}, "decision"),
        ({"decision": "approve", "unknown": 1}, "unknown"),
        ({"decision": "approve", "comment": "x" * 10_001}, "comment"),
        ({"decision": "approve", "comment": 1}, "comment"),
        ({"decision": "approve", "edited_arguments": []}, "edited_arguments"),
        ({"decision": "approve", "edited_arguments": {"path": 1}}, "edited_arguments"),
        ({"decision": "approve", "remember": "yes"}, "remember"),
        ({"decision": "approve", "answer": "x"}, "answer"),
        ({"decision": "reject", "remember": True}, "remember"),
    ],
)
async def test_bad_input_names_the_field(site: Site, ada: Account, body: dict[str, Any], field: str) -> None:
    path = await ask(site, ada)
    assert problem(await ada.client.post(f"{path}/confirm", json=body), 422)["errors"][0]["field"] == field
    assert await decisions(site, ada, path) == []


async def test_what_is_not_yours_does_not_exist(site: Site, ada: Account) -> None:
    path = await ask(site, ada)
    stranger = await site.sign_up()
    details = set()
    for one in (path, f"{APPROVALS}/{uuid4()}", f"{APPROVALS}/nonsense"):
        for answer in (
            await stranger.client.get(one),
            await stranger.client.post(f"{one}/confirm", json={"decision": "approve"}),
        ):
            details.add(problem(answer, 404)["detail"])
    assert details == {"There is no such approval."}
    assert (await stranger.client.get(APPROVALS)).json()["items"] == []
    problem(await site.client.get(APPROVALS), 401)
    assert await decisions(site, ada, path) == []


async def test_the_inbox_has_pages_and_filters(site: Site, ada: Account) -> None:
    paths = [await ask(site, ada) for _ in range(3)]
    await ada.client.post(f"{paths[0]}/confirm", json={"decision": "reject"})
    first = (await ada.client.get(APPROVALS, params={"limit": 2})).json()
    rest = (await ada.client.get(APPROVALS, params={"limit": 2, "cursor": first["next_cursor"]})).json()
    shown = [f"{APPROVALS}/{one['approval_id']}" for one in [*first["items"], *rest["items"]]]
    assert (shown, rest["next_cursor"]) == (paths[::-1], None)
    pending = (await ada.client.get(APPROVALS, params={"status": "pending"})).json()["items"]
    assert len(pending) == 2
    of_run = (await ada.client.get(APPROVALS, params={"run": pending[0]["run_id"]})).json()["items"]
    assert [one["approval_id"] for one in of_run] == [pending[0]["approval_id"]]
    for wrong in ({"status": "maybe"}, {"run": "x"}, {"cursor": "x"}, {"limit": 0}, {"everyone": "perhaps"}):
        problem(await ada.client.get(APPROVALS, params=wrong), 422)


async def test_managers_decide_for_members_and_viewers_for_nobody(site: Site, ada: Account) -> None:
    guild = UUID((await ada.client.post("/v1/tenants", json={"name": "Guild"})).json()["tenant_id"])
    inside = {"Retinue-Tenant": str(guild)}
    accounts = {}
    for role in ("viewer", "member", "manager"):
        accounts[role] = await site.sign_up()
        member = {"email": accounts[role].email, "role": role}
        assert (await ada.client.put(f"/v1/tenants/{guild}/members", json=member)).status_code < 300
    path = await ask(site, accounts["member"], tenant_id=guild)
    approve = {"decision": "approve"}
    problem(await accounts["viewer"].client.post(f"{path}/confirm", json=approve, headers=inside), 403)
    problem(await accounts["viewer"].client.get(path, headers=inside), 404)
    everyone = {"everyone": "true"}
    problem(await accounts["member"].client.get(APPROVALS, params=everyone, headers=inside), 403)
    manager = accounts["manager"].client
    assert (await manager.get(APPROVALS, headers=inside)).json()["items"] == []
    assert len((await manager.get(APPROVALS, params=everyone, headers=inside)).json()["items"]) == 1
    remember = {"decision": "approve", "remember": True}
    problem(await manager.post(f"{path}/confirm", json=remember, headers=inside), 403)
    decided = await manager.post(f"{path}/confirm", json=approve, headers=inside)
    assert decided.json()["decided_by"] == f"user:{accounts['manager'].user_id}"


async def test_a_rule_is_shown_and_removed(site: Site, ada: Account) -> None:
    agent_id = uuid4()
    path = await ask(site, ada, agent_id=agent_id)
    remember = {"decision": "approve", "remember": True}
    assert (await ada.client.post(f"{path}/confirm", json=remember)).status_code == 200
    (rule,) = (await ada.client.get(RULES)).json()["items"]
    assert (rule["agent_id"], rule["tool"], rule["decision"]) == (str(agent_id), "files_write", "allow")
    stranger = await site.sign_up()
    assert (await stranger.client.get(RULES)).json()["items"] == []
    for missing in (f"{RULES}/{uuid4()}", f"{RULES}/nonsense"):
        problem(await ada.client.delete(missing), 404)
    problem(await stranger.client.delete(f"{RULES}/{rule['rule_id']}"), 404)
    assert (await ada.client.delete(f"{RULES}/{rule['rule_id']}")).status_code == 204
    problem(await ada.client.delete(f"{RULES}/{rule['rule_id']}"), 404)
    assert (await ada.client.get(RULES)).json()["items"] == []


async def test_a_tainted_run_teaches_nothing(site: Site, ada: Account) -> None:
    path = await ask(site, ada, tainted_by="notes.txt")
    remember = {"decision": "approve", "remember": True}
    assert problem(await ada.client.post(f"{path}/confirm", json=remember), 422)["errors"][0]["field"] == "remember"
    assert (await ada.client.post(f"{path}/confirm", json={"decision": "approve"})).status_code == 200
    assert (await ada.client.get(RULES)).json()["items"] == []
