"""Start to ready, on an empty folder and on existing data, and what an idle server uses."""

from __future__ import annotations

from pathlib import Path

from bench.harness import Bench, idle, median, watched
from bench.load.turns import TurnOrder
from bench.people import People
from bench.rows import Goal, Group, Measured, Results, fixed
from bench.servers import Server, floor_server, product_server


async def _use(server: Server) -> None:
    """Leave some data behind: a user, agents, a conversation."""
    people = People(server.port)
    try:
        (person,) = await people.get(1)
    finally:
        await people.close()
    order = TurnOrder(side="product", port=server.port, seats=[person.seat("plain")], turns=10, text="Hello there.")
    await watched(server, "bench.load.turns", order)


async def _starts(server: Server, rounds: int, idle_seconds: float, *, use: bool) -> tuple[float, float, float, float]:
    """Return the first start, the median of later ones, idle CPU share, idle memory."""
    later = []
    try:
        first = await server.start()
        if use:
            await _use(server)
        for _ in range(rounds):
            await server.stop()
            later.append(await server.start())
        share, memory = await idle(server, idle_seconds)
    finally:
        await server.stop()
    return first, median(later), share, memory


async def _measure(bench: Bench) -> Results:
    rounds, seconds = bench.rounds, 5.0 if bench.quick else 20.0
    folder: Path = bench.scratch("start")
    floor = floor_server(folder, bench.stub.environment())
    product = product_server(folder, bench.stub.environment())
    floor_first, floor_later, floor_share, floor_memory = await _starts(floor, rounds, seconds, use=False)
    first, later, share, memory = await _starts(product, rounds, seconds, use=True)
    return {
        "start to ready, first": Measured(first, floor_first, "an empty folder: cluster, roles, migrations"),
        "start to ready, existing data": Measured(later, floor_later),
        "idle, share of a core": Measured(share, floor_share, "server and database"),
        "idle, memory of the server": Measured(memory, floor_memory, "resident, without the database"),
    }


GROUP = Group(
    "start",
    (
        Goal("start to ready, existing data", "s", fixed(2.5), "2.5 s", needs_floor=False),
        Goal("start to ready, first", "s", fixed(10), "10 s", needs_floor=False),
        Goal("idle, share of a core", "%", fixed(1), "1% of a core", needs_floor=False),
        Goal("idle, memory of the server", "MiB", fixed(200), "200 MiB", needs_floor=False),
    ),
    _measure,
)
