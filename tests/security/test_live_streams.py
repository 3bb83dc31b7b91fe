"""Live streams of a started server show nobody else's events and end when the right to them ends (fault 15).

tests/web tests the streams themselves with a gate made of paper; here the real gate, logins, keys and members decide.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
import websockets

from tests.security.estate import Estate, estate_on
from tests.support.databases import Cluster
from tests.support.running import PASSWORD, Person, RunningServer, running_server


@pytest.fixture(scope="module")
async def server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    async with running_server(postgres, RETINUE_ACCESS_TOKEN_SECONDS="30") as found:
        yield found


@pytest.fixture(scope="module")
async def estate(postgres: Cluster) -> AsyncIterator[Estate]:
    async with running_server(postgres) as server, estate_on(server) as found:
        yield found


class Follower:
    """Follows a stream in the background and keeps what it shows."""

    def __init__(self, person: Person, query: str, **headers: str) -> None:
        self.person, self.query, self.headers = person, query, headers
        self.events: list[dict[str, Any]] = []
        self.opened = asyncio.Event()
        self.ended_at: float | None = None
        self.task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        try:
            async with self.person.stream(self.query, **self.headers) as events:
                self.opened.set()
                async for event in events:
                    self.events.append(event)
        except httpx.RemoteProtocolError:
            pass
        self.ended_at = time.monotonic()

    async def until(self, text: str) -> None:
        async with asyncio.timeout(20):
            while not any(text in json.dumps(event) for event in self.events):  # noqa: ASYNC110 - filled by the task
                await asyncio.sleep(0.02)

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.mark.parametrize("who", ["eve", "bob"])
@pytest.mark.parametrize("thing", [None, "session_id", "run_id"])
async def test_nobody_elses_events_are_streamed(estate: Estate, who: str, thing: str | None) -> None:
    """A stream is asked for what is ada's, from the first event on, while ada goes on in it."""
    person: Person = getattr(estate, who)
    wanted = f"&{thing.removesuffix('_id')}={getattr(estate.things, thing)}" if thing else ""
    asked = Follower(person, f"?after=0{wanted}")
    own, adas = Follower(person, "?after=0"), Follower(estate.ada, f"?after=0{wanted}")
    try:
        await asyncio.gather(*(one.opened.wait() for one in (asked, own, adas)))
        said = f"{estate.canary} {uuid4().hex}"
        session = estate.things.session_id
        await estate.ada.ask({"agent_id": estate.things.agent}, said, session)
        await adas.until(said if thing != "run_id" else estate.things.run_id)
        # An own event that was recorded later has passed: so what was ada's would have passed before.
        mark = uuid4().hex
        await person.ask(await person.agent(), mark)
        await own.until(mark)
        shown = json.dumps([asked.events, own.events])
    finally:
        for one in (asked, own, adas):
            await one.close()
    assert estate.canary not in shown
    assert estate.things.run_id not in shown
    assert not (thing and asked.events)


@pytest.mark.parametrize("kind", ["stream", "ws"])
async def test_another_tenant_has_no_stream(estate: Estate, kind: str) -> None:
    token = estate.eve.client.headers["Authorization"]
    answers = []
    for tenant_id in (estate.things.tenant_id, str(uuid4())):
        headers = {"Authorization": token, "Retinue-Tenant": tenant_id}
        if kind == "stream":
            response = await estate.eve.client.get("/v1/my/events/stream?after=0", headers=headers)
            problem = response.json()
        else:
            url = estate.server.base_url.replace("http", "ws") + "/v1/my/events/ws?after=0"
            with pytest.raises(websockets.InvalidStatus) as refused:
                await websockets.connect(url, additional_headers=headers)
            problem = json.loads(refused.value.response.body or b"")
        answers.append((problem["status"], problem["type"], problem["detail"]))
    assert answers[0] == answers[1]
    assert answers[0][0] == 404


async def test_a_ticket_is_for_its_tenant_and_for_once(estate: Estate) -> None:
    ticket = (await estate.eve.call("POST", "/v1/my/events/ticket", 201))["ticket"]
    async with httpx.AsyncClient(base_url=estate.server.base_url) as client:
        elsewhere = {"Retinue-Tenant": estate.things.tenant_id}
        refused = await client.get(f"/v1/my/events/stream?ticket={ticket}", headers=elsewhere)
        assert refused.status_code in (401, 404)
        fresh = (await estate.eve.call("POST", "/v1/my/events/ticket", 201))["ticket"]
        async with client.stream("GET", f"/v1/my/events/stream?ticket={fresh}") as response:
            assert response.status_code == 200
        assert (await client.get(f"/v1/my/events/stream?ticket={fresh}")).status_code == 401


async def _cut_within(follower: Follower, seconds: float) -> float:
    started = time.monotonic()
    await asyncio.wait_for(asyncio.shield(follower.task), seconds)
    return time.monotonic() - started


@pytest.mark.parametrize("way", ["logout", "password", "revoked key", "removed member"])
async def test_a_lost_right_cuts_the_stream_within_five_seconds(estate: Estate, way: str) -> None:
    person, stays = await estate.server.person("leaver"), await estate.server.person("stays")
    headers, other = {}, Follower(stays, "")
    if way == "revoked key":
        key = await person.call("POST", "/v1/my/keys", 201, json={"name": "k"})
        headers = {"Authorization": f"Bearer {key['key']}"}
    if way == "removed member":
        tenant_id, user_id = estate.things.tenant_id, person.account["user_id"]
        body = {"user_id": user_id, "role": "member"}
        await estate.ada.call("PUT", f"/v1/tenants/{tenant_id}/members", json=body)
        headers = {"Retinue-Tenant": tenant_id}
    follower = Follower(person, "", **headers)
    await asyncio.gather(follower.opened.wait(), other.opened.wait())
    if way == "logout":
        await person.call("POST", "/v1/auth/logout", 204)
    elif way == "password":
        body = {"current_password": PASSWORD, "new_password": "another horse, another battery"}
        await person.call("POST", "/v1/my/password", json=body)
    elif way == "revoked key":
        await person.call("DELETE", f"/v1/my/keys/{key['key_id']}", 204)
    else:
        await estate.ada.call("DELETE", f"/v1/tenants/{tenant_id}/members/{user_id}", 204)
    await _cut_within(follower, 5)
    assert not other.task.done()  # only the stream of who lost the right is cut
    await other.close()


@pytest.mark.slow
async def test_an_expired_token_cuts_its_stream(server: RunningServer) -> None:
    person = await server.person()
    signed_in = time.monotonic()
    follower = Follower(person, "")
    await follower.opened.wait()
    await asyncio.wait_for(asyncio.shield(follower.task), 40)
    assert 27 <= time.monotonic() - signed_in <= 35
    assert (await person.client.get("/v1/my/runs")).status_code == 401
