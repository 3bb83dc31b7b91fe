"""The numbers of the queue, as /metrics shows them."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.exposition import generate_latest

from retinue.database import Database
from retinue.dispatch import measure
from retinue.kernel import SystemClock, Unavailable
from tests.dispatch.support import KIND, Plant
from tests.support.numbers import number, numbers


def written() -> str:
    text: bytes = generate_latest(REGISTRY)  # type: ignore[no-untyped-call]  # the library leaves it unannotated
    return text.decode()


async def test_wake_ups_are_counted_by_state_and_activations_by_kind(plant: Plant) -> None:
    now = SystemClock().now()
    for at in (None, now - timedelta(minutes=5), now + timedelta(hours=1)):
        await plant.wake(uuid4(), at=at)
    async with plant.dispatcher(work=False) as one, plant.dispatcher():
        for _ in range(3):
            assert await plant.hold(one, uuid4())
        await measure(plant.database, 5)
    text = written()
    assert number(text, "retinue_wake_ups", kind=KIND, state="due") == 2
    assert number(text, "retinue_wake_ups", kind=KIND, state="later") == 1
    assert number(text, "retinue_activations", kind=KIND) == 3
    assert number(text, "retinue_processes", works="true") == 1
    assert number(text, "retinue_processes", works="false") == 1
    assert 0 <= number(text, "retinue_wake_ups_oldest_seconds", kind=KIND) < 60


async def test_silent_processes_do_not_count(plant: Plant) -> None:
    async with plant.database.routing() as queries:
        for silence in (0, 60):
            await queries.execute(
                "INSERT INTO dispatch.workers (worker_id, machine, pid, pid_started, works, beat_at) "
                "VALUES ($1, 'elsewhere', 1, 1, true, now() - make_interval(secs => $2))",
                uuid4(),
                silence,
            )
    await measure(plant.database, 5)
    assert number(written(), "retinue_processes", works="true") == 1


async def test_an_empty_queue_leaves_no_old_numbers(plant: Plant) -> None:
    await plant.wake(uuid4())
    await measure(plant.database, 5)
    async with plant.database.routing() as queries:
        await queries.execute("DELETE FROM dispatch.pgqueuer")
    await measure(plant.database, 5)
    assert numbers(written(), "retinue_wake_ups") == []


async def test_a_database_that_is_away_leaves_no_old_numbers(plant: Plant) -> None:
    await plant.wake(uuid4())
    await measure(plant.database, 5)
    away = Database(plant.database.dsn, size=1)
    await away.open()
    away.pool.terminate()
    with pytest.raises(Unavailable):
        await measure(away, 5)
    assert numbers(written(), "retinue_wake_ups") == []
