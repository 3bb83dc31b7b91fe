"""The beginning of an attempt: who has the operation now, whether it may begin, and an end to what was before."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from uuid import UUID

from retinue import artifacts, grants, metering
from retinue.artifacts import Artifact
from retinue.database import open_scope
from retinue.dispatch import Dispatcher
from retinue.grants import Terms
from retinue.kernel import Fault, Gone, NotFound, Scope, Services, Settings
from retinue.operations import crew, ending, files
from retinue.operations.commands import as_owner, find_input, load, record
from retinue.operations.driver import Driver
from retinue.operations.drivers import Drivers
from retinue.operations.ending import Fence
from retinue.operations.events import Ending, Input, OperationFailed, OperationStarted
from retinue.operations.policy import OperationPolicy, is_enough, policy, stricter
from retinue.operations.rules import OperationState
from retinue.operations.views import OperationRow, find_operation
from retinue.operations.workshop import Workshop, job_of
from retinue.sandbox import Probe, Sandbox, SandboxRefused
from retinue.vault import SealBroken

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """An attempt that has begun.

    Attributes:
        fence: what it must still be when it ends.
        spent: what models cost in attempts before this one since it was asked for, which its budget lacks.
        inputs: the artifacts to be laid out, with their names.
        files: the small files that came with the request.
        least: the least isolation that will do.
    """

    tenant_id: UUID
    fence: Fence
    run_id: UUID
    agent_id: UUID | None
    state: OperationState
    holds: OperationPolicy
    terms: Terms | None
    driver: Driver
    sandbox: Sandbox
    least: str
    spent: int
    inputs: tuple[tuple[Input, Artifact], ...]
    files: dict[str, bytes]

    @property
    def operation_id(self) -> UUID:
        """The operation."""
        return self.fence.operation_id

    @property
    def job_id(self) -> str:
        """The job in the sandbox."""
        return job_of(self.fence.operation_id, self.fence.attempt)


class _Refused(Exception):
    """The attempt cannot begin, and the operation fails for it."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


async def begin(services: Services, tenant_id: UUID, operation_id: UUID, run_id: UUID) -> Begun | Ending:
    """Begin the next attempt; what earlier ones left on this machine is dead and gone when this returns.

    Returns:
        The attempt, or how the operation ended: before, or because it cannot begin.

    Raises:
        NotFound: there is no such operation, or it is not this run's.
    """
    probe, complaint, sandbox = await _sandbox(services)
    async with open_scope(services, tenant_id, cause=f"run:{run_id}") as scope:
        row = await find_operation(scope, operation_id, lock=True)
        if row.run_id != run_id:
            raise NotFound("operation")
        state = await load(scope, operation_id)
        scope.user_id = row.owner_id
        begun = state.ending or await _begun_or_ended(scope, row, state, probe, complaint, sandbox)
    if isinstance(begun, Begun):
        await end_earlier(begun.sandbox, operation_id, begun.fence.attempt)
    elif sandbox is not None:
        await end_earlier(sandbox, operation_id, row.attempt + 1)
    return begun


async def _sandbox(services: Services) -> tuple[Probe | None, str, Sandbox | None]:
    workshop = services.get(Workshop)
    try:
        return await workshop.probe(), "", await workshop.sandbox()
    except SandboxRefused as fault:
        return None, fault.detail, None


async def _begun_or_ended(
    scope: Scope,
    row: OperationRow,
    state: OperationState,
    probe: Probe | None,
    complaint: str,
    sandbox: Sandbox | None,
) -> Begun | Ending:
    if row.cancel_cause is not None:
        return await ending.end(scope, row, await ending.why_cancelled(scope, row, state.used))
    holds, _ = await policy(scope)
    least = stricter(stricter(holds.min_level, state.requested.min_level), scope.service(Settings).sandbox_minimum)
    try:
        if probe is None or sandbox is None or not is_enough(probe.level, least):
            raise _Refused("sandbox_refused", complaint or _too_open(probe, least))
        return await _begun(scope, row, state, holds, probe, sandbox, least)
    except _Refused as refused:
        failed = OperationFailed(attempt=row.attempt, kind=refused.kind, detail=refused.detail, usage=state.used)
        return await ending.end(scope, row, failed)


def _too_open(probe: Probe | None, least: str) -> str:
    level, missing = (probe.level, probe.missing) if probe is not None else ("D", "there is no sandbox")
    return f"The sandbox of this machine is of level {level}; at least {least} is asked for. Missing: {missing}"


async def _begun(
    scope: Scope,
    row: OperationRow,
    state: OperationState,
    holds: OperationPolicy,
    probe: Probe,
    sandbox: Sandbox,
    least: str,
) -> Begun:
    if state.tries >= holds.attempts:
        raise _Refused("worker_lost", f"Each of {state.tries} attempts was lost with its worker.")
    if row.grant_id is not None and (over := await ending.grant_over(scope, row.grant_id)):
        raise _Refused("grant", over)
    driver = _driver(scope, row.driver)
    terms = await grants.terms(scope, row.grant_id) if row.grant_id is not None else None
    inputs = await _inputs(scope, row, state, terms)
    try:
        small = await files.opened(scope, row.operation_id) if state.requested.files else {}
    except SealBroken as error:
        raise _Refused("input", f"What came with the request cannot be opened: {error}") from None
    if row.attempt:
        await ending.discard_left(scope, row.operation_id)
    attempt = row.attempt + 1
    worker_id = scope.service(Dispatcher).worker_id
    started = OperationStarted(
        attempt=attempt,
        worker_id=worker_id,
        level=probe.level,
        sandbox=sandbox.name,
        phase="preparing" if inputs else "running",  # small files are there in no time
    )
    await record(scope, row, started)
    return Begun(
        tenant_id=scope.tenant_id,
        fence=Fence(row.operation_id, attempt),
        run_id=row.run_id,
        agent_id=await crew.agent_id(scope),
        state=state,
        holds=holds,
        terms=terms,
        driver=driver,
        sandbox=sandbox,
        least=least,
        spent=await _spent(scope, state, row) if driver.uses_model else 0,
        inputs=inputs,
        files=small,
    )


async def _spent(scope: Scope, state: OperationState, row: OperationRow) -> int:
    return (await metering.bill(scope, row.operation_id)).model_cost - state.before.model_cost


def _driver(scope: Scope, name: str) -> Driver:
    driver = scope.service(Drivers).get(name)
    complaint = (
        f"There is no driver {name} on this machine." if driver is None else driver.complaint(scope.service(Settings))
    )
    if driver is None or complaint:
        raise _Refused("driver_missing", complaint or "")
    return driver


async def _inputs(
    scope: Scope, row: OperationRow, state: OperationState, terms: Terms | None
) -> tuple[tuple[Input, Artifact], ...]:
    found = []
    there = as_owner(scope, row.owner_id)
    # In one order: each is locked.
    for one in sorted(state.requested.inputs, key=lambda given: given.artifact_id):
        try:
            await find_input(there, terms, one.artifact_id)
            artifact = await artifacts.take(there, one.artifact_id, "input", operation_id=row.operation_id)
        except (NotFound, Gone):
            raise _Refused("input", f"The input {one.name!r} is not there any more.") from None
        found.append((one, artifact))
    return tuple(found)


async def end_earlier(sandbox: Sandbox, operation_id: UUID, before: int) -> None:
    """Kill and wipe what attempts before this number left on this machine; on another one they lose their fence."""
    for attempt in range(1, before):
        try:
            await sandbox.reap(job_of(operation_id, attempt))
        except (Fault, OSError):
            log.exception("attempt %d of operation %s could not be wiped", attempt, operation_id)
