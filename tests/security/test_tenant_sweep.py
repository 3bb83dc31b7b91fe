"""Nobody reaches what belongs to others (fault 15), whatever operation of the API they try.

Each operation that the API describes is tried with ids of another tenant, or of another user of the same organisation.
The answer must be the one that ids get which nobody has, and hold nothing of the owner's. The owner makes the same
requests in the end and must succeed: so the ids were real and nothing was changed meanwhile. Then leaks are planted,
to show that the sweep sees them.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from tests.security.estate import (
    SAMPLES,
    STREAMS,
    Estate,
    Operation,
    Things,
    answer_to,
    estate_on,
    sample_of,
    with_tenant,
)
from tests.support.databases import Cluster
from tests.support.running import RunningServer, running_server

# The session of an id that nobody has is opened at its first use, so "taken" and "free" cannot look the same within
# one tenant. Somebody else's is refused.
OPENS_A_SESSION = frozenset({"chat_send_message", "chat_upload"})
# An admin makes anybody with an account a member; accounts are not the tenants' but the server's.
NAMES_ANYBODY = frozenset({"tenants_put_member"})
# Workflows are the tenant's: every member sees them and may run them. Whose runs and callbacks show is another matter.
OF_THE_TENANT = frozenset(
    # Which teams there are and who is in them is known in the tenant; what belongs to a team is not.
    {"tenants_read_team", "tenants_list_teams", "tenants_list_team_members"}
    | {
        "workflows_list_all",
        "workflows_show",
        "workflows_versions",
        "workflows_graph",
        "workflows_run",
        "workflows_runs",
    }
)


@pytest.fixture(scope="module")
async def server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    async with running_server(postgres) as found:
        yield found


@pytest.fixture(scope="module")
async def estate(server: RunningServer) -> AsyncIterator[Estate]:
    async with estate_on(server) as found:
        yield found


def secrets_of(estate: Estate) -> list[str]:
    """What must never be in anybody else's answer unless they sent it."""
    things = estate.things
    own = [value for name, value in things.all().items() if name not in ("tenant_id", "user_id", "path", "name")]
    return [estate.canary, *own]


async def tried(
    estate: Estate, person: str, operation: Operation, theirs: Things, free: Things, case: str, **headers: str
) -> list[str]:
    """Try an operation on somebody's things and on none; return what the two answers give away."""
    client = getattr(estate, person).client
    where = f"{person} {operation.method} {operation.path} ({case})"
    found = await answer_to(client, operation, theirs, **headers)
    against = await answer_to(client, operation, free, **headers)
    breaches = []
    if (found.status, found.tells) != (against.status, against.tells):
        breaches.append(f"{where}: {found.status} {found.tells} instead of {against.status} {against.tells}")
    sent = json.dumps([theirs.all(), headers])
    text = found.text
    # What a caller sent may come back: only what they did not know is a leak.
    for secret in secrets_of(estate):
        if secret in text and secret not in sent:
            breaches.append(f"{where}: the answer holds {secret}")
    if found.status < 300 and estate.canary in text.replace(f"{estate.canary}.txt", "").replace(
        estate.things.agent_name, ""
    ):
        breaches.append(f"{where}: the answer holds what ada wrote")
    return breaches


async def stranger_tries(estate: Estate, operation: Operation) -> list[str]:
    """A user of another tenant tries: in her own tenant, and in the other one, which she names."""
    free = estate.things.missing()
    # A tenant of her own for each try: what one try makes there under ada's ids must not be found by the next.
    eves = (await estate.eve.call("POST", "/v1/tenants", 201, json={"name": "eves"}))["tenant_id"]
    here = {"Retinue-Tenant": eves}
    breaches: list[str] = []
    if operation.name not in NAMES_ANYBODY and not _about_the_caller(operation):
        own, none = with_tenant(estate.things, eves), with_tenant(free, eves)
        breaches += await tried(estate, "eve", operation, own, none, "own tenant", **here)
        if "agent" in operation.in_path:
            named = replace(own, agent=estate.things.agent_name)
            unnamed = replace(none, agent=f"x{estate.things.agent_name}")
            breaches += await tried(estate, "eve", operation, named, unnamed, "by name", **here)
    # Named in the path where there is such a parameter, in the header everywhere.
    client = estate.eve.client
    theirs = await answer_to(client, operation, estate.things, **{"Retinue-Tenant": estate.things.tenant_id})
    nobodys = await answer_to(client, operation, estate.things.missing(), **{"Retinue-Tenant": str(uuid4())})
    if (theirs.status, theirs.tells) != (nobodys.status, nobodys.tells) or theirs.status != 404:
        breaches.append(f"eve {operation.method} {operation.path} (their tenant): {theirs} and not {nobodys}")
    return breaches


async def member_tries(estate: Estate, operation: Operation) -> list[str]:
    """A plain member of the same organisation tries the things of another one."""
    if _about_the_caller(operation) or operation.in_path == ["tenant_id"] or operation.name in OF_THE_TENANT:
        return []
    tenant_id = estate.things.tenant_id
    free = with_tenant(replace(estate.things.missing(), user_id=estate.things.user_id), tenant_id)
    if operation.name in OPENS_A_SESSION:
        found = await answer_to(estate.bob.client, operation, estate.things)
        return [] if found.status == 404 else [f"bob {operation.method} {operation.path}: {found}"]
    return await tried(estate, "bob", operation, estate.things, free, "same organisation")


def _about_the_caller(operation: Operation) -> bool:
    """Whether an operation takes no id and changes something: there is nothing of others to try."""
    body = sample_of(operation).body or {}
    takes_ids = bool(set(operation.in_path) - {"tenant_id"}) or any("{" in str(value) for value in body.values())
    return operation.method != "GET" and not takes_ids


async def swept(estate: Estate, only: frozenset[str] | None = None) -> list[str]:
    """Let the stranger and the other member try every operation; return all that they got."""
    breaches: list[str] = []
    for operation in estate.operations():
        if only is None or operation.name in only:
            breaches += await stranger_tries(estate, operation)
            breaches += await member_tries(estate, operation)
    return breaches


# The sweep


async def test_nobody_reaches_what_belongs_to_others(estate: Estate) -> None:
    assert len(estate.operations()) > 50
    assert await swept(estate) == []


def _cursor(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps([value]).encode()).decode().rstrip("=")


async def test_cursors_of_others_lead_nowhere(estate: Estate) -> None:
    mia = await estate.server.person("mia")  # eve has things of her own with ada's ids, from trying
    lists = [one for one in estate.operations() if "cursor" in one.in_query() and not set(one.in_path) - {"tenant_id"}]
    assert len(lists) >= 8
    for operation in lists:
        path = operation.path.format(tenant_id=mia.tenant_id)
        for thing in ("agent", "session_id", "run_id", "approval_id", "key_id", "rule_id", "tenant_id"):
            # Just before and just after ada's thing, so that a leak would show it on either order of the list.
            place = getattr(estate.things, thing)
            for near in (place[:-12] + "000000000000", place[:-12] + "ffffffffffff", place):
                response = await mia.client.get(path, params={"cursor": _cursor(near), "limit": 200})
                assert response.status_code in (200, 422), response.text
                assert not [one for one in secrets_of(estate) if one in response.text], f"{path} {thing}"


async def test_an_idempotency_key_of_others_repeats_nothing(estate: Estate) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    body = {"name": estate.canary}
    first = await estate.ada.client.post("/v1/my/keys", json=body, headers=key)
    again = await estate.ada.client.post("/v1/my/keys", json=body, headers=key)
    assert again.json() == first.json()
    for person in (estate.eve, estate.bob):
        response = await person.client.post("/v1/my/keys", json=body, headers=key)
        assert response.status_code == 201
        assert response.json()["key_id"] != first.json()["key_id"]
        assert "idempotency-replayed" not in response.headers
    theirs = await estate.eve.client.post(
        "/v1/my/keys", json=body, headers=key | {"Retinue-Tenant": estate.things.tenant_id}
    )
    assert theirs.status_code == 404


async def test_a_key_of_another_tenant_does_not_enter_this_one(estate: Estate) -> None:
    made = await estate.eve.call("POST", "/v1/my/keys", 201, json={"name": "eves"})
    headers = {"Authorization": f"Bearer {made['key']}", "Retinue-Tenant": estate.things.tenant_id}
    for operation in estate.operations():
        found = await answer_to(estate.eve.client, operation, estate.things, **headers)
        assert found.status == 404, (operation, found)


# Planted leaks


async def _as_superuser(estate: Estate, statement: str) -> None:
    cluster, database = estate.server.cluster, estate.server.database
    assert cluster is not None
    assert database is not None
    connection = await asyncpg.connect(cluster.dsn(database, "postgres"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.mark.parametrize("table, seen", [("runs", "runs_show"), ("approvals", "approvals_show")])
async def test_a_table_without_its_policy_is_seen(estate: Estate, table: str, seen: str) -> None:
    await _as_superuser(estate, f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    try:
        breaches = await swept(estate, frozenset({seen}))
    finally:
        await _as_superuser(estate, f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    assert breaches
    assert await swept(estate, frozenset({seen})) == []


# Each makes a started server forget who owns a thing.
FORGETFUL = {
    "runs": (
        "import retinue.runs.api as a\na.own = lambda scope, run: run\n",
        {"runs_show", "runs_events", "runs_steps"},
    ),
    "approvals": (
        "import retinue.approvals.commands as a\na._visible = lambda scope, approval: approval\n",
        {"approvals_show"},
    ),
    "sessions": (
        "import retinue.chat.views as v\n"
        "v.find_session = lambda scope, session_id: v.session_of_run(scope, session_id)\n",
        {"chat_show_session", "chat_list_messages", "chat_list_files", "chat_download"},
    ),
    "agents": (
        "import retinue.agents.views as v\n_real = v.by_id\n"
        "async def by_id(scope, owner_id, agent_id, *, lock=False):\n"
        "    owner = await scope.queries.fetchval('SELECT owner_id FROM agents WHERE agent_id = $1', agent_id)\n"
        "    return await _real(scope, owner or owner_id, agent_id, lock=lock)\n"
        "v.by_id = by_id\n",
        {"agents_show", "agents_versions", "agents_export", "metering_read_agent_budget"},
    ),
    "lists": (
        "import retinue.runs.api as a\n_real = a.list_runs\n"
        "async def list_runs(scope, owner, *, session_id=None, **rest):\n"
        "    of = 'SELECT owner_id FROM sessions WHERE session_id = $1'\n"
        "    owner = await scope.queries.fetchval(of, session_id) or owner\n"
        "    return await _real(scope, owner, session_id=session_id, **rest)\n"
        "a.list_runs = list_runs\n",
        {"runs_list_all"},
    ),
}


@pytest.mark.parametrize("place", sorted(FORGETFUL))
async def test_a_forgotten_owner_is_seen(estate: Estate, tmp_path: Path, place: str) -> None:
    """A second server on the same database, with a mistake in it."""
    mistake, shown = FORGETFUL[place]
    (tmp_path / "sitecustomize.py").write_text(mistake)
    whole = estate.server
    settings = {"PYTHONPATH": os.pathsep.join([str(tmp_path)]), "RETINUE_DATA": str(whole.folder)}
    forgetful = RunningServer(tmp_path, whole.cluster, settings)
    forgetful.database = whole.database
    clients = [estate.ada.client, estate.bob.client, estate.eve.client]
    try:
        await forgetful.start(worker=False)
        for client in clients:
            client.base_url = forgetful.base_url
        breaches = await swept(estate, frozenset(shown))
    finally:
        for client in clients:
            client.base_url = whole.base_url
        forgetful.database = None  # it is not this server's to drop
        await forgetful.close()
    for name in shown:
        operation = next(one for one in estate.operations() if one.name == name)
        path = f"{operation.method} {operation.path} "
        assert any(path in one for one in breaches), f"{path}: not seen: {breaches}"


# The positive control comes last: it takes things away


async def test_the_owner_can_do_it_all(estate: Estate) -> None:
    refused: list[str] = []
    for operation in estate.operations():
        things = estate.things
        if operation.name == "runs_cancel":
            things = replace(things, run_id=await estate.slow_run())
        found = await answer_to(estate.ada.client, operation, things, seek=estate.canary)
        if found.status != SAMPLES[operation.name].expected:
            refused.append(f"{operation.method} {operation.path}: {found}")
        if operation.name in STREAMS and estate.canary not in found.text:
            refused.append(f"the stream showed nothing: {found}")
    assert refused == []
    assert {one.name for one in estate.operations()} == set(SAMPLES)
