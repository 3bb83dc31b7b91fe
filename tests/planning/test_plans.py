"""Plans over HTTP: a graph that a caller gives is carried out by agents, and its graph shows it."""

from __future__ import annotations

import pytest

from tests.planning.support import events, look, nodes, start, task, until
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
