"""Clients that make turns: `python -m bench.load.turns`.

A seat is one client. It sends a message, follows the answer as it is streamed, and sends the next one when the turn
has ended. The floor streams its answer in the response; the product answers 202 and streams on the user's stream.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import msgspec
import orjson

from bench.load.program import Program
from bench.wire import Connection, ConnectionLost, Events

_OPEN_AT_ONCE = 16


class Seat(msgspec.Struct, frozen=True):
    """One client: the product's token, and the agent it talks to (for the floor: the model, and whether with a tool).

    `shared` says that other seats use the same user, so that the stream has to be limited to the seat's session.
    """

    agent: str
    token: str = ""
    shared: bool = False


class TurnOrder(msgspec.Struct, frozen=True, kw_only=True):
    """`turns` messages from each seat after `warm` unmeasured ones; a turn fails after `timeout` seconds.

    `stamped` says that the model's deltas are their times of sending. Seat n starts `stagger` times n seconds late.

    A turn in a session that is not new sends its history to the model, which is the model client's cost on both sides;
    so there is one turn a session unless the order says otherwise.
    """

    side: Literal["floor", "product"]
    port: int
    seats: list[Seat]
    turns: int
    text: str
    warm: int = 1
    stamped: bool = False
    stagger: float = 0.0
    turns_a_session: int = 1
    timeout: float = 60.0


class Client(ABC):
    """What a seat does on one side; notes the times of the turn under way."""

    def __init__(self, order: TurnOrder, seat: Seat) -> None:
        self.order = order
        self.seat = seat
        self.first: float | None = None
        self.lags: list[float] = []

    @abstractmethod
    async def open(self, sessions: int) -> None:
        """Connect, and make ready for turns in that many sessions."""

    @abstractmethod
    async def turn(self, session: int) -> bool:
        """Make one turn in the n-th session; return whether it succeeded."""

    def begin(self) -> None:
        """Forget the first delta of the turn before."""
        self.first = None

    def delta(self, text: str) -> None:
        """Note a delta; a stamped one tells how long it was under way."""
        now = time.monotonic_ns()
        if self.first is None:
            self.first = time.monotonic()
        if self.order.stamped:
            self.lags += [(now - int(stamp)) / 1e6 for stamp in text.split()]


class FloorClient(Client):
    """POST /chat answers with the stream of the turn."""

    async def open(self, sessions: int) -> None:
        self._ended = b""
        self._events = Events(self._on_event)
        self._sessions = [str(uuid.uuid4()) for _ in range(sessions)]
        self._connection = await Connection.open(self.order.port, self._events.feed)

    def _on_event(self, name: bytes, data: bytes) -> None:
        if name == b"delta":
            self.delta(orjson.loads(data)["text"])
        else:
            self._ended = name

    async def turn(self, session: int) -> bool:
        body = {"session": self._sessions[session], "agent": self.seat.agent, "content": self.order.text}
        if self._connection.is_stale():
            self._connection.close()
            self._connection = await Connection.open(self.order.port, self._events.feed)
        status, _ = await self._connection.request("POST", "/chat", orjson.dumps(body))
        ended, self._ended = self._ended, b""
        return status == 200 and ended == b"done"


class ProductClient(Client):
    """POST .../messages answers 202; what happens comes on the stream of events."""

    async def open(self, sessions: int) -> None:
        self._headers = {"authorization": f"Bearer {self.seat.token}"}
        self._ends: dict[str, bool] = {}
        self._changed = asyncio.Event()
        self._connection = await Connection.open(self.order.port)
        self._sessions = [await self._make_session() for _ in range(sessions)]
        if not self.seat.shared:
            await self._follow("/v1/my/events/stream")
        else:
            for session in self._sessions:
                await self._follow(f"/v1/my/events/stream?session={session}")

    async def _make_session(self) -> str:
        status, body = await self._connection.request("POST", "/v1/my/chat", b"{}", self._headers)
        if status != 201:
            raise RuntimeError(f"POST /v1/my/chat answered {status}: {body[:300]!r}")
        session: str = orjson.loads(body)["session_id"]
        return session

    async def _follow(self, path: str) -> None:
        stream = await Connection.open(self.order.port, Events(self._on_event).feed)
        status = await stream.start(path, self._headers)
        if status != 200:
            raise RuntimeError(f"GET {path} answered {status}")

    def _on_event(self, name: bytes, data: bytes) -> None:
        if name == b"message_delta":
            self.delta(orjson.loads(data)["payload"]["text"])
        elif name in {b"run_completed", b"run_failed"}:
            self._ends[orjson.loads(data)["run_id"]] = name == b"run_completed"
            self._changed.set()

    async def turn(self, session: int) -> bool:
        body = {"content": self.order.text, "target_agent": self.seat.agent}
        path = f"/v1/my/chat/{self._sessions[session]}/messages"
        if self._connection.is_stale():
            self._connection.close()
            self._connection = await Connection.open(self.order.port)
        status, answer = await self._connection.request("POST", path, orjson.dumps(body), self._headers)
        if status != 202:
            raise ConnectionLost(f"{path} answered {status}: {answer[:300]!r}")
        run = orjson.loads(answer)["run_id"]
        while run not in self._ends:
            self._changed.clear()
            await self._changed.wait()
        return self._ends.pop(run)


class Turns(Program[TurnOrder]):
    """All seats at once; the result has latencies, first deltas and lags in milliseconds."""

    order_type: ClassVar[type[msgspec.Struct]] = TurnOrder

    async def prepare(self) -> None:
        kind = FloorClient if self.order.side == "floor" else ProductClient
        self._latencies: list[float] = []
        self._firsts: list[float] = []
        self._failures: list[str] = []
        self._clients = [kind(self.order, seat) for seat in self.order.seats]
        # The warm-up has a session of its own, the first.
        self._first = 1 if self.order.warm else 0
        sessions = -(-self.order.turns // self.order.turns_a_session) + self._first
        free = asyncio.Semaphore(_OPEN_AT_ONCE)
        await asyncio.gather(*(self._open(client, sessions, free) for client in self._clients))
        if self.order.warm:
            await asyncio.gather(*(self._warm(client) for client in self._clients))
            if self._failures:
                raise RuntimeError(f"a warm-up turn failed: {self._failures[0]}")
        for client in self._clients:
            client.lags.clear()

    @staticmethod
    async def _open(client: Client, sessions: int, free: asyncio.Semaphore) -> None:
        async with free:
            await client.open(sessions)

    async def _warm(self, client: Client) -> None:
        for _ in range(self.order.warm):
            await self._one(client, 0)
        self._latencies.clear()
        self._firsts.clear()

    async def work(self) -> dict[str, Any]:
        await asyncio.gather(*(self._seat(number, client) for number, client in enumerate(self._clients)))
        return {
            "turns": len(self._latencies),
            "latencies": self._latencies,
            "firsts": self._firsts,
            "lags": [lag for client in self._clients for lag in client.lags],
            "failures": self._failures,
        }

    async def _seat(self, place: int, client: Client) -> None:
        await asyncio.sleep(place * self.order.stagger)
        for number in range(self.order.turns):
            await self._one(client, self._first + number // self.order.turns_a_session)

    async def _one(self, client: Client, session: int) -> None:
        client.begin()
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.order.timeout):
                succeeded = await client.turn(session)
        except (TimeoutError, ConnectionLost) as error:
            self._failures.append(f"{type(error).__name__} {error}".strip())
            return
        if not succeeded:
            self._failures.append("the turn ended as failed")
            return
        self._latencies.append((time.monotonic() - started) * 1000)
        if client.first is not None:
            self._firsts.append((client.first - started) * 1000)


if __name__ == "__main__":
    Turns.main()
