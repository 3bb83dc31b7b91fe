"""Five hundred turns at once on a model that takes a second."""

from __future__ import annotations

from bench.harness import MEBIBYTE, Bench, Watched, median, watched
from bench.load.turns import Seat, TurnOrder
from bench.rows import Goal, Group, Measured, Results, fixed, times
from bench.servers import Server
from bench.watching import peak_memory

_PEOPLE = 20
_TEXT = "Hello, take your time."


async def _once(server: Server, order: TurnOrder) -> tuple[Watched, int]:
    """Run the crowd once; return the result and the server's peak memory, its database left out."""
    database = server.database_pid()
    without = () if database is None else (database,)
    async with peak_memory(server.pid, without=without) as peak:
        found = await watched(server, "bench.load.turns", order)
    return found, peak.bytes


async def _measure(bench: Bench) -> Results:
    turns = 100 if bench.quick else 500
    floor, product = await bench.floor(), await bench.product()
    people = await (await bench.people()).get(_PEOPLE)
    sides = {
        "floor": (floor, [Seat(agent="stub-1s") for _ in range(turns)]),
        "product": (product, [people[n % _PEOPLE].seat("slow", shared=True) for n in range(turns)]),
    }
    seconds: dict[str, list[float]] = {"floor": [], "product": []}
    peaks: dict[str, int] = {"floor": 0, "product": 0}
    failures: dict[str, list[str]] = {"floor": [], "product": []}
    for _ in range(1 if bench.quick else 2):
        for side, (server, seats) in sides.items():
            order = TurnOrder(
                side="floor" if side == "floor" else "product",
                port=server.port,
                seats=seats,
                turns=1,
                warm=0,
                text=_TEXT,
                timeout=120,
            )
            found, peak = await _once(server, order)
            seconds[side].append(found.result["seconds"])
            failures[side] += found.result["failures"]
            peaks[side] = max(peaks[side], peak)
    failed = failures["product"]
    note = f"{turns} turns; {failed[0][:120]}" if failed else f"{turns} turns"
    return {
        "500 turns at once, 1 s model": Measured(median(seconds["product"]), median(seconds["floor"]), note),
        "500 turns at once, failures": Measured(len(failed), len(failures["floor"]), note),
        "500 turns at once, peak memory of the server": Measured(
            peaks["product"] / MEBIBYTE, peaks["floor"] / MEBIBYTE, note
        ),
    }


GROUP = Group(
    "crowd",
    (
        Goal("500 turns at once, 1 s model", "s", times(1.2), "1.2x the floor"),
        Goal("500 turns at once, failures", "", fixed(0), "none", needs_floor=False),
        Goal("500 turns at once, peak memory of the server", "MiB", fixed(200), "200 MiB", needs_floor=False),
    ),
    _measure,
)
