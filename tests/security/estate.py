"""One of everything in an organisation, and a request to each operation of the API that shows or changes it.

The tests of this folder walk over the API's own description. What they need to know besides is here: a good request
to each operation. An operation that is missing here fails them, so a new route cannot go untested.
"""

from __future__ import annotations

import asyncio
import json
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, fields, replace
from typing import Any
from uuid import uuid4

import httpx

from tests.support.running import Person, RunningServer

STREAM = "events_stream"
STREAMS = frozenset({STREAM, "operations_stream"})
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.I)

# Operations that belong to no tenant: they have no permission, and say nothing of anybody but the caller.
PUBLIC = frozenset(
    {
        "identity_sign_up",
        "identity_log_in",
        "identity_refresh",
        "identity_log_out",
        "identity_change_password",
        "workflows_receive",
        "uploads_abilities",
        "live_health_live_get",
        "ready_health_ready_get",
        "startup_health_startup_get",
    }
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the description."""

    name: str
    method: str
    path: str
    permission: str | None
    parameters: list[dict[str, Any]]
    body: dict[str, Any]

    @property
    def in_path(self) -> list[str]:
        return re.findall(r"{(\w+)}", self.path)

    def in_query(self) -> dict[str, dict[str, Any]]:
        return {one["name"]: one["schema"] for one in self.parameters if one["in"] == "query"}

    @property
    def cell(self) -> tuple[str, str]:
        assert self.permission is not None
        resource, _, action = self.permission.partition(":")
        return resource, action


def operations(document: Mapping[str, Any]) -> Iterator[Operation]:
    """Return every operation of the API's description."""
    for path, methods in document["paths"].items():
        for method, one in methods.items():
            yield Operation(
                one["operationId"],
                method.upper(),
                path,
                one.get("x-permission"),
                one.get("parameters", []),
                one.get("requestBody", {}).get("content", {}),
            )


@dataclass(frozen=True, slots=True)
class Things:
    """The ids of one of everything; the names are those of the parameters."""

    tenant_id: str
    user_id: str
    name: str
    key_id: str
    agent: str
    agent_name: str
    session_id: str
    path: str
    run_id: str
    waiting_run_id: str
    failed_run_id: str
    approval_id: str
    rule_id: str
    team_id: str
    item_id: str
    link_id: str
    plan_id: str
    waiting_plan_id: str
    failed_plan_id: str
    workflow: str
    trigger: str
    callback_id: str
    grant_id: str
    other_grant_id: str
    artifact_id: str
    upload_id: str
    operation_id: str
    failed_operation_id: str
    running_operation_id: str

    def missing(self) -> Things:
        """Return ids of the same form that nobody has."""
        fresh = {one.name: str(uuid4()) for one in fields(self)}
        return Things(**fresh | {"name": f"n{uuid4().hex[:12]}", "path": f"{uuid4().hex[:8]}.txt"})

    def all(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Sample:
    """A good request to an operation.

    Attributes:
        expected: the status of the answer to the owner.
        body: as JSON; texts ``{agent}`` and the like are filled in.
        content: the body and its type, for what is not JSON.
        files: the body as a form.
        headers: besides those that the body needs.
        query: where ids can be given besides the path.
        uses: which thing stands for a parameter of the path, where it is not the one of that name.
    """

    expected: int = 200
    body: Any = None
    content: tuple[str, str] | None = None
    files: bool = False
    headers: Mapping[str, str] | None = None
    query: Mapping[str, str] | None = None
    uses: Mapping[str, str] | None = None


_AGENT = {"name": "fresh {agent_name}", "instructions": "Be brief."}
_WAITS, _FAILED = {"run_id": "waiting_run_id"}, {"run_id": "failed_run_id"}
_WORKFLOW = {"name": "workflow"}
_TUS = {"Tus-Resumable": "1.0.0"}
_BEGIN = {**_TUS, "Upload-Length": "9", "Upload-Metadata": "filename YS50eHQ="}
_PIECE = {**_TUS, "Upload-Offset": "0"}
_GRANTEE = "ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"  # of RFC 8037; nobody signs with it here
_YAML = "spec_version: 1\nname: {workflow}\nsteps: [{{id: a, value: 2}}]\ntriggers: [{{id: hook, webhook: true}}]\n"
_PLAN = {"title": "another", "tasks": [{"id": "a", "agent": "{agent}", "instructions": "hello"}]}

_OPERATION = {"driver": "command", "goal": "Nothing.", "parameters": {"argv": ["/bin/true"]}}

# In an order in which the owner can make them all: what shows, what changes, what takes away.
SAMPLES: dict[str, Sample] = {
    "identity_read_profile": Sample(),
    "tenants_list_tenants": Sample(),
    "tenants_read_tenant": Sample(),
    "tenants_list_members": Sample(),
    "secrets_list_secrets": Sample(),
    "identity_list_keys": Sample(),
    "agents_list_all": Sample(),
    "agents_show": Sample(),
    "agents_versions": Sample(),
    "agents_export": Sample(),
    "approvals_list_all": Sample(query={"run": "{waiting_run_id}"}),
    "approvals_show": Sample(),
    "approvals_list_rules": Sample(),
    "metering_read_tenant_budget": Sample(),
    "metering_read_agent_budget": Sample(),
    "metering_read_usage": Sample(),
    "metering_read_tenant_costs": Sample(),
    "metering_export_tenant_costs": Sample(),
    "metering_read_costs": Sample(),
    "metering_export_costs": Sample(),
    "metering_read_rates": Sample(),
    "metering_read_quota": Sample(),
    "metering_read_tenant_quota": Sample(),
    "runs_list_all": Sample(query={"agent": "{agent}", "session": "{session_id}"}),
    "runs_show": Sample(),
    "runs_events": Sample(),
    "runs_steps": Sample(),
    "runs_dead_letters": Sample(),
    "plans_list_all": Sample(query={"session": "{plan_id}"}),
    "plans_show": Sample(),
    "plans_events": Sample(),
    "plans_show_policy": Sample(),
    "workflows_list_all": Sample(),
    "workflows_schema": Sample(),
    "workflows_show": Sample(uses=_WORKFLOW),
    "workflows_versions": Sample(uses=_WORKFLOW),
    "workflows_graph": Sample(uses=_WORKFLOW),
    "workflows_runs": Sample(uses=_WORKFLOW),
    "workflows_list_callbacks": Sample(),
    "workflows_show_callback": Sample(),
    "tenants_list_teams": Sample(),
    "tenants_read_team": Sample(),
    "tenants_list_team_members": Sample(),
    "board_list_items": Sample(query={"team": "{team_id}", "parent": "{item_id}"}),
    "board_export": Sample(query={"team": "{team_id}"}),
    "board_show": Sample(),
    "board_history": Sample(),
    "board_list_comments": Sample(),
    "board_read_policy": Sample(),
    "chat_list_sessions": Sample(),
    "chat_show_session": Sample(),
    "chat_list_messages": Sample(),
    "chat_list_files": Sample(),
    "chat_download": Sample(),
    "artifacts_list_all": Sample(query={"name": "{path}"}),
    "artifacts_show": Sample(),
    "artifacts_versions": Sample(),
    "artifacts_events": Sample(),
    "artifacts_content": Sample(),
    "artifacts_content_head": Sample(),
    "artifacts_sealed": Sample(),
    "operations_list_all": Sample(),
    "operations_show": Sample(),
    "operations_events": Sample(),
    "operations_stream": Sample(query={"after": "0"}),
    "operations_list_artifacts": Sample(),
    "operations_read_artifact": Sample(uses={"name": "path"}),
    "operations_show_policy": Sample(),
    "uploads_where": Sample(headers=_TUS),
    "uploads_show_upload": Sample(),
    STREAM: Sample(query={"session": "{session_id}", "run": "{run_id}", "after": "0"}),
    "events_ticket": Sample(201),
    "grants_list_mine": Sample(),
    "grants_show": Sample(),
    "grants_events": Sample(),
    "grants_list_of_tenant": Sample(),
    "grants_show_of_tenant": Sample(),
    "grants_events_of_tenant": Sample(),
    "grants_own_terms": Sample(404),  # for applications, which sign
    "grants_create": Sample(201, {"application": "another", "grantee": _GRANTEE}),
    "identity_create_key": Sample(201, {"name": "another"}),
    "tenants_create_tenant": Sample(201, {"name": "another"}),
    "tenants_rename_tenant": Sample(body={"name": "renamed"}),
    "tenants_put_member": Sample(body={"user_id": "{user_id}", "role": "member"}),
    "tenants_change_member": Sample(body={"role": "viewer"}),
    "secrets_put_secret": Sample(body={"value": "sk-another"}),
    "agents_create": Sample(201, _AGENT),
    "agents_list_templates": Sample(),
    "agents_install_templates": Sample(body={"names": ["writer"]}),
    "agents_import_yaml": Sample(201, content=("spec_version: 1\nname: other {agent_name}\n", "text/yaml")),
    "agents_change": Sample(body={**_AGENT, "name": "{agent_name}"}),
    "agents_pause": Sample(),
    "agents_resume": Sample(),
    "metering_set_tenant_budget": Sample(body={"limit": "1000.00"}),
    "metering_set_agent_budget": Sample(body={"limit": "1000.00"}),
    "metering_set_rates": Sample(body={"cpu_second": "0.0002"}),
    "tenants_create_team": Sample(201, {"name": "another"}),
    "tenants_rename_team": Sample(body={"name": "renamed"}),
    "tenants_add_team_member": Sample(204),
    "tenants_remove_team_member": Sample(204),
    "board_create": Sample(201, {"title": "another", "parent": "{item_id}"}),
    "board_change": Sample(body={"title": "renamed"}),
    "board_change_many": Sample(
        body={"operations": [{"op": "change", "item_id": "{item_id}", "fields": {"title": "changed"}}]}
    ),
    "board_undo": Sample(),
    "board_redo": Sample(),
    "board_comment": Sample(201, {"text": "another"}),
    "board_link": Sample(201, {"kind": "url", "target": "https://example.com/another"}),
    "board_decide": Sample(404, {"accept": True}),  # no agent has proposed anything
    "board_change_policy": Sample(body={"agents_close": False}),
    "chat_open_session": Sample(201, {"title": "another"}),
    "chat_send_message": Sample(202, {"content": "hello", "target_agent": "{agent}"}),
    "chat_upload": Sample(201, files=True),
    "artifacts_create": Sample(201, content=("fresh", "application/octet-stream"), query={"name": "fresh"}),
    "artifacts_hold": Sample(body={"reason": "a test"}),
    "operations_create": Sample(202, {**_OPERATION, "inputs": [{"artifact_id": "{artifact_id}"}]}),
    "operations_put_policy": Sample(body={"retention_seconds": 600_000}),
    "operations_cancel": Sample(202, {"reason": "enough"}, uses={"operation_id": "running_operation_id"}),
    "operations_retry": Sample(202, uses={"operation_id": "failed_operation_id"}),
    "uploads_begin": Sample(201, headers=_BEGIN),
    "uploads_go_on": Sample(204, content=("a", "application/offset+octet-stream"), headers=_PIECE),
    "approvals_confirm": Sample(body={"decision": "reject", "comment": "no"}),
    "plans_create": Sample(202, _PLAN),
    "plans_put_policy": Sample(body={"seconds": 6}),
    "plans_cancel": Sample(202, {"reason": "enough"}, uses={"plan_id": "waiting_plan_id"}),
    "plans_requeue": Sample(409),  # it is no dead letter
    "plans_retry": Sample(202, uses={"plan_id": "failed_plan_id"}),
    "workflows_validate": Sample(content=(_YAML, "text/yaml")),
    "workflows_put": Sample(content=(_YAML, "text/yaml"), uses=_WORKFLOW),
    "workflows_run": Sample(202, {"inputs": {}}, uses=_WORKFLOW),
    "workflows_hook_secret": Sample(201, uses=_WORKFLOW),
    "workflows_callback_secret": Sample(201, uses=_WORKFLOW),
    "workflows_requeue": Sample(409),  # it is not dead
    # Only the demo is set up; the other formats have nobody to ask.
    "models_openai_chat": Sample(body={"model": "demo:assistant", "messages": [{"role": "user", "content": "hello"}]}),
    "models_openai_responses": Sample(404, {"model": "gpt-5-mini", "input": "hello"}),
    "models_openai_embeddings": Sample(404, {"model": "text-embedding-3-small", "input": "hello"}),
    "models_openai_models": Sample(),
    "models_anthropic_messages": Sample(404, {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": []}),
    "models_anthropic_count": Sample(404, {"model": "claude-haiku-4-5", "messages": []}),
    "models_anthropic_models": Sample(),
    "models_gemini_generate": Sample(404, {"contents": []}, uses={"model": "workflow"}),
    "models_gemini_stream": Sample(404, {"contents": []}, query={"alt": "sse"}, uses={"model": "workflow"}),
    "models_gemini_count": Sample(404, {"contents": []}, uses={"model": "workflow"}),
    "models_gemini_models": Sample(),
    "runs_cancel": Sample(202, {"reason": "enough"}, uses={"run_id": "slow"}),
    "runs_retry": Sample(202, uses=_FAILED),
    # The owner reaches these, too, and is told that there is nothing to do: the run has no lost call and is not dead.
    "runs_reconcile": Sample(422, {"call_id": "call-1", "outcome": "give_up"}, uses=_WAITS),
    "runs_requeue": Sample(409),
    "runs_drop": Sample(409),
    "identity_replace_key": Sample(201, {"overlap_seconds": 60}),
    "tenants_stop": Sample(body={"reason": "a test"}),
    "tenants_resume": Sample(),
    "board_unlink": Sample(204),
    "board_delete": Sample(204),
    "board_restore": Sample(),
    "tenants_delete_team": Sample(409),  # the item belongs to it
    "approvals_remove_rule": Sample(204),
    "metering_remove_agent_budget": Sample(204),
    "operations_delete_artifacts": Sample(),
    "artifacts_release": Sample(204),
    "artifacts_delete": Sample(204),
    "uploads_give_up": Sample(204, headers=_TUS),
    "workflows_delete": Sample(204, uses=_WORKFLOW),
    "chat_delete_session": Sample(204),
    "agents_delete": Sample(204, query={"force": "true"}),
    "secrets_delete_secret": Sample(204),
    "identity_revoke_key": Sample(204),
    "grants_revoke": Sample(204),
    "grants_revoke_of_tenant": Sample(204, uses={"grant_id": "other_grant_id"}),
    "tenants_remove_member": Sample(204),
    "tenants_leave": Sample(409),  # the last admin stays
}


def sample_of(operation: Operation) -> Sample:
    """Return the good request to an operation.

    Raises:
        AssertionError: nobody wrote one: a new route is to be added to SAMPLES.
    """
    assert operation.name in SAMPLES, f"{operation.method} {operation.path} ({operation.name}) has no sample"
    return SAMPLES[operation.name]


def filled(value: Any, ids: Mapping[str, str]) -> Any:
    """Fill ids into the texts of a value."""
    if isinstance(value, str):
        return value.format_map(ids)
    if isinstance(value, Mapping):
        return {name: filled(inside, ids) for name, inside in value.items()}
    if isinstance(value, list):
        return [filled(inside, ids) for inside in value]
    return value


def request_of(operation: Operation, things: Things) -> tuple[str, str, dict[str, Any]]:
    """Return the good request to an operation on these things: method, path and the client's arguments."""
    sample = sample_of(operation)
    ids = things.all()
    ids |= {name: ids[thing] for name, thing in (sample.uses or {}).items() if thing in ids}
    request: dict[str, Any] = {}
    if sample.query:
        request["params"] = filled(sample.query, ids)
    if sample.body is not None:
        request["json"] = filled(sample.body, ids)
    if sample.content:
        text, media_type = sample.content
        request |= {"content": filled(text, ids), "headers": {"Content-Type": media_type}}
    if sample.headers:
        request["headers"] = {**request.get("headers", {}), **sample.headers}
    if sample.files:
        request |= {"files": {"file": (things.path, b"replaced")}, "data": {"path": things.path}}
    return operation.method, filled(operation.path, ids), request


@dataclass(slots=True)
class Estate:
    """An organisation with one of everything, all of it ada's.

    Attributes:
        ada: who owns it all, an admin of the organisation.
        bob: a plain member of the organisation, who owns nothing there.
        eve: a stranger, admin of an organisation of her own, in which she works.
        canary: a text that is in everything of ada's that holds text.
    """

    server: RunningServer
    ada: Person
    bob: Person
    eve: Person
    things: Things
    canary: str
    document: dict[str, Any]

    def operations(self) -> list[Operation]:
        """Return the operations that belong to a tenant, those that take things away last."""
        order = {name: n for n, name in enumerate(SAMPLES)}
        found = list(operations(self.document))
        public = {one.name for one in found if one.permission is None}
        assert public <= PUBLIC, f"public operations that nobody looked at: {public - PUBLIC}"
        return sorted((one for one in found if one.permission), key=lambda one: order.get(one.name, -1))

    def eves(self) -> str:
        return str(self.eve.client.headers["Retinue-Tenant"])

    async def slow_run(self) -> str:
        """Start a run that is under way for a second, and return its id."""
        agent = await self.ada.agent(model="demo:slow")
        return str((await self.ada.send(agent, "hello"))["run_id"])


@asynccontextmanager
async def estate_on(server: RunningServer) -> AsyncIterator[Estate]:
    """Make an organisation with one of everything on a started server (with a worker)."""
    canary = f"canary{uuid4().hex[:12]}"
    ada, bob, eve = [await server.person(name) for name in (canary, "bob", "eve")]
    org = (await ada.call("POST", "/v1/tenants", 201, json={"name": "the organisation"}))["tenant_id"]
    eves = (await eve.call("POST", "/v1/tenants", 201, json={"name": "eves"}))["tenant_id"]
    await ada.call("PUT", f"/v1/tenants/{org}/members", json={"user_id": bob.account["user_id"], "role": "member"})
    for one, tenant in ((ada, org), (bob, org), (eve, eves)):
        one.client.headers["Retinue-Tenant"] = tenant
    things = await _furnish(ada, org, bob.account["user_id"], canary)
    document = (await ada.client.get("/v1/openapi.json")).json()
    yield Estate(server, ada, bob, eve, things, canary, document)


async def _furnish(ada: Person, org: str, member: str, canary: str) -> Things:
    await ada.call("PUT", f"/v1/tenants/{org}/secrets/vaulted", json={"value": f"sk-{canary}"})
    await ada.call("PUT", f"/v1/tenants/{org}/budget", json={"limit": "4321.87"})
    key = await ada.call("POST", "/v1/my/keys", 201, json={"name": canary})
    agent = await ada.agent(f"{canary} agent", instructions=canary, tools=["files"])
    await ada.call("PUT", f"/v1/my/agents/{agent['agent_id']}/budget", json={"limit": "1234.78"})
    session = await ada.call("POST", "/v1/my/chat", 201, json={"title": canary})
    session_id = session["session_id"]
    upload = {"file": (f"{canary}.txt", f"Backups of {canary} run at night.".encode())}
    await ada.call("POST", f"/v1/my/chat/{session_id}/files", 201, files=upload)
    done = await ada.ask(agent, f"What do the files say about backups of {canary}?", session_id)
    assert done["run"]["status"] == "completed", done
    await _learn(ada, canary)
    writer = await ada.agent(f"{canary} writer", tools=["files"])
    waiting = await ada.send(writer, f"Please write a summary to {canary}.md")
    approval = await ada.approval(waiting["run_id"])
    broken = await ada.agent(f"{canary} broken", model="openai:gpt-5-mini")
    failed = await ada.send(broken, canary)
    assert (await ada.until(failed["run_id"]))["status"] == "failed"
    rules = await ada.call("GET", "/v1/my/approval-rules")
    team = await ada.call("POST", f"/v1/tenants/{org}/teams", 201, json={"name": canary})
    wanted = {"title": canary, "description": canary, "labels": [canary], "team": team["team_id"]}
    item = await ada.call("POST", "/v1/board/items", 201, json=wanted)
    of_item = f"/v1/board/items/{item['item_id']}"
    await ada.call("POST", f"{of_item}/comments", 201, json={"text": canary})
    link = await ada.call("POST", f"{of_item}/links", 201, json={"kind": "url", "target": f"https://{canary}.example"})
    wanted_grant = {"application": canary, "grantee": _GRANTEE}
    grants = [(await ada.call("POST", "/v1/my/grants", 201, json=wanted_grant))["grant_id"] for _ in range(2)]
    plans = (
        await _plan(ada, canary, agent),
        await _plan(ada, canary, agent, approval=True),
        await _plan(ada, canary, broken),
    )
    workflow = f"w{uuid4().hex[:12]}"
    return Things(
        tenant_id=org,
        user_id=member,
        name="vaulted",
        key_id=key["key_id"],
        agent=agent["agent_id"],
        agent_name=agent["name"],
        session_id=session_id,
        path=f"{canary}.txt",
        run_id=done["run"]["run_id"],
        waiting_run_id=waiting["run_id"],
        failed_run_id=failed["run_id"],
        approval_id=approval["approval_id"],
        rule_id=rules["items"][0]["rule_id"],
        team_id=team["team_id"],
        item_id=item["item_id"],
        link_id=link["link_id"],
        grant_id=grants[0],
        other_grant_id=grants[1],
        plan_id=plans[0],
        waiting_plan_id=plans[1],
        failed_plan_id=plans[2],
        workflow=workflow,
        trigger="hook",
        callback_id=await _workflow(ada, workflow, canary),
        artifact_id=await _artifact(ada, canary),
        upload_id=await _begun_upload(ada, canary),
        operation_id=await _operation(ada, canary, f"cp in.txt {canary}.txt && echo >> {canary}.txt", "completed"),
        failed_operation_id=await _operation(ada, canary, "exit 1", "failed"),
        running_operation_id=await _operation(ada, canary, "sleep 500", "running"),
    )


async def _operation(ada: Person, canary: str, script: str, status: str) -> str:
    """Have an operation carried out as far as it goes."""
    wanted = {
        **_OPERATION,
        "goal": canary,
        "parameters": {"argv": ["/bin/sh", "-c", script]},
        "files": [{"name": "in.txt", "content": canary}],
    }
    made = await ada.call("POST", "/v1/operations", 202, json=wanted)
    for _ in range(500):
        found = await ada.call("GET", f"/v1/operations/{made['operation_id']}")
        if found["status"] == status:
            return str(made["operation_id"])
        await asyncio.sleep(0.02)
    raise AssertionError(f"the operation is not {status}: {found}")


async def _artifact(ada: Person, canary: str) -> str:
    params = {"name": f"{canary}.txt"}
    stored = await ada.call("POST", "/v1/artifacts", 201, params=params, content=canary.encode())
    return str(stored["artifact_id"])


async def _begun_upload(ada: Person, canary: str) -> str:
    name = b64encode(f"{canary}.txt".encode()).decode()
    headers = {**_TUS, "Upload-Length": "9", "Upload-Metadata": f"filename {name}"}
    answer = await ada.call("POST", "/v1/uploads", 201, headers=headers)
    return str(answer.headers["location"].rpartition("/")[2])


async def _plan(ada: Person, canary: str, agent: dict[str, Any], **more: Any) -> str:
    """Have a plan of one task carried out, as far as it goes by itself; return its id."""
    tasks = [{"id": "only", "agent": agent["name"], "instructions": f"Say hello to {canary}."}]
    plan = await ada.call("POST", "/v1/my/plans", 202, json={"title": canary, "tasks": tasks, **more})
    for _ in range(500):
        if plan["status"] not in ("drafted", "running"):
            return str(plan["plan_id"])
        await asyncio.sleep(0.02)
        plan = await ada.call("GET", f"/v1/my/plans/{plan['plan_id']}")
    raise AssertionError(f"the plan does not end: {plan}")


async def _workflow(ada: Person, name: str, canary: str) -> str:
    """Make a workflow and run it, with a callback to nobody; return the callback's id."""
    text = _YAML.format(workflow=name).replace("value: 2", f"value: {canary}")
    await ada.call("PUT", f"/v1/workflows/{name}", content=text.encode(), headers={"Content-Type": "text/yaml"})
    await ada.call("POST", f"/v1/workflows/{name}/callback-secret", 201)
    await ada.call("POST", f"/v1/workflows/{name}/runs", 202, json={"callback": "http://127.0.0.1:9/"})
    for _ in range(500):
        found = (await ada.call("GET", "/v1/callbacks"))["items"]
        if found:
            return str(found[0]["callback_id"])
        await asyncio.sleep(0.02)
    raise AssertionError("the run does not end")


async def _learn(ada: Person, canary: str) -> None:
    """Let an agent ask for a tool, in a run that has read nothing untrusted, and allow it for good."""
    agent = await ada.agent(f"{canary} clock", tools=["clock"], tool_policy={"clock": "ask"})
    sent = await ada.send(agent, f"What time is it, {canary}?")
    await ada.decide(await ada.approval(sent["run_id"]), remember=True)
    assert (await ada.until(sent["run_id"]))["status"] == "completed"


# Answers


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer tells, without what differs from request to request."""

    status: int
    tells: str
    text: str


async def answer_to(
    client: httpx.AsyncClient, operation: Operation, things: Things, *, seek: str | None = None, **headers: str
) -> Answer:
    """Make the good request to an operation on these things; a live stream is read until it shows ``seek``."""
    method, path, request = request_of(operation, things)
    request["headers"] = request.get("headers", {}) | headers
    if operation.name in STREAMS:
        return await _opened(client, path, request, seek)
    response = await client.request(method, path, **request)
    return Answer(response.status_code, told(response, things), response.text)


async def _opened(client: httpx.AsyncClient, path: str, request: dict[str, Any], seek: str | None) -> Answer:
    """Open a live stream and read the past that it brings; it never ends, so stop when nothing more comes."""
    async with client.stream("GET", path, **request) as response:
        if response.status_code != 200:
            await response.aread()
            return Answer(response.status_code, json.dumps(response.json()["type"]), response.text)
        pieces: list[str] = []
        reading = response.aiter_text()
        while (piece := await _next(reading, 10 if seek else 0.5)) is not None:
            pieces.append(piece)
            if seek and seek in "".join(pieces):
                break
    text = "".join(pieces)
    return Answer(200, f"{text.count('event:')} events", text)


async def _next(reading: AsyncIterator[str], seconds: float) -> str | None:
    try:
        async with asyncio.timeout(seconds):
            return await anext(reading)
    except (TimeoutError, StopAsyncIteration):
        return None


def told(response: httpx.Response, things: Things) -> str:
    """Return what an answer tells: a problem's type, title and detail; for a success whether there is anything."""
    text = response.text
    if response.is_success:
        is_json = response.content and "json" in response.headers.get("content-type", "")
        found = response.json() if is_json else None
        return f"{len(found['items'])} items" if isinstance(found, dict) and "items" in found else "success"
    if response.request.method == "HEAD":
        return f"refused with {response.status_code}"
    problem = response.json()
    if "title" in problem:
        problem = [problem["type"], problem["title"], problem["detail"], problem.get("errors")]
    text = json.dumps(problem)  # the gateway's refusals have the form of the provider that is spoken to
    # A request's own ids may be named in the answer to it.
    for own in sorted(things.all().values(), key=len, reverse=True):
        text = text.replace(own, "…")
    return _UUID.sub("…", text)


def with_tenant(things: Things, tenant_id: str) -> Things:
    """Return the same things, looked for in another tenant."""
    return replace(things, tenant_id=tenant_id)
