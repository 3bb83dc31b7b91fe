"""Clients that make and change work items at a steady rate: `python -m bench.load.board`.

Operations are due at fixed times, whether or not the ones before have been answered: a server that falls behind is
seen as latency, not as a lower rate.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar

import msgspec
import orjson

from bench.load.program import Program
from bench.wire import Connection


class BoardOrder(msgspec.Struct, frozen=True, kw_only=True):
    """For ``seconds``: ``creates`` and ``updates`` a second, over ``connections``, as the users of ``tokens``.

    ``items`` are those that are changed, each with the number of the token that may; a ``tenant`` is named in a header.
    """

    port: int
    tokens: list[str]
    tenant: str
    items: list[str]
    creates: float
    updates: float
    seconds: float
    connections: int = 32


class BoardLoad(Program[BoardOrder]):
    """Sends operations when they are due and notes how long after that they were answered, in milliseconds."""

    order_type: ClassVar[type[msgspec.Struct]] = BoardOrder

    async def prepare(self) -> None:
        """Connect and say hello once on each connection."""
        self._idle: asyncio.Queue[Connection] = asyncio.Queue()
        self._creates: list[float] = []
        self._updates: list[float] = []
        self._failures: list[str] = []
        for number in range(self.order.connections):
            connection = await Connection.open(self.order.port)
            status, body = await connection.request("GET", "/v1/board/items?limit=1", b"", self._headers(number))
            if status != 200:
                raise RuntimeError(f"the list answered {status}: {body[:300]!r}")
            self._idle.put_nowait(connection)

    def _headers(self, number: int) -> dict[str, str]:
        token = self.order.tokens[number % len(self.order.tokens)]
        return {"authorization": f"Bearer {token}", "retinue-tenant": self.order.tenant}

    async def work(self) -> dict[str, Any]:
        """Send everything and wait for the answers."""
        order = self.order
        async with asyncio.TaskGroup() as group:
            if order.creates:
                group.create_task(self._steadily(order.creates, self._create, self._creates))
            if order.updates:
                group.create_task(self._steadily(order.updates, self._update, self._updates))
        return {"creates": self._creates, "updates": self._updates, "failures": self._failures}

    async def _steadily(self, rate: float, act: Any, times: list[float]) -> None:
        began, count = time.monotonic(), round(rate * self.order.seconds)
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                due = began + number / rate
                if (wait := due - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                group.create_task(self._timed(act, number, due, times))

    async def _timed(self, act: Any, number: int, due: float, times: list[float]) -> None:
        connection = await self._idle.get()
        try:
            status, body = await act(connection, number)
        finally:
            self._idle.put_nowait(connection)
        if status >= 300:
            self._failures.append(f"{status}: {body[:200]!r}")
        times.append((time.monotonic() - due) * 1000)

    async def _create(self, connection: Connection, number: int) -> tuple[int, bytes]:
        body = orjson.dumps({"title": f"item {number} of the load", "description": "x" * 200, "labels": ["load"]})
        return await connection.request("POST", "/v1/board/items", body, self._headers(number))

    async def _update(self, connection: Connection, number: int) -> tuple[int, bytes]:
        item = self.order.items[number % len(self.order.items)]
        body = orjson.dumps({"title": f"changed {number}", "priority": ("low", "high")[number % 2]})
        return await connection.request("PATCH", f"/v1/board/items/{item}", body, self._headers(number))


if __name__ == "__main__":
    BoardLoad.main()
