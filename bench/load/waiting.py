"""Runs that wait for an approval: `python -m bench.load.waiting`.

Set-up starts the runs and waits until each asks. The measured work approves all of them and follows them to their end.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar

import msgspec
import orjson

from bench.load.program import Program
from bench.load.turns import Seat
from bench.wire import Connection, Events

_TEXT = 'Please write the note.\n!tool files_write {"path": "note.txt", "content": "done"}'
# A person does one thing at a time.
_CONNECTIONS = 1


class WaitingOrder(msgspec.Struct, frozen=True, kw_only=True):
    """`runs` runs from each seat; set-up and work may take `timeout` seconds each."""

    port: int
    seats: list[Seat]
    runs: int
    timeout: float = 240.0


class Inbox:
    """One user: starts runs, learns of questions and ends from the stream, approves."""

    def __init__(self, order: WaitingOrder, seat: Seat) -> None:
        self._order = order
        self._seat = seat
        self._headers = {"authorization": f"Bearer {seat.token}"}
        self._questions: dict[str, str] = {}
        self._approved: dict[str, float] = {}
        self._ended: dict[str, float] = {}
        self._failed: list[str] = []
        self._changed = asyncio.Event()
        self._free: asyncio.Queue[Connection] = asyncio.Queue()

    async def open(self) -> None:
        """Connect and follow the user's events."""
        for _ in range(_CONNECTIONS):
            self._free.put_nowait(await Connection.open(self._order.port))
        stream = await Connection.open(self._order.port, Events(self._on_event).feed)
        status = await stream.start("/v1/my/events/stream", self._headers)
        if status != 200:
            raise RuntimeError(f"the stream answered {status}")

    def _on_event(self, name: bytes, data: bytes) -> None:
        if name == b"approval_required":
            event = orjson.loads(data)
            self._questions[event["payload"]["approval_id"]] = event["run_id"]
        elif name in {b"run_completed", b"run_failed"}:
            run = orjson.loads(data)["run_id"]
            self._ended[run] = time.monotonic()
            if name == b"run_failed":
                self._failed.append(run)
        else:
            return
        self._changed.set()

    async def _post(self, path: str, body: dict[str, Any], expected: int) -> Any:
        connection = await self._free.get()
        if connection.is_stale():
            connection.close()
            connection = await Connection.open(self._order.port)
        try:
            status, answer = await connection.request("POST", path, orjson.dumps(body), self._headers)
        finally:
            self._free.put_nowait(connection)
        if status != expected:
            raise RuntimeError(f"POST {path} answered {status}: {answer[:300]!r}")
        return orjson.loads(answer)

    async def _start(self) -> None:
        session = (await self._post("/v1/my/chat", {}, 201))["session_id"]
        message = {"content": _TEXT, "target_agent": self._seat.agent}
        await self._post(f"/v1/my/chat/{session}/messages", message, 202)

    async def ask(self) -> None:
        """Start the runs and wait until every one of them waits."""
        await asyncio.gather(*(self._start() for _ in range(self._order.runs)))
        while len(self._questions) < self._order.runs:
            self._changed.clear()
            await self._changed.wait()

    async def _approve(self, approval: str, run: str) -> None:
        self._approved[run] = time.monotonic()
        await self._post(f"/v1/my/approvals/{approval}/confirm", {"decision": "approve"}, 200)

    async def decide(self) -> list[float]:
        """Approve everything; return for each run the seconds from its approval to its end."""
        await asyncio.gather(*(self._approve(approval, run) for approval, run in self._questions.items()))
        while not self._approved.keys() <= self._ended.keys():
            self._changed.clear()
            await self._changed.wait()
        if self._failed:
            raise RuntimeError(f"{len(self._failed)} runs failed, such as {self._failed[0]}")
        return [self._ended[run] - approved for run, approved in self._approved.items()]


class Waiting(Program[WaitingOrder]):
    """The result has the seconds from approval to end of every run."""

    order_type: ClassVar[type[msgspec.Struct]] = WaitingOrder

    async def prepare(self) -> None:
        self._inboxes = [Inbox(self.order, seat) for seat in self.order.seats]
        for inbox in self._inboxes:
            await inbox.open()
        async with asyncio.timeout(self.order.timeout):
            await asyncio.gather(*(inbox.ask() for inbox in self._inboxes))

    async def work(self) -> dict[str, Any]:
        async with asyncio.timeout(self.order.timeout):
            waits = await asyncio.gather(*(inbox.decide() for inbox in self._inboxes))
        return {"waits": [wait for one in waits for wait in one]}


if __name__ == "__main__":
    Waiting.main()
