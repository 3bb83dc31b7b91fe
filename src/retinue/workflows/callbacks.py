"""Tells somebody outside how a run of a workflow ended: signed, tried again with growing pauses, kept when it fails.

The note that there is something to tell commits together with the end of the plan. It may arrive twice, always under
the same ``webhook-id``.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from datetime import timedelta
from uuid import UUID

import httpx2

from retinue import __version__
from retinue.database import open_scope
from retinue.dispatch import wake
from retinue.kernel import BadInput, Conflict, Scope, Services, Settings, new_id
from retinue.ledger import append
from retinue.outbound import AddressRefused, OutboundTransport, system_tls
from retinue.planning import PlanState, PlanStatus
from retinue.vault import open_secret
from retinue.workflows import secrets, views
from retinue.workflows.events import (
    CallbackDeadLettered,
    CallbackDelivered,
    CallbackFailed,
    CallbackQueued,
    CallbackRequeued,
)
from retinue.workflows.views import Callback

DELIVER = "workflow.callback"
"""The wake-up that delivers a callback."""

PAUSES = tuple(timedelta(seconds=one) for one in (5, 30, 120, 600, 3_600, 18_000, 36_000))
"""Between the tries; after the last one the callback is dead."""

SECONDS = 15.0
_LEASE = timedelta(seconds=45)
_MOST_ANSWER = 100_000
_MOST_OUTPUT = 200_000
"""Characters of an output that is sent along; of a longer one the receiver asks for the plan."""


def check_url(text: str, settings: Settings) -> str:
    """Return a callback's URL.

    Raises:
        BadInput: it is none that could be called.
    """
    try:
        url = httpx2.URL(text)
    except (httpx2.InvalidURL, ValueError):
        raise BadInput("The callback is no URL.", field="callback") from None
    private = settings.allow_private_fetch
    if url.scheme != "https" and not (private and url.scheme == "http"):
        raise BadInput("A callback starts with https://.", field="callback")
    if not url.host or url.userinfo or (url.port not in (None, 443) and not private):
        raise BadInput("A callback has a host, port 443, and no user name or password.", field="callback")
    return str(url.copy_with(fragment=None))


async def on_plan_end(scope: Scope, plan_id: UUID, state: PlanState) -> None:
    """Queue the callback of a plan that has just ended, if somebody wants one."""
    drafted = state.drafted
    if drafted is None or drafted.callback is None or drafted.plan.origin.workflow_id is None:
        return
    callback_id = new_id()
    fact = CallbackQueued(
        callback_id=callback_id,
        plan_id=plan_id,
        workflow_id=drafted.plan.origin.workflow_id,
        url=drafted.callback,
        body=_body(scope, plan_id, state),
    )
    await append(scope, stream(callback_id), 0, [fact], owner_id=drafted.owner_id)
    await wake(scope, DELIVER, callback_id)


def stream(callback_id: UUID) -> str:
    """Return the name of a callback's stream in the ledger."""
    return f"callback:{callback_id}"


def _body(scope: Scope, plan_id: UUID, state: PlanState) -> str:
    origin = state.graph.origin
    output = state.output if len(json.dumps(state.output, default=str)) <= _MOST_OUTPUT else None
    data = {
        "plan_id": str(plan_id),
        "workflow": origin.name,
        "version": origin.version,
        "status": state.status.value,
        "output": output,
        "error": {"kind": state.kind, "detail": state.detail} if state.status is not PlanStatus.COMPLETED else None,
        "missing": list(state.missing),
    }
    return json.dumps(
        {"type": f"workflow.run.{state.status.value}", "timestamp": scope.clock.now().isoformat(), "data": data}
    )


async def deliver(services: Services, tenant_id: UUID, callback_id: UUID) -> None:
    """Answer a wake-up: send a callback that is due, and note what came of it. No transaction waits for the answer."""
    async with open_scope(services, tenant_id) as scope:
        found = await _claimed(scope, callback_id)
        if found is None:
            return
        secret = await open_secret(scope, secrets.CALLBACK, str(found.workflow_id))
    reason, status = await _sent(services.get(Settings), found, secret, scope)
    async with open_scope(services, tenant_id, user_id=found.owner_id) as scope:
        await record(scope, callback_id, found.attempts, reason, status)


async def _claimed(scope: Scope, callback_id: UUID) -> Callback | None:
    """Take a callback that is due and that nobody else is sending."""
    found = await views.callback(scope, callback_id)
    now = scope.clock.now()
    if found.status != "pending":
        return None
    later = max(found.due_at, found.leased_until or found.due_at)
    if later > now:
        await wake(scope, DELIVER, callback_id, at=later)
        return None
    await views.lease_callback(scope, callback_id, now + _LEASE)
    # Should this process die now, somebody tries again when the lease is over.
    await wake(scope, DELIVER, callback_id, at=now + _LEASE)
    return found


async def _sent(settings: Settings, found: Callback, secret: bytes | None, scope: Scope) -> tuple[str, int]:
    """Send it; return why that failed (empty: it did not) and the status of the answer."""
    if secret is None:
        return "there is no secret to sign it with any more", 0
    headers = secrets.signed(secret.decode(), str(found.callback_id), scope.clock.now(), found.body)
    headers |= {"content-type": "application/json", "user-agent": f"Retinue/{__version__}"}
    tls = await asyncio.to_thread(system_tls)
    transport = OutboundTransport(allow_private=settings.allow_private_fetch, tls=tls, most_bytes=_MOST_ANSWER)
    try:
        async with asyncio.timeout(SECONDS), httpx2.AsyncClient(transport=transport, trust_env=False) as client:
            answer = await client.post(found.url, content=found.body.encode(), headers=headers)
    except TimeoutError:
        return f"no answer within {SECONDS:g} seconds", 0
    except AddressRefused as refused:
        return str(refused)[:500], 0
    except (httpx2.HTTPError, httpx2.InvalidURL, ssl.SSLError) as error:
        return f"{type(error).__name__}: {error}"[:500], 0
    return ("" if answer.is_success else f"the receiver answered {answer.status_code}"), answer.status_code


async def record(scope: Scope, callback_id: UUID, attempts: int, reason: str, status: int) -> None:
    """Note what came of a try: it was taken, is tried again after a pause, or is dead."""
    found = await views.callback(scope, callback_id)
    if found.status != "pending" or found.attempts != attempts:
        return  # somebody else was quicker
    attempt = attempts + 1
    if not reason:
        fact: CallbackDelivered | CallbackDeadLettered | CallbackFailed = CallbackDelivered(
            callback_id=callback_id, attempt=attempt, status=status
        )
    elif attempt > len(PAUSES):
        fact = CallbackDeadLettered(callback_id=callback_id, attempt=attempt, reason=reason)
    else:
        again_at = scope.clock.now() + PAUSES[attempt - 1]
        fact = CallbackFailed(callback_id=callback_id, attempt=attempt, reason=reason, again_at=again_at)
        await wake(scope, DELIVER, callback_id, at=again_at)
    await append(scope, stream(callback_id), found.revision, [fact], owner_id=found.owner_id)


async def requeue(scope: Scope, callback_id: UUID) -> Callback:
    """Have a dead callback tried again, from the start.

    Raises:
        NotFound: there is none.
        Conflict: it is not dead.
    """
    found = await views.callback(scope, callback_id)
    if found.status != "dead":
        raise Conflict(f"The callback is {found.status}; only dead ones are put back into the queue.")
    fact = CallbackRequeued(callback_id=callback_id)
    await append(scope, stream(callback_id), found.revision, [fact], owner_id=found.owner_id)
    await wake(scope, DELIVER, callback_id)
    return await views.callback(scope, callback_id)
