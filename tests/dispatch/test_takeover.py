"""Takeover: what a worker held goes on elsewhere when it dies, hangs, or ends; and nobody holds what another has."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from retinue.dispatch import Activation, Dispatcher, HandOver, Stopped
from tests.dispatch.support import KIND, Doings, Plant, endless, polite, until

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Other:
    """Another process that works, and what it has said so far."""

    process: Process
    said: list[dict[str, Any]] = field(default_factory=list)

    async def listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.said.append(json.loads(line))

    async def says(self, name: str, seconds: float = 30) -> dict[str, Any]:
        """Wait until it has said something of that name."""
        await until(lambda: self.process.returncode is not None or any(name in one for one in self.said), seconds)
        return next(one for one in self.said if name in one)


@asynccontextmanager
async def another(plant: Plant, *, dead_after_seconds: float = 5.0) -> AsyncIterator[Other]:
    """Start another process on the plant's database; it is killed at the end."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.dispatch.other_process"]
    process = await asyncio.create_subprocess_exec(
        *command, plant.database.dsn, str(dead_after_seconds), cwd=ROOT, stdout=PIPE
    )
    other = Other(process)
    listening = asyncio.create_task(other.listen())
    try:
        await other.says("ready")
        yield other
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await listening


# Holding


async def test_a_subject_is_held_by_one_worker(plant: Plant) -> None:
    subject, other_subject = uuid4(), uuid4()
    async with plant.dispatcher(work=False) as one, plant.dispatcher(work=False) as two:
        assert await plant.hold(one, subject)
        assert not await plant.hold(one, subject)
        assert not await plant.hold(two, subject)
        assert await plant.hold(two, other_subject)
        await plant.let_go(two, subject)
        assert await plant.holders(subject) == [one.worker_id]
        await plant.let_go(one, subject)
        assert await plant.hold(two, subject)


async def test_of_many_who_claim_at_once_one_holds(plant: Plant) -> None:
    subject = uuid4()
    async with contextlib.AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(plant.dispatcher(work=False)) for _ in range(5)]
        results = await asyncio.gather(*(plant.hold(worker, subject) for worker in workers for _ in range(4)))
    assert sum(results) == 1


async def test_a_claim_that_rolls_back_is_none(plant: Plant) -> None:
    from tests.support.scopes import ledger_services, scope_of

    subject = uuid4()

    async def fail(dispatcher: Dispatcher) -> None:
        async with scope_of(ledger_services(plant.database), plant.tenant) as scope:
            assert await dispatcher.hold(scope, KIND, subject)
            raise LookupError("planted")

    async with plant.dispatcher(work=False) as dispatcher:
        with pytest.raises(LookupError):
            await fail(dispatcher)
        assert await plant.holders(subject) == []


# Death


@pytest.mark.fault
async def test_what_a_killed_process_held_goes_on_here(plant: Plant) -> None:
    """Silence alone would take a minute here: the process is seen to be gone."""
    doings, subject = Doings(), uuid4()
    async with another(plant, dead_after_seconds=60) as other:
        await plant.wake(subject)
        await other.says("advancing")
        async with plant.dispatcher(doings, dead_after_seconds=60):
            await asyncio.sleep(0.5)
            assert doings.done == []
            other.process.kill()
            await other.process.wait()
            await until(lambda: doings.done == [subject], 10)
    assert await plant.holders(subject) == []
    assert await plant.workers() == set()


@pytest.mark.fault
async def test_what_a_hanging_process_held_goes_on_here_and_it_comes_back_as_another_worker(plant: Plant) -> None:
    doings, subject = Doings(), uuid4()
    async with another(plant, dead_after_seconds=1) as other:
        await plant.wake(subject)
        before = (await other.says("advancing"))["worker"]
        async with plant.dispatcher(doings, dead_after_seconds=1):
            other.process.send_signal(signal.SIGSTOP)
            await until(lambda: doings.done == [subject], 15)
            assert not any("stopped" in one for one in other.said)
            other.process.send_signal(signal.SIGCONT)
            assert (await other.says("stopped"))["reason"] == "lost"
            after = (await other.says("back"))["back"]
            assert after != before
            await until(lambda: _is_listed(plant, UUID(after)))
            assert UUID(before) not in await plant.workers()


async def test_what_a_dead_worker_held_is_woken_once_whoever_finds_it(plant: Plant) -> None:
    subjects = [uuid4() for _ in range(10)]
    async with contextlib.AsyncExitStack() as stack:
        dead = await stack.enter_async_context(plant.dispatcher(work=False))
        for subject in subjects:
            assert await plant.hold(dead, subject)
        finders = [await stack.enter_async_context(plant.dispatcher(work=False)) for _ in range(4)]
        async with plant.database.routing() as queries:
            await queries.execute(
                "UPDATE dispatch.workers SET beat_at = beat_at - interval '1 hour' WHERE worker_id = $1", dead.worker_id
            )
        await asyncio.gather(*(finder._reap() for finder in finders))
        assert [await plant.queued(subject) for subject in subjects] == [1] * len(subjects)


async def test_a_worker_that_was_given_up_drops_everything_and_is_another_one(plant: Plant) -> None:
    subject, reasons = uuid4(), list[str]()

    async def note(activation: Activation) -> None:
        try:
            await endless(activation)
        except Stopped as stopped:
            reasons.append(stopped.reason)
            raise

    async with plant.dispatcher(work=False) as dispatcher:
        before = dispatcher.worker_id
        await plant.advance(dispatcher, subject, note)
        async with plant.database.routing() as queries:
            await queries.execute("DELETE FROM dispatch.workers WHERE worker_id = $1", before)
        await until(lambda: reasons == ["lost"])
        await until(lambda: dispatcher.running == 0)
        assert dispatcher.worker_id != before
        await until(lambda: _is_listed(plant, dispatcher.worker_id))
        assert await plant.queued(subject) == 0  # whoever gave it up wakes what it held


async def test_workers_of_processes_that_are_gone_leave_the_list(plant: Plant) -> None:
    async with another(plant) as other:
        gone = UUID((await other.says("ready"))["ready"])
        assert gone in await plant.workers()
    async with plant.dispatcher(work=False) as dispatcher:
        assert await plant.workers() == {dispatcher.worker_id}


# Stopping


@pytest.mark.parametrize("reason", ["cancel", "lost"])
async def test_a_request_to_leave_now_stops_work_here_at_the_commit(plant: Plant, reason: str) -> None:
    subject = uuid4()
    async with plant.dispatcher(work=False) as dispatcher:
        activation = await plant.advance(dispatcher, subject, endless)
        await plant.ask_to_stop(dispatcher, subject, reason)
        assert activation.stop == reason
        await until(lambda: dispatcher.running == 0)


async def test_a_request_of_a_scope_that_rolls_back_stops_nothing(plant: Plant) -> None:
    from tests.support.scopes import ledger_services, scope_of

    async def fail(dispatcher: Dispatcher, subject: UUID) -> None:
        async with scope_of(ledger_services(plant.database), plant.tenant) as scope:
            await dispatcher.ask_to_stop(scope, KIND, subject, "cancel")
            raise LookupError("planted")

    subject = uuid4()
    async with plant.dispatcher(work=False) as dispatcher:
        activation = await plant.advance(dispatcher, subject, endless)
        with pytest.raises(LookupError):
            await fail(dispatcher, subject)
        await asyncio.sleep(0.3)
        assert activation.stop is None


async def test_a_request_to_stop_reaches_another_process(plant: Plant) -> None:
    subject = uuid4()
    async with another(plant) as other:
        await plant.wake(subject)
        await other.says("advancing")
        async with plant.dispatcher(work=False) as here:
            await plant.ask_to_stop(here, subject, "cancel")
            assert (await other.says("stopped", 10))["reason"] == "cancel"
            await until(lambda: _is_free(plant, subject))


async def test_work_that_may_finish_its_step_is_not_cut_off(plant: Plant) -> None:
    subject, steps = uuid4(), list[str]()

    async def step(activation: Activation) -> None:
        await activation.unless_stopped(asyncio.sleep(0.3))
        steps.append(str(activation.stop))

    async with plant.dispatcher(work=False) as dispatcher:
        await plant.advance(dispatcher, subject, step)
        await plant.ask_to_stop(dispatcher, subject, "pause")
        await until(lambda: steps == ["pause"])


async def test_a_stronger_request_replaces_a_weaker_one_and_never_the_other_way_round() -> None:
    activation = Activation(KIND, uuid4(), uuid4())
    for reason, expected in (("pause", "pause"), ("cancel", "cancel"), ("pause", "cancel"), ("lost", "lost")):
        activation.ask_to_stop(reason)
        assert activation.stop == expected
    with pytest.raises(Stopped, match="lost"):
        await activation.unless_stopped(asyncio.sleep(0))


async def test_work_that_is_stopped_has_ended_before_anything_goes_on() -> None:
    activation, order = Activation(KIND, uuid4(), uuid4()), list[str]()

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.05)
            order.append("ended")

    asyncio.get_running_loop().call_later(0.05, activation.ask_to_stop, "cancel")
    with pytest.raises(Stopped):
        await activation.unless_stopped(work())
    assert order == ["ended"]


async def test_what_work_returns_or_raises_comes_through() -> None:
    activation = Activation(KIND, uuid4(), uuid4())
    assert await activation.unless_stopped(asyncio.sleep(0, "done")) == "done"

    async def fail() -> None:
        raise LookupError("planted")

    with pytest.raises(LookupError, match="planted"):
        await activation.unless_stopped(fail())


# Handing over


@pytest.mark.parametrize("deed", [endless, polite], ids=["cut off", "at its next step"])
async def test_a_process_that_ends_hands_over_what_it_held(plant: Plant, deed: Any) -> None:
    doings, subject = Doings(), uuid4()

    async def leave(activation: Activation) -> None:
        await deed(activation)
        raise HandOver

    async with plant.dispatcher(work=False, close=False) as ending:
        await plant.advance(ending, subject, leave)
        async with plant.dispatcher(doings):
            await ending.close(0.3)
            assert ending.closing
            assert ending.capacity_left == 0
            await until(lambda: doings.done == [subject])
            assert ending.worker_id not in await plant.workers()


async def test_a_process_that_ends_waits_for_work_that_ends(plant: Plant) -> None:
    subject = uuid4()
    async with plant.dispatcher(work=False, close=False) as ending:

        async def finish(activation: Activation) -> None:
            await polite(activation)
            await plant.let_go(ending, subject)

        await plant.advance(ending, subject, finish)
        await ending.close(5)
    assert await plant.queued(subject) == 0
    assert await plant.holders(subject) == []


async def test_an_activation_that_fails_is_woken_again_a_little_later(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    doings, subject = Doings(), uuid4()

    async def fail(_activation: Activation) -> None:
        raise RuntimeError("planted")

    async with plant.dispatcher(doings) as dispatcher:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await plant.advance(dispatcher, subject, fail)
        await until(lambda: doings.done == [subject])
        assert loop.time() - began >= 0.9
    assert any(one.exc_info for one in caplog.records)


async def test_what_another_worker_took_is_not_handed_over(plant: Plant) -> None:
    subject = uuid4()
    async with plant.dispatcher(work=False, close=False) as slow, plant.dispatcher(work=False) as other:
        await plant.advance(slow, subject, endless)
        await plant.let_go(slow, subject)  # as the reaper does
        assert await plant.hold(other, subject)
        await slow.close(0.1)
        assert await plant.holders(subject) == [other.worker_id]
        assert await plant.queued(subject) == 0


async def _is_listed(plant: Plant, worker: UUID) -> bool:
    return worker in await plant.workers()


async def _is_free(plant: Plant, subject: UUID) -> bool:
    return await plant.holders(subject) == []
