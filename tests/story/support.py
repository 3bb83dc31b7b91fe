"""What the stories share: a started server, the model server behind it, and ways to look at both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from tests.support.model_server import ModelServer, Recorded
from tests.support.running import Person, RunningServer

T = TypeVar("T")

OPEN = {"waiting", "streaming"}


@dataclass
class Story:
    """A started server, the model server its agents ask, and the file in which the test plugin's effects show."""

    server: RunningServer
    model: ModelServer
    effects: Path

    def asked(self, text: str) -> list[Recorded]:
        """Return the model requests whose newest user text contains ``text``, oldest first."""
        return [one for one in self.model.requests if text in one.user]

    def open(self, text: str) -> list[Recorded]:
        """Return those of them that have no answer yet."""
        return [one for one in self.asked(text) if one.state in OPEN]


async def until(look: Callable[[], Awaitable[T]], good: Callable[[T], bool], seconds: float = 20) -> T:
    """Look again and again until what is seen is good; return it."""
    deadline = time.monotonic() + seconds
    while not good(found := await look()):
        assert time.monotonic() < deadline, f"not so after {seconds} s: {found!r}"
        await asyncio.sleep(0.02)
    return found


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """Return the types of a run's events, in order."""
    return [event["type"] for event in events]


async def messages(person: Person, session: str) -> list[dict[str, Any]]:
    """Return the messages of a conversation in order."""
    page = await person.call("GET", f"/v1/my/chat/{session}/messages?limit=200")
    found: list[dict[str, Any]] = page["items"]
    return found


async def steps(person: Person, run_id: str) -> list[dict[str, Any]]:
    """Return the journalled steps of a run."""
    found: list[dict[str, Any]] = (await person.call("GET", f"/v1/my/runs/{run_id}/steps"))["items"]
    return found


async def look_at(person: Person, agent: dict[str, Any]) -> dict[str, Any]:
    """Return an agent as it is now."""
    found: dict[str, Any] = await person.call("GET", f"/v1/my/agents/{agent['agent_id']}")
    return found


# What must be true of every server at every moment

_LANES = """
    SELECT l.agent_id, l.running, l.queued, count(r.run_id) FILTER (WHERE r.has_slot) AS with_slot,
           count(r.run_id) FILTER (WHERE r.status = 'queued' AND NOT r.has_slot) AS in_line
    FROM lanes l LEFT JOIN runs r ON r.tenant_id = l.tenant_id AND r.agent_id = l.agent_id
    GROUP BY l.tenant_id, l.agent_id, l.running, l.queued
    HAVING l.running <> count(r.run_id) FILTER (WHERE r.has_slot)
        OR l.queued <> count(r.run_id) FILTER (WHERE r.status = 'queued' AND NOT r.has_slot)"""
_SLOTS = """
    SELECT run_id, status, has_slot FROM runs
    WHERE (has_slot AND status NOT IN ('queued', 'running')) OR (status = 'running' AND NOT has_slot)"""
_SESSIONS = """
    SELECT session_id, count(*) FROM runs WHERE status IN ('running', 'waiting') AND parent_id IS NULL
    GROUP BY tenant_id, session_id HAVING count(*) > 1"""
_POSITIONS = """
    SELECT h.tenant_id, h.position, count(e.position), min(e.position), max(e.position)
    FROM heads h JOIN events e ON e.tenant_id = h.tenant_id GROUP BY h.tenant_id, h.position
    HAVING count(e.position) <> h.position OR min(e.position) <> 1 OR max(e.position) <> h.position"""
_VERSIONS = """
    SELECT stream, count(*), max(version) FROM events
    GROUP BY tenant_id, stream HAVING count(*) <> max(version) OR min(version) <> 1"""

TRUTHS = {
    "a lane's counters are not the number of its runs": _LANES,
    "a run has a slot and should not, or the other way round": _SLOTS,
    "two runs write in one session": _SESSIONS,
    "a tenant's positions have a gap": _POSITIONS,
    "a stream's versions have a gap": _VERSIONS,
}


async def untruths(server: RunningServer) -> list[str]:
    """Look at a server's tables, each question in one snapshot, and return what should never be so."""
    assert server.cluster is not None
    assert server.database is not None
    connection = await asyncpg.connect(server.cluster.dsn(server.database, "postgres"))
    try:
        found = [(name, await connection.fetch(query)) for name, query in TRUTHS.items()]
    finally:
        await connection.close()
    return [f"{name}: {dict(row)}" for name, rows in found for row in rows]


async def differences(person: Person) -> list[str]:
    """Compare each of a person's newest runs, as lists show it, with the fold of its stream as of that version."""
    page = await person.call("GET", "/v1/my/runs?limit=200")
    found: list[str] = []
    for shown in page["items"]:
        folded = await person.call("GET", f"/v1/my/runs/{shown['run_id']}?at={shown['version']}")
        found += [
            f"{name} of {shown['run_id']}: shown {shown[name]!r}, folded {folded[name]!r}"
            for name in shown
            if shown[name] != folded[name]
        ]
    return found
