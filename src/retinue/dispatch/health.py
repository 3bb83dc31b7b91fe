"""Numbers of the queue and of who works on it, looked up when somebody asks for ``/metrics``.

They are of the whole database, so every process shows the same. Counts and kinds only: nothing of any tenant.
"""

from __future__ import annotations

from prometheus_client import Gauge

from retinue.database import Database
from retinue.dispatch.processes import machine_id
from retinue.kernel import Queries

WAKE_UPS = Gauge("retinue_wake_ups", "Wake-ups in the queue: due, later, taken, failed", ["kind", "state"])
OLDEST = Gauge("retinue_wake_ups_oldest_seconds", "For how long the oldest wake-up has been due", ["kind"])
PROCESSES = Gauge("retinue_processes", "Processes that beat lately, by whether they are workers", ["works"])
ACTIVATIONS = Gauge("retinue_activations", "What workers advance at the moment", ["kind"])

_QUEUE = """
SELECT entrypoint, CASE status WHEN 'picked' THEN 'taken' WHEN 'queued'
        THEN CASE WHEN execute_after <= now() THEN 'due' ELSE 'later' END ELSE 'failed' END AS state,
    count(*), coalesce(extract(epoch FROM max(now() - execute_after) FILTER (WHERE status = 'queued')), 0)::float8
FROM dispatch.pgqueuer GROUP BY 1, 2
"""
_PROCESSES = """
SELECT works, count(*) FROM dispatch.workers
WHERE beat_at > clock_timestamp() - make_interval(secs => $1) GROUP BY works
"""
_ACTIVATIONS = "SELECT kind, count(*) FROM dispatch.activations GROUP BY kind"


async def measure(database: Database, dead_after_seconds: float) -> None:
    """Bring the gauges up to date.

    Args:
        database: where the queue is.
        dead_after_seconds: after how long without a beat a process does not count any more.

    Raises:
        Unavailable: the database does not answer; the gauges are empty then, rather than old.
    """
    for gauge in (WAKE_UPS, OLDEST, PROCESSES, ACTIVATIONS):
        gauge.clear()
    async with database.routing() as queries:
        queue = await queries.fetch(_QUEUE)
        processes = await queries.fetch(_PROCESSES, dead_after_seconds)
        activations = await queries.fetch(_ACTIVATIONS)
    for kind, state, count, oldest in ((row[0], row[1], row[2], row[3]) for row in queue):
        WAKE_UPS.labels(kind, state).set(count)
        if state == "due":
            OLDEST.labels(kind).set(oldest)
    counts = {row[0]: row[1] for row in processes}
    for works in (True, False):
        PROCESSES.labels(str(works).lower()).set(counts.get(works, 0))
    for row in activations:
        ACTIVATIONS.labels(row[0]).set(row[1])


async def other_machines(queries: Queries) -> list[str]:
    """Return the names of other machines on which processes of this database beat within the last half minute."""
    rows = await queries.fetch(
        "SELECT DISTINCT split_part(machine, ' ', 1) FROM dispatch.workers "
        "WHERE machine <> $1 AND beat_at > clock_timestamp() - interval '30 seconds' ORDER BY 1",
        machine_id(),
    )
    return [row[0] for row in rows]
