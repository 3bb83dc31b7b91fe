"""Checks of an item's fields that need a look at other things: its team, its assignee, its parent."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from retinue import agents
from retinue.board import views
from retinue.board.rules import DEEPEST, Fields, agent_of, as_uuid, user_of
from retinue.kernel import BadInput, NotFound, Scope
from retinue.tenancy import sees_all_teams, sees_team, team, teams_of


class Checks:
    """The checks of one transaction. What was looked up once is remembered: a bulk says the same a thousand times."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._known: dict[tuple[Any, ...], bool] = {}

    async def check(self, item_id: UUID, fields: Fields, changed: set[str], assigned_by: UUID | None) -> None:
        """Check what is about to be written.

        Args:
            fields: all fields, as they are to be.
            changed: the names of those that are new.
            assigned_by: in whose name an agent works on it already.

        Raises:
            BadInput: a field names something that is not there, or that the item may not have.
        """
        team_id = as_uuid(fields["team"])
        if "team" in changed and team_id is not None and not await self._team(team_id):
            raise BadInput("team: there is no such team that you belong to.", field="team")
        if fields["assignee"] is not None and {"assignee", "team"} & changed:
            await self._check_assignee(fields["assignee"], team_id, assigned_by, new="assignee" in changed)
        if "parent" in changed and (parent := as_uuid(fields["parent"])) is not None:
            await self._check_parent(item_id, parent)

    async def _team(self, team_id: UUID) -> bool:
        key = ("team", team_id)
        if key not in self._known:
            self._known[key] = await self._is_team(team_id)
        return self._known[key]

    async def _is_team(self, team_id: UUID) -> bool:
        scope = self._scope
        try:
            await team(scope, team_id, lock="FOR KEY SHARE")
        except NotFound:
            return False
        return scope.user_id is None or sees_all_teams(scope.role) or team_id in await teams_of(scope, scope.user_id)

    async def _check_assignee(self, assignee: str, team_id: UUID | None, by: UUID | None, *, new: bool) -> None:
        scope = self._scope
        agent_id, user_id = agent_of(assignee), user_of(assignee)
        if agent_id is not None and new:
            if not await self._own_agent(agent_id):
                raise BadInput("assignee: you have no such agent.", field="assignee")
            return  # it acts in the name of who is here, and sees what this user sees
        watcher = user_id or by
        if watcher is None:
            return
        key = ("sees", watcher, team_id)
        if key not in self._known:
            self._known[key] = await sees_team(scope, watcher, team_id)
        if not self._known[key]:
            raise BadInput("assignee: this is no member who would see the item.", field="assignee")

    async def _own_agent(self, agent_id: UUID) -> bool:
        key = ("agent", agent_id)
        if key not in self._known:
            try:
                await agents.find(self._scope, agent_id)
                self._known[key] = True
            except NotFound:
                self._known[key] = False
        return self._known[key]

    async def _check_parent(self, item_id: UUID, parent: UUID) -> None:
        scope = self._scope
        # Two that make each other their parent at once: one waits here, and then sees the other.
        await scope.queries.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('board.parents:' || $1::text, 0))", str(scope.tenant_id)
        )
        await views.rows_of(scope).flush(scope)
        try:
            await views.find(scope, parent)
        except NotFound:
            raise BadInput("parent: there is no such item.", field="parent") from None
        if await views.height_above(scope, parent, item_id, DEEPEST) is None:
            raise BadInput(
                f"parent: an item cannot lie below itself, nor below more than {DEEPEST} others.", field="parent"
            )
