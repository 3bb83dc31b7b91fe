"""The board over HTTP, on a started server."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

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


async def test_an_item_is_made_shown_and_changed(office: Office) -> None:
    made = await office.item(
        "Fix the login page", labels=["web", "bug"], priority="high", due="2026-12-01T12:00:00+02:00"
    )
    assert (made["version"], made["state"], made["labels"]) == (1, "open", ["bug", "web"])
    assert made["due"] == "2026-12-01T10:00:00Z"
    answer = await office.mia.client.get(f"/v1/board/items/{made['item_id']}")
    assert answer.headers["ETag"] == '"1"'
    changed = await office.change(office.mia, made, state="review", due=None)
    assert (changed["state"], changed["due"], changed["version"]) == ("review", None, 2)
    # What is so already is no change.
    assert (await office.change(office.mia, made, state="review"))["version"] == 2


async def test_fields_are_bounded_and_named(office: Office) -> None:
    item = await office.item()
    bad: list[dict[str, Any]] = [
        {"title": ""},
        {"title": "  "},
        {"title": None},
        {"title": "x" * 301},
        {"title": "nul \x00"},
        {"state": "gone"},
        {"priority": None},
        {"labels": [""]},
        {"labels": [f"l{n}" for n in range(21)]},
        {"due": "tomorrow"},
        {"due": 17},
        {"due": "2026-12-01T12:00:00"},
        {"assignee": "user:nobody"},
        {"assignee": f"user:{uuid4()}"},
        {"assignee": f"agent:{uuid4()}"},
        {"team": str(uuid4())},
        {"parent": str(uuid4())},
        {"unknown": 1},
    ]
    for fields in bad:
        problem = await office.change(office.mia, item, expected=422, **fields)
        assert next(iter(fields)) in problem["errors"][0]["field"], problem
    assert (await office.show(office.mia, item))["version"] == 1


# Conflicts


async def test_two_who_change_different_fields_are_merged(office: Office) -> None:
    item = await office.item(labels=["a", "b"])
    await office.change(office.mia, item, base=1, title="Mia's", labels=["a", "b", "mia"])
    merged = await office.change(office.moe, item, base=1, state="review", labels=["b", "moe"])
    assert merged["merged"] is True
    assert (merged["title"], merged["state"], merged["labels"]) == ("Mia's", "review", ["b", "mia", "moe"])


async def test_two_who_change_the_same_field_see_both_sides(office: Office) -> None:
    item = await office.item()
    await office.change(office.mia, item, base=1, title="Mia's", priority="high")
    problem = await office.change(office.moe, item, base=1, expected=412, title="Moe's", state="review")
    assert problem["clashes"] == ["title"]
    assert problem["current"]["title"] == "Mia's"
    assert (problem["base"]["version"], problem["base"]["title"]) == (1, "Something to do")
    assert problem["yours"]["title"] == {"from": "Something to do", "to": "Moe's"}
    assert problem["theirs"] == {
        "title": {"from": "Something to do", "to": "Mia's"},
        "priority": {"from": "normal", "to": "high"},
    }
    shown = await office.show(office.moe, item)
    assert (shown["title"], shown["state"], shown["version"]) == ("Mia's", "open", 2)
    # Looked at, and decided: based on the present version, it holds.
    assert (await office.change(office.moe, item, base=2, title="Moe's"))["title"] == "Moe's"
    assert "current" in await office.change(office.moe, item, base=9, expected=412, title="From the future")


async def test_many_at_once_lose_nothing(office: Office) -> None:
    item = await office.item()
    people = [office.mia, office.moe, office.max, office.ada]
    await asyncio.gather(
        *(office.change(people[n % 4], item, base=1, labels=[f"label{n}"]) for n in range(16)),
    )
    found = await office.show(office.mia, item)
    assert found["labels"] == sorted(f"label{n}" for n in range(16))
    assert found["version"] == 17


# Undo and redo


async def act(person: Person, item: dict[str, Any], what: str, expected: int = 200) -> dict[str, Any]:
    found: dict[str, Any] = await person.call("POST", f"/v1/board/items/{item['item_id']}/{what}", expected)
    return found


async def test_one_undoes_and_redoes_ones_own_changes(office: Office) -> None:
    item = await office.item()
    await office.change(office.mia, item, title="First", state="review")
    await office.change(office.moe, item, priority="high")
    await office.change(office.mia, item, title="Second")
    assert (await act(office.mia, item, "undo"))["item"]["title"] == "First"
    undone = await act(office.mia, item, "undo")
    assert undone["fields"] == ["state", "title"]
    assert (undone["item"]["title"], undone["item"]["state"]) == ("Something to do", "open")
    assert undone["item"]["priority"] == "high"  # moe's own, which he alone undoes
    await act(office.mia, item, "undo", 409)
    assert (await act(office.mia, item, "redo"))["item"]["title"] == "First"
    assert (await act(office.mia, item, "redo"))["item"]["title"] == "Second"
    await act(office.mia, item, "redo", 409)
    assert (await act(office.moe, item, "undo"))["item"]["priority"] == "normal"


async def test_undo_is_refused_when_somebody_changed_the_same_field_since(office: Office) -> None:
    item = await office.item()
    await office.change(office.mia, item, title="Mia's", state="review")
    await office.change(office.moe, item, title="Moe's")
    problem = await act(office.mia, item, "undo", 409)
    assert problem["fields"] == ["title"]
    assert "title was changed since" in problem["detail"]
    assert (await office.show(office.mia, item))["state"] == "review"


async def test_a_deletion_can_be_undone_and_restored(office: Office) -> None:
    item = await office.item()
    path = f"/v1/board/items/{item['item_id']}"
    await office.moe.call("DELETE", path, 403)  # a member deletes items of their own
    await office.mia.call("DELETE", path, 412, headers={"If-Match": '"7"'})
    await office.mia.call("DELETE", path, 204)
    await office.show(office.mia, item, 404)
    assert item["title"] not in await office.titles(office.mia)
    assert await office.titles(office.mia, deleted=True) == [item["title"]]
    assert (await act(office.mia, item, "undo"))["item"]["deleted_at"] is None
    assert (await act(office.mia, item, "redo"))["item"] is None
    await act(office.max, item, "restore")
    await office.show(office.mia, item)


# Lists, search, parents, comments, links


async def test_lists_are_filtered_and_come_in_pages(office: Office) -> None:
    parent = await office.item("The whole", labels=["x"], due="2026-01-01T00:00:00Z")
    await office.item("Part one", parent=parent["item_id"], labels=["x", "y"], priority="urgent")
    await office.item("Part two", parent=parent["item_id"], state="review", assignee=f"user:{user_id(office.mia)}")
    assert await office.titles(office.mia) == ["Part two", "Part one", "The whole"]
    for params, titles in (
        ({"parent": parent["item_id"]}, ["Part two", "Part one"]),
        ({"label": ["x", "y"]}, ["Part one"]),
        ({"label": "x"}, ["Part one", "The whole"]),
        ({"priority": "urgent"}, ["Part one"]),
        ({"state": ["review", "done"]}, ["Part two"]),
        ({"assignee": "me"}, ["Part two"]),
        ({"due_before": "2026-06-01T00:00:00Z"}, ["The whole"]),
        ({"team": "none", "text": "part -two"}, ["Part one"]),
        ({"team": office.red}, []),
    ):
        assert await office.titles(office.mia, **params) == titles, params
    assert await office.titles(office.moe, assignee="me") == []
    first = await office.mia.call("GET", "/v1/board/items", params={"limit": 2})
    rest = await office.mia.call("GET", "/v1/board/items", params={"limit": 2, "cursor": first["next_cursor"]})
    assert [one["title"] for one in first["items"] + rest["items"]] == ["Part two", "Part one", "The whole"]
    assert rest["next_cursor"] is None
    for params in ({"assignee": "bob"}, {"team": "x"}, {"state": "x"}, {"text": "a\x00"}, {"cursor": "x"}):
        await office.mia.call("GET", "/v1/board/items", 422, params=params)


async def test_search_finds_words_in_any_form_phrases_and_without(office: Office) -> None:
    await office.item("Deploying the server", description="It falls over at night.")
    await office.item("Night shift", description="Who deploys on Sundays?")
    assert await office.titles(office.mia, text="deploy") == ["Night shift", "Deploying the server"]
    assert await office.titles(office.mia, text='"night shift"') == ["Night shift"]
    assert await office.titles(office.mia, text="deploy -sunday") == ["Deploying the server"]
    assert await office.titles(office.mia, text="sundays or servers") == ["Night shift", "Deploying the server"]
    for hostile in ("'", '"', "a & | ! (", "\\", "x" * 500, "%_:*"):
        await office.titles(office.mia, text=hostile)


async def test_parents_never_go_in_circles(office: Office) -> None:
    one, two, three = [await office.item(f"{n}") for n in range(3)]
    await office.change(office.mia, two, parent=one["item_id"])
    await office.change(office.mia, three, parent=two["item_id"])
    for below in (one, two, three):
        await office.change(office.mia, one, parent=below["item_id"], expected=422)
    left, right = await office.item("left"), await office.item("right")
    answers = await asyncio.gather(
        *(
            office.mia.client.patch(f"/v1/board/items/{a['item_id']}", json={"parent": b["item_id"]})
            for a, b in ((left, right), (right, left))
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200, 422]


async def test_comments_links_and_history(office: Office) -> None:
    item = await office.item()
    path = f"/v1/board/items/{item['item_id']}"
    for n in range(3):
        await office.moe.call("POST", f"{path}/comments", 201, json={"text": f"comment {n}"})
    page = await office.mia.call("GET", f"{path}/comments", params={"limit": 2})
    rest = await office.mia.call("GET", f"{path}/comments", params={"limit": 2, "cursor": page["next_cursor"]})
    assert [one["text"] for one in page["items"] + rest["items"]] == ["comment 2", "comment 1", "comment 0"]
    assert page["items"][0]["author"] == f"user:{user_id(office.moe)}"
    link = {"kind": "url", "target": "https://example.com/spec", "title": "The spec"}
    made = await office.mia.call("POST", f"{path}/links", 201, json=link)
    await office.mia.call("POST", f"{path}/links", 422, json={"kind": "url", "target": "javascript:alert(1)"})
    await office.mia.call("POST", f"{path}/links", 422, json={"kind": "run", "target": "no id"})
    shown = await office.show(office.mia, item)
    assert (shown["comments"], [one["target"] for one in shown["links"]]) == (3, ["https://example.com/spec"])
    await office.mia.call("DELETE", f"{path}/links/{made['link_id']}", 204)
    await office.mia.call("DELETE", f"{path}/links/{made['link_id']}", 404)
    await office.change(office.mia, item, title="Other")
    history = (await office.mia.call("GET", f"{path}/history"))["items"]
    assert [one["type"] for one in history] == [
        "item.created",
        *["item.commented"] * 3,
        "item.linked",
        "item.unlinked",
        "item.changed",
    ]
    assert history[-1]["data"]["changes"] == {"title": {"from": "Something to do", "to": "Other"}}
    assert [one["version"] for one in history] == list(range(1, 8))


# Bulk


async def bulk(person: Person, operations: list[dict[str, Any]], mode: str = "all", expected: int = 200) -> Any:
    body = {"mode": mode, "operations": operations}
    return await person.call("POST", "/v1/board/items/bulk", expected, json=body)


async def test_a_thousand_in_one_request(office: Office) -> None:
    made = await bulk(office.mia, [{"op": "create", "fields": {"title": f"item {n}"}} for n in range(1000)])
    assert (made["done"], made["failed"]) == (1000, 0)
    ids = [one["item_id"] for one in made["items"]]
    assert len(set(ids)) == 1000
    changed = await bulk(office.mia, [{"op": "change", "item_id": one, "fields": {"state": "review"}} for one in ids])
    assert {one["version"] for one in changed["items"]} == {2}
    path = f"/v1/board/items/{ids[500]}/history"
    assert [one["type"] for one in (await office.mia.call("GET", path))["items"]] == ["item.created", "item.changed"]
    gone = await bulk(office.mia, [{"op": "delete", "item_id": one} for one in ids])
    assert gone["done"] == 1000
    assert await office.titles(office.mia) == []
    await bulk(office.mia, [{"op": "delete", "item_id": ids[0]}] * 1001, expected=422)


async def test_all_or_nothing_and_each_for_itself(office: Office) -> None:
    mine, others = await office.item("mine"), await office.item("others", person=office.moe)
    hidden = await office.item("hidden", person=office.moe, team=office.blue)
    operations = [
        {"op": "change", "item_id": mine["item_id"], "fields": {"title": "changed"}},
        {"op": "change", "item_id": mine["item_id"], "fields": {"parent": mine["item_id"]}},
        {"op": "delete", "item_id": others["item_id"]},
        {"op": "change", "item_id": hidden["item_id"], "fields": {"title": "seen"}},
        {"op": "change", "item_id": mine["item_id"], "version": 1, "fields": {"priority": "high"}},
        {"op": "create", "fields": {"title": "new", "parent": mine["item_id"]}},
    ]
    problem = await bulk(office.mia, operations, expected=422)
    assert problem["operation"] == 1
    assert (await office.show(office.mia, mine))["version"] == 1
    results = await bulk(office.mia, operations, mode="each")
    assert [one["problem"]["status"] if one["problem"] else 200 for one in results["items"]] == [
        200,
        422,
        403,
        404,
        200,
        200,
    ]
    missing = await bulk(office.mia, [{"op": "delete", "item_id": str(uuid4())}], mode="each")
    assert missing["items"][0]["problem"]["detail"] == results["items"][3]["problem"]["detail"]
    shown = await office.show(office.mia, mine)
    assert (shown["title"], shown["priority"], shown["version"]) == ("changed", "high", 3)
    assert (await office.show(office.moe, hidden))["title"] == "hidden"


# CSV


async def test_csv_holds_no_formula(office: Office) -> None:
    hostile = ["=1+1", "+1", "-1", "@SUM(A1)", '=HYPERLINK("http://evil","x")', 'quo"te, comma']
    for text in hostile:
        await office.item(text, description=f"\t{text}\nnext line", labels=[text[:20]])
    answer = await office.mia.client.get("/v1/board/export")
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert [row["title"].removeprefix("'") for row in rows] == hostile[::-1]
    cells = [cell for row in rows for cell in row.values()]
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t", "\r", "\n")]
    filtered = await office.mia.client.get("/v1/board/export", params={"text": "quo"})
    assert len(list(csv.DictReader(io.StringIO(filtered.text, newline="")))) == 1


async def test_csv_of_many_pages_has_every_item_once(office: Office) -> None:
    for start in (0, 1000):
        await bulk(office.mia, [{"op": "create", "fields": {"title": f"i{start + n}"}} for n in range(600)])
    await office.item("hidden", person=office.moe, team=office.blue)
    answer = await office.mia.client.get("/v1/board/export")
    titles = [row["title"] for row in csv.DictReader(io.StringIO(answer.text, newline=""))]
    assert titles == [f"i{n}" for n in [*range(1599, 999, -1), *range(599, -1, -1)]]
