"""The doctor's checks of the database: reachable, fenced, up to date, and its bookkeeping in order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from retinue.cli.diagnosis import Finding, Patient

if TYPE_CHECKING:
    from retinue.database import Database
    from retinue.kernel import Scope

_SKEW_SECONDS = 2.0
_FIX = "Run: retinue doctor --fix"


async def fences(database: Database) -> list[Finding]:
    """The database keeps tenants apart, for the role the server connects as."""
    from retinue.database import self_check

    async with database.routing() as queries:
        findings = await self_check(queries)
    if not findings:
        return [Finding("tenants kept apart", "ok", "row-level security is on and forced everywhere; roles are plain")]
    return [Finding("tenants kept apart", "cannot", finding, "The server refuses to start.") for finding in findings]


async def schema(patient: Patient, dsn: str) -> Finding:
    """The schema is the one of this version."""
    from retinue.database import current_revision, expected_revision, migrate

    found, expected = await current_revision(dsn), expected_revision()
    if found == expected:
        return Finding("schema", "ok", f"at {expected}")
    text = f"at {found or 'nothing'}, this version needs {expected}"
    if patient.fix and patient.owner_dsn is not None:
        await migrate(patient.owner_dsn)
        return Finding("schema", "repaired", f"it was {text}")
    return Finding("schema", "cannot", text, "Run: retinue migrate")


async def vault(patient: Patient, database: Database) -> Finding:
    """The root key opens what the database holds."""
    from retinue.vault import Vault, VaultLocked

    if not (patient.settings.data / "root.key").exists():
        async with database.routing() as queries:
            if not await queries.fetchval("SELECT EXISTS (SELECT FROM server_keys)"):
                return Finding("sealed secrets", "ok", "none yet")
    try:
        await Vault.open(patient.settings, database)
    except VaultLocked as locked:
        return Finding("sealed secrets", "cannot", str(locked))
    return Finding("sealed secrets", "ok", "the root key opens them")


async def clock(database: Database) -> Finding:
    """This machine and the database agree about the time."""
    async with database.routing() as queries:
        before = datetime.now(UTC)
        theirs: datetime = await queries.fetchval("SELECT clock_timestamp()")
        after = datetime.now(UTC)
    off = (theirs - (before + (after - before) / 2)).total_seconds()
    if abs(off) > _SKEW_SECONDS:
        advice = "Set both by NTP: time limits and expiries are judged by one and recorded by the other."
        return Finding("clock", "cannot", f"the database is {off:+.1f} s from this machine", advice)
    return Finding("clock", "ok", f"the database is {off * 1000:+.0f} ms from this machine")


async def workers(database: Database) -> Finding:
    """Somebody advances runs."""
    async with database.routing() as queries:
        row = await queries.fetchrow(
            "SELECT count(*) FILTER (WHERE works AND beat_at > clock_timestamp() - interval '10 s') AS alive, "
            "       (SELECT count(*) FROM dispatch.activations) AS held, "
            "       (SELECT count(*) FROM dispatch.pgqueuer WHERE status = 'queued' AND execute_after <= now()) AS due "
            "FROM dispatch.workers"
        )
    assert row is not None
    text = f"{row['alive']} alive, {row['held']} activations held, {row['due']} wake-ups due"
    if not row["alive"] and (row["held"] or row["due"]):
        return Finding("workers", "note", text, "Work waits. Start: retinue serve, or retinue worker")
    return Finding("workers", "ok", text)


async def bookkeeping(patient: Patient, database: Database) -> list[Finding]:
    """Activations, runs and lanes agree with each other, in every tenant."""
    tenants = await _tenants(patient)
    if tenants is None:
        text = "not looked at: only the owner of the schema may list the tenants"
        return [Finding("bookkeeping", "note", text, "Set DATABASE_OWNER_URL.")]
    orphans, stuck, miscounted = 0, 0, 0
    for tenant_id in tenants:
        async with _scope(database, tenant_id) as scope:
            orphans += await _orphans(scope, patient.fix)
            stuck += await _stuck(scope, patient.fix)
            miscounted += await _miscounted(scope, patient.fix)
    return [
        _counted(patient, "orphan activations", orphans, "every activation has a worker"),
        _counted(patient, "stuck runs", stuck, "every run that could go on will be woken"),
        _counted(patient, "lanes", miscounted, f"slots and queues are counted right ({len(tenants)} tenants)"),
    ]


def _counted(patient: Patient, name: str, count: int, fine: str) -> Finding:
    if not count:
        return Finding(name, "ok", fine)
    if patient.fix:
        return Finding(name, "repaired", f"{count} put right")
    return Finding(name, "cannot", f"{count} found", _FIX)


async def _tenants(patient: Patient) -> Sequence[UUID] | None:
    from retinue.database import Database

    if patient.owner_dsn is None:
        return None
    owner = Database(patient.owner_dsn, size=2)
    await owner.open()
    try:
        async with owner.routing() as queries:
            return [row["tenant_id"] for row in await queries.fetch("SELECT tenant_id FROM tenants ORDER BY 1")]
    finally:
        await owner.close()


@asynccontextmanager
async def _scope(database: Database, tenant_id: UUID) -> AsyncIterator[Scope]:
    from retinue.kernel import Actor, ActorKind, Scope, Services, SystemClock

    async with database.transaction(tenant_id) as uow:
        yield Scope(tenant_id, Actor(ActorKind.SYSTEM), uow, SystemClock(), Services())


async def _orphans(scope: Scope, fix: bool) -> int:
    """Activations whose worker is not in the list any more: nobody will take them over."""
    from retinue.dispatch import wake

    rows = await scope.queries.fetch(
        "SELECT kind, subject_id FROM dispatch.activations a "
        # tenant: explicit, the tables of dispatch hold ids of all tenants and are not fenced
        "WHERE tenant_id = $1 AND NOT EXISTS (SELECT FROM dispatch.workers w WHERE w.worker_id = a.worker_id) "
        "FOR UPDATE",
        scope.tenant_id,
    )
    if fix:
        for row in rows:
            await scope.queries.execute(
                # tenant: explicit, as above
                "DELETE FROM dispatch.activations WHERE tenant_id = $1 AND kind = $2 AND subject_id = $3",
                scope.tenant_id,
                row["kind"],
                row["subject_id"],
            )
            await wake(scope, row["kind"], row["subject_id"])
    return len(rows)


# A run that could go on: it runs, has a slot, or what it waited for is decided.
_COULD_GO_ON = """
SELECT r.run_id FROM runs r LEFT JOIN lanes l USING (tenant_id, agent_id)
WHERE (r.status = 'running'
    OR (r.status = 'queued' AND r.has_slot AND NOT coalesce(l.paused OR l.stopped, false))
    OR (r.status = 'waiting' AND EXISTS (
        SELECT FROM approvals a, jsonb_array_elements(r.waiting_on::jsonb) w
        WHERE w ->> 'kind' = 'approval' AND a.approval_id = (w ->> 'id')::uuid AND a.status <> 'pending')))
  AND NOT EXISTS (SELECT FROM dispatch.activations a WHERE a.tenant_id = r.tenant_id AND a.subject_id = r.run_id)
  AND NOT EXISTS (SELECT FROM dispatch.pgqueuer q WHERE q.status IN ('queued', 'picked')
        AND q.payload = convert_to(format('["%s","%s"]', r.tenant_id, r.run_id), 'UTF8'))
"""


async def _stuck(scope: Scope, fix: bool) -> int:
    """Runs that could go on, that nobody has and that nothing will wake."""
    from retinue.dispatch import wake
    from retinue.runs import ADVANCE

    rows = await scope.queries.fetch(_COULD_GO_ON)
    if fix:
        for row in rows:
            await wake(scope, ADVANCE, row["run_id"])
    return len(rows)


_COUNTED = """
SELECT l.agent_id, l.running, l.queued,
       (SELECT count(*) FROM runs r WHERE r.agent_id = l.agent_id AND r.has_slot) AS has,
       (SELECT count(*) FROM runs r WHERE r.agent_id = l.agent_id AND r.status = 'queued' AND NOT r.has_slot) AS waits
FROM lanes l ORDER BY l.agent_id
"""


async def _miscounted(scope: Scope, fix: bool) -> int:
    """Lanes whose counts differ from their runs. The counts are looked at under the lock under which they change."""
    if fix:
        await scope.queries.fetch("SELECT agent_id FROM lanes ORDER BY agent_id FOR UPDATE")
    rows = await scope.queries.fetch(_COUNTED)
    wrong = [row for row in rows if (row["running"], row["queued"]) != (row["has"], row["waits"])]
    if fix:
        for row in wrong:
            await scope.queries.execute(
                "UPDATE lanes SET running = $2, queued = $3 WHERE agent_id = $1",
                row["agent_id"],
                row["has"],
                row["waits"],
            )
    return len(wrong)
