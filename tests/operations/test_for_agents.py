"""Operations that agents and workflows begin: the tool `operate` and the step `operation:`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from tests.operations.support import content, gone, processes, shell, until
from tests.support.databases import Cluster
from tests.support.model_server import ModelServer
from tests.support.running import Person, RunningServer, running_server
from tests.support.waiting import holds
from tests.support.waiting import until as until_holds


@pytest.fixture(scope="module")
async def server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    async with ModelServer() as model:
        settings: dict[str, Any] = {
            "OPENAI_BASE_URL": model.base_url,
            "OPENAI_API_KEY": "stub-key",
            "RETINUE_DEFAULT_MODEL": "openai:stub-0ms",
        }
        async with running_server(postgres, **settings) as found:
            yield found


@pytest.fixture
async def person(server: RunningServer) -> Person:
    return await server.person()


def call(script: str, **more: Any) -> str:
    """Return what makes the scripted model call the tool."""
    return f"!tool operate {json.dumps(shell(script) | more)}\n!say done"


async def only(person: Person) -> dict[str, Any]:
    [found] = (await person.call("GET", "/v1/operations"))["items"]
    return dict(found)


async def test_an_agent_asks_before_it_hands_files_to_a_program_and_gets_what_was_made(person: Person) -> None:
    agent = await person.agent(tools=["operate"])
    asked = await person.send(agent, call("cat in.txt in.txt > out.txt", files={"in.txt": "x\n"}))
    approval = await person.approval(asked["run_id"])
    assert approval["tool"] == "operate"
    assert (await person.call("GET", "/v1/operations"))["items"] == []
    await person.decide(approval)
    run = await person.until(asked["run_id"])
    assert run["status"] == "completed", run
    operation = await only(person)
    assert await content(person, operation, "out.txt") == b"x\nx\n"
    steps = (await person.call("GET", f"/v1/my/runs/{asked['run_id']}/steps"))["items"]
    assert "out.txt" in json.dumps(steps)
    assert run["tainted"]  # what a program wrote is nobody's word


async def test_an_operation_that_fails_is_a_failed_call_and_the_agent_goes_on(person: Person) -> None:
    agent = await person.agent(tools=["operate"], autonomy="autonomous")
    asked = await person.ask(agent, call("exit 4"))
    assert asked["run"]["status"] == "completed"
    operation = await only(person)
    assert (operation["status"], operation["kind"]) == ("failed", "exit_code")
    asked = await person.ask(agent, '!tool operate {"driver": "nobody", "goal": "x"}\n!say done')
    assert asked["run"]["status"] == "completed"
    assert len((await person.call("GET", "/v1/operations"))["items"]) == 1


async def test_cancelling_the_agents_run_ends_its_operation(person: Person) -> None:
    mark = f"3600.{uuid4().int % 10**9}"
    agent = await person.agent(tools=["operate"], autonomy="autonomous")
    asked = await person.send(agent, call(f"sleep {mark}"))
    await holds(lambda: bool(processes(mark)))
    await person.call("POST", f"/v1/my/runs/{asked['run_id']}/cancel", 202)
    await gone(lambda: processes(mark), seconds=5)
    found = await until(person, await only(person))
    assert found["status"] == "cancelled"


WORKFLOW = """
spec_version: 1
name: {name}
steps:
  - id: count
    agent: clerk
    operation:
      driver: command
      goal: Count the lines.
      parameters: {{argv: [/bin/sh, -c, "wc -l < in.txt > count.txt"]}}
      files: {{in.txt: "${{ inputs.text }}"}}
      expected: [count.txt]
  - id: again
    agent: clerk
    operation:
      driver: command
      goal: Copy it.
      parameters: {{argv: [/bin/sh, -c, "cat count.txt count.txt > twice.txt"]}}
      inputs: [{{artifact_id: '${{ steps.count.output.by_name["count.txt"] }}'}}]
  - id: last
    agent: clerk
    operation:
      driver: command
      goal: Work on all that the step before made.
      parameters: {{argv: [/bin/cp, twice.txt, last.txt]}}
      inputs: "${{ steps.again.output.artifacts }}"
inputs: {{properties: {{text: {{type: string}}}}, required: [text]}}
output: '${{ steps.last.output.by_name["last.txt"] }}'
"""


async def test_steps_of_a_workflow_are_a_pipeline_of_operations(person: Person) -> None:
    await person.agent("clerk", tools=["operate"], tool_policy={"operate": "allow"}, autonomy="autonomous")
    name = f"w{uuid4().hex[:8]}"
    text = WORKFLOW.format(name=name)
    await person.call("PUT", f"/v1/workflows/{name}", content=text.encode(), headers={"Content-Type": "text/yaml"})
    plan = await person.call("POST", f"/v1/workflows/{name}/runs", 202, json={"inputs": {"text": "a\nb\nc\n"}})

    async def has_ended() -> bool:
        found = await person.call("GET", f"/v1/my/plans/{plan['plan_id']}")
        return found["status"] in ("completed", "failed", "cancelled")

    await until_holds(has_ended)
    found = await person.call("GET", f"/v1/my/plans/{plan['plan_id']}")
    assert found["status"] == "completed", found
    answer = await person.client.get(f"/v1/artifacts/{found['output']}/content")
    assert answer.content == b"3\n3\n"


async def test_a_wrong_operation_step_is_named_with_its_place(person: Person) -> None:
    text = "spec_version: 1\nname: wrong\nsteps:\n  - id: a\n    agent: x\n    operation: {driver: command}\n"
    answer = await person.call(
        "PUT", "/v1/workflows/wrong", 422, content=text.encode(), headers={"Content-Type": "text/yaml"}
    )
    assert "goal" in json.dumps(answer)


async def test_many_calls_at_once_share_the_lane(person: Person) -> None:
    agent = await person.agent(tools=["operate"], autonomy="autonomous")
    runs = [(await person.send(agent, call(f"echo {n} > {n}.txt")))["run_id"] for n in range(4)]
    for ended in await asyncio.gather(*(person.until(run) for run in runs)):
        assert ended["status"] == "completed"
    assert len((await person.call("GET", "/v1/artifacts"))["items"]) == 4


async def test_calls_of_one_turn_share_what_the_run_may_still_spend(person: Person) -> None:
    """Each of them had all of it: an agent that may spend a dollar could have any number spent at once."""
    agent = await person.agent(tools=["operate"], autonomy="autonomous", limits={"budget": "1.00"})
    asked = call("true").partition("\n")[0]
    turn = "\n".join([asked, *(asked.replace("!tool", "!also") for _ in range(3)), "!say done"])
    assert (await person.ask(agent, turn))["run"]["status"] == "completed"
    begun = (await person.call("GET", "/v1/operations"))["items"]
    budgets = [(await person.call("GET", f"/v1/operations/{one['operation_id']}"))["budget"] for one in begun]
    assert len(budgets) == 4
    assert sum(map(Decimal, budgets)) <= 1, budgets


async def test_one_run_hands_on_no_more_than_a_few_operations(person: Person) -> None:
    """There was no bound: one message could fill the tenant's queue."""
    agent = await person.agent(tools=["operate"], autonomy="autonomous")
    asked = call("true").partition("\n")[0]
    turn = "\n".join([asked, *(asked.replace("!tool", "!also") for _ in range(19)), "!say done"])
    assert (await person.ask(agent, turn))["run"]["status"] == "completed"
    assert len((await person.call("GET", "/v1/operations?limit=50"))["items"]) == 16


async def test_an_agent_begins_nothing_that_its_user_may_not_begin_any_more(server: RunningServer) -> None:
    """A member who was made a viewer while the agent was thinking began operations through it all the same."""
    admin, member = await server.person("admin"), await server.person("member")
    there = (await admin.call("POST", "/v1/tenants", 201, json={"name": "Demoted Ltd"}))["tenant_id"]
    members = f"/v1/tenants/{there}/members"
    await admin.call("PUT", members, json={"email": member.account["email"], "role": "member"})
    for one in (admin, member):
        one.client.headers["Retinue-Tenant"] = there
    agent = await member.agent(tools=["operate"], autonomy="autonomous")
    asked = await member.send(agent, f"!delay 1\n{call('true')}")
    await member.until(asked["run_id"], "running")
    await admin.call("PUT", members, json={"email": member.account["email"], "role": "viewer"})
    run = await member.until(asked["run_id"])
    assert run["status"] == "completed"
    assert (await admin.call("GET", "/v1/operations?everybody=true"))["items"] == []
    steps = json.dumps((await member.call("GET", f"/v1/my/runs/{asked['run_id']}/steps"))["items"])
    assert "may not begin operations" in steps
