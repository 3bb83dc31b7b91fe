"""The floor of appends: pgbench, one row of an event's size a transaction, from C, over the same kind of socket."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from bench.postgres import Postgres

_TABLE = """
CREATE TABLE inserts (
    tenant_id uuid NOT NULL, position bigserial, stream text NOT NULL, version int NOT NULL, type text NOT NULL,
    schema int NOT NULL, data text NOT NULL, meta text NOT NULL, recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, position)
)
"""
EVENT_DATA = '{"message_id":"0198c5de-7b0e-7c4f-9a53-2f1c1d8f6a01","role":"user","content":"' + "x" * 180 + '"}'
_SCRIPT = f"""
INSERT INTO inserts (tenant_id, stream, version, type, schema, data, meta)
VALUES ('0198c5de-7b0e-7c4f-9a53-2f1c1d8f6a00', 'session:0198c5de-7b0e-7c4f-9a53-2f1c1d8f6a02', 1, 'message.sent', 1,
'{EVENT_DATA}', '{{"actor":"user"}}');
"""


@dataclass(frozen=True, slots=True)
class Inserts:
    """Rows a second, and the mean latency in milliseconds."""

    rate: float
    latency: float


async def prepare(postgres: Postgres, folder: Path) -> Path:
    """Make the table; return the script's file."""
    connection = await asyncpg.connect(postgres.dsn)
    try:
        await connection.execute(_TABLE)
    finally:
        await connection.close()
    script = folder / "insert.sql"
    script.write_text(_SCRIPT.replace("\n", " ").strip() + "\n", encoding="utf-8")
    return script


def pgbench(postgres: Postgres, script: Path, clients: int, seconds: int) -> Inserts:
    """Insert from that many clients at once for a time. Raises CalledProcessError when pgbench fails."""
    command = [*postgres.program("pgbench"), "-n", "-M", "prepared", "-f", str(script)]
    command += ["-c", str(clients), "-j", str(min(2, clients)), "-T", str(seconds), "postgres"]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 60).stdout
    rate, latency = re.search(r"tps = ([\d.]+)", output), re.search(r"latency average = ([\d.]+) ms", output)
    if rate is None or latency is None:
        raise ValueError(f"cannot read pgbench's answer: {output[-300:]}")
    return Inserts(float(rate[1]), float(latency[1]))
