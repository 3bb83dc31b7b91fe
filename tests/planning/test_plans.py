"""Plans over HTTP: a graph that a caller gives is carried out by agents, and its graph shows it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.planning.support import events, look, nodes, start, task, until, until_task
from tests.support.model_server import ModelServer
from tests.support.running import Person, RunningServer


@pytest.fixture
async def ada(server: RunningServer) -> Person:
    return await server.person()


async def test_a_diamond_is_carried_out_side_by_side_and_results_flow_to_those_that_wait(
    ada: Person, model: ModelServer, tag: str
) -> None:
    seeker, writer = await ada.agent(f"seeker {tag}"), await ada.agent(f"writer {tag}")
    plan = await start(
        ada,
        [
            task("find", seeker, f"{tag}-find\n!say found <b>{tag}</b>"),
            task("left", seeker, f"{tag}-left\n!hold {tag}-left\n!say left is done", "find"),
            task("right", writer, f"{tag}-right\n!hold {tag}-right\n!say right is done", "find"),
            task("write", writer, f"{tag}-write\n!say written", "left", "right", expected="one page"),
        ],
        request=f"Please do {tag}.",
    )
    assert plan["tasks"] == 4
    await model.wait_for_requests(1, contains=f"{tag}-left")
    await model.wait_for_requests(1, contains=f"{tag}-right")
    graph = await look(ada, plan)
    assert {one: node["status"] for one, node in nodes(graph).items()} == {
        "find": "completed",
        "left": "running",
        "right": "running",
        "write": "waiting",
    }
    model.release(f"{tag}-right")
    model.release(f"{tag}-left")
    graph = await until(ada, plan)
    assert graph["status"] == "completed", graph
    assert graph["output"] == {
        "find": f"found <b>{tag}</b>",
        "left": "left is done",
        "right": "right is done",
        "write": "written",
    }
    assert (graph["missing"], graph["completed"], graph["failed"]) == ([], 4, 0)
    assert {(one["source"], one["target"]) for one in graph["edges"]} == {
        ("find", "left"),
        ("find", "right"),
        ("left", "write"),
        ("right", "write"),
    }
    [told] = [one.user for one in model.requests if f"{tag}-write" in one.user]
    assert f"Please do {tag}." in told
    assert "one page" in told
    assert '<result task="left"' in told
    assert "right is done" in told
    assert "found <b>" not in told  # it depends on the two, not on what was before them
    run = await ada.run(nodes(graph)["write"]["run_id"])
    assert run["parent"] == {"kind": "plan", "id": plan["plan_id"], "key": "write"}
    assert run["session_id"] == graph["session_id"] == plan["plan_id"]


async def test_a_graph_is_shown_as_it_was(ada: Person, tag: str) -> None:
    agent = await ada.agent()
    plan = await start(ada, [task("a", agent, "!say one"), task("b", agent, "!say two", "a")])
    graph = await until(ada, plan)
    types = [one["type"] for one in await events(ada, plan)]
    assert types == [
        "plan.drafted",
        "plan.started",
        "task.started",
        "task.completed",
        "task.started",
        "task.completed",
        "plan.completed",
    ]
    then = await ada.call("GET", f"/v1/my/plans/{plan['plan_id']}?at=4")
    assert then["status"] == "running"
    assert [one["status"] for one in then["nodes"]] == ["completed", "waiting"]
    page = await ada.call("GET", "/v1/my/plans?limit=1")
    [shown] = page["items"]
    assert {name: graph[name] for name in shown} == shown


# Failure


@pytest.mark.parametrize("on_failure", ["continue", "stop", "replan"])
async def test_a_failed_task_means_what_the_plan_says(
    ada: Person, model: ModelServer, tag: str, on_failure: str
) -> None:
    agent = await ada.agent()
    plan = await start(
        ada,
        [
            task("bad", agent, f"{tag}-bad\n!hold {tag}-bad\n!status 400"),
            task("slow", agent, f"{tag}-slow\n!hold {tag}-slow\n!say slow is done"),
            task("after", agent, "!say after", "bad"),
            task("last", agent, "!say last", "slow"),
        ],
        on_failure=on_failure,
    )
    await model.wait_for_requests(1, contains=f"{tag}-bad")
    await model.wait_for_requests(1, contains=f"{tag}-slow")
    model.release(f"{tag}-bad")
    if on_failure == "continue":
        graph = await until_task(ada, plan, "after", "skipped")
        model.release(f"{tag}-slow")
        graph = await until(ada, plan)
        assert graph["status"] == "completed"
        assert graph["output"] == {"slow": "slow is done", "last": "last"}
        assert graph["missing"] == ["bad", "after"]
        assert nodes(graph)["after"]["skipped"] == "dependency"
        return
    graph = await until(ada, plan)
    assert (graph["status"], graph["error"]["kind"]) == ("failed", "task")
    assert "bad" in graph["error"]["detail"]
    assert graph["missing"] == ["bad", "slow", "after", "last"]
    assert [node["skipped"] for node in graph["nodes"]] == [None, "stopped", "stopped", "stopped"]
    run = await ada.until(nodes(graph)["slow"]["run_id"])
    assert run["status"] == "cancelled"
    model.release(f"{tag}-slow")


async def test_what_failed_is_tried_again_by_itself_and_by_hand_and_the_rest_stays_done(
    ada: Person, model: ModelServer, tag: str
) -> None:
    agent = await ada.agent()
    plan = await start(
        ada,
        [
            task("good", agent, f"{tag}-good\n!say good"),
            # Each run asks the model twice (RETINUE_MODEL_ATTEMPTS): both tries of the task fail.
            task("bad", agent, f"{tag}-bad\n!status 500 4\n!say mended", "good", retry={"attempts": 2, "seconds": 0.1}),
            task("after", agent, "!say after", "bad"),
        ],
    )
    graph = await until(ada, plan)
    assert graph["status"] == "completed"
    assert nodes(graph)["bad"]["attempt"] == 2
    assert graph["missing"] == ["bad", "after"]
    await ada.call("POST", f"/v1/my/plans/{plan['plan_id']}/retry", 202)
    graph = await until(ada, plan)
    assert (graph["status"], graph["missing"], graph["failed"]) == ("completed", [], 0)
    assert graph["output"] == {"good": "good", "bad": "mended", "after": "after"}
    assert len([one for one in model.requests if f"{tag}-good" in one.user and "Results of" not in one.user]) == 1
    assert (await look(ada, plan))["version"] == graph["version"]
    problem = await ada.call("POST", f"/v1/my/plans/{plan['plan_id']}/retry", 409)
    assert "Nothing in this plan failed" in problem["detail"]


async def test_an_agent_that_is_deleted_while_the_plan_runs_fails_its_tasks_by_name(
    ada: Person, model: ModelServer, tag: str
) -> None:
    stays, goes = await ada.agent(), await ada.agent(f"goes {tag}")
    plan = await start(
        ada,
        [
            task("now", goes, f"{tag}-now\n!hold {tag}-now\n!say now"),
            task("first", stays, f"{tag}-first\n!hold {tag}-first\n!say first"),
            task("then", goes, "!say then", "first"),
        ],
    )
    await model.wait_for_requests(1, contains=f"{tag}-now")
    await model.wait_for_requests(1, contains=f"{tag}-first")
    await ada.call("DELETE", f"/v1/my/agents/{goes['agent_id']}?force=true", 204)
    await until_task(ada, plan, "now", "failed")
    model.release(f"{tag}-first")
    graph = await until(ada, plan)
    assert {one: node["error"] and node["error"]["kind"] for one, node in nodes(graph).items()} == {
        "now": "cancelled",
        "first": None,
        "then": "agent_gone",
    }
    assert graph["status"] == "completed"
    model.release(f"{tag}-now")


# Cancelling


async def test_cancelling_a_plan_cancels_everything_below_it(ada: Person, model: ModelServer, tag: str) -> None:
    agent = await ada.agent(limits={"concurrency": 1})
    plan = await start(
        ada,
        [
            task("busy", agent, f"{tag}-busy\n!hold {tag}-busy"),
            task("queued", agent, "!say queued"),
            {"id": "ask", "kind": "approval", "question": {"text": "Go on?"}},
            {"id": "wait", "kind": "wait", "wait": {"seconds": 3600}},
            task("never", agent, "!say never", "wait"),
        ],
    )
    await model.wait_for_requests(1, contains=f"{tag}-busy")
    graph = await look(ada, plan)
    [question] = await ada.approvals()
    assert (question["plan_id"], question["task_id"], question["kind"]) == (plan["plan_id"], "ask", "plan_step")
    shown = await ada.call("POST", f"/v1/my/plans/{plan['plan_id']}/cancel", 202, json={"reason": "enough"})
    assert shown["status"] == "cancelled"
    await ada.call("POST", f"/v1/my/plans/{plan['plan_id']}/cancel", 409)
    for one in ("busy", "queued"):
        run = await ada.until(nodes(graph)[one]["run_id"])
        assert run["status"] == "cancelled"
    assert (await ada.call("GET", f"/v1/my/approvals/{question['approval_id']}"))["status"] == "cancelled"
    graph = await look(ada, plan)
    assert {one["status"] for one in graph["nodes"]} == {"skipped"}
    assert [one["type"] for one in await events(ada, plan)][-1] == "plan.cancelled"
    model.release(f"{tag}-busy")


# Asking people


async def test_a_plan_waits_for_approval_and_runs_as_it_was_edited(ada: Person, model: ModelServer, tag: str) -> None:
    one, other = await ada.agent(f"one {tag}", tools=["files"]), await ada.agent(f"other {tag}")
    plan = await start(
        ada,
        [
            task("a", one, "!say a", risk="high", tokens=500, cost="0.01"),
            task("b", one, "!say b", "a"),
            task("c", one, "!say c", "a"),
        ],
        approval=True,
    )
    assert plan["status"] == "waiting"
    approval = await ada.call("GET", f"/v1/my/approvals/{plan['approval_id']}")
    assert (approval["kind"], approval["plan_id"], approval["run_id"]) == ("plan", plan["plan_id"], None)
    shown = approval["arguments"]
    assert shown["estimate"] == {"tasks": 3, "tokens": 500, "cost": "0.01"}
    assert "asks" in shown["agents"][one["name"]]["tools"]["files_write"]
    path = f"/v1/my/approvals/{plan['approval_id']}/confirm"
    # What cannot be carried out is refused by name, and the question stays open.
    for edited, field in (
        ({"tasks": [shown["tasks"][1]]}, "edited_arguments.tasks[0].depends_on[0]"),
        ({"tasks": [{"id": "a", "agent": "nobody"}]}, "edited_arguments.tasks[0].agent"),
        ({"tasks": [{"id": "new", "agent": one["name"]}]}, "edited_arguments.tasks[0].id"),
        ({"tasks": [{"id": "a", "risk": "low"}]}, "edited_arguments.tasks[0].risk"),
        ({"tasks": []}, "edited_arguments.tasks"),
        ({}, "edited_arguments.tasks"),
    ):
        problem = await ada.call("POST", path, 422, json={"decision": "approve", "edited_arguments": edited})
        assert [error["field"] for error in problem["errors"]] == [field], problem
    assert (await look(ada, plan))["status"] == "waiting"
    edited = {
        **shown,
        "tasks": [
            {"id": "c", "agent": other["name"], "instructions": f"{tag}-c\n!say C", "depends_on": []},
            {**shown["tasks"][0], "depends_on": ["c"]},
        ],
    }
    await ada.call("POST", path, 200, json={"decision": "approve", "edited_arguments": edited})
    await ada.call("POST", path, 409, json={"decision": "reject"})
    graph = await until(ada, plan)
    assert graph["output"] == {"c": "C", "a": "a"}
    assert graph["tasks"] == 2
    assert nodes(graph)["c"]["agent"] == other["name"]
    assert nodes(graph)["a"]["depends_on"] == ["c"]
    assert [one["type"] for one in await events(ada, plan)][:4] == [
        "plan.drafted",
        "plan.approval_requested",
        "plan.decided",
        "plan.started",
    ]


async def test_a_declined_plan_ends_without_doing_anything(ada: Person) -> None:
    agent = await ada.agent()
    plan = await start(ada, [task("a", agent, "!say a")], approval=True)
    approval = await ada.call("GET", f"/v1/my/approvals/{plan['approval_id']}")
    await ada.decide(approval, "reject", comment="Not today.")
    graph = await until(ada, plan)
    assert (graph["status"], graph["error"]["kind"]) == ("failed", "declined")
    assert "Not today." in graph["error"]["detail"]
    assert nodes(graph)["a"]["run_id"] is None
    await ada.call("POST", f"/v1/my/plans/{plan['plan_id']}/retry", 409)


async def test_a_step_asks_whom_it_names_and_its_answer_goes_on(server: RunningServer, ada: Person) -> None:
    bob = await server.person("bob")
    org = (await ada.call("POST", "/v1/tenants", 201, json={"name": "org"}))["tenant_id"]
    await ada.call("PUT", f"/v1/tenants/{org}/members", json={"user_id": bob.account["user_id"], "role": "member"})
    eve = await server.person("eve")
    await ada.call("PUT", f"/v1/tenants/{org}/members", json={"user_id": eve.account["user_id"], "role": "member"})
    for one in (ada, bob, eve):
        one.client.headers["Retinue-Tenant"] = org
    question = {"text": "Which one?", "assignees": [bob.account["email"]], "options": ["red", "blue"]}
    plan = await start(
        ada,
        [
            {"id": "ask", "kind": "approval", "question": question},
            {
                "id": "say",
                "kind": "value",
                "value": "${ steps.ask.output.answer }!",
                "template": True,
                "depends_on": ["ask"],
            },
        ],
    )
    await until_task(ada, plan, "ask", "running")
    assert await eve.approvals() == []
    [asked] = await bob.approvals()
    assert (asked["kind"], asked["question"], asked["options"]) == ("question", "Which one?", ["red", "blue"])
    await eve.call("GET", f"/v1/my/approvals/{asked['approval_id']}", 404)
    await bob.decide(asked, answer="blue")
    graph = await until(ada, plan)
    assert graph["output"]["say"] == "blue!"


# Other kinds of tasks


async def test_expressions_carry_values_through_every_kind_of_task(ada: Person) -> None:
    agent = await ada.agent(tools=["clock"])
    plan = await start(
        ada,
        [
            {"id": "list", "kind": "value", "value": ["x", "y"]},
            {
                "id": "all",
                "kind": "each",
                "depends_on": ["list"],
                "each": {
                    "items": "steps.list.output",
                    "body": [task("say", agent, "!say ${ item }${ string(index) }", template=True)],
                    "output": "${ steps.say.output }",
                },
            },
            {"id": "no", "kind": "value", "value": 1, "when": "size(steps.list.output) > 5", "depends_on": ["list"]},
            {"id": "pause", "kind": "wait", "wait": {"seconds": 0.2}},
            {"id": "time", "kind": "tool", "agent": agent["name"], "call": {"tool": "clock", "arguments": {}}},
            {
                "id": "wrong",
                "kind": "value",
                "value": "${ steps.list.output.nothing }",
                "template": True,
                "depends_on": ["list"],
            },
        ],
        output={"said": "${ steps.all.output }", "skipped": "${ steps.no.status }"},
    )
    graph = await until(ada, plan)
    assert graph["status"] == "completed", graph["error"]
    assert graph["output"] == {"said": ["x0", "y1"], "skipped": "skipped"}
    assert graph["missing"] == ["wrong"]
    assert nodes(graph)["wrong"]["error"]["kind"] == "expression"
    assert nodes(graph)["no"]["skipped"] == "condition"
    assert nodes(graph)["pause"]["status"] == "completed"
    assert nodes(graph)["time"]["output"]
    assert (await ada.run(nodes(graph)["time"]["run_id"]))["model_calls"] == 0
    assert nodes(graph)["all[1].say"]["parent"] == "all"


async def test_an_answer_must_fit_the_schema_that_was_asked_for(ada: Person) -> None:
    agent = await ada.agent()
    schema = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}
    plan = await start(
        ada,
        [
            task("good", agent, '!say ```json\\n{"count": 3}\\n```', output_schema=schema),
            task("plain", agent, '!say {"count": 4}', output_schema=schema),
            task("bad", agent, '!say {"count": "three"}', output_schema=schema),
        ],
    )
    graph = await until(ada, plan)
    assert nodes(graph)["plain"]["output"] == {"count": 4}
    assert nodes(graph)["bad"]["error"]["kind"] == "output"
    assert "count" in nodes(graph)["bad"]["error"]["detail"]


# Bad input


async def test_every_mistake_of_a_graph_is_named(ada: Person) -> None:
    agent = await ada.agent()
    tasks: list[dict[str, Any]] = [
        task("a", agent, "x", "c"),
        task("b", agent, "x", "a"),
        task("c", agent, "x", "b", "nowhere"),
        {"id": "d", "agent": "nobody", "instructions": "x"},
        {"id": "d", "kind": "wait"},
    ]
    problem = await ada.call("POST", "/v1/my/plans", 422, json={"title": "bad", "tasks": tasks})
    assert {error["field"] for error in problem["errors"]} == {
        "tasks",
        "tasks[2].depends_on[1]",
        "tasks[3].agent",
        "tasks[4].id",
        "tasks[4].wait",
    }
    assert (await ada.call("GET", "/v1/my/plans"))["items"] == []


async def test_plans_of_others_do_not_exist(server: RunningServer, ada: Person) -> None:
    agent = await ada.agent()
    plan = await start(ada, [task("a", agent, "!say a")])
    eve = await server.person("eve")
    for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/cancel"), ("POST", "/retry")):
        await eve.call(method, f"/v1/my/plans/{plan['plan_id']}{path}", 404)


async def test_the_stream_tells_of_a_plan_from_its_graph_to_its_end(ada: Person) -> None:
    agent = await ada.agent()
    plan = await start(ada, [task("a", agent, "!say a")])
    names = []
    async with ada.stream(f"?session={plan['session_id']}&after=0") as shown:
        async for event in shown:
            if event["data"]["payload"].get("plan_id") == plan["plan_id"]:
                names.append(event["event"])
            if event["event"] == "run_completed" and "plan_id" in event["data"]["payload"]:
                break
    assert names == ["task_plan_created", "task_started", "task_completed", "run_completed"]


@pytest.mark.parametrize("value, status", [({"total": 3}, "completed"), ({"total": "three"}, "failed")])
async def test_a_value_must_fit_its_schema(ada: Person, value: dict[str, Any], status: str) -> None:
    schema = {"type": "object", "properties": {"total": {"type": "integer"}}, "required": ["total"]}
    graph = await until(ada, await start(ada, [{"id": "v", "kind": "value", "value": value, "output_schema": schema}]))
    assert graph["status"] == status
    if status == "failed":
        assert (nodes(graph)["v"]["error"]["kind"], nodes(graph)["v"]["attempt"]) == ("value", 0)
        assert "output_schema" in nodes(graph)["v"]["error"]["detail"]
