"""Wake-ups: queued requests to advance one subject, enqueued in the transaction of the events they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

import msgspec
from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver
from pgqueuer.adapters.persistence.qb import (
    QueryBuilderEnvironment,
    QueryQueueBuilder,
    QuerySchedulerBuilder,
)
from pgqueuer.adapters.persistence.queries import Queries as QueueQueries
from pgqueuer.domain.models import Job, TracebackRecord
from pgqueuer.domain.settings import DBSettings, Durability
from pgqueuer.domain.types import JOB_STATUS

from retinue.kernel import Queries, Scope

SETTINGS = DBSettings(db_schema="dispatch", durability=Durability.balanced)


class WakeUp(msgspec.Struct, frozen=True, kw_only=True):
    """Ids and routing, nothing else: the queue is read across tenants.

    Attributes:
        kind: what is to be done, such as ``run.advance``; a room registers the work for it.
        tenant_id: in whose transaction.
        subject_id: on what.
        priority: higher goes first among those that are due.
        at: not before this time; None: now.
    """

    kind: str
    tenant_id: UUID
    subject_id: UUID
    priority: int = 0
    at: datetime | None = None


class _Payload(msgspec.Struct, array_like=True):
    tenant_id: UUID
    subject_id: UUID


class _Queue(QueueQueries):
    """The queue, which forgets a wake-up when it is done, and for no other reason.

    The library also takes one away that was cancelled, or that it could not put back (the disk was full, say). Such a
    wake-up stays where it is: nobody beats for it any more, so that it is soon picked again.
    """

    async def log_jobs(self, job_status: list[tuple[Job, JOB_STATUS, TracebackRecord | None]]) -> None:
        if done := [one for one in job_status if one[1] == "successful"]:
            await super().log_jobs(done)


def queue_on(connection: Queries) -> QueueQueries:
    """Return the queue's library working on ``connection``, so that it joins the transaction there."""
    return _Queue(
        AsyncpgDriver(cast(Any, connection)),
        qbe=QueryBuilderEnvironment(settings=SETTINGS),
        qbq=QueryQueueBuilder(settings=SETTINGS),
        qbs=QuerySchedulerBuilder(settings=SETTINGS),
    )


async def enqueue(connection: Queries, wake_ups: Sequence[WakeUp], now: datetime) -> None:
    """Put wake-ups in the queue on ``connection``."""
    if not wake_ups:
        return
    # The queue counts delays from the start of the transaction. What has passed since then would make a wake-up for a
    # certain time come that much too early.
    passed: timedelta = timedelta(0)
    if any(one.at is not None for one in wake_ups):
        passed = await connection.fetchval("SELECT clock_timestamp() - transaction_timestamp()")
    await queue_on(connection).enqueue(
        [one.kind for one in wake_ups],
        [msgspec.json.encode(_Payload(one.tenant_id, one.subject_id)) for one in wake_ups],
        [one.priority for one in wake_ups],
        [max(one.at - now, timedelta(0)) + passed if one.at else timedelta(0) for one in wake_ups],
    )


def read_payload(payload: bytes | None) -> tuple[UUID, UUID]:
    """Return the tenant and the subject of a queued wake-up."""
    found = msgspec.json.decode(payload or b"", type=_Payload)
    return found.tenant_id, found.subject_id


async def wake(scope: Scope, kind: str, subject_id: UUID, *, priority: int = 0, at: datetime | None = None) -> None:
    """Ask for work on ``subject_id`` of the scope's tenant, if and when the scope commits."""
    one = WakeUp(kind=kind, tenant_id=scope.tenant_id, subject_id=subject_id, priority=priority, at=at)
    await enqueue(scope.queries, [one], scope.clock.now())
