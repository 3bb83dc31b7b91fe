"""Turns: latency, rate, processor time, first delta, lag of a delta; plain and with one tool call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bench.harness import Bench, Watched, median, percentile, watched
from bench.load.turns import Seat, TurnOrder
from bench.rows import Goal, Group, Measured, Results, times
from bench.servers import Server

Side = Literal["floor", "product"]

_HELLO = "Hello, what can you do for me today?"
# What a turn of the stamped agents takes: 20 deltas, 50 ms apart.
_TURN_SECONDS = 1.0
_WITH_TOOL = "What time is it now?\n!tool clock {}"
# What the floor's agents are called: the model, and `+clock` for one with a tool.
_FLOOR_AGENTS = {"plain": "stub-0ms", "tool": "stub-0ms+clock", "stamped": "stub-0ms-20x50ms-stamp"}


@dataclass(slots=True)
class Tally:
    """What the rounds of one side gave."""

    latencies: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    client: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, found: Watched) -> None:
        """Take in one round. Raises ValueError when no turn succeeded."""
        result = found.result
        self.failures += result["failures"]
        if not result["turns"]:
            raise ValueError(f"no turn succeeded: {self.failures[:1]}")
        self.latencies += result["latencies"]
        self.firsts += result["firsts"]
        self.lags += result["lags"]
        self.rates.append(result["turns"] / result["seconds"])
        self.cpu.append(found.cpu * 1000 / result["turns"])
        self.client.append(result["client_cpu"] / result["seconds"])

    def note(self) -> str:
        """Say how many turns failed, and that the client was not what was measured."""
        failed = f"{len(self.failures)} turns failed ({self.failures[0][:120]}); " if self.failures else ""
        return f"{failed}client used {max(self.client):.0%} of a core"


async def alternate(bench: Bench, kind: str, clients: int, turns: int, text: str) -> tuple[Tally, Tally]:
    """Measure floor and product in turns; return (floor, product)."""
    floor, product = await bench.floor(), await bench.product()
    people = await (await bench.people()).get(clients)
    seats: dict[Side, list[Seat]] = {
        "floor": [Seat(agent=_FLOOR_AGENTS[kind]) for _ in range(clients)],
        "product": [person.seat(kind) for person in people],
    }
    tallies: dict[Side, Tally] = {"floor": Tally(), "product": Tally()}
    sides: list[tuple[Side, Server]] = [("floor", floor), ("product", product)]
    for _ in range(bench.rounds):
        for side, server in sides:
            order = TurnOrder(
                side=side,
                port=server.port,
                seats=seats[side],
                turns=turns,
                text=text,
                stamped=kind == "stamped",
                # Streams that all begin at once measure the beginning, not the lag of a delta.
                stagger=_TURN_SECONDS / clients if kind == "stamped" else 0.0,
            )
            tallies[side].add(await watched(server, "bench.load.turns", order))
    return tallies["floor"], tallies["product"]


def _compared(floor: Tally, product: Tally, value: str) -> Measured:
    """Return the median of a field of both sides."""
    return Measured(median(getattr(product, value)), median(getattr(floor, value)), product.note())


async def _direct(bench: Bench) -> Results:
    share = 3 if bench.quick else 1
    floor1, product1 = await alternate(bench, "plain", 1, 120 // share, _HELLO)
    floor16, product16 = await alternate(bench, "plain", 16, 40 // share, _HELLO)
    floor64, product64 = await alternate(bench, "plain", 64, 15 // share, _HELLO)
    return {
        "turn, 1 client, p50": _compared(floor1, product1, "latencies"),
        "turns a second, 16 clients": _compared(floor16, product16, "rates"),
        "turns a second, 64 clients": _compared(floor64, product64, "rates"),
        "CPU a turn, server and database": _compared(floor16, product16, "cpu"),
        "first delta, 1 client, p50": _compared(floor1, product1, "firsts"),
        "first delta, 16 clients, p50": _compared(floor16, product16, "firsts"),
    }


async def _tool(bench: Bench) -> Results:
    share = 3 if bench.quick else 1
    floor1, product1 = await alternate(bench, "tool", 1, 60 // share, _WITH_TOOL)
    floor16, product16 = await alternate(bench, "tool", 16, 20 // share, _WITH_TOOL)
    return {
        "turn with a tool, 1 client, p50": _compared(floor1, product1, "latencies"),
        "turns with a tool a second, 16 clients": _compared(floor16, product16, "rates"),
    }


async def _deltas(bench: Bench) -> Results:
    floor, product = await alternate(bench, "stamped", 16, 2 if bench.quick else 4, _HELLO)
    lag = Measured(percentile(product.lags, 95), percentile(floor.lags, 95), product.note())
    return {"lag of a delta, 16 streams of 20 a second, p95": lag}


DIRECT = Group(
    "turns",
    (
        Goal("turn, 1 client, p50", "ms", times(1.7), "1.7x the floor"),
        Goal("turns a second, 16 clients", "1/s", times(0.7), "0.7x the floor", higher=True),
        Goal("turns a second, 64 clients", "1/s", times(0.65), "0.65x the floor", higher=True),
        Goal("CPU a turn, server and database", "ms", times(12 / 7.7), "12 / 7.7 of the floor"),
        Goal("first delta, 1 client, p50", "ms", times(13 / 10.6), "13 / 10.6 of the floor"),
        Goal("first delta, 16 clients, p50", "ms", times(95 / 89), "95 / 89 of the floor"),
    ),
    _direct,
)
TOOL = Group(
    "tools",
    (
        Goal("turn with a tool, 1 client, p50", "ms", times(1.75), "1.75x the floor"),
        Goal("turns with a tool a second, 16 clients", "1/s", times(0.75), "0.75x the floor", higher=True),
    ),
    _tool,
)
DELTAS = Group(
    "deltas",
    (Goal("lag of a delta, 16 streams of 20 a second, p95", "ms", times(5 / 3.4), "5 / 3.4 of the floor"),),
    _deltas,
)
