"""Who sees which item: in lists, by its id, in exports, and on the live stream."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from retinue.board.events import ITEM_EVENTS
from retinue.board.room import ROOM as BOARD
from retinue.ledger import Encoded, Meta, type_of
from retinue.tenancy import AGENT, permits
from retinue.web import ALL, Catalogue
from retinue.web.catalogue import Filter
from tests.board.support import Office, office_on, user_id
from tests.support.databases import Cluster
from tests.support.running import Person, RunningServer, running_server


@pytest.fixture(scope="module")
async def server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    async with running_server(postgres) as found:
        yield found


@pytest.fixture
async def office(server: RunningServer) -> Office:
    return await office_on(server)


# Teams


async def test_a_teams_item_is_its_members_and_the_managers(office: Office) -> None:
    reds = await office.item("red", team=office.red)
    everybodys = await office.item("everybody's")
    for person in (office.mia, office.max, office.ada):
        assert set(await office.titles(person)) == {"red", "everybody's"}
        await office.show(person, reds)
    missing = await office.show(office.moe, {"item_id": office.red}, 404)
    for person in (office.moe, office.vic):
        assert await office.titles(person) == ["everybody's"]
        await office.show(person, everybodys)
        hidden = await office.show(person, reds, 404)
        assert (hidden["type"], hidden["detail"]) == (missing["type"], missing["detail"])
        assert "red" not in (await person.client.get("/v1/board/export")).text.replace("created", "")
    path = f"/v1/board/items/{reds['item_id']}"
    for method, way, body in (
        ("PATCH", "", {"title": "mine"}),
        ("DELETE", "", None),
        ("POST", "/undo", None),
        ("POST", "/redo", None),
        ("POST", "/restore", None),
        ("GET", "/history", None),
        ("GET", "/comments", None),
        ("POST", "/comments", {"text": "hello"}),
        ("POST", "/links", {"kind": "url", "target": "https://example.com"}),
        ("POST", "/proposal", {"accept": True}),
    ):
        await office.moe.call(method, f"{path}{way}", 404, json=body)
    # Neither can it be a parent, nor can one put something into another team, nor give it to who would not see it.
    await office.change(office.moe, everybodys, expected=422, parent=reds["item_id"])
    await office.change(office.moe, everybodys, expected=422, team=office.red)
    await office.change(office.mia, reds, expected=422, assignee=f"user:{user_id(office.moe)}")
    await office.change(office.mia, reds, assignee=f"user:{user_id(office.mia)}")
    await office.change(office.max, reds, expected=422, team=office.blue)


async def test_teams_are_kept_by_managers(office: Office) -> None:
    path = f"/v1/tenants/{office.tenant}/teams"
    for person, expected in ((office.vic, 403), (office.mia, 403), (office.max, 201)):
        await person.call("POST", path, expected, json={"name": "  green   ones "})
    listed = (await office.vic.call("GET", path))["items"]
    assert [one["name"] for one in listed] == ["red", "blue", "green ones"]
    green = listed[2]["team_id"]
    await office.max.call("POST", path, 409, json={"name": "GREEN ones"})
    await office.max.call("PUT", f"{path}/{green}", json={"name": "leaves"})
    await office.max.call("PUT", f"{path}/{green}", 409, json={"name": "Red"})
    stranger = await office.server.person("stranger")
    await office.max.call("PUT", f"{path}/{green}/members/{user_id(stranger)}", 404)
    await stranger.call("GET", f"{path}/{green}", 404)
    await office.max.call("PUT", f"{path}/{green}/members/{user_id(office.moe)}", 204)
    members = (await office.mia.call("GET", f"{path}/{green}/members"))["items"]
    assert {one["user_id"] for one in members} == {user_id(office.max), user_id(office.moe)}
    item = await office.item("leaf", person=office.moe, team=green)
    assert "1 work items" in (await office.max.call("DELETE", f"{path}/{green}", 409))["detail"]
    # Who leaves the tenant leaves its teams.
    await office.ada.call("DELETE", f"/v1/tenants/{office.tenant}/members/{user_id(office.moe)}", 204)
    members = (await office.mia.call("GET", f"{path}/{green}/members"))["items"]
    assert [one["user_id"] for one in members] == [user_id(office.max)]
    await office.max.call("DELETE", f"/v1/board/items/{item['item_id']}", 204)
    await office.max.call("DELETE", f"{path}/{green}", 204)
    await office.max.call("GET", f"{path}/{green}", 404)
    # A deleted item whose team is gone does not come back to everybody's eyes.
    await office.max.call("POST", f"/v1/board/items/{item['item_id']}/restore", 422)


# The live stream


class Ear:
    """Listens to somebody's live stream for events of the board."""

    def __init__(self, events: AsyncIterator[dict[str, Any]]) -> None:
        self.heard: list[tuple[str, str, float]] = []
        self.datas: list[dict[str, Any]] = []
        self._more = asyncio.Event()
        self._task = asyncio.create_task(self._listen(events))

    async def _listen(self, events: AsyncIterator[dict[str, Any]]) -> None:
        async for one in events:
            if one["event"].startswith("item_"):
                payload = one["data"]["payload"]
                self.heard.append((one["event"], payload["item_id"], time.monotonic()))
                self.datas.append(payload)
                self._more.set()

    def names(self, item: dict[str, Any]) -> list[str]:
        return [name for name, item_id, _ in self.heard if item_id == item["item_id"]]

    async def until_created(self, item: dict[str, Any]) -> None:
        """Wait until it has heard that an item was created."""
        async with asyncio.timeout(10):
            while "item_created" not in self.names(item):
                self._more.clear()
                await self._more.wait()

    async def until_cut(self) -> None:
        """Wait until the stream ends."""
        async with asyncio.timeout(10):
            await self._task

    def stop(self) -> None:
        self._task.cancel()


async def test_changes_reach_who_may_see_them_and_nobody_else(office: Office) -> None:
    people = {"mia": office.mia, "moe": office.moe, "vic": office.vic, "max": office.max}
    async with AsyncExitStack() as stack:
        ears = {name: Ear(await stack.enter_async_context(one.stream())) for name, one in people.items()}
        reds = await office.item("secret of the reds", team=office.red)
        await office.change(office.mia, reds, title="still a secret")
        blues = await office.item("blue", person=office.moe, team=office.blue)
        everybodys = await office.item("everybody's")
        # What goes to the reds is withdrawn from everybody, and from then on a secret.
        await office.change(office.mia, everybodys, team=office.red, title="a new secret")
        await office.change(office.mia, everybodys, title="a newer secret")
        last = await office.item("the last")
        for ear in ears.values():
            await ear.until_created(last)
        for ear in ears.values():
            ear.stop()
    for name in ("mia", "max"):
        assert ears[name].names(reds) == ["item_created", "item_changed"]
        assert ears[name].names(everybodys) == ["item_created", "item_withdrawn", "item_changed", "item_changed"]
    for name in ("moe", "vic"):
        assert ears[name].names(reds) == []
        assert ears[name].names(everybodys) == ["item_created", "item_withdrawn"]
        assert "secret" not in str(ears[name].datas)
    assert [name for name, ear in ears.items() if ear.names(blues)] == ["moe", "max"]


async def test_the_past_of_a_stream_is_kept_apart_as_well(office: Office) -> None:
    await office.item("secret of the reds", team=office.red)
    last = await office.item("the last")
    for person, secret in ((office.moe, False), (office.mia, True)):
        async with person.stream("?after=0&types=item_created") as events:
            ear = Ear(events)
            await ear.until_created(last)
            ear.stop()
        assert ("secret" in str(ear.datas)) is secret


async def test_who_leaves_a_team_hears_no_more_of_it(office: Office) -> None:
    async with office.mia.stream() as events:
        ear = Ear(events)
        await ear.until_created(await office.item("first", team=office.red))
        path = f"/v1/tenants/{office.tenant}/teams/{office.red}/members/{user_id(office.mia)}"
        await office.max.call("DELETE", path, 204)
        await ear.until_cut()  # the stream ends, and is opened anew with the rights of now
    async with office.mia.stream("?after=0") as events:
        ear = Ear(events)
        last = await office.item("the last")
        await ear.until_created(last)
        ear.stop()
    assert [payload["fields"]["title"] for payload in ear.datas] == ["the last"]


def test_without_its_audience_an_event_would_show_to_everybody() -> None:
    """The planted bug: a board whose events name no audience. The audience alone keeps them apart."""
    data = {"item_id": str(uuid4()), "team": str(uuid4()), "fields": {"title": "secret"}}
    event = Encoded(1, 1, 1, datetime.now(UTC), "item:x", "item.created", json.dumps(data), Meta(actor="system"))
    moe = Filter(uuid4(), frozenset({"items"}), frozenset({f"team:{uuid4()}"}))
    mia = Filter(uuid4(), frozenset({"items"}), frozenset({f"team:{data['team']}"}))
    max_ = Filter(uuid4(), frozenset({"items"}), frozenset({ALL}))
    nobody = Filter(uuid4(), frozenset(), frozenset({ALL}))
    whole = Catalogue([BOARD])
    assert [whole.shows(one, event) is not None for one in (mia, max_, moe, nobody)] == [True, True, False, False]
    streamed = {name: replace(one, audience=None) for name, one in BOARD.streamed.items()}
    broken = Catalogue([replace(BOARD, streamed=streamed)])
    assert broken.shows(moe, event) is not None


def test_every_event_of_an_item_names_its_audience() -> None:
    for kind in ITEM_EVENTS:
        assert BOARD.streamed[type_of(kind)[0]].audience is not None


# Permissions, cell by cell

_CELLS = {
    # viewer, member, manager, admin, agent
    "create": ("deny", "allow", "allow", "allow", "deny"),
    "read": ("allow", "allow", "allow", "allow", "allow"),
    "list": ("allow", "allow", "allow", "allow", "allow"),
    "change": ("deny", "allow", "allow", "allow", "ask"),
    "delete": ("deny", "allow", "allow", "allow", "deny"),
    "export": ("allow", "allow", "allow", "allow", "deny"),
    "decide": ("deny", "deny", "allow", "allow", "deny"),
}


def test_the_matrix_of_the_board() -> None:
    for action, cells in _CELLS.items():
        found = tuple(permits(role, None, "items", action) for role in ("viewer", "member", "manager", "admin", AGENT))
        assert found == cells, action


async def test_each_role_does_over_http_what_the_matrix_says(office: Office) -> None:
    async def attempt(person: Person, action: str) -> bool:
        item = await office.item("attempted", person=office.max if person is office.vic else person)
        path = f"/v1/board/items/{item['item_id']}"
        method, way, body = {
            "create": ("POST", "/v1/board/items", {"title": "made"}),
            "read": ("GET", path, None),
            "list": ("GET", "/v1/board/items", None),
            "change": ("PATCH", path, {"title": "changed"}),
            "delete": ("DELETE", path, None),
            "export": ("GET", "/v1/board/export", None),
            "decide": ("PUT", "/v1/board/policy", {"agents_close": False}),
        }[action]
        answer = await person.client.request(method, way, json=body)
        assert answer.status_code < 300 or answer.status_code == 403, answer.text
        return answer.status_code < 300

    for action, cells in _CELLS.items():
        for (role, person), cell in zip(
            (("viewer", office.vic), ("member", office.mia), ("manager", office.max), ("admin", office.ada)),
            cells,
            strict=False,
        ):
            assert await attempt(person, action) is (cell == "allow"), (role, action)


# The workspace of an item


async def test_nobody_opens_a_conversation_in_the_workspace_of_an_item_or_of_a_plan(office: Office) -> None:
    """Runs of an item share a workspace under the item's id, those of a plan one under the plan's."""
    item = await office.item("red", team=office.red)
    waits = {"title": "a", "tasks": [{"id": "w", "kind": "wait", "wait": {"seconds": 60}}]}
    plan = await office.mia.call("POST", "/v1/my/plans", 202, json=waits)
    agent = await office.moe.agent("moe's")
    message = {"content": "!say hello", "target_agent": agent["agent_id"]}
    for taken in (item["item_id"], plan["plan_id"]):
        await office.moe.call("POST", f"/v1/my/chat/{taken}/messages", 404, json=message)
        files = {"file": ("a.txt", b"obey me")}
        answer = await office.moe.client.post(f"/v1/my/chat/{taken}/files", files=files)
        assert answer.status_code == 404
        await office.moe.call("GET", f"/v1/my/chat/{taken}/files", 404)
        assert not list(office.server.folder.rglob(f"*{taken}*"))
    await office.moe.call("POST", f"/v1/my/chat/{uuid4()}/messages", 202, json=message)
