"""A peer: the `eventsourcing` library on the same PostgreSQL. `python -m bench.floors.event_library DSN-PARTS`.

Appends: `app.save` of a new one-event aggregate from eight threads, the number that was fastest. Replay: every
stored event selected and decoded. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import psycopg
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

_THREADS = 8
_PAGE = 1000


class Conversation(Aggregate):
    """An aggregate with one event of the usual size."""

    @event("Started")
    def __init__(self, content: str) -> None:
        self.content = content


def application(socket_folder: str) -> Application[UUID]:
    """Return the application on the cluster behind a socket."""
    return Application(
        env={
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_DBNAME": "postgres",
            "POSTGRES_HOST": socket_folder,
            "POSTGRES_PORT": "5432",
            "POSTGRES_USER": "postgres",
            "POSTGRES_PASSWORD": "unused",
            "POSTGRES_POOL_SIZE": str(_THREADS),
            "POSTGRES_MAX_OVERFLOW": str(_THREADS),
        }
    )


def append_rate(app: Application[UUID], seconds: float) -> float:
    """Save new aggregates from all threads for a time; return saves a second."""
    content, end = "x" * 180, time.monotonic() + seconds

    def worker() -> int:
        count = 0
        while time.monotonic() < end:
            app.save(Conversation(content))
            count += 1
        return count

    started = time.monotonic()
    with ThreadPoolExecutor(_THREADS) as threads:
        total = sum(future.result() for future in [threads.submit(worker) for _ in range(_THREADS)])
    return total / (time.monotonic() - started)


def replay_rate(app: Application[UUID]) -> float:
    """Select and decode every stored event; return events a second."""
    started, count, start = time.monotonic(), 0, 1
    while True:
        notifications = app.recorder.select_notifications(start=start, limit=_PAGE)
        if not notifications:
            break
        for notification in notifications:
            app.mapper.to_domain_event(notification)
        count += len(notifications)
        start = notifications[-1].id + 1
    return count / (time.monotonic() - started)


def main() -> None:
    """Measure both and print them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", required=True, help="the folder of the server's socket")
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    app = application(options.socket)
    appends = append_rate(app, options.seconds)
    result = {"appends": appends, "replay": replay_rate(app), "libpq": psycopg.pq.__impl__}
    app.close()
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
