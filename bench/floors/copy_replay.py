"""The floor of replay: COPY as text through asyncpg, every column decoded, data and meta by orjson, nothing else."""

from __future__ import annotations

import time
from datetime import datetime

import asyncpg
import orjson

_TABLE = """
CREATE TABLE replayed (
    position bigint PRIMARY KEY, version int NOT NULL, schema smallint NOT NULL, recorded_at timestamptz NOT NULL,
    stream text NOT NULL, type text NOT NULL, data text NOT NULL, meta jsonb NOT NULL
)
"""
_FILL = """
INSERT INTO replayed (position, version, schema, recorded_at, stream, type, data, meta)
SELECT n, n, 1, now(), 'session:0198c5de-7b0e-7c4f-9a53-2f1c1d8f6a02', 'message.sent',
    '{"at":' || n || ',"content":"' || repeat('x', 200) || '"}', '{"actor": "system"}'
FROM generate_series(1, $1::int) AS n
"""
_QUERY = "SELECT position, version, schema, recorded_at, stream, type, data, meta FROM replayed ORDER BY position"


async def prepare(dsn: str, events: int) -> None:
    """Fill a table with that many events, of the size of the product's in the same bench."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(_TABLE)
        await connection.execute(_FILL, events)
        await connection.execute("VACUUM ANALYZE replayed")
    finally:
        await connection.close()


async def replay(dsn: str) -> float:
    """Read all events, decoded; return events a second."""
    connection = await asyncpg.connect(dsn)
    count, rest = 0, b""

    async def take(piece: bytes) -> None:
        nonlocal count, rest
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            _decoded(line)
        count += len(lines)

    try:
        started = time.perf_counter()
        await connection.copy_from_query(_QUERY, output=take, format="text")
        return count / (time.perf_counter() - started)
    finally:
        await connection.close()


def _decoded(line: bytes) -> tuple[object, ...]:
    if b"\\" in line:
        # COPY doubles the backslashes inside a value.
        line = line.replace(b"\\\\", b"\\")
    position, version, schema, recorded_at, stream, kind, data, meta = line.split(b"\t")
    return (
        int(position),
        int(version),
        int(schema),
        datetime.fromisoformat(recorded_at.decode()),
        stream.decode(),
        kind.decode(),
        orjson.loads(data),
        orjson.loads(meta),
    )
