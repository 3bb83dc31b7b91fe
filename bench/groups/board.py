"""The board with 10,000 items: lists, search, bulk, CSV, a steady load, and how soon a change is on a stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson

from bench.harness import MEBIBYTE, Bench, memory, percentile
from bench.load.board import BoardOrder
from bench.loading import run_load
from bench.people import People
from bench.rows import Goal, Group, Measured, Results, fixed
from bench.servers import Server, product_server
from bench.wire import Connection, Events

_PEOPLE = 8
_BULK = 1000


@dataclass(slots=True)
class _Board:
    """A tenant with members, and one connection to it."""

    server: Server
    tenant: str
    tokens: list[str]
    connection: Connection

    def headers(self, number: int = 0) -> dict[str, str]:
        return {"authorization": f"Bearer {self.tokens[number]}", "retinue-tenant": self.tenant}

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Make a request and return the JSON of its answer. Raises RuntimeError for an error status."""
        if self.connection.is_stale():
            self.connection.close()
            self.connection = await Connection.open(self.server.port)
        sent = b"" if body is None else orjson.dumps(body)
        status, answer = await self.connection.request(method, path, sent, self.headers())
        if status >= 300:
            raise RuntimeError(f"{method} {path} answered {status}: {answer[:300]!r}")
        return orjson.loads(answer) if answer.startswith((b"{", b"[")) else answer


async def _furnished(server: Server) -> _Board:
    people = People(server.port)
    try:
        persons = await people.get(_PEOPLE)
        tenant = (await people.call("POST", "/v1/tenants", token=persons[0].token, json={"name": "bench"}))["tenant_id"]
        for person in persons[1:]:
            profile = await people.call("GET", "/v1/my/profile", token=person.token)
            body = {"user_id": profile["user_id"], "role": "member"}
            await people.call("PUT", f"/v1/tenants/{tenant}/members", token=persons[0].token, json=body)
    finally:
        await people.close()
    return _Board(server, tenant, [one.token for one in persons], await Connection.open(server.port))


async def _filled(board: _Board, count: int) -> list[str]:
    """Put items on the board; return their ids."""
    ids: list[str] = []
    for start in range(0, count, _BULK):
        operations = [
            {
                "op": "create",
                "fields": {
                    "title": f"Item {n}: {'deploy' if n % 100 == 0 else 'prepare'} the release",
                    "description": f"Somebody has to look at part {n} before it goes out. " * 4,
                    "state": ("open", "in_progress", "review", "done")[n % 4],
                    "priority": ("low", "normal", "high", "urgent")[n % 4],
                    "labels": [f"label{n % 20}", f"area{n % 7}"],
                },
            }
            for n in range(start, min(start + _BULK, count))
        ]
        made = await board.ask("POST", "/v1/board/items/bulk", {"operations": operations})
        ids += [one["item_id"] for one in made["items"]]
    return ids


async def _timed(times: int, act: Callable[[int], Awaitable[object]]) -> list[float]:
    """Return how long each of some acts took, in milliseconds; two before them are not counted."""
    found: list[float] = []
    for n in range(times + 2):
        began = time.monotonic()
        await act(n)
        found.append((time.monotonic() - began) * 1000)
    return found[2:]


_LISTS = (
    "/v1/board/items",
    "/v1/board/items?state=review",
    "/v1/board/items?label=label7&label=area0",
    "/v1/board/items?priority=urgent&state=done",
    "/v1/board/items?assignee=me",
)


async def _lists(board: _Board, times: int) -> Results:
    async def look(n: int) -> None:
        await board.ask("GET", _LISTS[n % len(_LISTS)])

    async def search(n: int) -> None:
        await board.ask("GET", f"/v1/board/items?text=deploy%20{n * 100}")

    return {
        "board: list page of 50 of 10,000, p95": Measured(percentile(await _timed(times, look), 95)),
        "board: full-text search of 10,000, p95": Measured(percentile(await _timed(times, search), 95)),
    }


async def _bulk_change(board: _Board, ids: list[str], rounds: int) -> Results:
    async def change(n: int) -> None:
        operations = [
            {"op": "change", "item_id": one, "fields": {"priority": ("low", "high")[n % 2]}} for one in ids[:_BULK]
        ]
        await board.ask("POST", "/v1/board/items/bulk", {"operations": operations})

    found = await _timed(rounds, change)
    return {"board: bulk change of 1,000": Measured(max(found) / 1000, note=f"slowest of {rounds}")}


async def _csv(board: _Board, count: int, rounds: int) -> Results:
    seconds: list[float] = []
    before = memory(board.server)
    highest = before
    for _ in range(rounds):
        began, size = time.monotonic(), 0

        def take(piece: bytes) -> None:
            nonlocal size, highest
            size += len(piece)
            highest = max(highest, memory(board.server))

        connection = await Connection.open(board.server.port, take)
        status, _ = await connection.request("GET", "/v1/board/export", b"", board.headers())
        connection.close()
        if status != 200 or size < count * 100:
            raise RuntimeError(f"the export answered {status} with {size} bytes")
        seconds.append(time.monotonic() - began)
    note = f"{count} items, {size / MEBIBYTE:.1f} MiB, slowest of {rounds}"
    return {
        "board: CSV of 10,000": Measured(max(seconds), note=note),
        "board: memory while CSV is written": Measured((highest - before) / MEBIBYTE, note=note),
    }


async def _load(board: _Board, ids: list[str], seconds: float) -> Results:
    order = BoardOrder(
        port=board.server.port,
        tokens=board.tokens,
        tenant=board.tenant,
        items=ids,
        creates=100,
        updates=500,
        seconds=seconds,
    )
    result = await run_load("bench.load.board", order)
    client = result["client_cpu"] / result["seconds"]
    rate = (len(result["creates"]) + len(result["updates"])) / result["seconds"]
    note = f"{rate:.0f}/s over {seconds:g} s, {len(result['failures'])} failed; client used {client:.0%} of a core"
    if result["failures"]:
        note += f" ({result['failures'][0][:100]})"
    return {
        "board: operations answered, of 600/s sent": Measured(rate, note=note),
        "board: creates at 100/s, p95": Measured(percentile(result["creates"], 95), note=note),
        "board: updates at 500/s, p95": Measured(percentile(result["updates"], 95), note=note),
        "board: failed operations of the load": Measured(float(len(result["failures"])), note=note),
    }


async def _seen(board: _Board, ids: list[str], times: int) -> Results:
    """Change items as one member, and see them on the stream of another."""
    arrived: dict[str, float] = {}
    came = asyncio.Event()

    def on_event(name: bytes, data: bytes) -> None:
        if name == b"item_changed":
            title = orjson.loads(data)["payload"]["changes"].get("title", {}).get("to", "")
            arrived[title] = time.monotonic()
            came.set()

    stream = await Connection.open(board.server.port, Events(on_event).feed)
    status = await stream.start("/v1/my/events/stream?types=item_changed", board.headers(1))
    if status != 200:
        raise RuntimeError(f"the stream answered {status}")
    lags: list[float] = []
    for n in range(times):
        title, began = f"seen {n}", time.monotonic()
        await board.ask("PATCH", f"/v1/board/items/{ids[n]}", {"title": title})
        async with asyncio.timeout(10):
            while title not in arrived:
                came.clear()
                await came.wait()
        lags.append((arrived[title] - began) * 1000)
    stream.close()
    return {"board: from a change to another's stream, p99": Measured(percentile(lags, 99), note=f"{times} changes")}


async def _measure(bench: Bench) -> Results:
    server = product_server(bench.scratch("board"), bench.stub.environment())
    count, rounds = (2000, 1) if bench.quick else (10_000, 3)
    try:
        await server.start()
        board = await _furnished(server)
        ids = await _filled(board, count)
        results = await _lists(board, 50 if bench.quick else 300)
        results |= await _bulk_change(board, ids, rounds)
        results |= await _csv(board, count, rounds)
        results |= await _seen(board, ids, 50 if bench.quick else 200)
        results |= await _load(board, ids, 5.0 if bench.quick else 30.0)
        return results
    finally:
        await server.stop()


def _goal(name: str, unit: str, limit: float, says: str) -> Goal:
    return Goal(name, unit, fixed(limit), says, needs_floor=False)


GROUP = Group(
    "board",
    (
        _goal("board: list page of 50 of 10,000, p95", "ms", 50, "50 ms"),
        _goal("board: full-text search of 10,000, p95", "ms", 50, "50 ms"),
        _goal("board: bulk change of 1,000", "s", 2, "2 s"),
        _goal("board: CSV of 10,000", "s", 2, "2 s"),
        _goal("board: memory while CSV is written", "MiB", 20, "20 MiB: no more for more items"),
        _goal("board: from a change to another's stream, p99", "ms", 100, "100 ms"),
        Goal("board: operations answered, of 600/s sent", "1/s", fixed(590), "590/s", higher=True, needs_floor=False),
        _goal("board: creates at 100/s, p95", "ms", 500, "500 ms"),
        _goal("board: updates at 500/s, p95", "ms", 500, "500 ms"),
        _goal("board: failed operations of the load", "", 0, "none"),
    ),
    _measure,
)
