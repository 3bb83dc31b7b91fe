"""Teams: who within a tenant sees what belongs to them. Managers and admins see what belongs to any team."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from retinue.kernel import BadInput, Conflict, NotFound, Row, Scope, new_id
from retinue.ledger import Event, Projection, Recorded, append
from retinue.tenancy.events import TeamCreated, TeamDeleted, TeamMemberAdded, TeamMemberRemoved, TeamRenamed
from retinue.tenancy.views import find_member

MOST_TEAMS = 1000

team_hooks: list[Callable[[Scope, UUID], Awaitable[None]]] = []
"""Called in the transaction that deletes a team, whose row is locked: raise Conflict while something belongs to it."""

_SEES_ALL = frozenset({"manager", "admin"})
_COLUMNS = "team_id, name, version, created_at"


@dataclass(frozen=True, slots=True)
class Team:
    """A team of the tenant."""

    team_id: UUID
    name: str
    version: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class TeamMember:
    """One member of a team."""

    user_id: UUID
    joined_at: datetime


def sees_all_teams(role: str | None) -> bool:
    """Tell whether a role sees what belongs to any team; None is the system, which does."""
    return role is None or role in _SEES_ALL


# Queries


async def teams(scope: Scope, after: UUID | None, limit: int) -> list[Team]:
    """Return the tenant's teams, the oldest first."""
    rows = await scope.queries.fetch(
        f"SELECT {_COLUMNS} FROM teams WHERE $1::uuid IS NULL OR team_id > $1 ORDER BY team_id LIMIT $2", after, limit
    )
    return [_team(row) for row in rows]


async def team(scope: Scope, team_id: UUID, *, lock: str = "") -> Team:
    """Return a team of the tenant.

    Args:
        lock: ``FOR UPDATE`` to change it, ``FOR KEY SHARE`` so that it is not deleted before this scope commits.

    Raises:
        NotFound: there is none.
    """
    row = await scope.queries.fetchrow(f"SELECT {_COLUMNS} FROM teams WHERE team_id = $1 {lock}", team_id)
    if row is None:
        raise NotFound("team")
    return _team(row)


async def team_members(scope: Scope, team_id: UUID, after: UUID | None, limit: int) -> list[TeamMember]:
    """Return the members of a team by user id."""
    rows = await scope.queries.fetch(
        "SELECT user_id, joined_at FROM team_members WHERE team_id = $1 AND ($2::uuid IS NULL OR user_id > $2) "
        "ORDER BY user_id LIMIT $3",
        team_id,
        after,
        limit,
    )
    return [TeamMember(row[0], row[1]) for row in rows]


async def teams_of(scope: Scope, user_id: UUID) -> frozenset[UUID]:
    """Return the teams a user belongs to."""
    rows = await scope.queries.fetch("SELECT team_id FROM team_members WHERE user_id = $1", user_id)
    return frozenset(row[0] for row in rows)


async def role_of(scope: Scope, user_id: UUID) -> str | None:
    """Return a user's role in the tenant; None for no member."""
    member = await find_member(scope, user_id)
    return member.role if member else None


async def sees_team(scope: Scope, user_id: UUID, team_id: UUID | None) -> bool:
    """Tell whether a user is a member of the tenant who sees what belongs to a team (None: to no team)."""
    role = await role_of(scope, user_id)
    if role is None:
        return False
    return team_id is None or sees_all_teams(role) or team_id in await teams_of(scope, user_id)


# Commands


async def create_team(scope: Scope, name: str) -> Team:
    """Make a team with the scope's user in it.

    Raises:
        Conflict: there is a team of that name, or there are a thousand.
    """
    name = _checked(name)
    if await scope.queries.fetchval("SELECT count(*) FROM teams") >= MOST_TEAMS:
        raise Conflict(f"A tenant has at most {MOST_TEAMS:,} teams.")
    await _claim(scope, name, None)
    team_id = new_id()
    facts: list[Event] = [TeamCreated(team_id=team_id, name=name)]
    facts.append(TeamMemberAdded(team_id=team_id, user_id=scope.owner()))
    await _record(scope, team_id, 0, facts)
    return await team(scope, team_id)


async def rename_team(scope: Scope, team_id: UUID, name: str) -> Team:
    """Give a team another name.

    Raises:
        NotFound: there is no such team.
        Conflict: another team has the name.
    """
    found, name = await team(scope, team_id, lock="FOR UPDATE"), _checked(name)
    if found.name != name:
        await _claim(scope, name, team_id)
        await _record(scope, team_id, found.version, [TeamRenamed(team_id=team_id, name=name)])
    return await team(scope, team_id)


async def delete_team(scope: Scope, team_id: UUID) -> None:
    """Delete a team to which nothing belongs.

    Raises:
        NotFound: there is no such team.
        Conflict: something belongs to it.
    """
    found = await team(scope, team_id, lock="FOR UPDATE")
    for hook in team_hooks:
        await hook(scope, team_id)
    await _record(scope, team_id, found.version, [TeamDeleted(team_id=team_id)])


async def add_to_team(scope: Scope, team_id: UUID, user_id: UUID) -> None:
    """Take a member of the tenant into a team. Once more changes nothing.

    Raises:
        NotFound: there is no such team, or the user is no member of the tenant.
    """
    found = await team(scope, team_id, lock="FOR UPDATE")
    if await find_member(scope, user_id) is None:
        raise NotFound("member")
    if team_id not in await teams_of(scope, user_id):
        await _record(scope, team_id, found.version, [TeamMemberAdded(team_id=team_id, user_id=user_id)])


async def remove_from_team(scope: Scope, team_id: UUID, user_id: UUID) -> None:
    """Take somebody out of a team.

    Raises:
        NotFound: there is no such team, or the user does not belong to it.
    """
    found = await team(scope, team_id, lock="FOR UPDATE")
    if team_id not in await teams_of(scope, user_id):
        raise NotFound("member")
    await _record(scope, team_id, found.version, [TeamMemberRemoved(team_id=team_id, user_id=user_id)])


async def leave_teams(scope: Scope, user_id: UUID) -> None:
    """Take somebody who leaves the tenant out of all teams, in the order of their ids."""
    for team_id in sorted(await teams_of(scope, user_id)):
        await remove_from_team(scope, team_id, user_id)


def _checked(name: str) -> str:
    name = " ".join(name.split())
    if not name or len(name) > 100 or "\x00" in name:
        raise BadInput("A team's name has 1 to 100 characters.", field="name")
    return name


async def _claim(scope: Scope, name: str, own: UUID | None) -> None:
    # Two at once: the unique key refuses the second at its insert, which is a Conflict as well.
    taken = await scope.queries.fetchval("SELECT team_id FROM teams WHERE name_key = $1", name.casefold())
    if taken is not None and taken != own:
        raise Conflict(f"There is a team called {name}.")


async def _record(scope: Scope, team_id: UUID, version: int, facts: Sequence[Event]) -> None:
    await append(replace(scope, user_id=None), f"team:{team_id}", version, facts)


def _team(row: Row) -> Team:
    return Team(row["team_id"], row["name"], row["version"], row["created_at"])


# Projection


async def _on_created(scope: Scope, recorded: Recorded[TeamCreated]) -> None:
    fact = recorded.event
    await scope.queries.execute(
        "INSERT INTO teams (tenant_id, team_id, version, name, name_key, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
        recorded.tenant_id,
        fact.team_id,
        recorded.version,
        fact.name,
        fact.name.casefold(),
        recorded.recorded_at,
    )


async def _on_renamed(scope: Scope, recorded: Recorded[TeamRenamed]) -> None:
    fact = recorded.event
    await scope.queries.execute(
        "UPDATE teams SET name = $2, name_key = $3, version = $4 WHERE team_id = $1",
        fact.team_id,
        fact.name,
        fact.name.casefold(),
        recorded.version,
    )


async def _on_deleted(scope: Scope, recorded: Recorded[TeamDeleted]) -> None:
    await scope.queries.execute("DELETE FROM teams WHERE team_id = $1", recorded.event.team_id)


async def _on_added(scope: Scope, recorded: Recorded[TeamMemberAdded]) -> None:
    await scope.queries.execute(
        "INSERT INTO team_members (tenant_id, team_id, user_id, joined_at) VALUES ($1, $2, $3, $4)",
        recorded.tenant_id,
        recorded.event.team_id,
        recorded.event.user_id,
        recorded.recorded_at,
    )
    await _moved_on(scope, recorded.event.team_id, recorded.version)


async def _on_removed(scope: Scope, recorded: Recorded[TeamMemberRemoved]) -> None:
    await scope.queries.execute(
        "DELETE FROM team_members WHERE team_id = $1 AND user_id = $2",
        recorded.event.team_id,
        recorded.event.user_id,
    )
    await _moved_on(scope, recorded.event.team_id, recorded.version)


async def _moved_on(scope: Scope, team_id: UUID, version: int) -> None:
    await scope.queries.execute("UPDATE teams SET version = $2 WHERE team_id = $1", team_id, version)


PROJECTION = Projection(
    {
        TeamCreated: _on_created,
        TeamRenamed: _on_renamed,
        TeamDeleted: _on_deleted,
        TeamMemberAdded: _on_added,
        TeamMemberRemoved: _on_removed,
    }
)
