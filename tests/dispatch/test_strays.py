"""Claims that nobody advances: the database went away between the claim and the work, or before the hand-over."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from retinue.dispatch import Dispatcher
from tests.dispatch.support import KIND, Doings, Plant, endless, until


async def test_a_claim_that_nobody_advances_goes_on(plant: Plant) -> None:
    doings, subject = Doings(), uuid4()
    async with plant.dispatcher(doings) as worker:
        assert await plant.hold(worker, subject)
        await until(lambda: doings.done == [subject])
    assert await plant.holders(subject) == []


async def test_a_claim_that_is_advanced_is_left_alone(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    beats = _counted(monkeypatch, Dispatcher._return_strays)
    subject = uuid4()
    async with plant.dispatcher() as worker:
        assert await plant.hold(worker, subject)
        worker.spawn(KIND, plant.tenant, subject, endless)
        await until(lambda: len(beats) > 20)
        assert await plant.holders(subject) == [worker.worker_id]


async def test_without_the_look_at_each_beat_it_stands_still(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug."""
    beats = _counted(monkeypatch, None)
    doings, subject = Doings(), uuid4()
    async with plant.dispatcher(doings) as worker:
        assert await plant.hold(worker, subject)
        await until(lambda: len(beats) > 20)
        assert doings.done == []
        assert await plant.holders(subject) == [worker.worker_id]


def _counted(monkeypatch: pytest.MonkeyPatch, look: Any) -> list[Any]:
    """Count the looks for strays, which do what ``look`` does."""
    beats: list[Any] = []

    async def counted(self: Dispatcher, claims: Any) -> None:
        beats.append(claims)
        if look is not None:
            await look(self, claims)

    monkeypatch.setattr(Dispatcher, "_return_strays", counted)
    return beats


async def test_a_claim_of_nobody_is_taken_over(plant: Plant) -> None:
    """A worker that was given up while it claimed something commits the claim under an id that is no worker's."""
    doings, subject = Doings(), uuid4()
    async with plant.dispatcher(doings), plant.dispatcher(work=False) as given_up:
        known = given_up.worker_id
        given_up.worker_id = uuid4()
        assert await plant.hold(given_up, subject)
        given_up.worker_id = known
        await until(lambda: doings.done == [subject])
    assert await plant.holders(subject) == []


async def test_who_was_given_up_while_alone_finds_its_own_claim_again(plant: Plant) -> None:
    doings, subject = Doings(), uuid4()
    async with plant.dispatcher(doings) as worker:
        old = worker.worker_id
        async with plant.database.routing() as queries:
            await queries.execute("DELETE FROM dispatch.workers WHERE worker_id = $1", old)
        await until(lambda: worker.worker_id != old)
        fresh, worker.worker_id = worker.worker_id, old
        assert await plant.hold(worker, subject)
        worker.worker_id = fresh
        await until(lambda: doings.done == [subject])
