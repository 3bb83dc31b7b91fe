"""A message that names no agent: a plan, its approval, the team at work, one answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from functools import partial
from typing import Any
from uuid import uuid4

from tests.story.support import Story, kinds, messages, until
from tests.support.model_server import Step, ToolCall
from tests.support.running import Person

ENDED = {"completed", "failed", "cancelled"}


class Team:
    """An orchestrator and agents, each with a model of its own that is scripted by its name."""

    def __init__(self, story: Story, person: Person, tag: str) -> None:
        self.story, self.person, self.tag = story, person, tag
        self.session = str(uuid4())

    async def join(self, name: str, *steps: Step, **definition: Any) -> dict[str, Any]:
        model = f"{name}-{self.tag}"
        if steps:
            self.story.model.script(*steps, model=model, by="turn", then="repeat")
        return await self.person.agent(name, model=f"openai:{model}", **definition)

    async def lead(self, *steps: Step) -> dict[str, Any]:
        return await self.join("orchestrator", *steps, tools=["plan", "ask_agent", "delegate"])

    async def say(self, content: str) -> dict[str, Any]:
        """Send a message that names no agent."""
        path = f"/v1/my/chat/{self.session}/messages"
        accepted: dict[str, Any] = await self.person.call("POST", path, 202, json={"content": content})
        return accepted

    async def plans(self) -> list[dict[str, Any]]:
        """Return the session's plans in full, oldest first."""
        page = await self.person.call("GET", f"/v1/my/plans?session={self.session}")
        found = [await self.person.call("GET", f"/v1/my/plans/{one['plan_id']}") for one in page["items"]]
        return found[::-1]

    async def plan_approval(self) -> dict[str, Any]:
        async def asked() -> list[dict[str, Any]]:
            return [one for one in await self.person.approvals() if one["kind"] == "plan"]

        return (await until(asked, bool))[0]

    async def answer(self) -> str:
        return str((await messages(self.person, self.session))[-1]["content"])

    def asked(self, name: str) -> int:
        """Return how often the model of an agent was asked."""
        return sum(one.body["model"] == f"{name}-{self.tag}" for one in self.story.model.requests)


def plan(tasks: Sequence[dict[str, Any]], **more: Any) -> Step:
    return Step(tool_calls=(ToolCall("plan", {"tasks": list(tasks), **more}),))


def task(name: str, agent: str, *depends_on: str, **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "title": f"the task {name}",
        "agent": agent,
        "instructions": f"do {name}",
        "depends_on": list(depends_on),
        **more,
    }


async def test_fix_a_bug_from_message_to_answer(story: Story, tag: str) -> None:
    """The mission's example: no target, a plan, a person's approval, real files, one answer."""
    ada = await story.server.person()
    team = Team(story, ada, tag)
    await team.lead(
        plan(
            [
                task("read", "researcher"),
                task("check", "reviewer"),
                task("fix", "implementer", "read", "check", risk="medium", expected="auth.py without the bug"),
            ],
            title="Fix auth.py",
        ),
        Step(text="The bug in auth.py is fixed: the comparison was the wrong way round."),
    )
    reads = Step(tool_calls=(ToolCall("files_read", {"path": "auth.py"}),))
    await team.join("researcher", reads, Step(text="line 1 compares with <"), tools=["files"])
    await team.join("reviewer", Step(text="tests are missing"))
    writes = Step(tool_calls=(ToolCall("files_write", {"path": "auth.py", "content": "ok = age >= 18\n"}),))
    await team.join("implementer", writes, Step(text="changed auth.py"), tools=["files"])
    upload = {"file": ("auth.py", b"ok = age < 18\n")}
    await ada.call("POST", f"/v1/my/chat/{team.session}/files", 201, files=upload)

    accepted = await team.say("Fix bug in auth.py")
    approval = await team.plan_approval()
    (drafted,) = await team.plans()
    assert drafted["status"] == "waiting"
    assert team.asked("researcher") == 0, "nothing begins before a person has approved"
    assert (await ada.run(accepted["run_id"]))["waiting_on"][0]["of"] == "plan"
    await ada.decide(approval)
    write = await until(partial(ada.approvals), lambda found: any(one["kind"] == "tool" for one in found))
    await ada.decide(write[0])
    run = await ada.until(accepted["run_id"])
    assert run["status"] == "completed"
    assert await team.answer() == "The bug in auth.py is fixed: the comparison was the wrong way round."
    (done,) = await team.plans()
    assert done["status"] == "completed"
    stored = await ada.call("GET", f"/v1/my/chat/{team.session}/files/auth.py")
    assert stored.text == "ok = age >= 18\n"
    told = next(one for one in story.model.requests if one.body["model"] == f"implementer-{tag}").user
    assert "line 1 compares with <" in told
    assert "tests are missing" in told
    assert "Fix bug in auth.py" in told
    assert run["tainted"], "the researcher read a file, and its taint comes up with the result"


async def test_independent_tasks_run_side_by_side(story: Story, tag: str) -> None:
    ada = await story.server.person()
    team = Team(story, ada, tag)
    await team.lead(plan([task("a", "left"), task("b", "right"), task("c", "left", "a", "b")]), Step(text="both"))
    await team.join("left", Step(hold=f"{tag}-l", text="left"))
    await team.join("right", Step(hold=f"{tag}-r", text="right"))
    accepted = await team.say("Do both.")

    async def both() -> int:
        return len([one for one in story.model.requests if one.state == "waiting" and tag in one.body["model"]])

    await until(both, lambda found: found == 2)
    story.model.release(f"{tag}-r")
    story.model.release(f"{tag}-l")
    run = await ada.until(accepted["run_id"])
    assert run["status"] == "completed"
    assert (team.asked("left"), team.asked("right")) == (2, 1)


async def test_a_simple_question_needs_no_plan(story: Story, tag: str) -> None:
    ada = await story.server.person()
    team = Team(story, ada, tag)
    await team.lead(Step(text="Hello!"))
    accepted = await team.say("Hi")
    assert (await ada.until(accepted["run_id"]))["status"] == "completed"
    assert await team.answer() == "Hello!"
    assert await team.plans() == []


async def test_the_orchestrator_comes_with_the_first_message(story: Story) -> None:
    ada = await story.server.person()
    session = str(uuid4())
    await ada.call("POST", f"/v1/my/chat/{session}/messages", 202, json={"content": "Hi"})
    await ada.call("POST", f"/v1/my/chat/{session}/messages", 202, json={"content": "Hi again"})
    names = [one["name"] for one in (await ada.call("GET", "/v1/my/agents"))["items"]]
    assert names == ["orchestrator"]


async def test_a_wrong_plan_is_mended_once(story: Story, tag: str) -> None:
    ada = await story.server.person()
    team = Team(story, ada, tag)
    circle = [task("a", "worker", "b"), task("b", "worker", "a"), task("b", "nobody", "gone")]
    await team.lead(plan(circle), plan([task("a", "worker")]), Step(text="done after all"))
    await team.join("worker", Step(text="worked"))
    accepted = await team.say("Go round in circles.")
    assert (await ada.until(accepted["run_id"]))["status"] == "completed"
    told = [one for one in story.model.requests if one.body["model"] == f"orchestrator-{tag}"][1]
    complaint = json.dumps(told.body["messages"][-1])
    for words in ("nobody", "gone", "b"):
        assert words in complaint
    assert len(await team.plans()) == 1


async def test_a_plan_that_stays_wrong_is_refused_with_the_reason(story: Story, tag: str) -> None:
    ada = await story.server.person()
    team = Team(story, ada, tag)
    await team.lead(plan([task("a", "nobody")]))
    await team.join("worker", Step(text="worked"))
    run = await ada.until((await team.say("Ask nobody."))["run_id"])
    assert (run["status"], run["error"]["kind"]) == ("failed", "plan_refused")
    assert "nobody" in run["error"]["detail"]
    assert team.asked("orchestrator") == 2


async def test_when_planning_takes_too_long_a_plain_sequence_is_carried_out(story: Story, tag: str) -> None:
    ada = await story.server.person()
    await ada.call("PUT", "/v1/my/planning/policy", headers={"If-Match": '"0"'}, json={"seconds": 0.3})
    team = Team(story, ada, tag)
    await team.lead(Step(hold=f"{tag}-slow", text="too late"), Step(text="answered from the sequence"))
    await team.join("cook", Step(text="soup"), description="cooks meals")
    await team.join("painter", Step(text="a picture"), description="paints walls")
    run = await ada.until((await team.say("Somebody cooks meals for us."))["run_id"])
    assert run["status"] == "completed"
    assert await team.answer() == "answered from the sequence"
    (found,) = await team.plans()
    assert found["origin"] == "fallback"
    assert (team.asked("cook"), team.asked("painter")) == (1, 0)
    story.model.release(f"{tag}-slow")


async def test_all_but_equal_requests_take_the_same_plan_without_a_model(story: Story, tag: str) -> None:
    ada, eve = await story.server.person(), await story.server.person("eve")
    for person in (ada, eve):
        await person.call("PUT", "/v1/my/planning/policy", headers={"If-Match": '"0"'}, json={"cache_seconds": 60})
        team = Team(story, person, f"{tag}-{person.tenant_id[:8]}")
        await team.lead(plan([task("a", "worker")]), Step(text="done"))
        await team.join("worker", Step(text="worked"))
        for words in ("Please sum up notes.md for me", "sum up   notes.md", "sum up other.md"):
            assert (await person.until((await team.say(words))["run_id"]))["status"] == "completed"
        origins = [one["origin"] for one in await team.plans()]
        assert origins == ["model", "cache", "model"], "another file is another request; another tenant plans itself"


async def test_what_was_not_achieved_is_said_even_if_the_model_does_not(story: Story, tag: str) -> None:
    ada = await story.server.person()
    team = Team(story, ada, tag)
    await team.lead(plan([task("good", "worker"), task("bad", "broken")]), Step(text="All is well."))
    await team.join("worker", Step(text="worked"))
    await ada.agent("broken", model="openai:no-such-model")
    run = await ada.until((await team.say("Do what you can."))["run_id"])
    assert run["status"] == "completed"
    answer = await team.answer()
    assert answer.startswith("All is well.")
    assert "Not done:\n- the task bad:" in answer


async def test_replan_goes_on_from_what_is_done(story: Story, tag: str) -> None:
    ada = await story.server.person()
    team = Team(story, ada, tag)
    await team.lead(
        plan([task("good", "worker"), task("bad", "broken")], on_failure="replan"),
        plan([task("instead", "worker", "good")]),
        Step(text="done another way"),
    )
    await team.join("worker", Step(text="worked"))
    await ada.agent("broken", model="openai:no-such-model")
    run = await ada.until((await team.say("Do it one way or another."))["run_id"])
    assert run["status"] == "completed"
    first, second = await team.plans()
    assert team.asked("worker") == 2, "what was done in the first plan is not done again"
    assert second["status"] == "completed"
    assert first["plan_id"] != second["plan_id"]


async def test_a_declined_plan_ends_gracefully(story: Story, tag: str) -> None:
    ada = await story.server.person()
    team = Team(story, ada, tag)
    await team.lead(plan([task("a", "worker", risk="high")]), Step(text="Then I will not."))
    await team.join("worker", Step(text="worked"))
    accepted = await team.say("Do something dangerous.")
    await ada.decide(await team.plan_approval(), "reject", comment="too dangerous")
    run = await ada.until(accepted["run_id"])
    assert run["status"] == "completed"
    assert (await team.answer()).startswith("Then I will not.")
    assert team.asked("worker") == 0
    told = [one for one in story.model.requests if one.body["model"] == f"orchestrator-{tag}"][1]
    assert "too dangerous" in json.dumps(told.body["messages"][-1])


async def test_cancelling_the_run_cancels_everything_below_it(story: Story, tag: str) -> None:
    ada = await story.server.person()
    team = Team(story, ada, tag)
    await team.lead(plan([task("a", "worker"), task("b", "worker", "a")]), Step(text="never"))
    await team.join("worker", Step(hold=f"{tag}-w", text="worked"))
    accepted = await team.say("Start something long.")

    async def at_work() -> int:
        return len([one for one in story.model.requests if one.body["model"] == f"worker-{tag}"])

    await until(at_work, bool)
    await ada.call("POST", f"/v1/my/runs/{accepted['run_id']}/cancel", 202)
    assert (await ada.until(accepted["run_id"]))["status"] == "cancelled"
    (found,) = await team.plans()
    assert found["status"] == "cancelled"

    async def still_open() -> list[Any]:
        page = await ada.call("GET", "/v1/my/runs")
        return [one for one in page["items"] if one["status"] not in ENDED]

    await until(still_open, lambda found: not found)
    story.model.release(f"{tag}-w")


async def test_the_stream_tells_of_the_plan(story: Story, tag: str) -> None:
    ada = await story.server.person()
    team = Team(story, ada, tag)
    await team.lead(plan([task("a", "worker", risk="high")]), Step(text="done"))
    await team.join("worker", Step(text="worked"))
    names: list[str] = []
    async with ada.stream() as events, asyncio.timeout(30):
        accepted = await team.say("Tell me about it.")
        async for event in events:
            names.append(event["event"])
            if event["event"] == "plan_request":
                await ada.decide(await team.plan_approval())
            if event["event"] == "run_completed" and event["data"]["run_id"] == accepted["run_id"]:
                break
    order = ["task_progress", "task_plan_created", "plan_request", "task_started", "task_completed", "run_completed"]
    assert [names.index(name) for name in order[:5]] == sorted(names.index(name) for name in order[:5])


# Agents that ask each other


async def test_agents_hand_work_to_each_other(story: Story, tag: str) -> None:
    ada = await story.server.person()
    team = Team(story, ada, tag)
    both = Step(
        tool_calls=(
            ToolCall("ask_agent", {"agent": "historian", "question": "when?"}),
            ToolCall("delegate", {"agent": "writer", "title": "a line", "instructions": "write a line"}),
        )
    )
    chief = await team.join("chief", both, Step(text="put together"), tools=["ask_agent", "delegate"])
    await team.join("historian", Step(text="in 1815"))
    await team.join("writer", Step(text="a line"))
    answered = await ada.ask(chief, "Write about it.")
    assert answered["message"]["content"] == "put together"
    told = [one for one in story.model.requests if one.body["model"] == f"chief-{tag}"][1]
    results = [one["content"] for one in told.body["messages"] if one["role"] == "tool"]
    assert results == ["in 1815", "a line"]
    events = await ada.events(answered["run"]["run_id"])
    assert kinds(events).count("tool.delegated") == 2
    below = [one for one in (await ada.call("GET", "/v1/my/runs"))["items"] if one["parent"]]
    assert {one["parent"]["id"] for one in below} == {answered["run"]["run_id"]}


async def test_delegation_has_a_bottom(story: Story, tag: str) -> None:
    """Two agents that hand everything on to each other come to an end, and say so."""
    ada = await story.server.person()
    team = Team(story, ada, tag)
    ping = await team.join(
        "ping",
        Step(tool_calls=(ToolCall("delegate", {"agent": "pong", "instructions": "yours"}),)),
        Step(text="ping is done"),
        tools=["delegate"],
    )
    await team.join(
        "pong",
        Step(tool_calls=(ToolCall("delegate", {"agent": "ping", "instructions": "yours"}),)),
        Step(text="pong is done"),
        tools=["delegate"],
    )
    answered = await ada.ask(ping, "Begin.")
    assert answered["run"]["status"] == "completed"
    runs = (await ada.call("GET", "/v1/my/runs"))["items"]
    assert len(runs) == 5, "the first, and four delegations below it"


async def test_what_an_agent_below_has_read_taints_the_one_above(story: Story, tag: str) -> None:
    ada = await story.server.person()
    team = Team(story, ada, tag)
    above = await team.join(
        "above",
        Step(tool_calls=(ToolCall("ask_agent", {"agent": "below", "question": "read it"}),)),
        Step(tool_calls=(ToolCall("ask_agent", {"agent": "clean", "question": "and you?"}),)),
        Step(text="heard"),
        tools=["ask_agent"],
    )
    reads = Step(tool_calls=(ToolCall("files_list", {"path": "."}),))
    await team.join("below", reads, Step(text="I read it"), tools=["files"])
    await team.join("clean", Step(text="nothing"))
    answered = await ada.ask(above, "Have it read.")
    runs = {one["agent_id"]: one for one in (await ada.call("GET", "/v1/my/runs"))["items"]}
    assert answered["run"]["tainted"]
    assert all(one["tainted"] for one in runs.values()), "and what it asks for afterwards begins tainted"


async def test_a_second_opinion_from_nobody_is_refused_to_the_model(story: Story, tag: str) -> None:
    ada = await story.server.person()
    team = Team(story, ada, tag)
    alone = await team.join(
        "alone",
        Step(
            tool_calls=(
                ToolCall("ask_agent", {"agent": "nobody", "question": "?"}),
                ToolCall("ask_agent", {"agent": "alone", "question": "?"}),
                ToolCall("ask_agent", {"agent": "alone"}),
            )
        ),
        Step(text="I am alone"),
        tools=["ask_agent"],
    )
    answered = await ada.ask(alone, "Ask around.")
    assert answered["message"]["content"] == "I am alone"
    told = [one for one in story.model.requests if one.body["model"] == f"alone-{tag}"][1]
    results = [one["content"] for one in told.body["messages"] if one["role"] == "tool"]
    assert "There is no agent called 'nobody'." in results[0]
    assert "That is you" in results[1]
    assert "question" in results[2]


# What decisions suggest


async def test_decisions_become_suggested_rules_and_a_rule_lets_plans_pass(story: Story, tag: str) -> None:
    ada = await story.server.person()
    team = Team(story, ada, tag)
    await team.lead(plan([task("a", "worker", risk="medium")]), Step(text="done"))
    await team.join("worker", Step(text="worked"))

    async def suggested() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await ada.call("GET", "/v1/my/planning/policy"))["suggestions"]
        return found

    for number in range(3):
        assert await suggested() == [], f"{number} decisions are not enough"
        accepted = await team.say(f"Do it, number {number}.")
        await ada.decide(await team.plan_approval())
        assert (await ada.until(accepted["run_id"]))["status"] == "completed"
    assert await suggested() == [{"agents": ["worker"], "risk": "medium", "approved": 3}]
    rule = {"agents": ["worker"], "risk": "medium"}
    holds = await ada.call("PUT", "/v1/my/planning/policy", headers={"If-Match": '"0"'}, json={"rules": [rule]})
    assert (holds["rules"], holds["suggestions"]) == ([rule], [])
    accepted = await team.say("Do it once more.")
    assert (await ada.until(accepted["run_id"]))["status"] == "completed", "nobody is asked any more"


async def test_a_deleted_conversation_takes_its_plans_with_it(story: Story, tag: str) -> None:
    ada = await story.server.person()
    team = Team(story, ada, tag)
    await team.lead(plan([task("a", "worker")]), Step(text="never"))
    await team.join("worker", Step(hold=f"{tag}-w", text="worked"))
    accepted = await team.say("Start something long.")
    given = {"title": "given", "session_id": team.session, "tasks": [task("b", "worker"), task("c", "worker", "b")]}
    other = await ada.call("POST", "/v1/my/plans", 202, json=given)
    await story.model.wait_for_requests(2, model=f"worker-{tag}")
    await ada.call("DELETE", f"/v1/my/chat/{team.session}", 204)
    assert (await ada.until(accepted["run_id"]))["status"] == "cancelled"
    assert (await ada.call("GET", f"/v1/my/plans/{other['plan_id']}"))["status"] == "cancelled"

    async def still_open() -> list[Any]:
        page = await ada.call("GET", "/v1/my/runs")
        return [one for one in page["items"] if one["status"] not in ENDED]

    await until(still_open, lambda found: not found)
    story.model.release(f"{tag}-w")
