"""The tables ``operations`` and ``operation_files``: what lists read, and the row whose lock decides who is first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from retinue.kernel import NotFound, Row, Scope
from retinue.ledger import Event, Recorded, StreamProjection
from retinue.operations.events import (
    ENDINGS,
    OperationCancelRequested,
    OperationFailed,
    OperationHandedOver,
    OperationProgressed,
    OperationRequested,
    OperationRetried,
    OperationStarted,
)
from retinue.operations.rules import ENDED, STATUS_OF, OperationStatus


@dataclass(frozen=True, slots=True)
class OperationRow:
    """One operation as lists show it.

    Attributes:
        run_id: the run that carries it out.
        caller_run: the run whose call it answers.
        attempt: the newest attempt: the fence.
        worker_id: who began that.
        cancel_cause: why it shall end, once somebody wants that.
        kind: what went wrong, once it failed.
        cost: nano-dollars.
    """

    operation_id: UUID
    owner_id: UUID
    run_id: UUID
    grant_id: UUID | None
    caller_run: UUID | None
    worker_id: UUID | None
    status: OperationStatus
    version: int
    attempt: int
    phase: str
    driver: str
    application: str
    level: str | None
    cancel_cause: str | None
    kind: str | None
    cost: int
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.status in ENDED


_COLUMNS = (
    "operation_id, owner_id, run_id, grant_id, caller_run, worker_id, status, version, attempt, phase, driver, "
    "application, level, cancel_cause, kind, cost, created_at, started_at, ended_at"
)


def _row(row: Row) -> OperationRow:
    values = [row[n] for n in range(19)]
    values[6] = OperationStatus(values[6])
    return OperationRow(*values)


# Projection


async def project(scope: Scope, batch: Sequence[Recorded[Event]]) -> None:
    """Bring an operation's row up to date with what was just recorded on its stream."""
    operation_id = UUID(batch[0].stream.partition(":")[2])
    for one in batch:
        await _take(scope, operation_id, one)


async def _take(scope: Scope, operation_id: UUID, one: Recorded[Event]) -> None:
    fact, at = one.event, one.recorded_at
    if isinstance(fact, OperationRequested):
        await _insert(scope, operation_id, fact, at)
        return
    changes: dict[str, object] = {"version": one.version}
    if (status := STATUS_OF.get(type(fact))) is not None:
        changes["status"] = str(status)
    if isinstance(fact, OperationStarted):
        changes |= {"attempt": fact.attempt, "worker_id": fact.worker_id, "level": fact.level, "phase": fact.phase}
        changes["started_at"] = at
    elif isinstance(fact, OperationProgressed):
        changes["phase"] = fact.phase
    elif isinstance(fact, OperationHandedOver):
        changes["phase"] = ""
    elif isinstance(fact, OperationCancelRequested):
        changes["cancel_cause"] = fact.cause
    elif isinstance(fact, OperationRetried):
        changes |= {"run_id": fact.run_id, "cancel_cause": None, "kind": None, "ended_at": None, "started_at": None}
    elif isinstance(fact, ENDINGS):
        changes |= {"ended_at": at, "phase": "", "cost": fact.usage.cost}
        changes["kind"] = fact.kind if isinstance(fact, OperationFailed) else None
    columns = ", ".join(f"{name} = ${number}" for number, name in enumerate(changes, 2))
    await scope.queries.execute(
        f"UPDATE operations SET {columns} WHERE operation_id = $1", operation_id, *changes.values()
    )


async def _insert(scope: Scope, operation_id: UUID, fact: OperationRequested, at: datetime) -> None:
    await scope.queries.execute(
        "INSERT INTO operations (tenant_id, operation_id, owner_id, run_id, grant_id, caller_run, created_at, version, "
        "status, driver, application) VALUES ($1, $2, $3, $4, $5, $6, $7, 1, 'queued', $8, $9)",
        scope.tenant_id,
        operation_id,
        fact.owner_id,
        fact.run_id,
        fact.grant_id,
        fact.caller.run_id if fact.caller else None,
        at,
        fact.driver,
        fact.application,
    )


PROJECTIONS = (StreamProjection("operation", project),)


# Queries


async def find_operation(scope: Scope, operation_id: UUID, *, lock: bool = False) -> OperationRow:
    """Return an operation of the tenant, whoever may see it; ``lock``: nobody changes it before this scope commits.

    Raises:
        NotFound: there is none.
    """
    row = await scope.queries.fetchrow(
        f"SELECT {_COLUMNS} FROM operations WHERE operation_id = $1" + (" FOR UPDATE" if lock else ""), operation_id
    )
    if row is None:
        raise NotFound("operation")
    return _row(row)


async def visible(scope: Scope, operation_id: UUID, *, lock: bool = False) -> OperationRow:
    """Return an operation that the scope may see.

    Raises:
        NotFound: there is none, or it is somebody else's.
    """
    found = await find_operation(scope, operation_id, lock=lock)
    if not scope.sees(found.owner_id, found.grant_id):
        raise NotFound("operation")
    return found


async def list_operations(
    scope: Scope,
    *,
    before: UUID | None,
    limit: int,
    everybody: bool = False,
    status: OperationStatus | None = None,
    grant_id: UUID | None = None,
    driver: str | None = None,
) -> Sequence[OperationRow]:
    """Return operations that the scope may see, the newest first, from before an id on.

    Args:
        everybody: all of the tenant's, for an admin.
        grant_id: only those of a grant; for an application always its own.
    """
    grant = scope.grant_id or grant_id
    rows = await scope.queries.fetch(
        f"SELECT {_COLUMNS} FROM operations WHERE ($1::uuid IS NULL OR owner_id = $1) "
        "AND ($2::uuid IS NULL OR grant_id = $2) AND ($3::uuid IS NULL OR operation_id < $3) "
        "AND ($4::text IS NULL OR status = $4) AND ($5::text IS NULL OR driver = $5) "
        "ORDER BY operation_id DESC LIMIT $6",
        None if everybody else scope.owner(),
        grant,
        before,
        status,
        driver,
        limit,
    )
    return [_row(row) for row in rows]


async def open_operations(
    scope: Scope,
    *,
    grant_id: UUID | None = None,
    owner_id: UUID | None = None,
    status: OperationStatus | None = None,
) -> list[UUID]:
    """Lock the operations that have not ended, those of a grant or user or all, in the order of ids; return them."""
    rows = await scope.queries.fetch(
        "SELECT operation_id FROM operations WHERE ended_at IS NULL AND ($1::uuid IS NULL OR grant_id = $1) "
        "AND ($2::uuid IS NULL OR owner_id = $2) AND ($3::text IS NULL OR status = $3) "
        "ORDER BY operation_id FOR UPDATE",
        grant_id,
        owner_id,
        status,
    )
    return [row[0] for row in rows]


# Small files that came with a request


@dataclass(frozen=True, slots=True)
class SealedFile:
    """A small file of a request, as it is stored."""

    name: str
    key_id: UUID
    wrapped: bytes
    sealed: bytes


async def put_files(scope: Scope, operation_id: UUID, files: Sequence[SealedFile]) -> None:
    """Keep the small files of a request."""
    await scope.queries.executemany(
        "INSERT INTO operation_files (tenant_id, operation_id, name, key_id, wrapped, sealed) "
        "VALUES ($1, $2, $3, $4, $5, $6)",
        [(scope.tenant_id, operation_id, one.name, one.key_id, one.wrapped, one.sealed) for one in files],
    )


async def files_of(scope: Scope, operation_id: UUID) -> list[SealedFile]:
    """Return the small files of a request."""
    rows = await scope.queries.fetch(
        "SELECT name, key_id, wrapped, sealed FROM operation_files WHERE operation_id = $1 ORDER BY name", operation_id
    )
    return [SealedFile(row[0], row[1], row[2], row[3]) for row in rows]


async def has_files(scope: Scope, operation_id: UUID) -> bool:
    """Whether small files of a request are kept."""
    found: bool = await scope.queries.fetchval(
        "SELECT EXISTS (SELECT FROM operation_files WHERE operation_id = $1)", operation_id
    )
    return found


async def drop_files(scope: Scope, operation_id: UUID) -> None:
    """Forget the small files of a request."""
    await scope.queries.execute("DELETE FROM operation_files WHERE operation_id = $1", operation_id)
