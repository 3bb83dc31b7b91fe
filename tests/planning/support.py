"""What the stories of plans share: a person who has plans carried out, and looks at them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.support.running import Person

ENDED = {"completed", "failed", "cancelled"}


def task(task_id: str, agent: dict[str, Any], says: str, *depends_on: str, **more: Any) -> dict[str, Any]:
    """Return a task whose model says something (see the model server's lines), after others."""
    return {
        "id": task_id,
        "agent": agent["name"],
        "instructions": says,
        "depends_on": list(depends_on),
        **more,
    }


async def start(person: Person, tasks: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Have a plan carried out."""
    body = {"title": "a plan", "tasks": tasks, **more}
    found: dict[str, Any] = await person.call("POST", "/v1/my/plans", 202, json=body)
    return found


async def look(person: Person, plan: dict[str, Any]) -> dict[str, Any]:
    """Return a plan's graph as it is now."""
    found: dict[str, Any] = await person.call("GET", f"/v1/my/plans/{plan['plan_id']}")
    return found


async def until(person: Person, plan: dict[str, Any], status: str | None = None, seconds: float = 30) -> dict[str, Any]:
    """Wait until a plan has ended, or has a status."""
    deadline = time.monotonic() + seconds
    while True:
        graph = await look(person, plan)
        if graph["status"] == status or (status is None and graph["status"] in ENDED):
            return graph
        assert time.monotonic() < deadline, {one["id"]: one["status"] for one in graph["nodes"]} | {
            "plan": graph["status"]
        }
        await asyncio.sleep(0.02)


async def until_task(
    person: Person, plan: dict[str, Any], task_id: str, status: str, seconds: float = 20
) -> dict[str, Any]:
    """Wait until a task of a plan has a status."""
    deadline = time.monotonic() + seconds
    while True:
        graph = await look(person, plan)
        if nodes(graph)[task_id]["status"] == status:
            return graph
        assert time.monotonic() < deadline, {one["id"]: one["status"] for one in graph["nodes"]}
        await asyncio.sleep(0.02)


def nodes(graph: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a graph's tasks by their full ids."""
    return {one["id"]: one for one in graph["nodes"]}


async def events(person: Person, plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Return everything that happened in a plan."""
    page = await person.call("GET", f"/v1/my/plans/{plan['plan_id']}/events?limit=200")
    found: list[dict[str, Any]] = page["items"]
    return found
