"""What changes workflows: apply, delete, start. A run of a workflow is a plan of the room ``planning``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from retinue.dispatch import wake
from retinue.kernel import BadInput, Conflict, NotFound, Scope, new_id
from retinue.ledger import Projection, Recorded, append
from retinue.planning import Origin, Plan, TaskStarted, checked_plan, start_plan
from retinue.vault import open_secret, remove_secret
from retinue.workflows import secrets, views
from retinue.workflows.compiling import Compiled, Known, compile_workflow, input_check, mistakes_in, with_defaults
from retinue.workflows.document import MOST_STEPS, CronTrigger, EventTrigger, Workflow
from retinue.workflows.events import TriggerFact, WorkflowApplied, WorkflowDeleted
from retinue.workflows.reading import Source, WorkflowMistake, read_content, refusal
from retinue.workflows.times import CronLine
from retinue.workflows.views import Stored, StoredTrigger

CRON = "workflow.cron"
"""The wake-up of a cron line; its subject is the trigger's key."""

LISTEN = "workflow.listen"
"""The wake-up that looks at a tenant's new events; its subject is the tenant."""

MOST_WORKFLOWS = 1_000
RESERVED = frozenset({"schema", "validate"})
"""Names that are taken by the API's own paths."""


@dataclass(frozen=True, slots=True)
class Applied:
    """A workflow after it was applied.

    Attributes:
        secrets: of new webhooks, by the trigger's id; they are shown once.
        changed: whether there is a new version.
    """

    stored: Stored
    secrets: Mapping[str, str]
    changed: bool


def stream(workflow_id: UUID) -> str:
    """Return the name of a workflow's stream in the ledger."""
    return f"workflow:{workflow_id}"


async def find(scope: Scope, name: str, *, lock: bool = False) -> Stored:
    """Return the tenant's workflow of a name.

    Raises:
        NotFound: there is none.
    """
    found = await views.by_name(scope, name, lock=lock)
    if found is None:
        raise NotFound("workflow")
    return found


async def mistakes(scope: Scope, source: Source) -> list[WorkflowMistake]:
    """Return everything that is wrong with a workflow, as it would be applied now."""
    found = mistakes_in(source, (await _known(scope, source)).get)
    if source.workflow is not None and source.workflow.name in RESERVED:
        found.append(source.mistake(("name",), f"{source.workflow.name!r} cannot be the name of a workflow."))
    return found


async def compiled(scope: Scope, source: Source) -> Compiled:
    """Compile a workflow with the tenant's other workflows as they are now.

    Raises:
        BadInput: there are mistakes, and each is named.
    """
    return compile_workflow(source, (await _known(scope, source)).get)


async def _known(scope: Scope, source: Source) -> Mapping[str, Known]:
    """Read every workflow that this one can reach."""
    known: dict[str, Known] = {}
    left = list(_called(source.content))
    seen: set[str] = set()
    while left and len(seen) < 200:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        stored = await views.by_name(scope, name)
        if stored is not None:
            known[name] = Known(stored.workflow, stored.number)
            left += _called(stored.content)
    return known


def _called(content: Any) -> set[str]:
    """Return the texts that stand in fields called ``workflow``, wherever they are."""
    found: set[str] = set()
    left = [content]
    while left:
        one = left.pop()
        if isinstance(one, Mapping):
            if isinstance(one.get("workflow"), str):
                found.add(one["workflow"])
            left += one.values()
        elif isinstance(one, list):
            left += one
    return found


# Definitions


async def apply(scope: Scope, source: Source, present: Stored | None) -> Applied:
    """Make a workflow, or give it its next version; an equal one changes nothing.

    Args:
        present: the workflow of that name as it is, locked by this scope; None: there is none, and the name is claimed.

    Raises:
        BadInput: there are mistakes, and each is named with its line.
        Conflict: the tenant has too many workflows.
    """
    found = await mistakes(scope, source)
    if found or source.workflow is None:
        raise refusal(found)
    wanted = source.workflow
    if present is not None and present.content == source.content and present.text == source.text:
        return Applied(present, {}, False)
    if present is None and len(await views.list_stored(scope, None, MOST_WORKFLOWS)) >= MOST_WORKFLOWS:
        raise Conflict(f"There are {MOST_WORKFLOWS} workflows already; delete some first.")
    workflow_id = present.workflow_id if present is not None else new_id()
    before = {one.id: one for one in await views.triggers_of(scope, workflow_id)} if present is not None else {}
    triggers = _triggers(scope, wanted, before, present)
    fact = WorkflowApplied(
        workflow_id=workflow_id,
        owner_id=scope.owner(),
        name=wanted.name,
        number=present.number + 1 if present is not None else 1,
        content=dict(source.content),
        text=source.text,
        triggers=triggers,
    )
    await append(scope, stream(workflow_id), present.revision if present is not None else 0, [fact])
    kept = {one.key for one in before.values()}
    made = {one.id: await secrets.make(scope, secrets.HOOK, one.key) for one in triggers if _is_new_hook(one, kept)}
    await _forget_hooks(scope, before.values(), {one.key for one in triggers})
    await _wake(scope, triggers, kept)
    return Applied(await find(scope, wanted.name), made, True)


def _is_new_hook(trigger: TriggerFact, kept: set[UUID]) -> bool:
    return trigger.kind == "webhook" and trigger.key not in kept


def _triggers(
    scope: Scope, wanted: Workflow, before: Mapping[str, StoredTrigger], present: Stored | None
) -> tuple[TriggerFact, ...]:
    """Return the triggers of a new version. One that is as it was keeps its key: what is due, and its URL."""
    old = {one.id: one for one in present.workflow.triggers} if present is not None else {}
    found: list[TriggerFact] = []
    for one in wanted.triggers:
        kind = "cron" if isinstance(one, CronTrigger) else "event" if isinstance(one, EventTrigger) else "webhook"
        stays = one.id in before and before[one.id].kind == kind and _when(old.get(one.id)) == _when(one)
        next_at = before[one.id].next_at if stays else None
        if isinstance(one, CronTrigger) and next_at is None:
            next_at = CronLine(one.cron, one.timezone).after(scope.clock.now())
        key = before[one.id].key if stays else new_id()
        event = one.event.type if isinstance(one, EventTrigger) else None
        found.append(msgspec.convert({"key": key, "id": one.id, "kind": kind}, TriggerFact))
        found[-1] = msgspec.structs.replace(found[-1], next_at=next_at, event=event)
    return tuple(found)


def _when(trigger: Any) -> Any:
    """Return what of a trigger decides when it is set off."""
    return trigger.model_dump(include={"cron", "timezone", "webhook", "event"}) if trigger is not None else None


async def _wake(scope: Scope, triggers: Sequence[TriggerFact], kept: set[UUID]) -> None:
    for one in triggers:
        if one.next_at is not None and one.key not in kept:
            await wake(scope, CRON, one.key, at=one.next_at)


def listens(source: Source) -> bool:
    """Whether a workflow is set off by events."""
    return source.workflow is not None and any(isinstance(one, EventTrigger) for one in source.workflow.triggers)


async def on_task_started(scope: Scope, recorded: Recorded[TaskStarted]) -> None:
    """Look at the tenant's events when a task begins to wait for one."""
    if recorded.event.event is not None:
        await listen(scope)


async def listen(scope: Scope) -> None:
    """See to it that somebody looks at the tenant's events from now on. It locks the listener: before workflows."""
    found = await views.listener(scope)
    if found is not None and found[1]:
        return
    position = await scope.queries.fetchval("SELECT position FROM heads") or 0
    await views.set_listener(scope, int(position), True)
    await wake(scope, LISTEN, scope.tenant_id)


async def delete(scope: Scope, stored: Stored) -> None:
    """Delete a workflow whose row the scope has locked; plans that were made of it go on."""
    triggers = await views.triggers_of(scope, stored.workflow_id)
    await append(scope, stream(stored.workflow_id), stored.revision, [WorkflowDeleted(workflow_id=stored.workflow_id)])
    await _forget_hooks(scope, triggers, set())
    if await open_secret(scope, secrets.CALLBACK, str(stored.workflow_id)) is not None:
        await remove_secret(scope, secrets.CALLBACK, str(stored.workflow_id))


async def _forget_hooks(scope: Scope, triggers: Any, kept: set[UUID]) -> None:
    for one in triggers:
        if one.kind == "webhook" and one.key not in kept:
            await remove_secret(scope, secrets.HOOK, str(one.key))


# Runs


async def start(
    scope: Scope,
    stored: Stored,
    inputs: Mapping[str, Any],
    *,
    session_id: UUID | None = None,
    callback: str | None = None,
    set_off_by: str = "manual",
    trigger: Any = None,
    tainted_by: tuple[str, ...] = (),
) -> UUID:
    """Start a run of a workflow in the name of the scope's user; return the id of its plan.

    Args:
        session_id: whose files its runs use; None: it has a workspace of its own.
        callback: the URL that is told of its end.
        trigger: what set it off, as expressions see it.
        tainted_by: what untrusted text is in the inputs or the trigger.

    Raises:
        BadInput: the inputs do not fit, an agent or a sub-workflow is gone, or nobody could check a callback.
    """
    workflow = stored.workflow
    complete = with_defaults(workflow, inputs)
    complaint = input_check(workflow).complaint(complete)
    if complaint is not None:
        raise BadInput(f"inputs: {complaint}", field="inputs")
    if callback is not None and await open_secret(scope, secrets.CALLBACK, str(stored.workflow_id)) is None:
        raise BadInput(
            f"A callback is signed. Make its secret first: POST /v1/workflows/{stored.name}/callback-secret",
            field="callback",
        )
    plan = await _plan(scope, stored, complete, set_off_by, trigger, tainted_by)
    return await start_plan(scope, plan, session_id=session_id, callback=callback)


async def _plan(
    scope: Scope, stored: Stored, inputs: Mapping[str, Any], set_off_by: str, trigger: Any, tainted_by: tuple[str, ...]
) -> Plan:
    found = await compiled(scope, read_content(stored.content))
    origin = Origin(
        kind="workflow",
        workflow_id=stored.workflow_id,
        name=stored.name,
        version=stored.number,
        trigger=set_off_by,
    )
    plan = msgspec.structs.replace(
        found.plan, inputs=dict(inputs), origin=origin, trigger=trigger, tainted_by=tainted_by
    )
    return await checked_plan(scope, plan, most=MOST_STEPS)


projection = Projection({TaskStarted: on_task_started})
