"""Clients that have plans carried out, or make as many direct turns: `python -m bench.load.plans`.

Both follow their user's one stream, and both count as ended when it says so.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar, Literal

import msgspec
import orjson

from bench.load.program import Program
from bench.wire import Connection, ConnectionLost, Events


class Owner(msgspec.Struct, frozen=True):
    """A user of the product, and the agent that does the work."""

    token: str
    agent: str


class PlanOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What is done: `plans` of `layers`, all at once, or turns: `clients` that make `turns` each, one after the other.

    `layers` are the widths of a plan's layers; each task depends on all of the layer before. `warm` of the same are
    done before and not measured; a plan or turn fails after `timeout` seconds.
    """

    port: int
    owners: list[Owner]
    work: Literal["plans", "turns"]
    plans: int = 0
    layers: list[int] = []
    clients: int = 0
    turns: int = 0
    text: str = "Hello, what can you do for me today?"
    warm: int = 1
    timeout: float = 120.0


class Follower:
    """One user: a stream that tells of ends, and connections for requests."""

    def __init__(self, port: int, owner: Owner) -> None:
        self.port = port
        self.owner = owner
        self.headers = {"authorization": f"Bearer {owner.token}"}
        self._ends: dict[str, bool] = {}
        self._waiting: dict[str, asyncio.Event] = {}

    async def open(self) -> None:
        """Follow the stream. Raises RuntimeError when the server refuses."""
        stream = await Connection.open(self.port, Events(self._on_event).feed)
        status = await stream.start("/v1/my/events/stream", self.headers)
        if status != 200:
            raise RuntimeError(f"the stream answered {status}")

    def _on_event(self, name: bytes, data: bytes) -> None:
        if name not in {b"run_completed", b"run_failed"}:
            return
        event = orjson.loads(data)
        ended = event["payload"].get("plan_id") or event["run_id"]
        self._ends[ended] = name == b"run_completed"
        if ended in self._waiting:
            self._waiting[ended].set()

    async def ended(self, subject: str) -> bool:
        """Wait for the end of a run or a plan; return whether it succeeded."""
        if subject not in self._ends:
            self._waiting[subject] = asyncio.Event()
            await self._waiting[subject].wait()
        return self._ends[subject]

    async def post(self, connection: Connection, path: str, body: Any, status: int) -> Any:
        """Make a request; return the JSON of its answer. Raises ConnectionLost."""
        found, answer = await connection.request("POST", path, orjson.dumps(body), self.headers)
        if found != status:
            raise ConnectionLost(f"{path} answered {found}: {answer[:300]!r}")
        return orjson.loads(answer)


class Plans(Program[PlanOrder]):
    """All plans, or all clients, at once; the result has latencies in milliseconds and what failed."""

    order_type: ClassVar[type[msgspec.Struct]] = PlanOrder

    async def prepare(self) -> None:
        self._latencies: list[float] = []
        self._failures: list[str] = []
        self._followers = [Follower(self.order.port, owner) for owner in self.order.owners]
        await asyncio.gather(*(one.open() for one in self._followers))
        seats = self.order.plans if self.order.work == "plans" else self.order.clients
        self._seats = [
            (self._followers[n % len(self._followers)], await Connection.open(self.order.port)) for n in range(seats)
        ]
        sessions = self.order.turns if self.order.work == "turns" else 0
        self._sessions = [
            [(await one.post(link, "/v1/my/chat", {}, 201))["session_id"] for _ in range(sessions)]
            for one, link in self._seats
        ]
        for _ in range(self.order.warm):
            await self._one(*self._seats[0], self._sessions[0][0] if sessions else "")
        if self._failures:
            raise RuntimeError(f"the warm-up failed: {self._failures[0]}")
        self._latencies.clear()
        self._seats = [(one, await self._fresh(link)) for one, link in self._seats]

    async def _fresh(self, link: Connection) -> Connection:
        if not link.is_stale():
            return link
        link.close()
        return await Connection.open(self.order.port)

    async def work(self) -> dict[str, Any]:
        await asyncio.gather(*(self._seat(number) for number in range(len(self._seats))))
        return {"latencies": self._latencies, "failures": self._failures}

    async def _seat(self, number: int) -> None:
        follower, link = self._seats[number]
        for session in self._sessions[number] or [""]:
            link = await self._fresh(link)
            await self._one(follower, link, session)

    async def _one(self, follower: Follower, link: Connection, session: str) -> None:
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.order.timeout):
                succeeded = await follower.ended(await self._start(follower, link, session))
        except (TimeoutError, ConnectionLost) as error:
            self._failures.append(f"{type(error).__name__} {error}".strip())
            return
        if succeeded:
            self._latencies.append((time.monotonic() - started) * 1000)
        else:
            self._failures.append("it ended as failed")

    async def _start(self, follower: Follower, link: Connection, session: str) -> str:
        if self.order.work == "turns":
            body: dict[str, Any] = {"content": self.order.text, "target_agent": follower.owner.agent}
            run: str = (await follower.post(link, f"/v1/my/chat/{session}/messages", body, 202))["run_id"]
            return run
        body = {"title": "a plan", "tasks": self._tasks(follower.owner.agent)}
        plan: str = (await follower.post(link, "/v1/my/plans", body, 202))["plan_id"]
        return plan

    def _tasks(self, agent: str) -> list[dict[str, Any]]:
        tasks: list[dict[str, Any]] = []
        before: list[str] = []
        for layer, width in enumerate(self.order.layers):
            names = [f"t{layer}-{place}" for place in range(width)]
            tasks += [
                {"id": name, "agent": agent, "instructions": self.order.text, "depends_on": before} for name in names
            ]
            before = names
        return tasks


if __name__ == "__main__":
    Plans.main()
