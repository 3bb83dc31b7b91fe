"""Budgets: what is spent is known, and nobody spends more than they may, however much happens at once."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

from tests.story.support import Story, kinds, steps
from tests.support.running import Person

PRICED = "openai:gpt-4o-mini"  # 0.15 and 0.60 dollars for a million tokens


async def _budget(person: Person, limit: str | None) -> None:
    body = {"limit": limit, "period": "total"}
    await person.call("PUT", f"/v1/tenants/{person.tenant_id}/budget", json=body)


async def _spent(person: Person) -> Decimal:
    view = await person.call("GET", f"/v1/tenants/{person.tenant_id}/budget")
    assert view["reserved"] == "0"
    return Decimal(view["spent"])


async def test_a_run_says_what_it_cost_and_usage_adds_up(story: Story) -> None:
    ada = await story.server.person()
    agent = await ada.agent(model=PRICED, tools=["clock"])
    answer = await ada.ask(agent, "!tool clock {}\n!usage 1000 500\n!say done")
    run = answer["run"]
    assert (run["input_tokens"], run["output_tokens"], run["model_calls"]) == (2000, 1000, 2)
    assert Decimal(run["cost"]["amount"]) == Decimal("0.0009")
    assert run["cost"]["unpriced_calls"] == 0
    costs = [one["cost"] for one in await steps(ada, run["run_id"]) if one["kind"] == "model"]
    assert [Decimal(cost) for cost in costs] == [Decimal("0.00045")] * 2
    usage = await ada.call("GET", "/v1/my/usage")
    assert Decimal(usage["total"]["cost"]["amount"]) == Decimal("0.0009")
    assert [(one["agent_id"], one["calls"], one["input_tokens"]) for one in usage["items"]] == [
        (agent["agent_id"], 2, 2000)
    ]


async def test_an_unknown_price_is_said_to_be_unknown(story: Story) -> None:
    ada = await story.server.person()
    agent = await ada.agent(model="openai:stub-0ms")
    run = (await ada.ask(agent, "!say done"))["run"]
    assert (run["cost"]["amount"], run["cost"]["unpriced_calls"]) == ("0", 1)
    (step,) = await steps(ada, run["run_id"])
    assert step["cost"] is None
    usage = await ada.call("GET", "/v1/my/usage")
    assert usage["total"]["cost"]["unpriced_calls"] == 1
    assert await _spent(ada) == Decimal("0.01"), "it counts for the assumed price in budgets"


async def test_a_used_up_budget_refuses_messages_until_there_is_more(story: Story) -> None:
    ada = await story.server.person()
    agent = await ada.agent(model=PRICED, max_tokens=100)
    await _budget(ada, "0.0009")
    assert (await ada.ask(agent, "!usage 2000 1000\n!say a"))["run"]["status"] == "completed"
    assert await _spent(ada) == Decimal("0.0009")
    refused = await ada.client.post(
        f"/v1/my/chat/{agent['agent_id']}/messages", json={"content": "more", "target_agent": agent["agent_id"]}
    )
    assert refused.status_code == 402, refused.text
    assert (await ada.call("GET", "/v1/my/runs"))["items"][0]["status"] == "completed"
    await _budget(ada, None)
    assert (await ada.ask(agent, "!say b"))["run"]["status"] == "completed"


async def test_calls_at_once_cannot_overspend(story: Story) -> None:
    ada = await story.server.person()
    # A call reserves a little more than its 1,000 tokens of answer can cost: 0.0006 dollars.
    agent = await ada.agent(model=PRICED, max_tokens=1000, limits={"concurrency": 10})
    await _budget(ada, "0.0025")
    body = {"content": "!delay 0.2\n!usage 10 1000\n!say spent", "target_agent": agent["agent_id"]}

    async def send(n: int) -> dict[str, Any]:
        path = f"/v1/my/chat/00000000-0000-4000-8000-{n:012d}/messages"
        answer = await ada.client.post(path, json=body)
        assert answer.status_code in (202, 402), answer.text
        return {"status": "refused"} if answer.status_code == 402 else await ada.until(answer.json()["run_id"])

    runs = await asyncio.gather(*(send(n) for n in range(10)))
    ended = [one["status"] for one in runs]
    assert ended.count("completed") in (3, 4)
    assert set(ended) <= {"completed", "failed", "refused"}
    assert {one["error"]["kind"] for one in runs if one["status"] == "failed"} <= {"budget"}
    assert await _spent(ada) <= Decimal("0.0025")
    cost = sum(Decimal(one["cost"]["amount"]) for one in runs if "cost" in one)
    assert await _spent(ada) == cost


async def test_what_a_failed_and_a_cancelled_call_reserved_is_free_again(story: Story, tag: str) -> None:
    ada = await story.server.person()
    agent = await ada.agent(model=PRICED, max_tokens=1000)
    await _budget(ada, "0.001")  # room for one call at a time
    assert (await ada.ask(agent, "!status 400"))["run"]["error"]["kind"] != "budget"
    hanging = await ada.send(agent, f"!hang\n!say {tag}")
    await story.model.wait_for_requests(1, contains=tag)
    reserved = (await ada.call("GET", f"/v1/tenants/{ada.tenant_id}/budget"))["reserved"]
    assert Decimal(reserved) >= Decimal("0.0006")
    await ada.call("POST", f"/v1/my/runs/{hanging['run_id']}/cancel", 202)
    await ada.until(hanging["run_id"], "cancelled")
    assert await _spent(ada) == 0
    assert (await ada.ask(agent, "!usage 10 10\n!say room"))["run"]["status"] == "completed"


async def test_a_budget_of_one_run_ends_it(story: Story) -> None:
    ada = await story.server.person()
    agent = await ada.agent(model=PRICED, tools=["clock"], limits={"budget": "0.0004"})
    accepted = await ada.send(agent, "!tool clock {}\n!usage 1000 500\n!say never said")
    run = await ada.until(accepted["run_id"])
    assert (run["status"], run["error"]["kind"], run["model_calls"]) == ("failed", "budget", 1)
    assert run["error"]["detail"] == "The run cost 0.00045 USD; its agent may spend 0.0004."
    assert kinds(await ada.events(run["run_id"]))[-1] == "run.failed"
    other = await ada.agent(model=PRICED)
    assert (await ada.ask(other, "!say fine"))["run"]["status"] == "completed"


async def test_a_budget_of_one_run_counts_what_it_hands_on(story: Story) -> None:
    ada = await story.server.person()
    helper = await ada.agent("helper", model=PRICED)
    call = json.dumps({"agent": helper["name"], "instructions": "!usage 1000 500\n!say the part"})
    for budget, status in (("0.0004", "failed"), ("0.1", "completed")):
        chief = await ada.agent(f"chief {budget}", model=PRICED, tools=["delegate"], limits={"budget": budget})
        accepted = await ada.send(chief, f"!tool delegate {call}\n!usage 1 1\n!say all of it")
        run = await ada.until(accepted["run_id"])
        assert run["status"] == status, run
        assert Decimal(run["cost"]["amount"]) < Decimal("0.0004"), "its own calls cost next to nothing"
    assert kinds(await ada.events(run["run_id"])).count("tool.delegated") == 1


async def test_a_budget_of_one_agent_is_not_that_of_another(story: Story) -> None:
    ada = await story.server.person()
    poor, rich = [await ada.agent(model=PRICED, max_tokens=10) for _ in range(2)]
    path = f"/v1/my/agents/{poor['agent_id']}/budget"
    await ada.call("PUT", path, json={"limit": "0.0001", "period": "total"})
    await ada.ask(poor, "!usage 1000 1000\n!say all at once")
    message = {"content": "more", "target_agent": poor["agent_id"]}
    await ada.call("POST", f"/v1/my/chat/{poor['agent_id']}/messages", 402, json=message)
    assert (await ada.ask(rich, "!say fine"))["run"]["status"] == "completed"


async def test_an_equal_question_costs_nothing_the_second_time_and_only_here(story: Story, tag: str) -> None:
    ada, eve = await story.server.person("ada"), await story.server.person("eve")
    definition: dict[str, Any] = {"model": PRICED, "cache_seconds": 60, "instructions": f"Be {tag}."}
    agent = await ada.agent(**definition)
    question = f"!usage 1000 500\n!say {tag}"
    first = (await ada.ask(agent, question))["run"]
    second = await ada.ask(agent, question)
    assert second["message"]["content"] == tag
    assert Decimal(first["cost"]["amount"]) == Decimal("0.00045")
    assert (second["run"]["cost"]["amount"], second["run"]["input_tokens"]) == ("0", 0)
    (step,) = await steps(ada, second["run"]["run_id"])
    assert step["from_cache"] is True
    assert len(story.asked(tag)) == 1
    assert (await ada.call("GET", "/v1/my/usage"))["total"]["calls"] == 1
    # Another tenant asks for itself, and so does an agent that was told something else.
    await eve.ask(await eve.agent(**definition), question)
    assert len(story.asked(tag)) == 2
    await ada.ask(await ada.agent(**(definition | {"instructions": "Be quiet."})), question)
    assert len(story.asked(tag)) == 3
