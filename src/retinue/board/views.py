"""Tables ``items``, ``item_comments``, ``item_links`` and ``board_policies``: their projection and queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from retinue.board.events import (
    BoardPolicy,
    ItemChanged,
    ItemCommented,
    ItemCreated,
    ItemDeleted,
    ItemEvent,
    ItemLinked,
    ItemProposalDecided,
    ItemProposed,
    ItemRestored,
    ItemRunEnded,
    ItemRunStarted,
    ItemUnlinked,
    PolicyChanged,
)
from retinue.board.rules import Item, Proposal, agent_of, as_uuid
from retinue.kernel import NotFound, Row, Scope
from retinue.ledger import Policies, Recorded, StreamProjection
from retinue.tenancy import sees_all_teams

_COLUMNS = (
    "item_id, version, title, description, state, priority, labels, due, team_id, assignee, parent_id, comments, "
    "proposal, assigned_by, run_due, run_id, run_agent, run_status, created_by, creator_id, created_at, changed_at, "
    "deleted_at"
)
_FIELD_COLUMNS = {"team": "team_id", "parent": "parent_id"}


# Projection


class Rows:
    """The writes of one transaction to the table ``items``; a bulk collects them and sends many in one go."""

    def __init__(self) -> None:
        self.collecting = False
        self._waiting: dict[str, list[tuple[Any, ...]]] = {}
        self._items: set[UUID] = set()

    async def write(self, scope: Scope, item_id: UUID, query: str, *arguments: Any) -> None:
        """Write now, or keep it for :meth:`flush`. What is written of one item keeps its order."""
        if not self.collecting:
            await scope.queries.execute(query, *arguments)
            return
        if item_id in self._items:
            await self.flush(scope)
        self._items.add(item_id)
        self._waiting.setdefault(query, []).append(arguments)

    async def flush(self, scope: Scope) -> None:
        """Write what was kept; whoever reads the table afterwards sees it."""
        waiting, self._waiting = self._waiting, {}
        self._items.clear()
        for query, rows in waiting.items():
            await scope.queries.executemany(query, rows)


def rows_of(scope: Scope) -> Rows:
    """Return the transaction's writes."""
    return scope.uow.attach(Rows, Rows)


async def project_items(scope: Scope, batch: Sequence[Recorded[Any]]) -> None:
    """Bring an item's row up to date with what one append brings."""
    first = batch[0]
    if isinstance(first.event, ItemCreated):
        await _insert(scope, first, first.event)
        batch = batch[1:]
    columns: dict[str, Any] = {}
    spoken = 0
    for recorded in batch:
        columns.update(_columns_of(recorded))
        if isinstance(recorded.event, ItemCommented):
            spoken += 1
            await _insert_comment(scope, recorded, recorded.event)
        elif isinstance(recorded.event, ItemLinked | ItemUnlinked):
            await _change_links(scope, recorded.event)
    if batch:
        columns |= {"version": batch[-1].version, "changed_at": batch[-1].recorded_at}
        places = ", ".join(f"{name} = ${n}" for n, name in enumerate(columns, 3))
        await rows_of(scope).write(
            scope,
            batch[0].event.item_id,
            f"UPDATE items SET comments = comments + $2, {places} WHERE item_id = $1",
            batch[0].event.item_id,
            spoken,
            *columns.values(),
        )


def _columns_of(recorded: Recorded[ItemEvent]) -> dict[str, Any]:
    """Return the columns that an event gives a value."""
    fact = recorded.event
    match fact:
        case ItemChanged():
            after = {name: change.after for name, change in fact.changes.items()}
            found = {_FIELD_COLUMNS.get(name, name): _stored(name, value) for name, value in after.items()}
            if "assignee" in after:
                found |= {"assigned_by": fact.by, "run_due": agent_of(after["assignee"]) is not None}
            return found
        case ItemDeleted():
            return {"deleted_at": recorded.recorded_at, "run_due": False}
        case ItemRestored():
            return {"deleted_at": None}
        case ItemProposed():
            proposal = Proposal(fact.changes, fact.reason, fact.agent_id, fact.run_id, recorded.version)
            return {"proposal": msgspec.json.encode(proposal).decode()}
        case ItemProposalDecided():
            return {"proposal": None}
        case ItemRunStarted():
            return {"run_due": False, "run_id": fact.run_id, "run_agent": fact.agent_id, "run_status": "open"}
        case ItemRunEnded():
            return {"run_due": False, "run_status": fact.status}
        case _:
            return {}


def _stored(name: str, value: Any) -> Any:
    if name == "due":
        return None if value is None else datetime.fromisoformat(value)
    return as_uuid(value) if name in _FIELD_COLUMNS else value


async def _insert(scope: Scope, recorded: Recorded[ItemEvent], fact: ItemCreated) -> None:
    values = {name: _stored(name, value) for name, value in fact.fields.items()}
    await rows_of(scope).write(
        scope,
        fact.item_id,
        "INSERT INTO items (tenant_id, item_id, version, title, description, state, priority, labels, due, team_id, "
        "assignee, parent_id, assigned_by, run_due, created_by, creator_id, created_at, changed_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $17)",
        scope.tenant_id,
        fact.item_id,
        recorded.version,
        values["title"],
        values["description"],
        values["state"],
        values["priority"],
        values["labels"],
        values["due"],
        values["team"],
        values["assignee"],
        values["parent"],
        fact.by if values["assignee"] else None,
        agent_of(values["assignee"]) is not None,
        recorded.meta.actor,
        fact.by,
        recorded.recorded_at,
    )


async def _insert_comment(scope: Scope, recorded: Recorded[ItemEvent], fact: ItemCommented) -> None:
    await scope.queries.execute(
        "INSERT INTO item_comments (tenant_id, item_id, comment_id, version, author, text, created_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7)",
        scope.tenant_id,
        fact.item_id,
        fact.comment_id,
        recorded.version,
        recorded.meta.actor,
        fact.text,
        recorded.recorded_at,
    )


async def _change_links(scope: Scope, fact: ItemLinked | ItemUnlinked) -> None:
    if isinstance(fact, ItemUnlinked):
        await scope.queries.execute(
            "DELETE FROM item_links WHERE item_id = $1 AND link_id = $2", fact.item_id, fact.link_id
        )
        return
    await scope.queries.execute(
        "INSERT INTO item_links (tenant_id, item_id, link_id, kind, target, title) VALUES ($1, $2, $3, $4, $5, $6)",
        scope.tenant_id,
        fact.item_id,
        fact.link_id,
        fact.kind,
        fact.target,
        fact.title,
    )


_policies = Policies("board-policy", "board_policies", BoardPolicy(), lambda policy: PolicyChanged(policy=policy))
policy = _policies.of

PROJECTIONS = (StreamProjection("item", project_items), _policies.projection)


# Queries


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which items a list shows; None and empty leave a condition out.

    Attributes:
        no_team: only those that belong to no team.
        labels: those that have all of these.
        text: as the search of the web: words, "phrases", or, -without.
        deleted: the deleted ones instead of the others.
    """

    states: Sequence[str] = ()
    assignee: str | None = None
    team: UUID | None = None
    no_team: bool = False
    labels: Sequence[str] = ()
    priority: str | None = None
    due_before: datetime | None = None
    parent: UUID | None = None
    text: str | None = None
    deleted: bool = False


def _visible(scope: Scope, place: str) -> str:
    """Return the condition on items the scope's user may see; ``place`` is the user's id."""
    if sees_all_teams(scope.role if scope.user_id else None):
        return f"({place}::uuid IS NULL OR true)"
    return f"(team_id IS NULL OR team_id IN (SELECT t.team_id FROM team_members t WHERE t.user_id = {place}))"


async def find(scope: Scope, item_id: UUID) -> Item:
    """Return an item the scope's user may see.

    Raises:
        NotFound: there is none, it is deleted, or another team's.
    """
    found = await _one(scope, item_id, "")
    if found is None or found.deleted_at is not None:
        raise NotFound("item")
    return found


async def details(scope: Scope, item_id: UUID) -> tuple[Item, list[Link]]:
    """Return an item the scope's user may see, and its links, the oldest first.

    Raises:
        NotFound: there is none, it is deleted, or another team's.
    """
    row = await scope.queries.fetchrow(
        f"SELECT {_COLUMNS}, ("
        "SELECT json_agg(json_build_array(l.link_id, l.kind, l.target, l.title) ORDER BY l.link_id)::text "
        "FROM item_links l WHERE l.item_id = items.item_id) AS links "
        f"FROM items WHERE item_id = $1 AND deleted_at IS NULL AND {_visible(scope, '$2')}",
        item_id,
        scope.user_id,
    )
    if row is None:
        raise NotFound("item")
    found = msgspec.json.decode(row["links"] or "[]", type=list[tuple[UUID, str, str, str]])
    return _item(row), [Link(*one) for one in found]


async def locked(scope: Scope, item_id: UUID, *, deleted: bool = False) -> Item:
    """Return an item that nobody else changes before this transaction ends; ``deleted``: also a deleted one.

    Raises:
        NotFound: there is none, it is deleted, or another team's.
    """
    found = await _one(scope, item_id, " FOR UPDATE")
    if found is None or (found.deleted_at is not None and not deleted):
        raise NotFound("item")
    return found


async def _one(scope: Scope, item_id: UUID, lock: str) -> Item | None:
    row = await scope.queries.fetchrow(
        f"SELECT {_COLUMNS} FROM items WHERE item_id = $1 AND {_visible(scope, '$2')}{lock}", item_id, scope.user_id
    )
    return _item(row) if row else None


async def any_locked(scope: Scope, item_id: UUID) -> Item | None:
    """Return an item, deleted or not, locked; for the system, which sees all."""
    return await _one(scope, item_id, " FOR UPDATE")


async def many_locked(scope: Scope, item_ids: Sequence[UUID]) -> dict[UUID, Item]:
    """Return those of some items that the scope's user may see and that are not deleted, locked in one order."""
    rows = await scope.queries.fetch(
        f"SELECT {_COLUMNS} FROM items WHERE item_id = ANY($1) AND deleted_at IS NULL AND {_visible(scope, '$2')} "
        "ORDER BY item_id FOR UPDATE",
        list(item_ids),
        scope.user_id,
    )
    return {row["item_id"]: _item(row) for row in rows}


async def listed(scope: Scope, wanted: Wanted, before: UUID | None, limit: int) -> list[Item]:
    """Return the items that are wanted and that the scope's user may see, newest first, from before an id on."""
    arguments: list[Any] = [scope.user_id, limit]
    conditions = [_visible(scope, "$1"), f"deleted_at IS {'NOT ' if wanted.deleted else ''}NULL"]

    def add(condition: str, value: Any) -> None:
        arguments.append(value)
        conditions.append(condition.replace("?", f"${len(arguments)}"))

    if before is not None:
        add("item_id < ?", before)
    if wanted.states:
        add("state = ANY(?)", list(wanted.states))
    if wanted.assignee is not None:
        add("assignee = ?", wanted.assignee)
    if wanted.no_team:
        conditions.append("team_id IS NULL")
    if wanted.team is not None:
        add("team_id = ?", wanted.team)
    if wanted.labels:
        add("labels @> ?::text[]", list(wanted.labels))
    if wanted.priority is not None:
        add("priority = ?", wanted.priority)
    if wanted.due_before is not None:
        add("due < ?", wanted.due_before)
    if wanted.parent is not None:
        add("parent_id = ?", wanted.parent)
    if wanted.text is not None:
        add("search @@ websearch_to_tsquery('english', ?)", wanted.text)
    rows = await scope.queries.fetch(
        f"SELECT {_COLUMNS} FROM items WHERE {' AND '.join(conditions)} ORDER BY item_id DESC LIMIT $2", *arguments
    )
    return [_item(row) for row in rows]


@dataclass(frozen=True, slots=True)
class Comment:
    """What somebody said about an item; ``author`` is an actor such as ``user:<id>`` or ``agent:<id>``."""

    comment_id: UUID
    version: int
    author: str
    text: str
    created_at: datetime


async def comments(scope: Scope, item_id: UUID, before: int | None, limit: int) -> list[Comment]:
    """Return comments of an item, newest first, from before a version on. Look first whether the item may be seen."""
    rows = await scope.queries.fetch(
        "SELECT comment_id, version, author, text, created_at FROM item_comments WHERE item_id = $1 "
        "AND ($2::integer IS NULL OR version < $2) ORDER BY version DESC LIMIT $3",
        item_id,
        before,
        limit,
    )
    return [Comment(*(row[n] for n in range(5))) for row in rows]


async def comment(scope: Scope, item_id: UUID, comment_id: UUID) -> Comment | None:
    """Return one comment of an item."""
    row = await scope.queries.fetchrow(
        "SELECT comment_id, version, author, text, created_at FROM item_comments WHERE item_id = $1 "
        "AND comment_id = $2",
        item_id,
        comment_id,
    )
    return Comment(*(row[n] for n in range(5))) if row else None


@dataclass(frozen=True, slots=True)
class Link:
    """What an item points to."""

    link_id: UUID
    kind: str
    target: str
    title: str


async def links(scope: Scope, item_id: UUID) -> list[Link]:
    """Return the links of an item, oldest first. Look first whether the item may be seen."""
    rows = await scope.queries.fetch(
        "SELECT link_id, kind, target, title FROM item_links WHERE item_id = $1 ORDER BY link_id", item_id
    )
    return [Link(*(row[n] for n in range(4))) for row in rows]


async def height_above(scope: Scope, item_id: UUID, never: UUID, most: int) -> int | None:
    """Count an item and those above it; None when ``never`` is among them, or when there are more than ``most``."""
    rows = await scope.queries.fetch(
        "WITH RECURSIVE above (item_id, parent_id, height) AS ("
        "  SELECT item_id, parent_id, 1 FROM items WHERE item_id = $1"
        "  UNION ALL SELECT i.item_id, i.parent_id, a.height + 1 FROM above a JOIN items i ON i.item_id = a.parent_id"
        "  WHERE a.height <= $2) SELECT item_id FROM above",
        item_id,
        most,
    )
    return None if len(rows) > most or any(row[0] == never for row in rows) else len(rows)


async def count_of_team(scope: Scope, team_id: UUID) -> int:
    """Return how many items belong to a team, deleted ones left out."""
    found: int = await scope.queries.fetchval(
        "SELECT count(*) FROM items WHERE team_id = $1 AND deleted_at IS NULL", team_id
    )
    return found


def _item(row: Row) -> Item:
    due, team, parent = row["due"], row["team_id"], row["parent_id"]
    fields = {
        "title": row["title"],
        "description": row["description"],
        "state": row["state"],
        "priority": row["priority"],
        "labels": list(row["labels"]),
        "due": due.astimezone(UTC).isoformat() if due else None,
        "team": str(team) if team else None,
        "assignee": row["assignee"],
        "parent": str(parent) if parent else None,
    }
    proposal = None if row["proposal"] is None else msgspec.json.decode(row["proposal"], type=Proposal)
    return Item(
        item_id=row["item_id"],
        version=row["version"],
        fields=fields,
        comments=row["comments"],
        proposal=proposal,
        assigned_by=row["assigned_by"],
        run_due=row["run_due"],
        run_id=row["run_id"],
        run_agent=row["run_agent"],
        run_status=row["run_status"],
        created_by=row["created_by"],
        creator_id=row["creator_id"],
        created_at=row["created_at"],
        changed_at=row["changed_at"],
        deleted_at=row["deleted_at"],
    )
