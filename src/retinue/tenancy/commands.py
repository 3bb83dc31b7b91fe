"""Founding tenants, their members, and the emergency stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from uuid import UUID

from retinue.identity import arrivals, find_by_email, normalised, people, revoke_keys_of
from retinue.kernel import ActorKind, Conflict, Forbidden, NotFound, Scope, new_id
from retinue.ledger import Event, append, stream_version
from retinue.tenancy import views
from retinue.tenancy.events import (
    MemberAdded,
    MemberChanged,
    MemberRemoved,
    TenantCreated,
    TenantRenamed,
    TenantResumed,
    TenantStopped,
)
from retinue.tenancy.permissions import Role
from retinue.tenancy.teams import leave_teams
from retinue.tenancy.views import Member, Tenant

StopHook = Callable[[Scope, bool], Awaitable[None]]

stop_hooks: list[StopHook] = []
"""Called inside the transaction that stops (True) or resumes (False) the scope's tenant; ``runs`` registers here."""

LeaveHook = Callable[[Scope, UUID], Awaitable[None]]

leave_hooks: list[LeaveHook] = []
"""Called inside the transaction in which a user leaves the scope's tenant; ``grants`` registers here."""


async def found(scope: Scope, name: str, *, personal: bool) -> None:
    """Make the scope's tenant, with the scope's user as its admin."""
    tenant_id = scope.tenant_id
    await append(
        scope,
        f"tenant:{tenant_id}",
        0,
        [
            TenantCreated(tenant_id=tenant_id, personal=personal, name=name),
            MemberAdded(user_id=scope.owner(), role="admin", shown=True),
        ],
    )


async def found_organisation(scope: Scope, name: str) -> Tenant:
    """Make an organisation with the scope's user as its admin, and return it.

    The scope's own transaction enters the new tenant for this, so that an idempotency key covers it: killed at any
    moment, there is one organisation or none. The scope must not have appended anything of its own tenant.

    Raises:
        Forbidden: an API key asks; it works in its own tenant only.
    """
    if scope.actor.kind == ActorKind.API_KEY:
        raise Forbidden("An API key works in its own tenant only. Sign in to create an organisation.")
    there = replace(scope, tenant_id=new_id(), role="admin")
    await _enter(there)
    scope.uow.before_commit(partial(_enter, there))  # before the ledger's own last step, which comes with `found`
    await found(there, name, personal=False)
    made = await _present(there)
    await _enter(scope)
    return made


async def _enter(scope: Scope) -> None:
    await scope.queries.execute("SELECT set_config('app.tenant_id', $1, true)", str(scope.tenant_id))


async def found_personal_tenant(scope: Scope, _name: str) -> None:
    """Make a new user's personal tenant; its name says nothing about the person."""
    await found(scope, "", personal=True)


arrivals.append(found_personal_tenant)


async def rename(scope: Scope, name: str) -> Tenant:
    """Give an organisation another name.

    Raises:
        Conflict: the tenant is a personal one.
    """
    tenant = await _organisation(scope, "A personal tenant keeps its name.")
    if tenant.name != name:
        await _record(scope, TenantRenamed(tenant_id=tenant.tenant_id, name=name))
    return await _present(scope)


async def put_member(scope: Scope, user_id: UUID, role: Role, *, shown: bool = False) -> Member:
    """Make a user a member with this role, or give a member this role.

    Args:
        scope: whose tenant it is.
        user_id: who is to be a member.
        role: the role.
        shown: fellow members see the user's e-mail address and name from now on. Not for somebody of whom nothing but
            the id is known: it would be a way to look up anybody's address.

    Raises:
        NotFound: there is no such user.
        Conflict: the tenant is a personal one, or would be left without an admin.
    """
    await _organisation(scope, "A personal tenant has one member. Create an organisation to work with others.")
    present = await views.find_member(scope, user_id)
    if present is None:
        if not await people(scope.queries, [user_id]):
            raise NotFound("user")
        await _record(scope, MemberAdded(user_id=user_id, role=role, shown=shown))
    elif present.role != role or (shown and not present.shown):
        if present.role != role:
            await _keep_an_admin(scope, present)
        await _record(scope, MemberChanged(user_id=user_id, role=role, shown=shown))
    return await _member(scope, user_id)


async def put_member_by_email(scope: Scope, email: str, role: Role) -> Member:
    """Do :func:`put_member` for the user with an e-mail address.

    Raises:
        BadInput: it is no e-mail address.
        NotFound: nobody here has it. So admins can find out who has an account; SECURITY.md says why.
    """
    user_id = await find_by_email(scope.queries, normalised(email))
    if user_id is None:
        raise NotFound("user with this e-mail address; they sign up first")
    return await put_member(scope, user_id, role, shown=True)


async def change_member(scope: Scope, user_id: UUID, role: Role) -> Member:
    """Give a member another role.

    Raises:
        NotFound: the user is no member.
        Conflict: the tenant would be left without an admin.
    """
    await _present(scope, for_change=True)
    await _member(scope, user_id)
    return await put_member(scope, user_id, role)


async def remove_member(scope: Scope, user_id: UUID) -> None:
    """End a membership. The user's API keys and grants for this tenant are revoked.

    Raises:
        NotFound: the user is no member.
        Conflict: the tenant is a personal one, or would be left without an admin.
    """
    await _organisation(scope, "Nobody leaves a personal tenant.")
    member = await _member(scope, user_id)
    await _keep_an_admin(scope, member)
    await leave_teams(scope, user_id)
    await _record(scope, MemberRemoved(user_id=user_id))
    await revoke_keys_of(scope, user_id)
    for hook in leave_hooks:
        await hook(scope, user_id)


async def leave(scope: Scope) -> None:
    """End the scope's user's own membership.

    Raises:
        Conflict: the tenant is a personal one, or would be left without an admin.
    """
    await remove_member(scope, scope.owner())


async def stop(scope: Scope, reason: str) -> Tenant:
    """Stop everything in the tenant: nothing new starts, what runs stops at its next step. Doing it twice is fine."""
    tenant = await _present(scope, for_change=True)
    if tenant.stopped_at is None:
        await _record(scope, TenantStopped(tenant_id=tenant.tenant_id, reason=reason))
        await _tell(scope, stopped=True)
    return await _present(scope)


async def resume(scope: Scope) -> Tenant:
    """End the emergency stop. Doing it twice is fine."""
    tenant = await _present(scope, for_change=True)
    if tenant.stopped_at is not None:
        await _record(scope, TenantResumed(tenant_id=tenant.tenant_id))
        await _tell(scope, stopped=False)
    return await _present(scope)


async def refuse_when_stopped(scope: Scope) -> None:
    """Keep something new from starting while the emergency stop is on.

    Raises:
        Conflict: it is on.
    """
    tenant = await _present(scope)
    if tenant.stopped_at is not None:
        raise Conflict(f"This tenant was stopped: {tenant.stop_reason or 'no reason was given'}. Resume it first.")


async def _tell(scope: Scope, *, stopped: bool) -> None:
    for hook in stop_hooks:
        await hook(scope, stopped)


async def _present(scope: Scope, *, for_change: bool = False) -> Tenant:
    tenant = await views.this_tenant(scope, for_change=for_change)
    if tenant is None:
        raise NotFound("tenant")
    return tenant


async def _organisation(scope: Scope, refusal: str) -> Tenant:
    """Return the tenant, locked so that two changes of its members come one after the other."""
    tenant = await _present(scope, for_change=True)
    if tenant.personal:
        raise Conflict(refusal)
    return tenant


async def _member(scope: Scope, user_id: UUID) -> Member:
    member = await views.find_member(scope, user_id)
    if member is None:
        raise NotFound("member")
    return member


async def _keep_an_admin(scope: Scope, member: Member) -> None:
    """Refuse what would leave nobody to admit others. Call before the change."""
    if member.role == "admin" and await views.count_admins(scope) == 1:
        raise Conflict("This is the last admin. Make somebody else admin first.")


async def _record(scope: Scope, fact: Event) -> None:
    """Append to the tenant's stream. What happens to a tenant is everybody's in it, not only the actor's."""
    stream = f"tenant:{scope.tenant_id}"
    await append(replace(scope, user_id=None), stream, await stream_version(scope, stream), [fact])
