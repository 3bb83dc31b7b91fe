"""What the stories share: a started server, the model server behind it, and ways to look at both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

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
