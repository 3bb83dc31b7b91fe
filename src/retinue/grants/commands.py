"""Granting, revoking, and using a grant.

Locks: whoever uses or ends a grant locks its row first, and runs and lanes after it. The end of an operation, which
holds its run's locks, takes no lock here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import orjson

from retinue.dispatch import wake
from retinue.grants import rules, views
from retinue.grants.events import GrantCreated, GrantExpired, GrantRevoked, GrantUsed
from retinue.grants.rules import LARGEST_SCHEMA, Terms
from retinue.kernel import BadInput, Conflict, Forbidden, NotFound, Scope, base64url, new_id
from retinue.ledger import Event, append, stream_version
from retinue.tenancy import GRANTEE_SCOPES, leave_hooks

MOST_GRANTS = 1000
EXPIRE = "grant.expire"

RevokeHook = Callable[[Scope, UUID], Awaitable[None]]

on_revoke: list[RevokeHook] = []
"""Called inside the transaction that ends a grant (revoked, expired, its user left), with its id.

The grant's row is locked then. A hook must not lock runs or lanes: a run that ends holds those, and would wait for it
the other way round. It queues a wake-up (:func:`retinue.dispatch.wake`) that stops what runs.
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a user wants to grant; the fields are those of :class:`Terms`."""

    application: str
    grantee: str
    seal_to: str | None = None
    drivers: Sequence[str] = ()
    models: Sequence[str] = ()
    files: Sequence[UUID] | None = None
    parameters: Mapping[str, Any] | None = None
    uses: int | None = None
    budget: int | None = None
    retention_seconds: int | None = None
    max_seconds: int | None = None
    expires_at: datetime | None = None


GrantCheck = Callable[[Scope, Wanted], Awaitable[None]]

grant_checks: list[GrantCheck] = []
"""Called with a new grant; raises ``BadInput`` for what the server or the scope's user does not have."""


# What users do


async def grant(scope: Scope, wanted: Wanted) -> Terms:
    """Grant an application something, in the name of the scope's user.

    Raises:
        BadInput: a key, the schema, a driver, a file or the time makes no sense.
        Forbidden: an API key would grant more than it may do itself.
        Conflict: the user has too many live grants.
    """
    key = rules.read_grantee(wanted.grantee)
    seal_to = None if wanted.seal_to is None else rules.read_seal_to(wanted.seal_to)
    _check(scope, wanted)
    for check in grant_checks:
        await check(scope, wanted)
    if len(await views.alive_of(scope, scope.owner())) >= MOST_GRANTS:
        raise Conflict(f"You have {MOST_GRANTS:,} live grants. Revoke some first.")
    made = GrantCreated(
        grant_id=new_id(),
        owner_id=scope.owner(),
        application=wanted.application,
        grantee=key.text,
        seal_to=None if seal_to is None else base64url(seal_to),
        drivers=tuple(dict.fromkeys(wanted.drivers)),
        models=tuple(dict.fromkeys(wanted.models)),
        files=None if wanted.files is None else list(dict.fromkeys(wanted.files)),
        parameters=None if wanted.parameters is None else dict(wanted.parameters),
        uses=wanted.uses,
        budget=wanted.budget,
        retention_seconds=wanted.retention_seconds,
        max_seconds=wanted.max_seconds,
        expires_at=wanted.expires_at,
    )
    await append(scope, f"grant:{made.grant_id}", 0, [made])
    if made.expires_at is not None:
        await wake(scope, EXPIRE, made.grant_id, at=made.expires_at)
    return await terms(scope, made.grant_id)


async def revoke(scope: Scope, grant_id: UUID, *, reason: Literal["revoked", "left"] = "revoked") -> None:
    """Take a grant back, at once: the next request with it is refused, and what runs under it is stopped.

    Raises:
        NotFound: there is no such grant for the scope's user, or it is over already.
    """
    found = await terms(scope, grant_id, lock=True)
    if found.revoked_at is not None:
        raise NotFound("grant")
    await _end(scope, found, GrantRevoked(grant_id=grant_id, reason=reason))


async def expire(scope: Scope, grant_id: UUID) -> None:
    """Record that a grant's time is over, and have what runs under it stopped. Doing it twice is fine."""
    goes_on = await views.lock(scope, grant_id)
    found = await views.find(scope, grant_id)
    if found is None or found.expires_at is None or not goes_on:
        return
    if scope.clock.now() < found.expires_at:
        await wake(scope, EXPIRE, grant_id, at=found.expires_at)
        return
    await _end(scope, found, GrantExpired(grant_id=grant_id))


async def _revoke_of_leaver(scope: Scope, user_id: UUID) -> None:
    there = replace(scope, role="admin", grant_id=None)  # whoever removes a member need not be the owner of its grants
    for grant_id in await views.alive_of(scope, user_id):
        await revoke(there, grant_id, reason="left")


leave_hooks.append(_revoke_of_leaver)


def as_owner(scope: Scope) -> Scope:
    """Return the scope as one that sees its user's own grants alone, an admin's too."""
    return replace(scope, role=None)


# What other rooms call


async def terms(scope: Scope, grant_id: UUID, *, lock: bool = False) -> Terms:
    """Return a grant: the grantee's own, a user's own, any for an admin and for the system.

    Args:
        lock: let nobody else use or end it until the transaction ends.

    Raises:
        NotFound: there is none, or it is somebody else's.
    """
    if lock:
        await views.lock(scope, grant_id)
    found = await views.find(scope, grant_id)
    if found is None or not scope.sees(found.owner_id, found.grant_id):
        raise NotFound("grant")
    return found


async def listed(scope: Scope, after: UUID | None, limit: int, *, alive: bool = False) -> list[Terms]:
    """Return the grants that the scope's user sees, the newest first."""
    sees_all = scope.role == "admin" or scope.user_id is None
    return await views.listed(scope, None if sees_all else scope.user_id, scope.grant_id, after, limit, alive=alive)


async def use(scope: Scope, grant_id: UUID, operation_id: UUID, budget: int | None) -> Terms:
    """Count one operation under a grant and set its budget aside, in the transaction that begins the operation.

    An operation that is under way is not counted again; one that ended and is tried again gets a new reservation, and
    counts once all the same.

    Args:
        budget: the most that it may cost, in nano-dollars; None for all that is left, which leaves nothing for others.

    Returns:
        The grant as it is then.

    Raises:
        NotFound: there is no such grant, or it is somebody else's.
        Forbidden: it was revoked, has expired or is used up, or its budget has less left.
    """
    found = await terms(scope, grant_id, lock=True)
    tries, under_way = await views.tries(scope, grant_id, operation_id)
    if under_way:
        return found
    reserved = rules.reservation(found, scope.clock.now(), budget, again=tries > 0)
    await views.begin(scope, grant_id, operation_id, tries + 1, reserved)
    what = "operation.started" if tries == 0 else "operation.retried"
    await _record(
        scope, found, GrantUsed(grant_id=grant_id, what=what, subject=str(operation_id), reserved=reserved or None)
    )
    return await terms(scope, grant_id)


async def settle(scope: Scope, grant_id: UUID, operation_id: UUID, cost: int) -> None:
    """Turn what was set aside for an operation into what it cost, in nano-dollars. Doing it twice is fine."""
    await views.end(scope, grant_id, operation_id, cost)


async def note(scope: Scope, grant_id: UUID, what: str, subject: str) -> None:
    """Record another use of a grant for those who audit it, such as ``artifact.opened``.

    Raises:
        NotFound: there is no such grant, or it is somebody else's.
    """
    found = await terms(scope, grant_id, lock=True)
    await _record(scope, found, GrantUsed(grant_id=grant_id, what=what, subject=subject))


async def _end(scope: Scope, found: Terms, fact: Event) -> None:
    await _record(scope, found, fact)
    for hook in on_revoke:
        await hook(scope, found.grant_id)


def _check(scope: Scope, wanted: Wanted) -> None:
    if wanted.expires_at is not None and wanted.expires_at <= scope.clock.now():
        raise BadInput("expires_at: a grant must end in the future.", field="expires_at")
    if wanted.parameters is not None:
        if len(orjson.dumps(wanted.parameters)) > LARGEST_SCHEMA:
            raise BadInput(f"parameters: at most {LARGEST_SCHEMA:,} bytes.", field="parameters")
        rules.compiled(wanted.parameters)
    own = scope.scopes
    if own is not None and not all(one in own or f"{one.partition(':')[0]}:*" in own for one in GRANTEE_SCOPES):
        needed = ", ".join(sorted(GRANTEE_SCOPES))
        raise Forbidden(f"A key cannot grant more than it may do itself. It needs the scopes {needed}.")


async def _record(scope: Scope, found: Terms, fact: Event) -> None:
    """Append to a grant's stream; what happens to a grant is its user's to see, whoever did it."""
    stream = f"grant:{found.grant_id}"
    await append(scope, stream, await stream_version(scope, stream), [fact], owner_id=found.owner_id)
