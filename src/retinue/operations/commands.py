"""What people, applications and other rooms do to operations: begin, cancel, try again, change the policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal
from uuid import UUID

import msgspec

from retinue import artifacts, grants, metering, runs
from retinue.dispatch import Dispatcher
from retinue.grants import Terms
from retinue.kernel import BadInput, Conflict, Forbidden, NotFound, Scope, least, new_id
from retinue.ledger import append, read_stream
from retinue.operations import crew, files, rules, views
from retinue.operations.driver import Driver
from retinue.operations.drivers import Drivers
from retinue.operations.events import (
    Caller,
    Expected,
    Input,
    OperationCancelRequested,
    OperationRequested,
    OperationRetried,
)
from retinue.operations.policy import OperationPolicy, granted, policy, record_policy, stricter
from retinue.operations.rules import OperationState, fold
from retinue.operations.views import OperationRow, find_operation
from retinue.providers import Providers, parse_model
from retinue.runs import Assignment, GivenCall, Parent
from retinue.tenancy import refuse_when_stopped

KIND = "operation"
LOOK = "operation.look"
REVOKED = "operation.revoked"
CALL = crew.TOOL

MOST_INPUTS = 200
_OVERHEAD = 900.0  # seconds that an attempt may take beyond its program: inputs, sealing and storing what it left
_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class WantedInput:
    """An artifact to be laid into the workspace; without a name it has its own."""

    artifact_id: UUID
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What somebody asks for; see :class:`OperationRequested`.

    Attributes:
        limits: those that shall differ from the policy's, by their names.
        files: small files that come with the request, by name.
        tainted_by: what untrusted text those who ask have read.
    """

    driver: str
    goal: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    inputs: Sequence[WantedInput] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    expected: Sequence[Expected] = ()
    limits: Mapping[str, float | int] = field(default_factory=dict)
    budget: int | None = None
    retention_seconds: int | None = None
    min_level: str | None = None
    priority: int = 0
    caller: Caller | None = None
    tainted_by: Sequence[str] = ()


def stream_of(operation_id: UUID) -> str:
    """Name an operation's stream."""
    return f"{KIND}:{operation_id}"


async def load(scope: Scope, operation_id: UUID) -> OperationState:
    """Return an operation's state, folded from its stream."""
    return fold(await read_stream(scope, stream_of(operation_id)))


async def begin(scope: Scope, wanted: Wanted) -> UUID:
    """Accept an operation in the name of the scope's user, and have it carried out; return its id.

    Raises:
        BadInput: something of it makes no sense; the field is named.
        Forbidden: the policy, or the grant by which the scope acts, does not allow it.
        NotFound, Gone: an input is not there, or not for the scope to use.
        Conflict: the tenant is stopped.
        QuotaExhausted: the month's operations are used.
        TooManyRequests: as many wait already as may.
        BudgetExhausted: no money is left.
    """
    await refuse_when_stopped(scope)
    holds, _ = await policy(scope)
    terms = await grants.terms(scope, scope.grant_id) if scope.grant_id is not None else None
    driver = _driver(scope, holds, terms, wanted)
    model = _model(scope, holds, terms, wanted, driver)
    limits = granted(holds, dict(wanted.limits), seconds=terms.max_seconds if terms else None)
    rules.Schemas(wanted.expected)
    inputs = await _inputs(scope, terms, wanted, limits.disk)
    await metering.check_quota(scope, scope.owner())

    operation_id = new_id()
    budget = await _use_grant(scope, operation_id, least(wanted.budget, holds.budget))
    await metering.count_operation(scope, scope.owner(), operation_id)
    requested = OperationRequested(
        owner_id=scope.owner(),
        run_id=UUID(int=0),
        grant_id=scope.grant_id,
        application=terms.application if terms else "",
        driver=driver.name,
        goal=wanted.goal,
        parameters=dict(wanted.parameters),
        model=model,
        inputs=tuple(inputs),
        files=tuple(sorted(wanted.files)),
        limits=limits,
        expected=tuple(wanted.expected),
        budget=budget,
        retention_seconds=least(wanted.retention_seconds, terms.retention_seconds if terms else None),
        min_level=None if wanted.min_level is None else stricter(wanted.min_level, holds.min_level),
        caller=wanted.caller,
        tainted=bool(wanted.tainted_by),
    )
    # An application goes before nobody.
    priority = wanted.priority if terms is None else min(wanted.priority, 0)
    run_id = await _start(scope, operation_id, requested, holds, priority, tuple(wanted.tainted_by))
    await files.keep(scope, operation_id, wanted.files)
    fact = _with_run(requested, run_id)
    await append(
        scope, stream_of(operation_id), 0, [fact], session_id=operation_id, run_id=run_id, owner_id=fact.owner_id
    )
    return operation_id


async def _start(
    scope: Scope,
    operation_id: UUID,
    requested: OperationRequested,
    holds: OperationPolicy,
    priority: int,
    tainted_by: tuple[str, ...],
) -> UUID:
    agent = await crew.agent(scope, holds)
    seconds = (requested.limits.seconds + _OVERHEAD) * max(1, holds.attempts)
    return await runs.assign(
        scope,
        Assignment(
            parent=Parent(kind=KIND, id=operation_id),
            session_id=operation_id,
            agent=agent,
            owner_id=requested.owner_id,
            tainted_by=tainted_by,
            seconds=min(seconds, _DAY),
            call=GivenCall(tool=CALL, arguments={"operation_id": str(operation_id)}),
            priority=priority,
        ),
    )


def _with_run(requested: OperationRequested, run_id: UUID) -> OperationRequested:
    fields = {name: getattr(requested, name) for name in requested.__struct_fields__}
    return OperationRequested(**fields | {"run_id": run_id})


# What may be asked for


def _driver(scope: Scope, holds: OperationPolicy, terms: Terms | None, wanted: Wanted | OperationRequested) -> Driver:
    known = scope.service(Drivers)
    driver = known.named(wanted.driver, "driver")
    if holds.drivers and driver.name not in holds.drivers:
        raise Forbidden(f"The policy of this tenant does not allow the driver {driver.name}.")
    if terms is not None and terms.drivers and driver.name not in terms.drivers:
        raise Forbidden(f"The grant does not allow the driver {driver.name}; it allows {', '.join(terms.drivers)}.")
    complaint = known.complaint(driver.name, dict(wanted.parameters))
    if complaint is not None:
        raise BadInput(f"parameters: {complaint}"[:1000], field="parameters")
    if terms is not None:
        grants.check_parameters(terms, {"goal": wanted.goal, **wanted.parameters})
    return driver


def _model(
    scope: Scope, holds: OperationPolicy, terms: Terms | None, wanted: Wanted | OperationRequested, driver: Driver
) -> str | None:
    if not driver.uses_model:
        if wanted.model is not None:
            raise BadInput(f"The driver {driver.name} uses no model.", field="model")
        return None
    model = wanted.model or holds.model or scope.service(Providers).default_model
    if model is None:
        raise BadInput("Name a model: neither the policy nor the server has one for operations.", field="model")
    try:
        parse_model(model)
    except BadInput as fault:
        raise BadInput(f"model: {fault.detail}", field="model") from None
    for who, patterns in (("The policy of this tenant", holds.models), ("The grant", terms.models if terms else ())):
        if patterns and not any(fnmatchcase(model, one) for one in patterns):
            raise Forbidden(f"{who} does not allow the model {model}.")
    return model


async def _inputs(scope: Scope, terms: Terms | None, wanted: Wanted, disk: int) -> list[Input]:
    if len(wanted.inputs) + len(wanted.files) > MOST_INPUTS:
        raise BadInput(f"At most {MOST_INPUTS} inputs and files.", field="inputs")
    found: list[Input] = []
    size = sum(len(content) for content in wanted.files.values())
    for index, one in enumerate(wanted.inputs):
        artifact = await find_input(scope, terms, one.artifact_id)
        name = artifact.name if one.name is None else one.name
        found.append(Input(artifact_id=artifact.artifact_id, name=rules.checked_name(name, f"inputs.{index}.name")))
        size += artifact.size
    for index, name in enumerate(wanted.files):
        if rules.checked_name(name, f"files.{index}.name") != name:
            raise BadInput("Send names of files in their composed form (NFC).", field=f"files.{index}.name")
    rules.distinct([one.name for one in found] + list(wanted.files))
    if size > disk:
        raise BadInput(f"The inputs have {size:,} bytes; the workspace may hold {disk:,}.", field="inputs")
    return found


async def find_input(scope: Scope, terms: Terms | None, artifact_id: UUID) -> artifacts.Artifact:
    """Return an artifact that the scope may use as an input.

    An application may use what belongs to its grant, and those of the user's files that the grant names.

    Raises:
        NotFound, Gone: it may not, or it is not there any more.
    """
    if terms is not None and artifact_id in (terms.files or ()):
        return await artifacts.find(as_owner(scope, terms.owner_id), artifact_id)
    return await artifacts.find(scope, artifact_id)


def as_owner(scope: Scope, owner_id: UUID) -> Scope:
    """Return the same transaction, in which a user sees what is the user's own."""
    return replace(scope, user_id=owner_id, grant_id=None, role=None)


async def _use_grant(scope: Scope, operation_id: UUID, budget: int | None) -> int | None:
    """Count a use of the grant, if there is one; return what the operation may spend."""
    if scope.grant_id is None:
        return budget
    before = await grants.terms(scope, scope.grant_id, lock=True)
    after = await grants.use(scope, scope.grant_id, operation_id, budget)
    return budget if after.budget is None else after.reserved - before.reserved


# Ending and trying again


async def cancel(
    scope: Scope, operation_id: UUID, reason: str = "", *, cause: Literal["cancel", "grant", "stop"] = "cancel"
) -> None:
    """End an operation: at once when it is queued; within a second its sandbox is dead when it runs.

    From here on it publishes nothing.

    Raises:
        NotFound: there is no such operation.
        Conflict: it has ended already.
    """
    row = await find_operation(scope, operation_id, lock=True)
    if row.ended:
        raise Conflict(f"The operation has ended already: it is {row.status}.")
    if row.cancel_cause is None:
        fact = OperationCancelRequested(reason=reason, cause=cause)
        await record(scope, row, fact)
    with suppress(Conflict):  # its run has ended by itself: a look is under way
        await runs.cancel(scope, row.run_id, reason or "the operation was cancelled")


async def retry(scope: Scope, operation_id: UUID) -> None:
    """Begin an operation anew that did not succeed, as it was asked for; with what its grant has left, if that is less.

    What the policy of now does not allow is not begun again. The first time takes nothing of the month's operations;
    each further one is one more of them.

    Raises:
        NotFound: there is no such operation, or an input of it is gone.
        Conflict: it goes on, or it succeeded; or what came with the request is not kept any more.
        Forbidden: its grant is over or used up; or the policy, which has changed, does not allow it.
        QuotaExhausted, TooManyRequests, BudgetExhausted: see :func:`begin`.
    """
    await refuse_when_stopped(scope)
    holds, _ = await policy(scope)
    seen = await find_operation(scope, operation_id)
    requested = (await load(scope, operation_id)).requested
    terms = await grants.terms(scope, seen.grant_id, lock=True) if seen.grant_id is not None else None
    _check_again(scope, holds, terms, requested)
    budget = least(requested.budget, holds.budget)
    if terms is not None:
        budget = least(budget, terms.left() or None)  # when nothing is left, the grant says so
        await grants.use(scope, terms.grant_id, operation_id, budget)
    row = await find_operation(scope, operation_id, lock=True)
    if not row.ended or row.status is rules.OperationStatus.COMPLETED:
        raise Conflict(f"Only an operation that did not succeed can be tried again; this one is {row.status}.")
    state = await load(scope, operation_id)
    requested = state.requested
    for one in requested.inputs:
        await find_input(as_owner(scope, row.owner_id), terms, one.artifact_id)
    if len(await views.files_of(scope, operation_id)) != len(requested.files):
        raise Conflict("The files that came with the request are not kept any more. Send the request again.")
    if state.retries:  # or a program that fails at its end could be run without end
        await metering.count_operation(scope, row.owner_id, new_id())
    tainted = ("whoever asked for the operation has read untrusted text",) if requested.tainted else ()
    run_id = await _start(scope, operation_id, requested, holds, 0, tainted)
    await record(scope, row, OperationRetried(run_id=run_id, budget=budget), run_id=run_id)


def _check_again(scope: Scope, holds: OperationPolicy, terms: Terms | None, requested: OperationRequested) -> None:
    """Hold what was asked for against the policy of now."""
    driver = _driver(scope, holds, terms, requested)
    _model(scope, holds, terms, requested, driver)
    try:
        granted(holds, msgspec.structs.asdict(requested.limits))
    except BadInput as fault:
        raise Forbidden(f"The policy of this tenant does not allow it any more. {fault.detail}") from None


async def record(scope: Scope, row: OperationRow, *facts: Any, run_id: UUID | None = None) -> int:
    """Append to an operation whose row is locked by this scope; return its version."""
    return await append(
        scope,
        stream_of(row.operation_id),
        row.version,
        list(facts),
        session_id=row.operation_id,
        run_id=run_id or row.run_id,
        owner_id=row.owner_id,
    )


async def change_policy(scope: Scope, wanted: OperationPolicy, expected: int) -> None:
    """Let another policy hold from now on; how many go on at once holds for what is queued, too.

    Raises:
        PreconditionFailed: the policy is not at version ``expected`` any more.
        BadInput: it contradicts itself, or names what is not there.
    """
    scope.service(Drivers).check(wanted.drivers)
    if wanted.model is not None:
        parse_model(wanted.model)
    if await record_policy(scope, wanted, expected):
        await crew.follow(scope, wanted)


# Hooks


async def on_run_ended(scope: Scope, parent: Parent, _ended: runs.EndedRun) -> None:
    """Have the operation looked at whose run has ended without an end of its own: the hook of these parents."""
    with suppress(NotFound):
        if (await find_operation(scope, parent.id)).ended:
            return  # by the run's own call, as a rule
    await scope.service(Dispatcher).prompt(scope, LOOK, parent.id)


async def on_grant_over(scope: Scope, grant_id: UUID) -> None:
    """Have everything of a grant stopped that was revoked or has expired."""
    await scope.service(Dispatcher).prompt(scope, REVOKED, grant_id)


async def on_stop(scope: Scope, stopped: bool) -> None:
    """End what runs when the tenant is stopped; what is queued waits until it is resumed."""
    if not stopped:
        return
    for operation_id in await views.open_operations(scope, status=rules.OperationStatus.RUNNING):
        with suppress(Conflict, NotFound):
            await cancel(scope, operation_id, "Everything was stopped.", cause="stop")
