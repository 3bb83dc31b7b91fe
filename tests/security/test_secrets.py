"""No password, token or key is anywhere in the clear: not in what the server writes, stores, shows or streams.

A journey uses every kind of secret, the failures included in which they like to show up. Then everything that a
started server wrote is searched: its log at its most talkative, its files, every row of every table, the metrics, and
every answer but the one that hands a secret to its owner.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from tests.support.databases import Cluster
from tests.support.model_server import ModelServer, Step
from tests.support.running import PASSWORD, Person, RunningServer, running_server

SERVERS_KEY = "sk-servers-own-5f1d2c3b4a"
TENANTS_KEY = "sk-tenants-own-9e8d7c6b5a"
WRONG_PASSWORD = "open sesame, but wrong"
NEW_PASSWORD = "another horse, another battery"
METRICS_TOKEN = "metrics-token-77aa88bb"
SEEN = "a text that is no secret"


@dataclass
class Journey:
    """What was used and what was shown on the way.

    Attributes:
        secrets: by what they are.
        shown: the answers that should hold none of them.
    """

    server: RunningServer
    secrets: dict[str, str] = field(default_factory=dict)
    shown: list[str] = field(default_factory=list)

    async def call(self, client: httpx.AsyncClient, method: str, path: str, **request: Any) -> httpx.Response:
        response = await client.request(method, path, **request)
        self.shown.append(f"{method} {path.partition('?')[0]}: {response.text} {dict(response.headers)}")
        return response


async def _identity(journey: Journey, ada: Person) -> None:
    """Sign in well and badly, change the password, make and replace a key."""
    client, email = ada.client, (await ada.call("GET", "/v1/my/profile"))["email"]
    journey.secrets |= {"access token": ada.account["access_token"], "refresh token": ada.account["refresh_token"]}
    for password in (WRONG_PASSWORD, PASSWORD * 100):
        body = {"email": email, "password": password}
        assert (await journey.call(client, "POST", "/v1/auth/login", json=body)).is_error
    fresh = await ada.call("POST", "/v1/auth/refresh", json={"refresh_token": ada.account["refresh_token"]})
    again = {"refresh_token": "x" + fresh["refresh_token"]}
    assert (await journey.call(client, "POST", "/v1/auth/refresh", json=again)).is_error
    client.headers["Authorization"] = f"Bearer {fresh['access_token']}"
    body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    last = await ada.call("POST", "/v1/my/password", json=body)
    client.headers["Authorization"] = f"Bearer {last['access_token']}"
    for name, tokens in (("second", fresh), ("third", last)):
        journey.secrets |= {f"{name} {kind}": tokens[kind] for kind in ("access_token", "refresh_token")}
    # The answer with a key is kept for repetitions, encrypted.
    headers = {"Idempotency-Key": "make-the-key-once-4711"}
    key = await ada.call("POST", "/v1/my/keys", 201, json={"name": "k"}, headers=headers)
    other = await ada.call("POST", f"/v1/my/keys/{key['key_id']}/replace", 201, json={"overlap_seconds": 60})
    journey.secrets |= {"API key": key["key"], "replaced API key": other["key"]}
    for text in (key["key"], key["key"][:-1]):
        await journey.call(client, "GET", "/v1/my/profile", headers={"Authorization": f"Bearer {text}"})
    ticket = (await ada.call("POST", "/v1/my/events/ticket", 201))["ticket"]
    journey.secrets["ticket"] = ticket
    async with httpx.AsyncClient(base_url=journey.server.base_url) as stranger:
        async with stranger.stream("GET", f"/v1/my/events/stream?ticket={ticket}") as opened:
            assert opened.status_code == 200
        await journey.call(stranger, "GET", f"/v1/my/events/stream?ticket={ticket}")
        await journey.call(stranger, "GET", f"/v1/my/runs?access_token={last['access_token']}")


async def _models(journey: Journey, ada: Person, models: ModelServer) -> None:
    """Ask models with the server's key and with the tenant's own; both fail once and repeat the key in the error."""
    path = f"/v1/tenants/{ada.tenant_id}/secrets/openai"
    agent = await ada.agent(model="openai:stub", instructions=SEEN)
    for key in (SERVERS_KEY, TENANTS_KEY):
        if key == TENANTS_KEY:
            body = {"value": key, "base_url": models.base_url}
            assert (await journey.call(ada.client, "PUT", path, json=body)).is_success
        message = f"Incorrect API key provided: {key}. You can find your key in your account."
        models.script(Step(status=401, message=message, code="invalid_api_key"), Step(text=SEEN), key=key)
        failed = await ada.send(agent, "hello")
        assert (await ada.until(failed["run_id"]))["status"] == "failed"
        done = await ada.ask(agent, "hello")
        assert done["run"]["status"] == "completed"
        for run_id in (failed["run_id"], done["run"]["run_id"]):
            for part in ("", "/events", "/steps"):
                await journey.call(ada.client, "GET", f"/v1/my/runs/{run_id}{part}")
    assert {one.key for one in models.requests} == {SERVERS_KEY, TENANTS_KEY}
    await journey.call(ada.client, "PUT", path, json={"value": [TENANTS_KEY]})
    await journey.call(ada.client, "PUT", path, json={"value": TENANTS_KEY, "base_url": "x"})
    for path in (f"/v1/tenants/{ada.tenant_id}/secrets", "/v1/my/keys", "/v1/my/profile", "/v1/my/agents"):
        await journey.call(ada.client, "GET", path)
    async with ada.stream("?after=0") as events:
        async for event in events:
            journey.shown.append(str(event))
            if event["event"] == "run_completed":
                break


@pytest.fixture(scope="module")
async def journey(postgres: Cluster) -> AsyncIterator[Journey]:
    async with ModelServer() as models:
        settings = {
            "OPENAI_API_KEY": SERVERS_KEY,
            "OPENAI_BASE_URL": models.base_url,
            "RETINUE_LOG_LEVEL": "debug",
            "RETINUE_METRICS_TOKEN": METRICS_TOKEN,
            "RETINUE_MODEL_ATTEMPTS": "1",
        }
        async with running_server(postgres, worker=True, **settings) as server:
            found = Journey(server)
            found.secrets |= {
                "password": PASSWORD,
                "wrong password": WRONG_PASSWORD,
                "new password": NEW_PASSWORD,
                "server's model key": SERVERS_KEY,
                "tenant's model key": TENANTS_KEY,
                "metrics token": METRICS_TOKEN,
                "idempotency key": "make-the-key-once-4711",
            }
            ada = await server.person()
            await _identity(found, ada)
            await _models(found, ada, models)
            yield found


def spellings(secret: str) -> set[str]:
    """Return how a secret may be written: as it is, as hex digits, as base64, and a JWT's signature alone."""
    raw = secret.encode()
    found = {secret, raw.hex(), base64.b64encode(raw).decode().rstrip("=")}
    if secret.count(".") == 2:
        found.add(secret.rpartition(".")[2])
    return found


def found_in(secrets: dict[str, str], texts: Iterable[tuple[str, str]]) -> list[str]:
    """Return which secrets are in which texts."""
    wanted = [(name, spelling) for name, secret in secrets.items() for spelling in spellings(secret)]
    return [f"{name} in {where}" for where, text in texts for name, spelling in wanted if spelling in text]


async def rows(server: RunningServer) -> list[tuple[str, str]]:
    """Return every row of every table as text, as the superuser sees them."""
    assert server.cluster is not None
    assert server.database is not None
    connection = await asyncpg.connect(server.cluster.dsn(server.database, "postgres"))
    try:
        names = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        found = []
        for (name,) in names:
            found += [(name, row[0]) for row in await connection.fetch(f'SELECT t::text FROM "{name}" t')]
        return found
    finally:
        await connection.close()


async def test_no_secret_is_in_the_log(journey: Journey) -> None:
    log = journey.server.log()
    assert "/v1/auth/login" in log
    assert found_in(journey.secrets, [("the log", line) for line in log.splitlines()]) == []


async def test_no_secret_is_in_the_database(journey: Journey) -> None:
    found = await rows(journey.server)
    assert {"events", "users", "api_keys", "runs", "messages"} <= {name for name, _ in found}
    assert found_in({"what is stored": SEEN}, found)  # the search finds what is there
    assert found_in(journey.secrets, found) == []


async def test_no_secret_is_in_a_file(journey: Journey) -> None:
    files = [path for path in journey.server.folder.rglob("*") if path.is_file()]
    texts = [(str(path), path.read_bytes().decode("latin-1")) for path in files]
    assert texts
    assert found_in(journey.secrets, texts) == []
    assert [str(one) for one in files if _is_private(one) and one.stat().st_mode & 0o077] == []


def _is_private(path: Path) -> bool:
    return "key" in path.name


async def test_no_secret_is_in_an_answer(journey: Journey) -> None:
    assert len(journey.shown) > 15
    assert any(SEEN in one for one in journey.shown)
    assert found_in(journey.secrets, [(one[:200], one) for one in journey.shown]) == []


async def test_no_secret_is_in_the_metrics(journey: Journey) -> None:
    async with httpx.AsyncClient(base_url=journey.server.base_url) as client:
        text = (await client.get("/metrics", headers={"Authorization": f"Bearer {METRICS_TOKEN}"})).text
        health = [(await client.get(f"/health/{one}")).text for one in ("live", "ready", "startup")]
    assert "retinue_http_request_duration_seconds" in text
    assert found_in(journey.secrets, [("metrics", text), *(("health", one) for one in health)]) == []


def test_the_search_knows_other_spellings() -> None:
    secret = {"s": "top.secret.signature"}
    for text in ("x top.secret.signature", "signature", base64.b64encode(b"top.secret.signature").decode()):
        assert found_in(secret, [("text", text)])
    assert found_in(secret, [("text", "746f702e7365637265742e7369676e6174757265")])
    assert not found_in(secret, [("text", "nothing")])
