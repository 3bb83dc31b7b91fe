"""The doors to HTTP: a user's own grants, those of a tenant, and the one by which an application asks."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Path, Query

from retinue.grants import commands
from retinue.grants.rules import Terms
from retinue.grants.shapes import GrantView, NewGrant, TermsView, grant_view, terms_view
from retinue.kernel import NotFound, Scope
from retinue.web import EventView, Page, Paging, Router, WantedPage, history, problems, scoped

mine = Router(prefix="/v1/my/grants", tags=["grants"])
of_tenants = Router(prefix="/v1/tenants", tags=["grants"])
of_grantees = Router(prefix="/v1/grant", tags=["grants"])

GrantId = Annotated[UUID, Path(description="the grant")]
TenantId = Annotated[UUID, Path(description="the tenant; the caller must be a member")]
Alive = Annotated[bool, Query(description="leave out those that were revoked or have expired")]


@mine.post("", status_code=201, responses=problems(409))
async def create(scope: Annotated[Scope, scoped("grants", "create")], body: NewGrant) -> GrantView:
    """Grant an application something. It then signs its requests with the key that the grant names."""
    return grant_view(await commands.grant(scope, body.wanted()), scope.clock.now())


@mine.get("")
async def list_mine(
    scope: Annotated[Scope, scoped("grants", "list")], page: WantedPage, alive: Alive = False
) -> Page[GrantView]:
    """List your grants, the newest first, those that are over too."""
    return await _list(commands.as_owner(scope), page, alive)


@mine.get("/{grant_id}")
async def show(scope: Annotated[Scope, scoped("grants", "read")], grant_id: GrantId) -> GrantView:
    """Show a grant: what it allows, and how much of it is used."""
    return grant_view(await commands.terms(commands.as_owner(scope), grant_id), scope.clock.now())


@mine.delete("/{grant_id}", status_code=204)
async def revoke(scope: Annotated[Scope, scoped("grants", "delete")], grant_id: GrantId) -> None:
    """Take a grant back, at once: its requests are refused from now on, and what runs under it is stopped."""
    await commands.revoke(commands.as_owner(scope), grant_id)


@mine.get("/{grant_id}/events")
async def events(
    scope: Annotated[Scope, scoped("grants", "list")], grant_id: GrantId, page: WantedPage
) -> Page[EventView]:
    """Show what happened to a grant and every use of it, oldest first."""
    await commands.terms(commands.as_owner(scope), grant_id)
    return await history(scope, f"grant:{grant_id}", page)


@of_tenants.get("/{tenant_id}/grants")
async def list_of_tenant(
    scope: Annotated[Scope, scoped("grants", "list")], tenant_id: TenantId, page: WantedPage, alive: Alive = False
) -> Page[GrantView]:
    """List the tenant's grants, the newest first: an admin sees everybody's, others their own."""
    return await _list(scope, page, alive)


@of_tenants.get("/{tenant_id}/grants/{grant_id}")
async def show_of_tenant(
    scope: Annotated[Scope, scoped("grants", "list")], tenant_id: TenantId, grant_id: GrantId
) -> GrantView:
    """Show a grant: an admin anybody's, others their own."""
    return grant_view(await commands.terms(scope, grant_id), scope.clock.now())


@of_tenants.get("/{tenant_id}/grants/{grant_id}/events")
async def events_of_tenant(
    scope: Annotated[Scope, scoped("grants", "list")], tenant_id: TenantId, grant_id: GrantId, page: WantedPage
) -> Page[EventView]:
    """Show what happened to a grant and every use of it, oldest first: an admin anybody's, others their own."""
    await commands.terms(scope, grant_id)
    return await history(scope, f"grant:{grant_id}", page)


@of_tenants.delete("/{tenant_id}/grants/{grant_id}", status_code=204)
async def revoke_of_tenant(
    scope: Annotated[Scope, scoped("grants", "delete")], tenant_id: TenantId, grant_id: GrantId
) -> None:
    """Take a grant back: an admin anybody's, others their own."""
    await commands.revoke(scope, grant_id)


@of_grantees.get("")
async def own_terms(scope: Annotated[Scope, scoped("grants", "read")]) -> TermsView:
    """Show an application the grant by which it asks: what it may do, and how much is left."""
    if scope.grant_id is None:
        raise NotFound("grant of your own; /v1/my/grants lists those that you gave")
    return terms_view(await commands.terms(scope, scope.grant_id), scope.clock.now())


async def _list(scope: Scope, page: Paging, alive: bool) -> Page[GrantView]:
    after = page.after_one(UUID)
    rows = await commands.listed(scope, after, page.limit + 1, alive=alive)
    now = scope.clock.now()

    def shown(terms: Terms) -> GrantView:
        return grant_view(terms, now)

    return page.page(rows, shown, lambda terms: (terms.grant_id,))
