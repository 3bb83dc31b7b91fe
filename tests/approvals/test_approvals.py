"""Approvals on a real database: asking, deciding, expiring, cancelling, remembering."""

from __future__ import annotations

import asyncio
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import orjson
import pytest

from retinue.approvals import Ruling, commands, views, work
from retinue.approvals.rules import Status
from retinue.approvals.shapes import ApprovalView, required_payload, view_of
from retinue.database import Database
from retinue.kernel import Actor, ActorKind, BadInput, Conflict, Forbidden, NotFound
from retinue.ledger import Feed
from tests.approvals.support import Tenant, tenant_on


@pytest.fixture
async def tenant(database: Database) -> Tenant:
    return tenant_on(database)


async def test_an_approval_says_all_that_a_person_needs_to_know(tenant: Tenant) -> None:
    approval_id = await tenant.ask(tainted_by="notes.txt")
    found = await tenant.read(approval_id)
    assert found.status == "pending"
    assert (found.tool, found.arguments, found.effect) == ("files_write", {"path": "a.md", "content": "x"}, "write")
    assert found.tainted_by == "notes.txt"
    assert (found.expires_at - found.created_at).total_seconds() == 300
    assert await tenant.wake_ups(approval_id) == {"approval.expire": 1}
    assert await tenant.wake_ups(found.run_id) == {}


@pytest.mark.parametrize("decision, status", [("approve", "approved"), ("reject", "rejected")])
async def test_a_decision_is_recorded_and_wakes_the_run(tenant: Tenant, decision: str, status: Status) -> None:
    approval_id = await tenant.ask()
    decided = await tenant.decide(approval_id, decision, comment="why not")
    assert (decided.status, decided.comment) == (status, "why not")
    assert decided.decided_by == f"user:{tenant.owner_id}"
    assert await tenant.decisions(approval_id) == [decision]
    assert await tenant.wake_ups(decided.run_id) == {"run.advance": 1}
    async with tenant.system() as scope:
        outcome = (await commands.outcomes(scope, [approval_id, uuid4()]))[approval_id]
    assert (outcome.status, outcome.edited, outcome.arguments) == (status, False, {"path": "a.md", "content": "x"})


@pytest.mark.parametrize("lock", [False, True])
async def test_what_still_waits_has_no_outcome(tenant: Tenant, lock: bool) -> None:
    pending, decided = await tenant.ask(), await tenant.ask()
    await tenant.decide(decided)
    async with tenant.system() as scope:
        assert set(await commands.outcomes(scope, [pending, decided], lock=lock)) == {decided}
        assert await commands.outcomes(scope, []) == {}


@pytest.mark.parametrize("first, status", [("approve", "approved"), ("reject", "rejected")])
@pytest.mark.parametrize("second", ["approve", "reject"])
async def test_a_second_decision_is_refused_and_told_the_outcome(
    tenant: Tenant, first: str, status: str, second: str
) -> None:
    approval_id = await tenant.ask()
    decided = await tenant.decide(approval_id, first)
    with pytest.raises(Conflict, match=status) as refusal:
        await tenant.decide(approval_id, second)
    assert refusal.value.extra["outcome"] == status
    assert await tenant.decisions(approval_id) == [first]
    assert await tenant.wake_ups(decided.run_id) == {"run.advance": 1}


async def test_edited_arguments_replace_the_asked_ones(tenant: Tenant) -> None:
    approval_id = await tenant.ask()
    await tenant.decide(approval_id, edited_arguments={"path": "b.md"})
    async with tenant.system() as scope:
        outcome = (await commands.outcomes(scope, [approval_id]))[approval_id]
    assert (outcome.edited, outcome.arguments) == (True, {"path": "b.md"})
    found = await tenant.read(approval_id)
    assert found.arguments == {"path": "a.md", "content": "x"}


async def test_arguments_edited_into_themselves_are_not_edited(tenant: Tenant) -> None:
    approval_id = await tenant.ask()
    decided = await tenant.decide(approval_id, edited_arguments={"content": "x", "path": "a.md"})
    assert decided.edited_arguments is None


@pytest.mark.parametrize(
    "asked, ruling, field",
    [
        ({}, {"edited_arguments": {"path": 1}}, "edited_arguments"),
        ({}, {"edited_arguments": {}}, "edited_arguments"),
        ({}, {"edited_arguments": {"path": "a", "other": 1}}, "edited_arguments"),
        ({}, {"decision": "reject", "edited_arguments": {"path": "a"}}, "edited_arguments"),
        ({"parameters": None}, {"edited_arguments": {"path": "a"}}, "edited_arguments"),
        ({"parameters": {"type": 3}}, {"edited_arguments": {"path": "a"}}, "edited_arguments"),
        (
            {"parameters": {"type": "object", "$ref": "https://elsewhere.example/schema"}},
            {"edited_arguments": {"path": "a"}},
            "edited_arguments",
        ),
        ({}, {"answer": "yes"}, "answer"),
        ({"kind": "question"}, {}, "answer"),
        ({"kind": "question"}, {"answer": "   "}, "answer"),
        ({"kind": "question"}, {"decision": "reject", "answer": "no"}, "answer"),
        ({"kind": "question"}, {"answer": "a", "edited_arguments": {}}, "edited_arguments"),
        ({"kind": "question"}, {"answer": "a", "remember": True}, "remember"),
        ({}, {"decision": "reject", "remember": True}, "remember"),
        ({"tainted_by": "notes.txt"}, {"remember": True}, "remember"),
    ],
)
async def test_a_ruling_that_does_not_fit_decides_nothing(
    tenant: Tenant, asked: dict[str, Any], ruling: dict[str, Any], field: str
) -> None:
    approval_id = await tenant.ask(**asked)
    with pytest.raises(BadInput) as refusal:
        await tenant.decide(approval_id, **ruling)
    assert refusal.value.field == field
    assert (await tenant.read(approval_id)).status == "pending"
    assert await tenant.decisions(approval_id) == []


async def test_a_question_takes_any_answer(tenant: Tenant) -> None:
    approval_id = await tenant.ask(kind="question", question="Which?", options=["a", "b"], tool="ask_user")
    await tenant.decide(approval_id, answer="neither")
    async with tenant.system() as scope:
        outcome = (await commands.outcomes(scope, [approval_id]))[approval_id]
    assert (outcome.status, outcome.answer) == ("approved", "neither")


async def test_only_the_owner_and_those_who_manage_may_see_and_decide(tenant: Tenant) -> None:
    approval_id = await tenant.ask()
    for user_id, role in ((uuid4(), "member"), (uuid4(), "viewer")):
        for action in (commands.find, lambda scope, one: commands.decide(scope, one, Ruling("approve"))):
            with pytest.raises(NotFound):
                async with tenant.scope(user_id, role) as scope:
                    await action(scope, approval_id)
    manager = uuid4()
    async with tenant.scope(manager, "manager") as scope:
        with pytest.raises(Forbidden, match="owner"):
            await commands.decide(scope, approval_id, Ruling("approve", remember=True))
        decided = await commands.decide(scope, approval_id, Ruling("approve"))
    assert decided.decided_by == f"user:{manager}"
    stranger = tenant_on(tenant.services.get(Database))
    with pytest.raises(NotFound):
        async with stranger.scope(tenant.owner_id, "admin") as scope:
            await commands.find(scope, approval_id)


async def test_an_agent_never_decides(tenant: Tenant) -> None:
    approval_id = await tenant.ask()

    async def decide_as(actor: Actor) -> None:
        async with tenant.scope() as scope:
            scope.actor = actor
            await commands.decide(scope, approval_id, Ruling("approve"))

    for actor in (Actor(ActorKind.AGENT, tenant.agent_id), Actor(ActorKind.SYSTEM)):
        with pytest.raises(Forbidden):
            await decide_as(actor)
    assert await tenant.decisions(approval_id) == []


async def test_what_nobody_decides_expires_and_wakes_the_run(tenant: Tenant) -> None:
    approval_id = await tenant.ask()
    tenant.later(300)
    for _ in range(2):
        await work.on_expire(tenant.services, tenant.tenant_id, approval_id)
    found = await tenant.read(approval_id)
    assert (found.status, found.decided_by) == ("expired", "system")
    assert await tenant.decisions(approval_id) == ["expired"]
    assert await tenant.wake_ups(found.run_id) == {"run.advance": 1}


async def test_a_wake_up_that_comes_too_early_waits_on(tenant: Tenant) -> None:
    approval_id = await tenant.ask()
    tenant.later(299.5)
    await work.on_expire(tenant.services, tenant.tenant_id, approval_id)
    assert (await tenant.read(approval_id)).status == "pending"
    assert await tenant.wake_ups(approval_id) == {"approval.expire": 2}


async def test_expiry_of_what_is_decided_or_unknown_changes_nothing(tenant: Tenant) -> None:
    approval_id = await tenant.ask()
    await tenant.decide(approval_id)
    tenant.later(300)
    await work.on_expire(tenant.services, tenant.tenant_id, approval_id)
    await work.on_expire(tenant.services, tenant.tenant_id, uuid4())
    assert await tenant.decisions(approval_id) == ["approve"]


async def test_a_decision_after_the_deadline_is_the_expiry(tenant: Tenant) -> None:
    approval_id = await tenant.ask()
    tenant.later(300)
    decided = await tenant.decide(approval_id, remember=True)
    assert decided.status == "expired"
    assert await tenant.decisions(approval_id) == ["expired"]
    assert await tenant.wake_ups(decided.run_id) == {"run.advance": 1}
    with pytest.raises(Conflict, match="expired"):
        await tenant.decide(approval_id)
    async with tenant.scope() as scope:
        assert await commands.rule_for(scope, tenant.agent_id, "files_write") is None


async def test_a_run_that_ends_takes_its_questions_along(tenant: Tenant) -> None:
    run_id = uuid4()
    decided, *pending = [await tenant.ask(run_id=run_id) for _ in range(3)]
    other = await tenant.ask()
    await tenant.decide(decided)
    async with tenant.scope() as scope:
        assert await commands.cancel_for_run(scope, run_id) == pending
    async with tenant.scope() as scope:
        assert await commands.cancel_for_run(scope, run_id) == []
    assert [(await tenant.read(one)).status for one in pending] == ["cancelled", "cancelled"]
    assert (await tenant.read(other)).status == "pending"
    assert await tenant.wake_ups(run_id) == {"run.advance": 1}  # from the decision: the run ends itself


async def test_what_is_remembered_holds_for_that_tool_of_that_agent(tenant: Tenant) -> None:
    await tenant.decide(await tenant.ask(), remember=True)
    await tenant.decide(await tenant.ask(), remember=True)
    async with tenant.scope() as scope:
        assert await commands.rule_for(scope, tenant.agent_id, "files_write") == "allow"
        assert await commands.rule_for(scope, tenant.agent_id, "http_fetch") is None
        assert await commands.rule_for(scope, uuid4(), "files_write") is None
        (rule,) = await views.learnt(scope, tenant.owner_id, None, 10)
        assert await views.learnt(scope, uuid4(), None, 10) == []
    with pytest.raises(NotFound):
        async with tenant.scope(uuid4(), "admin") as scope:
            await commands.remove_rule(scope, rule.rule_id)
    async with tenant.scope() as scope:
        await commands.remove_rule(scope, rule.rule_id)
    async with tenant.scope() as scope:
        assert await commands.rule_for(scope, tenant.agent_id, "files_write") is None
        with pytest.raises(NotFound):
            await commands.remove_rule(scope, rule.rule_id)
    await tenant.decide(await tenant.ask(), remember=True)
    async with tenant.scope() as scope:
        assert await commands.rule_for(scope, tenant.agent_id, "files_write") == "allow"


async def test_of_two_who_remember_at_once_one_makes_the_rule(tenant: Tenant) -> None:
    for _ in range(10):
        approvals = [await tenant.ask() for _ in range(4)]
        await asyncio.gather(*(tenant.decide(one, remember=True) for one in approvals))
        async with tenant.scope() as scope:
            (rule,) = await views.learnt(scope, tenant.owner_id, None, 10)
            await commands.remove_rule(scope, rule.rule_id)
        async with tenant.scope() as scope:
            assert await commands.rule_for(scope, tenant.agent_id, "files_write") is None


async def test_a_schema_is_never_fetched_from_elsewhere(tenant: Tenant) -> None:
    asked: list[str] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/schema"
        approval_id = await tenant.ask(parameters={"type": "object", "properties": {"path": {"$ref": url}}})
        with pytest.raises(BadInput):
            await tenant.decide(approval_id, edited_arguments={"path": "b.md"})
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert asked == []


async def test_a_person_hears_what_the_tool_would_say(tenant: Tenant) -> None:
    parameters = {"type": "object", "properties": {"path": {"type": "string", "pattern": "^[a-z.]+$"}}}
    approval_id = await tenant.ask(parameters=parameters)
    with pytest.raises(BadInput, match=r"edited_arguments: path: 'B.md' does not match"):
        await tenant.decide(approval_id, edited_arguments={"path": "B.md"})
    with pytest.raises(BadInput, match=r"edited_arguments: path holds a character"):
        await tenant.decide(approval_id, edited_arguments={"path": "\ud800"})
    await tenant.decide(approval_id, edited_arguments={"path": "b.md"})


@pytest.mark.parametrize("keyword", ["pattern", "patternProperties"])
async def test_a_slow_pattern_holds_nobody_up(tenant: Tenant, keyword: str) -> None:
    slow = "^(a|aa)+$"
    field = (
        {"pattern": slow} if keyword == "pattern" else {"patternProperties": {slow: {}}, "additionalProperties": False}
    )
    approval_id = await tenant.ask(parameters={"type": "object", "properties": {"path": field}})
    text = "a" * 40 + "!"
    started = time.process_time()
    await tenant.decide(approval_id, edited_arguments={"path": text if keyword == "pattern" else {text: 1}})
    assert time.process_time() - started < 2  # generous: what it guards against takes hours


async def test_a_model_may_write_what_no_database_stores(tenant: Tenant) -> None:
    approval_id = await tenant.ask(
        arguments={"path": "nul\x00", "deep": [{"half \ud800": "\udfff"}], "fine": "😀"},
        reason="\x00",
        question="\ud800?",
        options=["\x00"],
        tainted_by="\x00.txt",
    )
    found = await tenant.read(approval_id)
    assert found.arguments == {"path": "nul\ufffd", "deep": [{"half \ufffd": "\ufffd"}], "fine": "😀"}
    assert (found.reason, found.question, found.options, found.tainted_by) == (
        "\ufffd",
        "\ufffd?",
        ("\ufffd",),
        "\ufffd.txt",
    )


async def test_the_inbox_shows_the_newest_first_and_goes_on(tenant: Tenant) -> None:
    made = [await tenant.ask() for _ in range(4)]
    await tenant.ask(owner_id=uuid4())
    await tenant.decide(made[0])
    inbox = views.inbox
    async with tenant.scope() as scope:
        first = await inbox(scope, tenant.owner_id, None, None, None, 3)
        rest = await inbox(scope, tenant.owner_id, None, None, first[-1].approval_id, 3)
        assert [one.approval_id for one in [*first, *rest]] == made[::-1]
        pending = await inbox(scope, tenant.owner_id, "pending", None, None, 9)
        assert [one.approval_id for one in pending] == made[:0:-1]
        assert len(await inbox(scope, None, "pending", None, None, 9)) == 4
        assert [one.approval_id for one in await inbox(scope, None, None, first[0].run_id, None, 9)] == [made[-1]]


@pytest.mark.parametrize("fields", [{}, {"kind": "question", "question": "Which?", "options": ["a"], "reason": ""}])
async def test_the_live_stream_shows_what_the_api_shows(tenant: Tenant, fields: dict[str, Any]) -> None:
    approval_id = await tenant.ask(**fields)
    shown = view_of(await tenant.read(approval_id))
    events = await tenant.services.get(Feed).read(tenant.tenant_id, 0)
    assert events[0].meta.owner == tenant.owner_id
    assert events[0].meta.run == shown.run_id
    assert events[0].meta.session == shown.session_id
    payload = required_payload(orjson.loads(events[0].data))
    assert ApprovalView.model_validate(payload) == ApprovalView.model_validate(shown.model_dump())


async def test_the_view_equals_a_fold_of_the_streams(tenant: Tenant) -> None:
    await tenant.decide(await tenant.ask(), remember=True, comment="c", edited_arguments={"path": "z"})
    await tenant.decide(await tenant.ask(kind="question", question="?", options=["a"]), answer="b")
    await tenant.ask()
    replay = tenant_on(tenant.services.get(Database))
    queries = [
        f"SELECT (SELECT coalesce(json_agg(t ORDER BY t::text), '[]') FROM {table} t)::text"
        for table in ("approvals", "approval_rules")
    ]
    async with tenant.scope() as scope:
        before = [await scope.queries.fetchval(query) for query in queries]
    async with replay.scope() as scope:
        for encoded in await tenant.services.get(Feed).read(tenant.tenant_id, 0):
            recorded = encoded.decoded(tenant.tenant_id)
            await views.projection.handlers[type(recorded.event)](scope, recorded)
        after = [await scope.queries.fetchval(query) for query in queries]
    assert [text.replace(str(replay.tenant_id), str(tenant.tenant_id)) for text in after] == before
