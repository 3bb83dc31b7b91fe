"""A thousand runs that wait for an approval: what they cost, and how soon they finish once approved."""

from __future__ import annotations

from bench.harness import Bench, idle
from bench.load.waiting import WaitingOrder
from bench.loading import Load, run_load
from bench.people import People
from bench.rows import Goal, Group, Measured, Results, fixed
from bench.servers import Server, product_server

_PEOPLE = 20


async def _wait_and_approve(bench: Bench, server: Server) -> Results:
    people = People(server.port)
    try:
        persons = await people.get(_PEOPLE)
    finally:
        await people.close()
    runs, seconds = (100, 5.0) if bench.quick else (1000, 10.0)
    seats = [person.seat("writer") for person in persons]
    # The first runs load code and fill caches and pools: that is not the cost of waiting.
    warm = WaitingOrder(port=server.port, seats=seats, runs=5)
    await run_load("bench.load.waiting", warm)
    share, memory = await idle(server, seconds)
    order = WaitingOrder(port=server.port, seats=seats, runs=runs // _PEOPLE)
    load = await Load.start("bench.load.waiting", order)
    try:
        await load.ready()
        waiting_share, waiting_memory = await idle(server, seconds)
        result = await load.go()
    finally:
        await load.stop()
    note = f"{runs} runs of {_PEOPLE} users; idle {memory:.0f} MiB and {share:.2f}% of a core"
    return {
        "1,000 runs waiting, memory beyond idle": Measured(waiting_memory - memory, note=note),
        "1,000 runs waiting, CPU beyond idle": Measured(waiting_share - share, note=note),
        "1,000 runs waiting, slowest from approval to end": Measured(max(result["waits"]), note=note),
    }


async def _measure(bench: Bench) -> Results:
    server = product_server(bench.scratch("approvals"), bench.stub.environment())
    try:
        await server.start()
        return await _wait_and_approve(bench, server)
    finally:
        await server.stop()


GROUP = Group(
    "approvals",
    (
        Goal("1,000 runs waiting, memory beyond idle", "MiB", fixed(20), "20 MiB", needs_floor=False),
        Goal("1,000 runs waiting, CPU beyond idle", "%", fixed(1), "1% of a core", needs_floor=False),
        Goal("1,000 runs waiting, slowest from approval to end", "s", fixed(15), "15 s", needs_floor=False),
    ),
    _measure,
)
