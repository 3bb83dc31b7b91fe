"""What sets workflows off: times, signed messages, events. Each starts its plan exactly once.

A plan, the note that its trigger was set off, and what comes next (the next time, the message's id, the position up
to which events were looked at) commit together. So whatever is killed, nothing is lost and nothing starts twice.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from retinue.database import open_scope
from retinue.dispatch import wake
from retinue.kernel import BadInput, Conflict, Fault, Scope, Services, Unauthenticated
from retinue.ledger import Encoded, Event, Feed, append
from retinue.planning import events_waited_for, list_plans, matches, offer, read_json, render
from retinue.tenancy import find_member, permits, sees_team
from retinue.workflows import secrets, views
from retinue.workflows.commands import CRON, LISTEN, start, stream
from retinue.workflows.document import CronTrigger, EventTrigger
from retinue.workflows.events import WorkflowTriggered, WorkflowTriggerFailed
from retinue.workflows.times import CronLine
from retinue.workflows.views import Stored, StoredTrigger

REPLAY_HOURS = 24
"""How long a webhook's message ids are kept; signatures hold for five minutes."""

LOOK_AGAIN = timedelta(seconds=1)
"""How soon a tenant's events are looked at again when nothing new was there."""

PAGE = 200
LOOK_SECONDS = 0.5
"""How long one look at new events goes on with the next event: others wait for the place that it takes."""

CAUSE = f"wake-up:{LISTEN}"
MOST_A_MINUTE = 60
"""Runs of one workflow that events may start in a minute: one whose runs cause the event would never end."""


# Times


async def on_time(scope: Scope, key: UUID) -> UUID | None:
    """Start the plan of a cron line that is due, and queue its next time; return the plan's id, if one was started.

    A time that came while nothing was running is made up for once.
    """
    trigger = await views.trigger(scope, key, lock=True)
    if trigger is None or trigger.next_at is None:
        return None
    now = scope.clock.now()
    if now < trigger.next_at:
        await wake(scope, CRON, key, at=trigger.next_at)
        return None
    stored = await views.by_id(scope, trigger.workflow_id, lock=True)
    found = _definition(stored, trigger)
    if stored is None or not isinstance(found, CronTrigger):
        return None
    due, next_at = trigger.next_at, CronLine(found.cron, found.timezone).after(now)
    shown = {"kind": "cron", "id": trigger.id, "due_at": due.isoformat()}
    plan_id = await _set_off(scope, stored, trigger, found.inputs, shown, due.isoformat(), next_at=next_at)
    await wake(scope, CRON, key, at=next_at)
    return plan_id


# Messages


async def on_message(scope: Scope, key: UUID, headers: Mapping[str, str], body: bytes) -> UUID:
    """Start the plan of a webhook for a signed message; return the plan's id.

    Raises:
        Unauthenticated: the signature or the time is wrong, or there is no such webhook.
        Conflict: the message came before.
        BadInput: its body is no JSON, or no plan can be started with it.
    """
    message_id = await secrets.check(scope, key, headers, body)
    trigger = await views.trigger(scope, key, lock=True)
    stored = await views.by_id(scope, trigger.workflow_id, lock=True) if trigger is not None else None
    if trigger is None or stored is None:
        raise Unauthenticated()
    now = scope.clock.now()
    if not await views.take_message(scope, key, message_id, now, now - timedelta(hours=REPLAY_HOURS)):
        raise Conflict("This message was taken before.")
    try:
        content = read_json(body) if body else None
    except ValueError:
        raise BadInput("The body is no JSON, or nested too deep.", field="body") from None
    found = _definition(stored, trigger)
    shown = {"kind": "webhook", "id": trigger.id, "message_id": message_id, "body": content}
    tainted = (f"a message to the webhook {trigger.id!r}",)
    plan_id = await _set_off(
        scope, stored, trigger, found.inputs if found else {}, shown, message_id, tainted_by=tainted, note_failure=False
    )
    assert plan_id is not None
    return plan_id


# Events


async def new_events(scope: Scope) -> list[Encoded]:
    """Return the tenant's next events; none when nobody listens."""
    position = await views.position(scope)
    return [] if position is None else list(await scope.service(Feed).read(scope.tenant_id, position, PAGE))


async def offer_to_waits(services: Services, tenant_id: UUID, batch: Sequence[Encoded]) -> int:
    """Give events to the tasks that wait for them; return the position of the last that all had a look at.

    That is before the position moves: to give one takes a plan's lock, and a plan that begins to wait takes the
    listener's. When the time of one look is over, the rest is left to the next.
    """
    async with open_scope(services, tenant_id, cause=CAUSE) as scope:
        wanted = await events_waited_for(scope)
    began, position = time.monotonic(), 0
    for one in batch:
        if one.type in wanted:
            await _offer_one(services, tenant_id, one)
        position = one.position
        if time.monotonic() - began > LOOK_SECONDS:
            break
    return position


async def _offer_one(services: Services, tenant_id: UUID, one: Encoded) -> None:
    shown = _shown(one)

    async def may_see(scope: Scope, owner_id: UUID) -> bool:
        return await _may_see(scope, owner_id, one, shown)

    await offer(services, tenant_id, shown, one.recorded_at, may_see, cause=CAUSE)


async def on_events(scope: Scope, upto: int) -> int:
    """Let the tenant's new events, up to a position, set off workflows; return how many events there were.

    Queues the next look while somebody listens. When the time of one look is over, the rest is left to the next.
    """
    found = await views.listener(scope)
    if found is None:
        return 0
    position = found[0]
    triggers = await views.event_triggers(scope)
    if not triggers and not await events_waited_for(scope):
        await views.set_listener(scope, position, False)
        return 0
    batch = [one for one in await scope.service(Feed).read(scope.tenant_id, position, PAGE) if one.position <= upto]
    began, done = time.monotonic(), 0
    for one in batch:
        for trigger in (each for each in triggers if each.event == one.type):
            await _match(scope, trigger, one, _shown(one))
        done, position = done + 1, one.position
        if time.monotonic() - began > LOOK_SECONDS:
            break
    await views.set_listener(scope, position, True)
    await wake(scope, LISTEN, scope.tenant_id, at=None if done else scope.clock.now() + LOOK_AGAIN)
    return done


async def _match(scope: Scope, trigger: StoredTrigger, one: Encoded, shown: dict[str, Any]) -> None:
    stored = await views.by_id(scope, trigger.workflow_id)
    found = _definition(stored, trigger)
    if stored is None or not isinstance(found, EventTrigger):
        return
    if not await _may_see(scope, stored.owner_id, one, shown):
        return
    if found.event.match is not None and not matches(found.event.match, {}, shown):
        return
    recent = await list_plans(scope, None, before=None, limit=MOST_A_MINUTE, workflow_id=stored.workflow_id)
    if len(recent) == MOST_A_MINUTE and recent[-1].created_at > scope.clock.now() - timedelta(minutes=1):
        fact = _failed(stored, trigger, str(one.position), "too-many", f"More than {MOST_A_MINUTE} runs in a minute.")
        await append(scope, stream(stored.workflow_id), stored.revision, [fact], owner_id=stored.owner_id)
        return
    about = {"kind": "event", "id": trigger.id, "event": shown}
    tainted = (f"an event {one.type}",)
    await _set_off(scope, stored, trigger, found.inputs, about, str(one.position), tainted_by=tainted)


async def _may_see(scope: Scope, owner_id: UUID, one: Encoded, shown: Mapping[str, Any]) -> bool:
    """Whether somebody may see an event: an own one, or one that no user owns and that is of no team of others."""
    if one.meta.owner is not None:
        return one.meta.owner == owner_id
    team = shown["data"].get("team")
    return await sees_team(scope, owner_id, None if team is None else UUID(team))


def _shown(one: Encoded) -> dict[str, Any]:
    return {
        "type": one.type,
        "position": one.position,
        "stream": one.stream,
        "actor": one.meta.actor,
        "recorded_at": one.recorded_at.isoformat(),
        "data": msgspec.json.decode(one.data),
    }


# Starting


def _definition(stored: Stored | None, trigger: StoredTrigger) -> Any:
    if stored is None:
        return None
    return next((one for one in stored.workflow.triggers if one.id == trigger.id), None)


async def _set_off(
    scope: Scope,
    stored: Stored,
    trigger: StoredTrigger,
    inputs: Mapping[str, Any],
    shown: Mapping[str, Any],
    cause: str,
    *,
    next_at: datetime | None = None,
    tainted_by: tuple[str, ...] = (),
    note_failure: bool = True,
) -> UUID | None:
    """Start the plan in the name of the workflow's owner and note it; or note why none could be started."""
    before, scope.user_id = scope.user_id, stored.owner_id
    fact: Event
    plan_id: UUID | None = None
    try:
        await _check_owner(scope, stored.owner_id)
        given = render(dict(inputs), {"trigger": shown})
        plan_id = await start(scope, stored, given, set_off_by=trigger.kind, trigger=dict(shown), tainted_by=tainted_by)
        fact = WorkflowTriggered(
            workflow_id=stored.workflow_id,
            key=trigger.key,
            trigger_id=trigger.id,
            plan_id=plan_id,
            cause=cause,
            next_at=next_at,
        )
    except Fault as fault:
        if not note_failure:
            raise
        fact = _failed(stored, trigger, cause, fault.kind, fault.detail, next_at)
    finally:
        scope.user_id = before
    await append(scope, stream(stored.workflow_id), stored.revision, [fact], owner_id=stored.owner_id)
    return plan_id


def _failed(
    stored: Stored, trigger: StoredTrigger, cause: str, kind: str, detail: str, next_at: datetime | None = None
) -> WorkflowTriggerFailed:
    return WorkflowTriggerFailed(
        workflow_id=stored.workflow_id,
        key=trigger.key,
        trigger_id=trigger.id,
        cause=cause,
        kind=kind,
        detail=detail,
        next_at=next_at,
    )


async def _check_owner(scope: Scope, owner_id: UUID) -> None:
    """Refuse to act for somebody who has left, or may not start workflows any more."""
    member = await find_member(scope, owner_id)
    if member is None or permits(member.role, None, "workflows", "create") != "allow":
        raise BadInput("Whoever applied the workflow may not start workflows here any more.")
