"""Tenants, their members, the emergency stop, and who one is, over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from fastapi import Path, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from retinue.identity import Person, people
from retinue.kernel import NotFound, Scope
from retinue.tenancy import commands, teams, views
from retinue.tenancy.names import known_to
from retinue.tenancy.permissions import Role, as_role
from retinue.tenancy.views import Member, Membership, Tenant
from retinue.web import Page, Router, WantedPage, limit_login, problems, scoped

profile = Router(prefix="/v1/my/profile", tags=["identity"])
tenants = Router(prefix="/v1/tenants", tags=["tenants"])

TenantId = Annotated[UUID, Path(description="the tenant; the caller must be a member")]
UserId = Annotated[UUID, Path(description="the member")]
TeamId = Annotated[UUID, Path(description="the team")]
TenantName = Annotated[str, Field(min_length=1, max_length=200, examples=["Acme"])]


class NewTenant(BaseModel):
    """An organisation to found; the caller becomes its admin."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "Acme"}]})

    name: TenantName


class NewMember(BaseModel):
    """Who is to be a member, by `email` or by `user_id`, and in which role."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"email": "ann@example.com", "role": "member"}]}
    )

    email: str | None = Field(default=None, min_length=3, max_length=254, examples=["ann@example.com"])
    user_id: UUID | None = None
    role: Role

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.email is None) == (self.user_id is None):
            raise ValueError("name the user by email or by user_id")
        return self


class NewRole(BaseModel):
    """The role a member is to have."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"role": "manager"}]})

    role: Role


class StopReason(BaseModel):
    """Why everything is to stop."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"reason": "an agent runs wild"}]})

    reason: str = Field(min_length=1, max_length=1000, examples=["an agent runs wild"])


class NewTeam(BaseModel):
    """A team, or its new name."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "Editors"}]})

    name: str = Field(min_length=1, max_length=100, examples=["Editors"])


class TeamView(BaseModel):
    """A team of a tenant."""

    team_id: UUID
    name: str = Field(examples=["Editors"])
    created_at: datetime


class TeamMemberView(BaseModel):
    """A member of a team."""

    user_id: UUID
    joined_at: datetime


class TenantView(BaseModel):
    """A tenant and the caller's role in it."""

    tenant_id: UUID
    name: str
    role: Role
    personal: bool
    created_at: datetime
    stopped_at: datetime | None = Field(description="since when the emergency stop is on")
    stop_reason: str | None


class MemberView(BaseModel):
    """A member of a tenant."""

    user_id: UUID
    email: str | None = Field(
        examples=["ann@example.com"],
        description="null for a member who was added by id: an id is no way to look up somebody's address",
    )
    name: str = Field(examples=["Ann"], description="empty where the e-mail address is not shown")
    role: Role
    joined_at: datetime


class ProfileView(BaseModel):
    """Who the caller is."""

    user_id: UUID
    email: str | None = Field(examples=["ann@example.com"])
    name: str = Field(examples=["Ann"])
    created_at: datetime
    tenants: list[TenantView]


@profile.get("")
async def read_profile(scope: Annotated[Scope, scoped("profile", "read")]) -> ProfileView:
    """Tell who you are and which tenants you are a member of. An API key sees its own tenant only."""
    person = (await people(scope.queries, [scope.owner()])).get(scope.owner())
    if person is None:
        raise NotFound("user")
    return ProfileView(
        user_id=person.user_id,
        email=person.email,
        name=person.name,
        created_at=person.created_at,
        tenants=[_membership(one) for one in await _visible(scope)],
    )


@tenants.post("", status_code=201)
async def create_tenant(scope: Annotated[Scope, scoped("tenants", "create")], body: NewTenant) -> TenantView:
    """Found an organisation, with you as its admin."""
    return _view(await commands.found_organisation(scope, body.name), "admin")


@tenants.get("")
async def list_tenants(scope: Annotated[Scope, scoped("tenants", "list")], page: WantedPage) -> Page[TenantView]:
    """List the tenants you are a member of, the oldest first. An API key sees its own tenant only."""
    after = page.after_one(UUID)
    found = [one for one in await _visible(scope) if after is None or one.tenant.tenant_id > after]
    return page.page(found[: page.limit + 1], _membership, lambda one: (one.tenant.tenant_id,))


@tenants.get("/{tenant_id}")
async def read_tenant(scope: Annotated[Scope, scoped("tenants", "read")], tenant_id: TenantId) -> TenantView:
    """Show a tenant."""
    found = await views.this_tenant(scope)
    if found is None:
        raise NotFound("tenant")
    return _tenant(found, scope)


@tenants.put("/{tenant_id}", responses=problems(409))
async def rename_tenant(
    scope: Annotated[Scope, scoped("tenants", "change")], tenant_id: TenantId, body: NewTenant
) -> TenantView:
    """Give an organisation another name."""
    return _tenant(await commands.rename(scope, body.name), scope)


@tenants.get("/{tenant_id}/members")
async def list_members(
    scope: Annotated[Scope, scoped("members", "list")], tenant_id: TenantId, page: WantedPage
) -> Page[MemberView]:
    """List the members of a tenant. One who was added by id has no e-mail address and no name here."""
    after = page.after_one(UUID)
    found = await views.members(scope, after, page.limit + 1)
    known = await people(scope.queries, [one.user_id for one in found])
    return page.page(found, lambda one: _member(scope, one, known), lambda one: (one.user_id,))


@tenants.put("/{tenant_id}/members", responses=problems(409))
async def put_member(
    scope: Annotated[Scope, scoped("members", "create")], tenant_id: TenantId, request: Request, body: NewMember
) -> MemberView:
    """Make somebody who has an account a member, or change a member's role. Who is named by e-mail is shown by it."""
    if body.email is not None:
        await limit_login(request, f"invite by {scope.owner()}")  # so that it is no way to try out addresses
        return await _shown(scope, await commands.put_member_by_email(scope, body.email, body.role))
    if body.user_id is None:
        raise NotFound("user")
    return await _shown(scope, await commands.put_member(scope, body.user_id, body.role))


@tenants.put("/{tenant_id}/members/{user_id}", responses=problems(409))
async def change_member(
    scope: Annotated[Scope, scoped("members", "change")], tenant_id: TenantId, user_id: UserId, body: NewRole
) -> MemberView:
    """Give a member another role. The last admin stays admin."""
    return await _shown(scope, await commands.change_member(scope, user_id, body.role))


@tenants.delete("/{tenant_id}/members/{user_id}", status_code=204, responses=problems(409))
async def remove_member(
    scope: Annotated[Scope, scoped("members", "delete")], tenant_id: TenantId, user_id: UserId
) -> None:
    """Remove a member, whose API keys for this tenant stop working. The last admin stays."""
    await commands.remove_member(scope, user_id)


@tenants.post("/{tenant_id}/leave", status_code=204, responses=problems(409))
async def leave(scope: Annotated[Scope, scoped("members", "leave")], tenant_id: TenantId) -> None:
    """Leave an organisation. The last admin cannot."""
    await commands.leave(scope)


@tenants.get("/{tenant_id}/teams")
async def list_teams(
    scope: Annotated[Scope, scoped("teams", "list")], tenant_id: TenantId, page: WantedPage
) -> Page[TeamView]:
    """List the teams of a tenant, the oldest first. What belongs to a team is seen by its members and by managers."""
    after = page.after_one(UUID)
    found = await teams.teams(scope, after, page.limit + 1)
    return page.page(found, _team, lambda one: (one.team_id,))


@tenants.post("/{tenant_id}/teams", status_code=201, responses=problems(409))
async def create_team(
    scope: Annotated[Scope, scoped("teams", "create")], tenant_id: TenantId, body: NewTeam
) -> TeamView:
    """Make a team; you are its first member."""
    return _team(await teams.create_team(scope, body.name))


@tenants.get("/{tenant_id}/teams/{team_id}")
async def read_team(scope: Annotated[Scope, scoped("teams", "read")], tenant_id: TenantId, team_id: TeamId) -> TeamView:
    """Show a team."""
    return _team(await teams.team(scope, team_id))


@tenants.put("/{tenant_id}/teams/{team_id}", responses=problems(409))
async def rename_team(
    scope: Annotated[Scope, scoped("teams", "change")], tenant_id: TenantId, team_id: TeamId, body: NewTeam
) -> TeamView:
    """Give a team another name."""
    return _team(await teams.rename_team(scope, team_id, body.name))


@tenants.delete("/{tenant_id}/teams/{team_id}", status_code=204, responses=problems(409))
async def delete_team(scope: Annotated[Scope, scoped("teams", "delete")], tenant_id: TenantId, team_id: TeamId) -> None:
    """Delete a team to which no work item belongs."""
    await teams.delete_team(scope, team_id)


@tenants.get("/{tenant_id}/teams/{team_id}/members")
async def list_team_members(
    scope: Annotated[Scope, scoped("teams", "read")], tenant_id: TenantId, team_id: TeamId, page: WantedPage
) -> Page[TeamMemberView]:
    """List the members of a team."""
    after = page.after_one(UUID)
    await teams.team(scope, team_id)
    found = await teams.team_members(scope, team_id, after, page.limit + 1)
    return page.page(
        found, lambda one: TeamMemberView(user_id=one.user_id, joined_at=one.joined_at), lambda one: (one.user_id,)
    )


@tenants.put("/{tenant_id}/teams/{team_id}/members/{user_id}", status_code=204)
async def add_team_member(
    scope: Annotated[Scope, scoped("teams", "change")], tenant_id: TenantId, team_id: TeamId, user_id: UserId
) -> None:
    """Take a member of the tenant into a team."""
    await teams.add_to_team(scope, team_id, user_id)


@tenants.delete("/{tenant_id}/teams/{team_id}/members/{user_id}", status_code=204)
async def remove_team_member(
    scope: Annotated[Scope, scoped("teams", "change")], tenant_id: TenantId, team_id: TeamId, user_id: UserId
) -> None:
    """Take somebody out of a team. What they see on open live streams is looked at again within seconds."""
    await teams.remove_from_team(scope, team_id, user_id)


@tenants.post("/{tenant_id}/stop")
async def stop(scope: Annotated[Scope, scoped("stop", "stop")], tenant_id: TenantId, body: StopReason) -> TenantView:
    """Emergency stop: nothing new starts in this tenant, and what runs stops at its next step."""
    return _tenant(await commands.stop(scope, body.reason), scope)


@tenants.post("/{tenant_id}/resume")
async def resume(scope: Annotated[Scope, scoped("stop", "resume")], tenant_id: TenantId) -> TenantView:
    """End the emergency stop; what was stopped goes on where it was."""
    return _tenant(await commands.resume(scope), scope)


async def _visible(scope: Scope) -> list[Membership]:
    """The caller's tenants. A key was made for one of them and tells nothing of the others."""
    found = await views.memberships(scope, scope.owner())
    if scope.actor.kind == "api_key":
        return [one for one in found if one.tenant.tenant_id == scope.tenant_id]
    return found


async def _shown(scope: Scope, member: Member) -> MemberView:
    return _member(scope, member, await people(scope.queries, [member.user_id]))


def _member(scope: Scope, member: Member, known: dict[UUID, Person]) -> MemberView:
    """Show a member. The name goes the way of the address: without one of their own, it is the address's first half."""
    person = known_to(scope, member, known)
    return MemberView(
        user_id=member.user_id,
        email=person.email if person else None,
        name=person.name if person else "",
        role=as_role(member.role),
        joined_at=member.joined_at,
    )


def _team(one: teams.Team) -> TeamView:
    return TeamView(team_id=one.team_id, name=one.name, created_at=one.created_at)


def _membership(one: Membership) -> TenantView:
    return _view(one.tenant, one.role)


def _tenant(tenant: Tenant, scope: Scope) -> TenantView:
    return _view(tenant, scope.role or "viewer")


def _view(tenant: Tenant, role: str) -> TenantView:
    return TenantView.model_validate(
        {
            "tenant_id": tenant.tenant_id,
            "name": tenant.name,
            "role": role,
            "personal": tenant.personal,
            "created_at": tenant.created_at,
            "stopped_at": tenant.stopped_at,
            "stop_reason": tenant.stop_reason,
        }
    )
