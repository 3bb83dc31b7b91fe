"""A thousand and five thousand streams of server-sent events, ten events a second to each, some of them slow."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from bench.harness import Bench, median, memory, percentile
from bench.load.streams import StreamOrder
from bench.loading import Load
from bench.people import People, Person
from bench.rows import Goal, Group, Measured, Results, fixed, times
from bench.servers import Server, product_server, sse_server
from bench.watching import cpu_seconds

_RATE = 10.0
_KIBIBYTE = 1024
_SLOW_SHARE = 5


@dataclass(frozen=True, slots=True)
class Followed:
    """What one run of the stream clients showed. Memory is that of the server alone, CPU has the database in it."""

    lags: list[float]
    deliveries: int
    cpu: float
    memory: int
    note: str


class Product(NamedTuple):
    """The product's server, with a user who follows."""

    server: Server
    people: People
    person: Person


async def _follow(server: Server, order: StreamOrder) -> Followed:
    before = memory(server)
    load = await Load.start("bench.load.streams", order)
    try:
        await load.ready()
        grown = memory(server) - before
        cpu = cpu_seconds(server.pids())
        result: dict[str, Any] = await load.go()
        cpu = cpu_seconds(server.pids()) - cpu
    finally:
        await load.stop()
    note = f"client used {result['client_cpu'] / result['seconds']:.0%} of a core"
    # An event on its way at either end of the measured time may be missing from some of the streams.
    if result["fewest"] < result["events"] - 2:
        note += f"; LOST: a stream saw {result['fewest']} of {result['events']} events"
    if result["cut"]:
        note += f"; {result['cut']} streams were cut"
    return Followed(result["lags"], result["deliveries"], cpu, grown, note)


@contextlib.asynccontextmanager
async def _events(people: People, person: Person) -> AsyncIterator[None]:
    """Make ten events a second in the user's tenant: an agent is paused and resumed."""
    path, verbs = f"/v1/my/agents/{person.agents['plain']}", ("pause", "resume")

    async def make() -> None:
        loop = asyncio.get_running_loop()
        due, number = loop.time(), 0
        while True:
            due += 1 / _RATE
            await asyncio.sleep(max(0.0, due - loop.time()))
            await people.call("POST", f"{path}/{verbs[number % 2]}", token=person.token)
            number += 1

    task = asyncio.create_task(make())
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with contextlib.suppress(RuntimeError):
            await people.call("POST", f"{path}/resume", token=person.token)


async def _floor(bench: Bench, streams: int, seconds: float) -> Followed:
    server = sse_server(bench.scratch("sse"), _RATE)
    await server.start()
    try:
        return await _follow(
            server, StreamOrder(port=server.port, path="/stream", streams=streams, seconds=seconds, stamp="ns")
        )
    finally:
        await server.stop()


async def _product(product: Product, streams: int, seconds: float, slow: int = 0) -> Followed:
    server, people, person = product
    order = StreamOrder(
        port=server.port,
        path="/v1/my/events/stream",
        streams=streams,
        seconds=seconds,
        stamp="iso",
        token=person.token,
        slow=slow,
    )
    async with _events(people, person):
        return await _follow(server, order)


async def _thousand(bench: Bench, product: Product, seconds: float) -> Results:
    streams, rounds = 1000, bench.rounds
    await _product(product, 1, 1.0)  # the first stream of a process pays for what all later ones use
    alone = await _product(product, 1, seconds)
    floors: list[Followed] = []
    products: list[Followed] = []
    slow: list[Followed] = []
    for _ in range(rounds):
        floors.append(await _floor(bench, streams, seconds))
        products.append(await _product(product, streams, seconds))
        slow.append(await _product(product, streams, seconds, streams // _SLOW_SHARE))
    note = products[-1].note
    floor99 = median([percentile(found.lags, 99) for found in floors])
    product99 = median([percentile(found.lags, 99) for found in products])
    slow99 = median([percentile(found.lags, 99) for found in slow])
    # What it costs to make the events is not the cost of a delivery: it is what one stream costs.
    cpu = median([(found.cpu - alone.cpu) / found.deliveries * 1e6 for found in products])
    floor_cpu = median([found.cpu / found.deliveries * 1e6 for found in floors])
    # The first round opens streams in a process that has none; later ones use what it left.
    grown, floor_grown = products[0].memory / streams / _KIBIBYTE, floors[0].memory / streams / _KIBIBYTE
    return {
        "1,000 streams, p99": Measured(product99, floor99, note),
        "1,000 streams, p99 below 100 ms": Measured(product99, floor99, note),
        "1,000 streams, CPU a delivery": Measured(cpu, floor_cpu, "beyond what one stream costs"),
        "1,000 streams, memory a stream": Measured(grown, floor_grown, note),
        "1,000 streams, p99 beside 200 slow ones": Measured(slow99, product99, slow[-1].note),
    }


async def _measure(bench: Bench) -> Results:
    # A server of its own: one that has served other rows has memory to spare, and its streams would seem free.
    server = product_server(bench.scratch("streams"), bench.stub.environment())
    await server.start()
    people = People(server.port)
    try:
        (person,) = await people.get(1)
        return await _all(bench, Product(server, people, person), 5.0 if bench.quick else 10.0)
    finally:
        await people.close()
        await server.stop()


async def _all(bench: Bench, product: Product, seconds: float) -> Results:
    found = await _thousand(bench, product, seconds)
    if bench.quick:
        return {**found, "5,000 streams, p99": Measured(None, note="left out of a quick run")}
    floor, ours = await _floor(bench, 5000, seconds), await _product(product, 5000, seconds)
    lags = percentile(ours.lags, 99), percentile(floor.lags, 99)
    return {**found, "5,000 streams, p99": Measured(*lags, ours.note)}


GROUP = Group(
    "streams",
    (
        Goal("1,000 streams, p99", "ms", times(4), "4x raw asyncio"),
        Goal("1,000 streams, p99 below 100 ms", "ms", fixed(100), "100 ms", needs_floor=False),
        Goal("1,000 streams, CPU a delivery", "us", fixed(15), "15 us", needs_floor=False),
        Goal("1,000 streams, memory a stream", "KiB", fixed(15), "15 KiB", needs_floor=False),
        Goal("1,000 streams, p99 beside 200 slow ones", "ms", times(2), "2x that without slow ones"),
        Goal("5,000 streams, p99", "ms", fixed(200), "200 ms", needs_floor=False),
    ),
    _measure,
)
