"""How much the database grows with a turn: tables, indexes and what they leave dead, after a vacuum."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import asyncpg

from bench.harness import Bench, watched
from bench.load.turns import Seat, TurnOrder
from bench.rows import Goal, Group, Measured, Results, fixed
from bench.servers import Server

_KIBIBYTE = 1024
_SIZE = """
SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND n.nspname NOT LIKE 'pg_%' AND n.nspname <> 'information_schema'
"""


async def _bytes(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("VACUUM")
        return int(await connection.fetchval(_SIZE) or 0)
    finally:
        await connection.close()


def _dsn(server: Server) -> str:
    """Return the superuser's connection string; the product keeps its password in the data folder."""
    if server.database is None:
        raise LookupError("the server has no database")
    lines = (server.database / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    host = quote(lines[4], safe="")
    secrets = Path(server.database.parent / "database.json")
    if not secrets.exists():
        return f"postgresql://postgres@/postgres?host={host}"
    password = quote(json.loads(secrets.read_text(encoding="utf-8"))["postgres"])
    return f"postgresql://postgres:{password}@/retinue?host={host}"


async def _growth(server: Server, order: TurnOrder) -> float:
    """Return the bytes that a turn adds, in KiB."""
    before = await _bytes(_dsn(server))
    found = await watched(server, "bench.load.turns", order)
    turns = int(found.result["turns"]) + order.warm * len(order.seats)
    return (await _bytes(_dsn(server)) - before) / turns / _KIBIBYTE


async def _measure(bench: Bench) -> Results:
    floor, product = await bench.floor(), await bench.product()
    turns = 40 if bench.quick else 120
    people = await (await bench.people()).get(8)
    seats = [person.seat("plain") for person in people]
    ours = TurnOrder(
        side="product", port=product.port, seats=seats, turns=turns, turns_a_session=10, text="Hello there."
    )
    theirs = TurnOrder(
        side="floor",
        port=floor.port,
        seats=[Seat(agent="stub-0ms")] * len(seats),
        turns=turns,
        text="Hello there.",
    )
    least = await _growth(floor, theirs)
    note = f"{turns * len(seats)} turns, {turns * len(seats) // 10} of them the first of a session"
    return {"storage a turn, events and views": Measured(await _growth(product, ours), least, note)}


GROUP = Group(
    "storage",
    (Goal("storage a turn, events and views", "KiB", fixed(4), "4 KiB", needs_floor=False),),
    _measure,
)
