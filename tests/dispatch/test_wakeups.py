"""Wake-ups: when they come, in which order, and that none is lost."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest
from pgqueuer.adapters.persistence.queries import Queries as QueueQueries
from pgqueuer.domain.models import Job

from retinue.dispatch import Dispatcher, wake
from retinue.kernel import SystemClock, Unavailable
from tests.dispatch.support import KIND, Doings, Plant, until
from tests.support.scopes import ledger_services, scope_of


async def test_a_wake_up_comes_when_its_scope_commits(plant: Plant) -> None:
    doings, subject = Doings(), uuid4()
    async with plant.dispatcher(doings):
        async with scope_of(ledger_services(plant.database), plant.tenant) as scope:
            await wake(scope, KIND, subject)
            await asyncio.sleep(0.3)
            assert doings.done == []
        await until(lambda: doings.done == [subject])
        await until(lambda: _none(plant, subject))


async def test_a_wake_up_of_a_scope_that_rolls_back_never_comes(plant: Plant) -> None:
    doings, lost, kept = Doings(), uuid4(), uuid4()

    async def fail() -> None:
        async with scope_of(ledger_services(plant.database), plant.tenant) as scope:
            await wake(scope, KIND, lost)
            raise LookupError("planted")

    async with plant.dispatcher(doings):
        with pytest.raises(LookupError):
            await fail()
        await plant.wake(kept)
        await until(lambda: doings.done)
    assert doings.done == [kept]
    assert await plant.queued(lost) == 0


async def test_a_wake_up_waits_for_its_time(plant: Plant) -> None:
    doings, soon, late = Doings(), uuid4(), uuid4()
    clock = SystemClock()
    due = clock.now() + timedelta(seconds=1)
    async with plant.dispatcher(doings):
        await plant.wake(late, at=clock.now() + timedelta(hours=1))
        await plant.wake(soon, at=due)
        await until(lambda: doings.done)
        assert clock.now() >= due
        assert doings.done == [soon]
    assert await plant.queued(late) == 1


async def test_a_wake_up_of_long_ago_comes_at_once(plant: Plant) -> None:
    doings, subject = Doings(), uuid4()
    async with plant.dispatcher(doings):
        await plant.wake(subject, at=SystemClock().now() - timedelta(days=1))
        await until(lambda: doings.done == [subject])


async def test_what_waited_for_a_worker_comes_by_priority_then_age(plant: Plant) -> None:
    doings = Doings()
    low, first, second, high = (uuid4() for _ in range(4))
    for subject, priority in ((low, -1), (first, 0), (second, 0), (high, 5)):
        await plant.wake(subject, priority=priority)
    async with plant.dispatcher(doings):
        await until(lambda: len(doings.done) == 4)
    assert doings.done == [high, first, second, low]


@pytest.mark.parametrize(
    "error", [RuntimeError("planted"), Unavailable("The database is away.")], ids=["mistake", "fault"]
)
async def test_work_that_raises_is_tried_again(
    plant: Plant, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    doings, subject = Doings(failures=2, error=error), uuid4()
    with caplog.at_level(logging.ERROR, logger="retinue"):
        async with plant.dispatcher(doings):
            await plant.wake(subject)
            await until(lambda: doings.done == [subject])
    assert doings.failed == [subject, subject]
    mistakes = [one for one in caplog.records if one.exc_info]
    assert len(mistakes) == (2 if isinstance(error, RuntimeError) else 0)


async def test_a_process_that_does_not_work_takes_nothing(plant: Plant) -> None:
    idle, doings, subject = Doings(), Doings(), uuid4()
    async with plant.dispatcher(idle, work=False) as dispatcher:
        assert (dispatcher.works, dispatcher.capacity_left) == (False, 0)
        await plant.wake(subject)
        async with plant.dispatcher(doings):
            await until(lambda: doings.done == [subject])
    assert idle.done == []


async def test_each_wake_up_comes_to_one_of_many_workers(plant: Plant) -> None:
    doings, subjects = Doings(), [uuid4() for _ in range(60)]
    async with plant.dispatcher(doings), plant.dispatcher(doings), plant.dispatcher(doings):
        await asyncio.gather(*(plant.wake(subject) for subject in subjects))
        await until(lambda: len(doings.done) >= len(subjects))
        await asyncio.sleep(0.3)
    assert sorted(doings.done) == sorted(subjects)


async def test_a_worker_takes_on_no_more_than_it_has_room_for(plant: Plant) -> None:
    subjects = [uuid4() for _ in range(3)]
    go_on = asyncio.Event()
    running: list[UUID] = []

    async def claim(dispatcher: Dispatcher, subject: UUID) -> None:
        assert await plant.hold(dispatcher, subject)

        async def run(_activation: object) -> None:
            running.append(subject)
            await go_on.wait()
            await plant.let_go(dispatcher, subject)

        dispatcher.spawn(KIND, plant.tenant, subject, run)

    box: list[Dispatcher] = []

    async def deed(_tenant: UUID, subject: UUID) -> None:
        await claim(box[0], subject)

    async with plant.dispatcher(deed, worker_capacity=1) as dispatcher:
        box.append(dispatcher)
        for subject in subjects:
            await plant.wake(subject)
        await until(lambda: running)
        await asyncio.sleep(0.5)
        assert len(running) == 1
        assert dispatcher.capacity_left == 0
        go_on.set()
        await until(lambda: len(running) == 3)
        await until(lambda: dispatcher.running == 0)


@pytest.mark.fault
async def test_a_queue_that_loses_its_connection_goes_on(plant: Plant) -> None:
    doings, before, after = Doings(), uuid4(), uuid4()
    async with plant.dispatcher(doings):
        await plant.wake(before)
        await until(lambda: doings.done == [before])
        async with plant.database.routing() as queries:
            cut = await queries.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert cut >= 1
        await until(lambda: _wakes(plant, after))
        await until(lambda: after in doings.done)


async def _wakes(plant: Plant, subject: UUID) -> bool:
    try:
        await plant.wake(subject)
    except Unavailable:  # a pooled connection was cut, too
        return False
    return True


async def _none(plant: Plant, subject: UUID) -> bool:
    return await plant.queued(subject) == 0


async def test_a_wake_up_for_a_time_does_not_come_before_it_however_long_its_scope_takes(plant: Plant) -> None:
    """The queue counts from the start of the transaction; what waits for a time would look too early, and not again."""
    subject = uuid4()
    async with scope_of(ledger_services(plant.database), plant.tenant) as scope:
        await scope.queries.fetchval("SELECT 1")
        await asyncio.sleep(0.5)
        at = scope.clock.now() + timedelta(seconds=0.2)
        await wake(scope, KIND, subject, at=at)
    rows = await plant._rows("SELECT execute_after FROM dispatch.pgqueuer WHERE entrypoint = $1", KIND)
    assert [row[0] >= at for row in rows] == [True]


@pytest.mark.fault
@pytest.mark.parametrize("holds", [False, True], ids=["idle", "busy"])
async def test_a_process_that_ends_leaves_the_wake_ups_it_has_begun_to_others(plant: Plant, holds: bool) -> None:
    """The queue's library forgets a wake-up that is cancelled while it is done, or waits for it without a bound."""
    subject, doings, began = uuid4(), Doings(), asyncio.Event()

    async def never_done(_tenant_id: UUID, _subject_id: UUID) -> None:
        began.set()
        await asyncio.sleep(3600)

    async with plant.dispatcher(never_done, close=False) as ending:
        if holds:
            await plant.advance(ending, uuid4(), lambda _: asyncio.sleep(3600))
        await plant.wake(subject)
        await began.wait()
        async with asyncio.timeout(60):
            await ending.close(0.1)
    async with plant.dispatcher(doings):
        await until(lambda: subject in doings.done, 60)


@pytest.mark.fault
async def test_a_process_that_ends_lets_nobody_wait_for_room_in_it(plant: Plant) -> None:
    subject, doings = uuid4(), Doings()
    async with plant.dispatcher(doings, close=False, worker_capacity=1) as ending:
        await plant.advance(ending, uuid4(), lambda _: asyncio.sleep(3600))
        await plant.wake(subject)
        await until(lambda: _is_picked(plant, subject), 60)
        async with asyncio.timeout(60):
            await ending.close(0.1)
    assert doings.done == []
    async with plant.dispatcher(doings):
        await until(lambda: subject in doings.done, 60)


async def _is_picked(plant: Plant, subject: UUID) -> bool:
    rows = await plant._rows("SELECT payload FROM dispatch.pgqueuer WHERE status = 'picked'")
    return any(str(subject).encode() in row[0] for row in rows)


@pytest.mark.fault
async def test_a_wake_up_that_cannot_be_put_back_is_not_put_aside(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails, and the queue has no room on the disk to note when it is to be tried again."""
    subject, doings = uuid4(), Doings(failures=1, error=Unavailable("planted"))
    refused = []

    async def no_room(_queue: QueueQueries, job: Job, *_: object) -> None:
        refused.append(job.id)
        monkeypatch.undo()
        raise asyncpg.DiskFullError("planted")

    monkeypatch.setattr(QueueQueries, "retry_job", no_room)
    async with plant.dispatcher(doings):
        await plant.wake(subject)
        await until(lambda: subject in doings.done, 60)
    assert (len(refused), doings.failed) == (1, [subject])
