"""Users and agents of the product under measurement, made through its API. Their cost is set-up and not measured."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx

from bench.load.turns import Seat

_SIGN_UPS_AT_ONCE = 4
_LIMITS = {"concurrency": 100, "queue": 1000}

# What the agents of the bench are: the model decides how the stub answers.
AGENTS: dict[str, dict[str, Any]] = {
    "plain": {"model": "openai:stub-0ms"},
    "tool": {"model": "openai:stub-0ms", "tools": ["clock"]},
    "slow": {"model": "openai:stub-1s"},
    "steady": {"model": "openai:stub-200ms"},
    "stamped": {"model": "openai:stub-0ms-20x50ms-stamp"},
    "writer": {"model": "openai:stub-0ms", "tools": ["files"], "limits": {**_LIMITS, "approval_seconds": 3600}},
}


@dataclass(frozen=True, slots=True)
class Person:
    """A user with a token and agents by kind."""

    token: str
    agents: dict[str, str]

    def headers(self) -> dict[str, str]:
        """Return the headers of a request by this user."""
        return {"Authorization": f"Bearer {self.token}"}

    def seat(self, kind: str, *, shared: bool = False) -> Seat:
        """Return a seat of a load program that talks to an agent of this user."""
        return Seat(agent=self.agents[kind], token=self.token, shared=shared)


class People:
    """Signs users up as they are asked for, and keeps them for later rows."""

    def __init__(self, port: int) -> None:
        self._client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)
        self._people: list[Person] = []

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def get(self, count: int) -> list[Person]:
        """Return that many users, each with one agent of every kind."""
        while len(self._people) < count:
            first = len(self._people)
            numbers = range(first, min(first + _SIGN_UPS_AT_ONCE, count))
            self._people += await asyncio.gather(*(self._sign_up(number) for number in numbers))
        return self._people[:count]

    async def _sign_up(self, number: int) -> Person:
        body = {"email": f"person{number}@example.org", "password": f"correct horse battery {number}"}
        token = (await self.call("POST", "/v1/auth/sign-up", json=body))["access_token"]
        agents = {}
        for kind, definition in AGENTS.items():
            agent = {"name": kind, "instructions": "You are a helpful assistant.", "limits": _LIMITS, **definition}
            agents[kind] = (await self.call("POST", "/v1/my/agents", token=token, json=agent))["agent_id"]
        return Person(token, agents)

    async def call(self, method: str, path: str, *, token: str = "", json: Any = None) -> Any:
        """Make a request and return the JSON of its answer. Raises RuntimeError for an error status."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        response = await self._client.request(method, path, json=json, headers=headers)
        if response.is_error:
            raise RuntimeError(f"{method} {path} answered {response.status_code}: {response.text[:300]}")
        return response.json() if response.content else None
