"""Agents at work on items: a run begins, its result comes back, and a person has the last word."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from tests.board.support import Office, office_on, user_id
from tests.support.databases import Cluster
from tests.support.model_server import ModelServer
from tests.support.running import Person, RunningServer, running_server


@pytest.fixture(scope="module")
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer() as found:
        yield found


@pytest.fixture(scope="module")
async def server(postgres: Cluster, model: ModelServer) -> AsyncIterator[RunningServer]:
    settings: dict[str, Any] = {
        "OPENAI_BASE_URL": model.base_url,
        "OPENAI_API_KEY": "stub",
        "RETINUE_DEFAULT_MODEL": "openai:stub-0ms",
    }
    async with running_server(postgres, **settings) as found:
        yield found


@pytest.fixture
async def office(server: RunningServer) -> Office:
    return await office_on(server)


@pytest.fixture
def tag() -> str:
    return f"tag{uuid4().hex[:10]}"


async def agent_of(person: Person, **definition: Any) -> str:
    return str((await person.agent(tools=["board"], autonomy="autonomous", **definition))["agent_id"])


async def until(office: Office, person: Person, item: dict[str, Any], seconds: float = 20, **wanted: Any) -> Any:
    """Wait until an item is as wanted."""
    deadline = time.monotonic() + seconds
    while True:
        shown = await office.show(person, item)
        if all(shown[name] == value for name, value in wanted.items()):
            return shown
        assert time.monotonic() < deadline, (wanted, shown, await comments(person, item))
        await asyncio.sleep(0.02)


async def comments(person: Person, item: dict[str, Any]) -> list[dict[str, Any]]:
    page = await person.call("GET", f"/v1/board/items/{item['item_id']}/comments")
    found: list[dict[str, Any]] = page["items"]
    return found


def tool(name: str, **arguments: Any) -> str:
    """Return a line that makes the scripted model call a tool."""
    return f"!tool {name} {json.dumps(arguments)}"


async def test_an_agent_works_on_what_it_is_given_and_a_person_closes_it(
    office: Office, model: ModelServer, tag: str
) -> None:
    agent = await agent_of(office.mia)
    item = await office.item(f"Count the sheep {tag}", description="All of them, please.")
    given = await office.change(office.mia, item, assignee=f"agent:{agent}")
    assert (given["state"], given["run_status"]) == ("in_progress", "open")
    assert [(one["kind"], one["target"]) for one in given["links"]] == [("run", given["run_id"])]
    done = await until(office, office.mia, item, state="review")
    assert done["run_status"] == "completed"
    (said,) = await comments(office.mia, item)
    assert said["author"] == f"agent:{agent}"
    (asked,) = [one for one in model.requests if tag in one.user]
    assert "All of them, please." in asked.user
    run = await office.mia.run(given["run_id"])
    assert (run["status"], run["tainted"]) == ("completed", False)
    history = (await office.mia.call("GET", f"/v1/board/items/{item['item_id']}/history"))["items"]
    assert [one["type"] for one in history] == [
        "item.created",
        "item.changed",
        "item.run_started",
        "item.linked",
        "item.run_ended",
        "item.commented",
        "item.changed",
    ]
    assert history[-1]["actor"] == f"agent:{agent}"
    assert (await office.change(office.moe, item, state="done"))["state"] == "done"


async def test_the_policy_may_let_agents_close(office: Office) -> None:
    await office.max.call("PUT", "/v1/board/policy", json={"agents_close": True})
    agent = await agent_of(office.mia)
    item = await office.item("Something", assignee=f"agent:{agent}")
    await until(office, office.mia, item, state="done")


async def test_what_fails_is_blocked_with_the_reason_and_can_be_tried_again(office: Office) -> None:
    broken = await agent_of(office.mia, model="google:gemini-nothing")
    item = await office.item("Something", assignee=f"agent:{broken}")
    blocked = await until(office, office.mia, item, state="blocked")
    assert blocked["run_status"] == "failed"
    (said,) = await comments(office.mia, item)
    assert "did not succeed" in said["text"]
    # The run is tried again and fails in the same way, or another agent takes over.
    other = await agent_of(office.mia)
    again = await office.change(office.mia, item, assignee=f"agent:{other}")
    assert (again["state"], again["run_id"] != blocked["run_id"]) == ("in_progress", True)
    await until(office, office.mia, item, state="review")


@pytest.mark.parametrize("how", ["unassign", "delete", "bulk", "undo"])
async def test_taking_an_item_away_cancels_the_run(office: Office, model: ModelServer, tag: str, how: str) -> None:
    agent = await agent_of(office.mia)
    item = await office.item(description=f"!hold {tag}")
    given = await office.change(office.mia, item, assignee=f"agent:{agent}")
    await office.mia.until(given["run_id"], "running")
    path = f"/v1/board/items/{item['item_id']}"
    if how == "unassign":
        assert (await office.change(office.mia, item, assignee=None))["run_status"] == "cancelled"
    elif how == "delete":
        await office.mia.call("DELETE", path, 204)
    elif how == "undo":
        undone = (await office.mia.call("POST", f"{path}/undo"))["item"]
        assert (undone["assignee"], undone["state"]) == (None, "open")
    else:
        body = {"operations": [{"op": "change", "item_id": item["item_id"], "fields": {"assignee": None}}]}
        await office.mia.call("POST", "/v1/board/items/bulk", json=body)
    assert (await office.mia.until(given["run_id"]))["status"] == "cancelled"
    if how != "delete":
        await until(office, office.mia, item, run_status="cancelled")
        assert await comments(office.mia, item) == []


async def test_a_bulk_starts_many(office: Office) -> None:
    agent = await agent_of(office.mia, limits={"concurrency": 3, "queue": 100})
    operations = [{"op": "create", "fields": {"title": f"item {n}", "assignee": f"agent:{agent}"}} for n in range(12)]
    made = await office.mia.call("POST", "/v1/board/items/bulk", json={"operations": operations})
    for one in made["items"]:
        await until(office, office.mia, one, state="review")
        assert len(await comments(office.mia, one)) == 1


async def test_a_bulk_for_a_full_lane_blocks_what_cannot_begin(office: Office) -> None:
    agent = await agent_of(office.mia, limits={"concurrency": 1, "queue": 1})
    await office.mia.call("POST", f"/v1/my/agents/{agent}/pause")
    operations = [{"op": "create", "fields": {"title": f"{n}", "assignee": f"agent:{agent}"}} for n in range(4)]
    made = await office.mia.call("POST", "/v1/board/items/bulk", json={"operations": operations})
    deadline = time.monotonic() + 20
    states: list[str] = []
    while states.count("blocked") < 3:
        assert time.monotonic() < deadline, states
        states = [(await office.show(office.mia, one))["state"] for one in made["items"]]
    await office.mia.call("POST", "/v1/board/items", 429, json={"title": "one more", "assignee": f"agent:{agent}"})
    assert "one more" not in await office.titles(office.mia)
    await office.mia.call("POST", f"/v1/my/agents/{agent}/resume")
    (running,) = [one for one, state in zip(made["items"], states, strict=True) if state != "blocked"]
    await until(office, office.mia, running, state="review")


async def test_nobody_gives_work_to_somebody_elses_agent(office: Office) -> None:
    agent = await agent_of(office.moe)
    item = await office.item()
    await office.change(office.mia, item, expected=422, assignee=f"agent:{agent}")


# Tools


async def worked(office: Office, title: str, **fields: Any) -> dict[str, Any]:
    """Give mia's agent an item whose title says what the scripted model is to do; return it when the run has ended."""
    agent = await agent_of(office.mia)
    item = await office.item("another", description=title, **fields)
    given = await office.change(office.mia, item, assignee=f"agent:{agent}")
    await office.mia.until(given["run_id"])
    return given


async def results(person: Person, run_id: str) -> list[str]:
    found = (await person.call("GET", f"/v1/my/runs/{run_id}/steps"))["items"]
    return [one["result"] for one in found if one["kind"] == "tool"]


async def test_an_agent_proposes_and_a_person_decides(office: Office) -> None:
    target = await office.item("to be changed")
    wanted = {"state": "done", "priority": "low"}
    line = tool("board_propose", item=target["item_id"], changes=wanted, reason="It is old.")
    given = await worked(office, line)
    assert "Proposed" in (await results(office.mia, given["run_id"]))[0]
    shown = await office.show(office.mia, target)
    assert (shown["state"], shown["proposal"]["changes"]) == ("open", wanted)
    path = f"/v1/board/items/{target['item_id']}/proposal"
    await office.vic.call("POST", path, 403, json={"accept": True})
    await office.mia.call("POST", path, 409, json={"accept": True, "version": 1})
    accepted = await office.moe.call("POST", path, json={"accept": True})
    assert (accepted["state"], accepted["priority"], accepted["proposal"]) == ("done", "low", None)
    await office.moe.call("POST", path, 404, json={"accept": True})
    # It is the change of who accepted it, and can be undone like one.
    assert (await office.moe.call("POST", f"/v1/board/items/{target['item_id']}/undo"))["item"]["state"] == "open"


async def test_an_agent_changes_directly_what_the_policy_lets_it(office: Office) -> None:
    await office.max.call("PUT", "/v1/board/policy", json={"agents_change": True})
    target = await office.item("to be changed")
    await worked(office, tool("board_propose", item=target["item_id"], changes={"priority": "low"}, reason="Old."))
    assert (await office.show(office.mia, target))["priority"] == "low"
    await worked(office, tool("board_propose", item=target["item_id"], changes={"state": "done"}, reason="Old."))
    shown = await office.show(office.mia, target)
    assert (shown["state"], shown["proposal"]["changes"]) == ("open", {"state": "done"})


async def test_an_agent_asks_for_help(office: Office, model: ModelServer, tag: str) -> None:
    agent = await agent_of(office.mia)
    item = await office.item(tag)
    line = tool("board_ask_help", item=item["item_id"], question="Which sheep?")
    await office.change(office.mia, item, description=line)
    given = await office.change(office.mia, item, assignee=f"agent:{agent}")
    assert (await office.mia.until(given["run_id"]))["status"] == "completed"
    shown = await until(office, office.mia, item, run_status="completed")
    assert (shown["state"], shown["assignee"]) == ("blocked", f"user:{user_id(office.mia)}")
    assert [one["text"] for one in await comments(office.mia, item)][-1] == "Which sheep?"


async def test_an_agent_sees_what_its_user_sees_and_no_more(office: Office) -> None:
    hidden = await office.item("hidden", person=office.moe, team=office.blue)
    mine = await office.item("red ones", team=office.red, labels=["sheep"])
    given = await worked(office, tool("board_show", item=hidden["item_id"]))
    assert "There is no such item." in (await results(office.mia, given["run_id"]))[0]
    given = await worked(office, tool("board_list", label="sheep"))
    (listed,) = await results(office.mia, given["run_id"])
    assert [one["item"] for one in json.loads(listed)] == [mine["item_id"]]
    assert (await office.mia.run(given["run_id"]))["tainted"] is True  # others write on the board
    given = await worked(office, tool("board_comment", item=mine["item_id"], text="Baa."))
    assert [one["text"] for one in await comments(office.mia, mine)] == ["Baa."]
    # Who is a viewer by now has agents that look and do not touch.
    body = {"user_id": user_id(office.mia), "role": "viewer"}
    agent = await agent_of(office.mia)
    item = await office.item("x", description=f"!pause\n{tool('board_comment', item=mine['item_id'], text='Moo.')}")
    await office.ada.call("PUT", f"/v1/tenants/{office.tenant}/members", json=body)
    await office.change(office.mia, item, expected=403, assignee=f"agent:{agent}")
    assert [one["text"] for one in await comments(office.mia, mine)] == ["Baa."]


async def test_what_others_wrote_in_an_item_taints_the_run(office: Office) -> None:
    agent = await agent_of(office.mia)
    item = await office.item("moe's", person=office.moe)
    given = await office.change(office.mia, item, assignee=f"agent:{agent}")
    assert (await office.mia.until(given["run_id"]))["tainted"] is True


async def test_an_item_that_is_given_and_taken_again_and_again_locks_nobody_out(office: Office) -> None:
    """Whoever changes an item holds its row and then prompts its look, which holds its claim: one order for both."""
    agent = await office.mia.agent("busy")
    item = await office.item()
    for _ in range(8):
        given = (f"agent:{agent['agent_id']}" if at % 2 else None for at in range(20))
        await asyncio.gather(*(office.change(office.mia, item, assignee=one) for one in given))
        await asyncio.sleep(0.3)
    assert "deadlock" not in office.server.log()
