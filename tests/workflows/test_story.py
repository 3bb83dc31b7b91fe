"""Workflows over HTTP, from YAML to their end, on a started server with a scripted model."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from standardwebhooks.webhooks import Webhook

from tests.support.model_server import ModelServer
from tests.support.running import Person, RunningServer

EXAMPLES = Path(__file__).parents[2] / "examples" / "workflows"
YAML = {"Content-Type": "text/yaml"}
ENDED = {"completed", "failed", "cancelled"}


async def apply(person: Person, text: str, **headers: str) -> dict[str, Any]:
    name = next(line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("name:"))
    found: dict[str, Any] = await person.call(
        "PUT", f"/v1/workflows/{name}", 200, content=text.encode(), headers=YAML | headers
    )
    return found


async def start(person: Person, name: str, **body: Any) -> dict[str, Any]:
    found: dict[str, Any] = await person.call("POST", f"/v1/workflows/{name}/runs", 202, json=body)
    return found


async def graph(person: Person, plan: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = await person.call("GET", f"/v1/my/plans/{plan['plan_id']}")
    return found


def states(found: dict[str, Any]) -> dict[str, str]:
    return {one["id"]: one["status"] for one in found["nodes"]}


async def until(person: Person, plan: dict[str, Any], good: Any = None, seconds: float = 30) -> dict[str, Any]:
    """Wait until a plan has ended, or what is seen of it is good."""
    deadline = time.monotonic() + seconds
    while True:
        found = await graph(person, plan)
        if good(found) if good else found["status"] in ENDED:
            return found
        assert time.monotonic() < deadline, (found["status"], found["error"], states(found))
        await asyncio.sleep(0.03)


async def test_a_workflow_with_every_construct(server: RunningServer, model: ModelServer) -> None:
    """From the file in examples to its output, with a person's answer and an event on the way."""
    ada = await server.person()
    agent = await ada.agent("Ada", tools=["files", "http_fetch"], autonomy="autonomous")
    sleeper = await ada.agent("Sleeper")
    await apply(ada, (EXAMPLES / "greeting.yaml").read_text())
    # What the scripted model is to say stands in the instructions.
    await apply(ada, (EXAMPLES / "every-construct.yaml").read_text().replace("say: ", "!say "))
    plan = await start(ada, "every-construct", inputs={"page": f"{server.base_url}/health/live"})
    await until(ada, plan, lambda one: states(one).get("heard") == "running" or one["status"] in ENDED)
    await ada.call("POST", f"/v1/my/agents/{sleeper['agent_id']}/pause")
    found = await until(ada, plan, lambda one: states(one)["ask"] == "running" or one["status"] in ENDED)
    assert found["status"] == "running", (found["error"], states(found))
    asked = next(one for one in await ada.approvals() if one.get("task_id") == "ask")
    assert asked["question"] == "Is this right? one is number 0, two is number 1, three is number 2"
    await ada.decide(asked, comment="yes")
    done = await until(ada, plan)
    assert done["status"] == "completed", (done["error"], states(done))
    assert done["output"] == {
        "excuse": done["output"]["excuse"],
        "fetched": True,
        "severity": 3,
        "alarm": "severity 3",
        "which": "mended",
        "both": {"left": "left!", "right": "right"},
        "each": ["one is number 0", "two is number 1", "three is number 2"],
        "called": "Hello one",
        "aside": "failed",
        "skipped": "skipped",
    }
    assert done["output"]["excuse"].startswith("not there: ")
    assert {states(done)[one] for one in ("calm", "build", "nothing", "skipped")} == {"skipped"}
    listed = await ada.call("GET", "/v1/workflows/every-construct/runs")
    assert [one["plan_id"] for one in listed["items"]] == [plan["plan_id"]]
    assert agent["agent_id"] in {one["agent_id"] for one in done["nodes"]}


async def test_the_digest_of_examples_works_on_real_files_without_a_model(server: RunningServer) -> None:
    """The provider demo reads two files; writing asks a person, who sees what is to be written."""
    ada, bob = await server.person(), await server.person("bob")
    await ada.agent("Reader", model="demo:assistant", tools=["files"])
    await apply(ada, (EXAMPLES / "digest.yaml").read_text())
    session = (await ada.call("POST", "/v1/my/chat", 201, json={"title": "house"}))["session_id"]
    for name, text in (
        ("plans/roof.md", "# Roof\nThe roof of the house is slate."),
        ("cellar.txt", "The cellar is dry."),
    ):
        upload = {"file": (Path(name).name, text.encode())}
        await ada.call("POST", f"/v1/my/chat/{session}/files", 201, files=upload, data={"path": name})
    plan = await start(ada, "digest", session_id=session, inputs={"about": "the house"})
    await until(ada, plan, lambda one: one["status"] in ENDED or states(one).get("write") == "running")
    run_id = next(one["run_id"] for one in (await graph(ada, plan))["nodes"] if one["id"] == "write")
    asked = await ada.approval(run_id)
    assert asked["arguments"]["path"] == "digest.md"
    assert "The roof of the house is slate." in asked["arguments"]["content"]
    await ada.decide(asked)
    done = await until(ada, plan)
    assert done["status"] == "completed", (done["error"], states(done))
    assert done["output"] == {"files": ["cellar.txt", "plans/roof.md"], "target": "digest.md"}
    written = await ada.client.get(f"/v1/my/chat/{session}/files/digest.md")
    assert written.text == asked["arguments"]["content"]
    # Nobody else's session can be worked on.
    await bob.agent("Reader", model="demo:assistant", tools=["files"])
    await apply(bob, (EXAMPLES / "digest.yaml").read_text())
    await bob.call("POST", "/v1/workflows/digest/runs", 404, json={"session_id": session})
    tasks = [{"id": "a", "agent": "Reader", "instructions": "look"}]
    await bob.call("POST", "/v1/my/plans", 404, json={"title": "x", "tasks": tasks, "session_id": session})


async def test_versions_conflicts_and_mistakes(server: RunningServer) -> None:
    ada = await server.person()
    text = "spec_version: 1\nname: small\nsteps: [{id: a, value: 1}]\n"
    first = await apply(ada, text)
    assert (first["version"], (await apply(ada, text))["version"]) == (1, 1)
    second = await apply(ada, text + "output: 2\n", **{"If-Match": '"1"'})
    assert second["version"] == 2
    await ada.call("PUT", "/v1/workflows/small", 412, content=text.encode(), headers=YAML | {"If-Match": '"1"'})
    numbers = [one["version"] for one in (await ada.call("GET", "/v1/workflows/small/versions"))["items"]]
    assert numbers == [2, 1]
    wrong = "spec_version: 1\nname: small\nsteps:\n  - {id: a, value: '${ 1 + }'}\n"
    refused = await ada.call("PUT", "/v1/workflows/small", 422, content=wrong.encode(), headers=YAML)
    assert refused["errors"] == [{"field": "steps[0].value", "message": refused["errors"][0]["message"], "line": 4}]
    checked = await ada.call("POST", "/v1/workflows/validate", 200, content=wrong.encode(), headers=YAML)
    assert checked["valid"] is False
    assert checked["mistakes"][0]["line"] == 4
    await ada.call("PUT", "/v1/workflows/other", 422, content=text.encode(), headers=YAML)
    bad = await ada.call("POST", "/v1/workflows/small/runs", 422, json={"inputs": {"nobody": 1}, "more": 1})
    assert "more" in bad["detail"]
    mermaid = await ada.client.get("/v1/workflows/small/graph?format=mermaid")
    assert mermaid.text.startswith("flowchart TD")
    await ada.call("DELETE", "/v1/workflows/small", 204)
    await ada.call("GET", "/v1/workflows/small", 404)


async def test_inputs_are_checked(server: RunningServer) -> None:
    ada = await server.person()
    schema = "{type: object, properties: {n: {type: integer, minimum: 1}}, required: [n]}"
    await apply(ada, f"spec_version: 1\nname: typed\ninputs: {schema}\nsteps: [{{id: a, value: '${{ inputs.n }}'}}]")
    for wrong in ({}, {"n": 0}, {"n": "1"}):
        refused = await ada.call("POST", "/v1/workflows/typed/runs", 422, json={"inputs": wrong})
        assert refused["detail"].startswith("inputs: ")
    done = await until(ada, await start(ada, "typed", inputs={"n": 3}))
    assert done["output"] == {"a": 3}


HOOKED = """
spec_version: 1
name: hooked
inputs: {type: object, properties: {what: {type: string}}}
steps: [{id: a, value: "got ${ inputs.what }"}]
output: ${ steps.a.output }
triggers: [{id: hook, webhook: true, inputs: {what: "${ trigger.body.what }"}}]
"""


def signed(secret: str, body: str, message_id: str, at: datetime | None = None) -> dict[str, str]:
    at = at or datetime.now(UTC)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(message_id, at, body),
    }


async def test_webhooks_take_signed_messages_once(server: RunningServer) -> None:
    ada = await server.person()
    shown = await apply(ada, HOOKED)
    url, secret, body = shown["triggers"][0]["url"], shown["secrets"]["hook"], json.dumps({"what": "it"})
    assert (
        "secrets" not in (await ada.call("GET", "/v1/workflows/hooked"))
        or not (await ada.call("GET", "/v1/workflows/hooked"))["secrets"]
    )
    other = "whsec_" + base64.b64encode(b"x" * 32).decode()
    async with httpx.AsyncClient(base_url=server.base_url) as outside:

        async def post(headers: dict[str, Any], content: str = body, where: str = url) -> int:
            return (await outside.post(where, content=content, headers=headers)).status_code

        good = signed(secret, body, "m1")
        assert await post({}) == 401
        assert await post(signed(other, body, "m1")) == 401
        assert await post(good, body + " ") == 401
        assert await post(signed(secret, body, "m1", datetime.now(UTC) - timedelta(minutes=6))) == 401
        assert await post(signed(secret, body, "m1", datetime.now(UTC) + timedelta(minutes=6))) == 401
        assert await post(good | {"webhook-timestamp": "never"}) == 401
        for odd in ("v1", "v1,", "v1,=", ",,", "v1,é", "v1," + "A" * 2_000):
            assert await post(good | {"webhook-signature": odd.encode("latin-1")}) == 401
        assert await post(good, where=f"/v1/hooks/{ada.tenant_id}/{uuid4()}") == 401
        assert await post(good, where=f"/v1/hooks/{uuid4()}/{url.rpartition('/')[2]}") == 401
        answer = await outside.post(url, content=body, headers=good)
        assert answer.status_code == 202, answer.text
        assert await post(good) == 409
        assert await post(signed(secret, "no json", "m2"), "no json") == 422
        assert await post(signed(secret, body, "m2")) == 202
        fresh = (await ada.call("POST", "/v1/workflows/hooked/hooks/hook/secret", 201))["secret"]
        assert await post(signed(secret, body, "m3")) == 401
        assert await post(signed(fresh, body, "m3")) == 202
    done = await until(ada, answer.json())
    assert done["output"] == "got it"


LISTENING = """
spec_version: 1
name: listening
inputs: {type: object, properties: {agent: {type: string}}}
steps: [{id: a, value: "${ inputs.agent }"}]
output: ${ steps.a.output }
triggers:
  - {id: made, event: {type: agent.created, match: "event.data.definition.name.startsWith('wanted')"},
     inputs: {agent: "${ trigger.event.data.definition.name }"}}
"""


async def test_events_start_a_run_once_each(server: RunningServer) -> None:
    ada = await server.person()
    await ada.agent("wanted too early")
    await apply(ada, LISTENING)
    await ada.agent("other")
    names = [f"wanted {at}" for at in range(5)]
    for name in names:
        await ada.agent(name)
    deadline = time.monotonic() + 20
    plans: list[dict[str, Any]] = []
    while len(plans) < 5 or any(one["status"] not in ENDED for one in plans):
        assert time.monotonic() < deadline, plans
        await asyncio.sleep(0.1)
        plans = (await ada.call("GET", "/v1/workflows/listening/runs"))["items"]
    await asyncio.sleep(1.5)  # a second look at the events finds nothing more
    plans = (await ada.call("GET", "/v1/workflows/listening/runs"))["items"]
    assert sorted([(await graph(ada, one))["output"] for one in plans]) == names


async def test_a_wait_for_an_event_alone_is_heard_also_when_it_begins_late(server: RunningServer) -> None:
    """Nobody looks at a tenant's events until a task begins to wait for one."""
    ada = await server.person()
    sleeper = await ada.agent("Sleeper")
    steps = "[{id: a, wait: {duration: 3s}}, {id: b, wait: {event: {type: agent.paused}}}]"
    await apply(ada, f"spec_version: 1\nname: waits\nsteps: {steps}\noutput: '${{ steps.b.output.type }}'\n")
    plan = await start(ada, "waits")
    await until(ada, plan, lambda one: states(one)["b"] == "running")
    await ada.call("POST", f"/v1/my/agents/{sleeper['agent_id']}/pause")
    assert (await until(ada, plan))["output"] == "agent.paused"


async def test_what_fails_in_a_sub_workflow_is_taken_up_where_it_is_called(server: RunningServer) -> None:
    ada = await server.person()
    body = "[{id: a, value: '${ 10 / inputs.by }'}]"
    inputs = "{properties: {by: {type: integer}}, required: [by]}"
    await apply(
        ada, f"spec_version: 1\nname: divide\ninputs: {inputs}\nsteps: {body}\noutput: '${{ steps.a.output }}'\n"
    )
    await apply(
        ada,
        f"spec_version: 1\nname: careful\ninputs: {inputs}\nsteps:\n"
        "  - id: call\n    workflow: divide\n    inputs: {by: '${ inputs.by }'}\n"
        "    on_error: {steps: [{id: mend, value: '${ steps.call.status + \": \" + steps.call.error.kind }'}]}\n"
        "  - id: after\n"
        "    value: >-\n      ${ steps.mend.status == 'completed' ? steps.mend.output : string(steps.call.output) }\n"
        "output: ${ steps.after.output }\n",
    )
    done = await until(ada, await start(ada, "careful", inputs={"by": 5}))
    assert (done["status"], done["output"], states(done)["mend"]) == ("completed", "2", "skipped")
    mended = await until(ada, await start(ada, "careful", inputs={"by": 0}))
    assert (mended["status"], mended["output"]) == ("completed", "failed: items")
    assert states(mended)["call"] == "failed"


async def test_a_callback_tells_of_the_end(server: RunningServer) -> None:
    ada = await server.person()
    await apply(ada, "spec_version: 1\nname: told\nsteps: [{id: a, value: 5}]\noutput: ${ steps.a.output }\n")
    async with receiver([503, 200]) as (url, got):
        await ada.call("POST", "/v1/workflows/told/runs", 422, json={"callback": url})
        secret = (await ada.call("POST", "/v1/workflows/told/callback-secret", 201))["secret"]
        for wrong in ("ftp://example.org/", "no url", "https://user:pw@example.org/"):
            await ada.call("POST", "/v1/workflows/told/runs", 422, json={"callback": wrong})
        plan = await start(ada, "told", callback=url)
        deadline = time.monotonic() + 30
        while len(got) < 2:
            assert time.monotonic() < deadline, got
            await asyncio.sleep(0.05)
    (first, _), (headers, body) = got
    assert Webhook(secret).verify(body, headers)["data"]["output"] == 5
    assert first["webhook-id"] == headers["webhook-id"]
    assert json.loads(body)["data"]["plan_id"] == plan["plan_id"]
    while True:
        shown = (await ada.call("GET", "/v1/callbacks"))["items"][0]
        if shown["status"] != "pending":
            break
        await asyncio.sleep(0.05)
    assert (shown["status"], shown["attempts"]) == ("delivered", 2)
    await ada.call("POST", f"/v1/callbacks/{shown['callback_id']}/requeue", 409)


@asynccontextmanager
async def receiver(statuses: list[int]) -> Any:
    """Somebody outside who takes callbacks and answers with these statuses."""
    got: list[tuple[dict[str, str], bytes]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:])
        }
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        got.append((headers, body))
        status = statuses[min(len(got), len(statuses)) - 1]
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/end", got
    finally:
        listening.close()
