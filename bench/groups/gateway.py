"""What the model gateway adds to a model call: the same call to the same stub, directly and through a line."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from bench.harness import Bench, median, percentile
from bench.loading import Load
from bench.product.gateway import GatewayOrder
from bench.rows import Goal, Group, Measured, Results, plus
from bench.wire import Connection
from retinue.database import EmbeddedPostgres, migrate

_WARM = 20
_PAUSE = 0.01  # seconds between two pairs of calls
_BODY = b'{"model":"stub-0ms","stream":%s,"messages":[{"role":"user","content":"Say hello to the gateway."}]}'
_HEADERS = {"authorization": "Bearer sk-stub-0123456789"}


async def _timed(connection: Connection, body: bytes) -> float:
    """Make a call; return how long it took to its last byte, in milliseconds."""
    started = time.perf_counter()
    status, answer = await connection.request("POST", "/v1/chat/completions", body, _HEADERS)
    taken = (time.perf_counter() - started) * 1000
    assert status == 200, answer[:200]
    return taken


async def _pairs(port: int, socket: Path, calls: int, *, stream: bool) -> tuple[list[float], list[float]]:
    """Return the times of direct calls and of those through the gateway, made in turns."""
    body = _BODY % (b"true" if stream else b"false")
    direct, through = await Connection.open(port), await Connection.open_unix(str(socket))
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(calls + _WARM):
        # A program does something with an answer before it asks again; meanwhile the gateway writes down what it used.
        await asyncio.sleep(_PAUSE)
        for times, connection in zip(found, (direct, through), strict=True):
            times.append(await _timed(connection, body))
    return found[0][_WARM:], found[1][_WARM:]


async def _line(bench: Bench, postgres: EmbeddedPostgres, folder: Path, *, budget: bool) -> dict[str, Measured]:
    socket = folder / f"line-{int(budget)}.sock"
    order = GatewayOrder(
        dsn=postgres.dsn(),
        data=str(folder),
        stub=f"http://127.0.0.1:{bench.stub.port}/v1",
        socket=str(socket),
        budget=budget,
    )
    calls = 100 if bench.quick else 400
    load = await Load.start("bench.product.gateway", order)
    found = {}
    try:
        await load.ready()
        for stream in (False, True):
            direct, through = await _pairs(bench.stub.port, socket, calls, stream=stream)
            name = f"model call through the gateway, {'streamed' if stream else 'whole'}"
            name += ", a budget in force, p50" if budget else ", p50"
            note = (
                f"{calls} calls each, in turns; p95 {percentile(direct, 95):.2f} and {percentile(through, 95):.2f} ms"
            )
            found[name] = Measured(median(through), median(direct), note)
    finally:
        await load.stop()
    return found


async def _measure(bench: Bench) -> Results:
    folder = bench.scratch("gateway")
    postgres = EmbeddedPostgres(folder / "postgres")
    await postgres.start()
    try:
        await migrate(postgres.dsn("retinue_owner"))
        found = await _line(bench, postgres, folder, budget=False)
        return found | await _line(bench, postgres, folder, budget=True)
    finally:
        await postgres.stop()


_SAYS = "a direct call + 3 ms"

GROUP = Group(
    "gateway",
    (
        Goal("model call through the gateway, whole, p50", "ms", plus(3), _SAYS),
        Goal("model call through the gateway, streamed, p50", "ms", plus(3), _SAYS),
        Goal("model call through the gateway, whole, a budget in force, p50", "ms", plus(3), _SAYS),
        Goal("model call through the gateway, streamed, a budget in force, p50", "ms", plus(3), _SAYS),
    ),
    _measure,
)
