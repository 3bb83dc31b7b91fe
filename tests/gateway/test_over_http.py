"""The gateway for a tenant's own tools: over HTTP, with an API key, on a started server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
from google import genai
from google.genai import types

from tests.support.databases import Cluster
from tests.support.model_server import ModelServer, Step, Usage
from tests.support.running import Person, RunningServer, running_server

_MODEL = "gpt-4o-mini"
_ASKED: list[Any] = [{"role": "user", "content": "Say hello."}]
_CALL_COST = "0.00021"  # of 1,000 tokens read and 100 written


@pytest.fixture(scope="module")
async def models() -> AsyncIterator[ModelServer]:
    async with ModelServer() as found:
        yield found


@pytest.fixture(scope="module")
async def server(postgres: Cluster, models: ModelServer) -> AsyncIterator[RunningServer]:
    settings = {
        "OPENAI_BASE_URL": models.base_url,
        "OPENAI_API_KEY": "sk-the-servers-own-key",
        "ANTHROPIC_BASE_URL": models.url,
        "ANTHROPIC_API_KEY": "sk-the-servers-own-key",
        "GEMINI_BASE_URL": models.url,
        "GEMINI_API_KEY": "sk-the-servers-own-key",
        "RETINUE_DEFAULT_MODEL": "demo:assistant",
    }
    async with running_server(postgres, worker=True, **settings) as found:
        yield found


@pytest.fixture
async def ada(server: RunningServer, models: ModelServer) -> Person:
    models.reset()
    models.script(Step(text="hello", usage=Usage(1000, 100)), then="repeat")
    return await server.person()


async def _key(person: Person, *scopes: str) -> str:
    body = {"name": "tool"} | ({"scopes": list(scopes)} if scopes else {})
    return str((await person.call("POST", "/v1/my/keys", 201, json=body))["key"])


def _client(server: RunningServer, key: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{server.base_url}/v1/models/openai", api_key=key, max_retries=0)


async def test_openais_client_works_with_a_key_of_this_server(
    server: RunningServer, ada: Person, models: ModelServer
) -> None:
    async with _client(server, await _key(ada, "models:create")) as client:
        answer = await client.chat.completions.create(model=_MODEL, messages=_ASKED)
        assert answer.choices[0].message.content == "hello"
        stream = await client.chat.completions.create(model=_MODEL, messages=_ASKED, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "hello"
        demo = await client.chat.completions.create(model="demo:assistant", messages=_ASKED)
        assert (demo.choices[0].message.content or "").startswith("[demo]")
    assert {one.key for one in models.requests} == {"sk-the-servers-own-key"}


async def test_anthropics_and_googles_clients_send_the_key_in_their_own_way(server: RunningServer, ada: Person) -> None:
    key = await _key(ada, "models:create")
    async with anthropic.AsyncAnthropic(
        base_url=f"{server.base_url}/v1/models/anthropic", api_key=key, max_retries=0
    ) as claude:
        message = await claude.messages.create(model="claude-haiku-4-5", max_tokens=9, messages=_ASKED)
        assert message.content[0].text == "hello"  # type: ignore[union-attr]  # it is text
    options = types.HttpOptions(base_url=f"{server.base_url}/v1/models/gemini")
    async with genai.Client(api_key=key, http_options=options).aio as gemini:
        answer = await gemini.models.generate_content(model="gemini-2.5-flash", contents="Say hello.")
        assert answer.text == "hello"
        stream = await gemini.models.generate_content_stream(model="gemini-2.5-flash", contents="Say hello.")
        assert "".join([part.text or "" async for part in stream]) == "hello"


async def test_those_headers_count_there_and_nowhere_else(server: RunningServer, ada: Person) -> None:
    """Bug: a header of a model client becomes a second way in everywhere."""
    key = await _key(ada)
    async with httpx.AsyncClient(base_url=server.base_url, timeout=60) as client:
        for name in ("x-api-key", "x-goog-api-key"):
            assert (await client.get("/v1/models/openai/models", headers={name: key})).status_code == 200
            assert (await client.get("/v1/my/agents", headers={name: key})).status_code == 401
            assert (await client.get("/v1/models/openai/models", headers={name: "rtn_live_x"})).status_code == 401
            token = ada.account["access_token"]
            assert (await client.get("/v1/models/openai/models", headers={name: token})).status_code == 401


async def test_a_key_without_the_scope_is_refused(server: RunningServer, ada: Person, models: ModelServer) -> None:
    async with _client(server, await _key(ada, "runs:read")) as client:
        with pytest.raises(openai.PermissionDeniedError):
            await client.chat.completions.create(model=_MODEL, messages=_ASKED)
    async with _client(server, "nonsense") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(model=_MODEL, messages=_ASKED)
    assert models.requests == []


async def test_calls_are_metered_for_the_user_and_the_key(server: RunningServer, ada: Person) -> None:
    async with _client(server, await _key(ada)) as client:
        await client.chat.completions.create(model=_MODEL, messages=_ASKED)
    keys = (await ada.call("GET", "/v1/my/keys"))["items"]
    usage = await _usage(ada, 1)
    assert usage["total"]["cost"]["amount"] == _CALL_COST
    assert [(item["model"], item["agent_id"]) for item in usage["items"]] == [(f"openai:{_MODEL}", keys[0]["key_id"])]


async def _usage(person: Person, calls: int) -> dict[str, Any]:
    """Return the usage once that many calls are counted: an answer does not wait for its count."""
    async with asyncio.timeout(10):
        while True:
            found: dict[str, Any] = await person.call("GET", "/v1/my/usage")
            if found["total"]["calls"] >= calls:
                return found


async def test_the_tenants_budget_holds_over_http(server: RunningServer, ada: Person, models: ModelServer) -> None:
    await ada.call("PUT", f"/v1/tenants/{ada.tenant_id}/budget", json={"limit": _CALL_COST, "period": "month"})
    async with _client(server, await _key(ada)) as client:
        await client.chat.completions.create(model=_MODEL, messages=_ASKED, max_tokens=100)
        await _usage(ada, 1)
        with pytest.raises(openai.APIStatusError, match="budget") as refused:
            await client.chat.completions.create(model=_MODEL, messages=_ASKED, max_tokens=100)
    assert (refused.value.status_code, refused.value.code) == (402, "budget_exhausted")
    budget = await ada.call("GET", f"/v1/tenants/{ada.tenant_id}/budget")
    assert (budget["spent"], budget["reserved"], len(models.requests)) == (_CALL_COST, "0", 1)


async def test_the_tenants_own_key_goes_before_the_servers(
    server: RunningServer, ada: Person, models: ModelServer
) -> None:
    secret = {"value": "sk-the-tenants-own-key", "base_url": models.base_url}
    await ada.call("PUT", f"/v1/tenants/{ada.tenant_id}/secrets/openai", json=secret)
    async with _client(server, await _key(ada)) as client:
        await client.chat.completions.create(model=_MODEL, messages=_ASKED)
    assert models.requests[0].key == "sk-the-tenants-own-key"


async def test_a_call_is_not_answered_a_second_time_from_memory(server: RunningServer, ada: Person) -> None:
    """Bug: an idempotency key keeps an answer that was not there yet, and gives out an empty one."""
    headers = {"Idempotency-Key": "once"}
    body = {"model": _MODEL, "messages": _ASKED}
    first = await ada.client.post("/v1/models/openai/chat/completions", json=body, headers=headers)
    assert first.json()["choices"][0]["message"]["content"] == "hello"
    again = await ada.client.post("/v1/models/openai/chat/completions", json=body, headers=headers)
    assert again.status_code == 409


async def test_a_body_larger_than_the_apis_usual_limit_is_taken(server: RunningServer, ada: Person) -> None:
    body = {"model": _MODEL, "messages": [{"role": "user", "content": "x" * 2_000_000}]}
    answer = await ada.client.post("/v1/models/openai/chat/completions", json=body)
    assert answer.status_code == 200


async def test_a_caller_that_leaves_over_http_ends_the_call(ada: Person, models: ModelServer) -> None:
    models.reset()
    models.script(Step(hang=True))
    body = {"model": _MODEL, "messages": _ASKED}
    call = asyncio.ensure_future(ada.client.post("/v1/models/openai/chat/completions", json=body))
    await models.wait_for_requests(1)
    call.cancel()
    await models.wait_for_requests(1, state="cut_by_client")


async def test_nothing_of_a_call_is_in_the_servers_log(server: RunningServer, ada: Person, models: ModelServer) -> None:
    models.reset()
    models.script(Step(text="canary-answer"), Step(status=500, message="canary-answer sk-the-servers-own-key"))
    key = await _key(ada)
    async with _client(server, key) as client:
        asked: list[Any] = [{"role": "user", "content": "canary-prompt"}]
        await client.chat.completions.create(model=_MODEL, messages=asked)
        with pytest.raises(openai.InternalServerError) as failed:
            await client.chat.completions.create(model=_MODEL, messages=asked)
    assert "own-key" not in str(failed.value)
    log = server.log()
    assert "/v1/models/openai/chat/completions" in log
    assert not [word for word in ("canary-", "sk-the-servers-own-key", key) if word in log]


@pytest.mark.fault
async def test_a_process_that_dies_in_a_call_gives_back_what_it_held(postgres: Cluster) -> None:
    """Bug: nobody owns the reservation of a call without a run."""
    async with (
        ModelServer() as models,
        running_server(
            postgres, OPENAI_BASE_URL=models.base_url, OPENAI_API_KEY="stub-key", RETINUE_GATEWAY_TIMEOUT="5"
        ) as server,
    ):
        ada = await server.person()
        models.script(Step(hang=True))
        await ada.call("PUT", f"/v1/tenants/{ada.tenant_id}/budget", json={"limit": "5", "period": "month"})
        call = asyncio.ensure_future(
            ada.client.post("/v1/models/openai/chat/completions", json={"model": _MODEL, "messages": _ASKED})
        )
        await models.wait_for_requests(1)
        assert await _reserved(ada) != "0"
        server.kill()
        with pytest.raises(httpx.HTTPError):
            await call
        await server.start()
        async with asyncio.timeout(60):
            reserved = await _reserved(ada)
            while reserved != "0":
                await asyncio.sleep(0.05)
                reserved = await _reserved(ada)


async def _reserved(person: Person) -> str:
    return str((await person.call("GET", f"/v1/tenants/{person.tenant_id}/budget"))["reserved"])


async def test_the_emergency_stop_holds_for_a_tenants_own_tools(server: RunningServer, ada: Person) -> None:
    """A key went on asking models, and spending, while everything else of the tenant stood still."""
    async with _client(server, await _key(ada, "models:create")) as client:
        await client.chat.completions.create(model=_MODEL, messages=_ASKED)
        await ada.call("POST", f"/v1/tenants/{ada.tenant_id}/stop", 200, json={"reason": "a test"})
        with pytest.raises(openai.ConflictError) as refused:
            await client.chat.completions.create(model=_MODEL, messages=_ASKED)
        assert "stopped" in refused.value.response.text
        await ada.call("POST", f"/v1/tenants/{ada.tenant_id}/resume", 200)
        await client.chat.completions.create(model=_MODEL, messages=_ASKED)
