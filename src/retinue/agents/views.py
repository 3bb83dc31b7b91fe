"""Tables ``agents`` and ``agent_versions``: their projection and the queries that read them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from retinue.agents.events import (
    AgentChanged,
    AgentCreated,
    AgentDefinition,
    AgentDeleted,
    AgentPaused,
    AgentResumed,
)
from retinue.agents.rules import Agent, normalised
from retinue.kernel import Row, Scope
from retinue.ledger import Projection, Recorded

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AgentDefinition)

_AGENT = "a.agent_id, a.owner_id, a.version, a.paused, a.created_at, a.changed_at, a.revision"
_CACHED_CHARACTERS = 16 * 1024 * 1024

Key = tuple[UUID, UUID, int]


class DefinitionCache:
    """Definitions by tenant, agent and version, the least recently used thrown out first.

    A version never changes once it is committed, so nothing in here is ever out of date. The bound is the length of
    the stored text: definitions may be a few hundred bytes or a hundred thousand.
    """

    def __init__(self, characters: int = _CACHED_CHARACTERS) -> None:
        self._characters = characters
        self._held = 0
        self._found: OrderedDict[Key, tuple[AgentDefinition, int]] = OrderedDict()

    def get(self, key: Key) -> AgentDefinition | None:
        """Return a definition that is held, and count it as used."""
        entry = self._found.get(key)
        if entry is None:
            return None
        self._found.move_to_end(key)
        return entry[0]

    def put(self, key: Key, definition: AgentDefinition, size: int) -> None:
        """Hold a committed definition whose text has ``size`` characters."""
        if key in self._found or size > self._characters:
            return
        self._found[key] = (definition, size)
        self._held += size
        while self._held > self._characters:
            _, (_, gone) = self._found.popitem(last=False)
            self._held -= gone

    def clear(self) -> None:
        """Forget everything."""
        self._found.clear()
        self._held = 0


# Keyed by tenant first: what one tenant reads can never answer another.
cache = DefinitionCache()


# Projection


async def _on_created(scope: Scope, recorded: Recorded[AgentCreated]) -> None:
    fact = recorded.event
    await scope.queries.execute(
        "INSERT INTO agents "
        "(tenant_id, agent_id, owner_id, name_key, version, paused, created_at, changed_at, revision) "
        "VALUES ($1, $2, $3, $4, 1, false, $5, $5, $6)",
        scope.tenant_id,
        fact.agent_id,
        fact.owner_id,
        normalised(fact.definition.name),
        recorded.recorded_at,
        recorded.version,
    )
    await _add_version(scope, fact.agent_id, 1, fact.definition, recorded.recorded_at)


async def _on_changed(scope: Scope, recorded: Recorded[AgentChanged]) -> None:
    fact = recorded.event
    await scope.queries.execute(
        "UPDATE agents SET version = $2, name_key = $3, changed_at = $4, revision = $5 WHERE agent_id = $1",
        fact.agent_id,
        fact.version,
        normalised(fact.definition.name),
        recorded.recorded_at,
        recorded.version,
    )
    await _add_version(scope, fact.agent_id, fact.version, fact.definition, recorded.recorded_at)


async def _add_version(scope: Scope, agent_id: UUID, version: int, definition: AgentDefinition, at: datetime) -> None:
    await scope.queries.execute(
        "INSERT INTO agent_versions (tenant_id, agent_id, version, definition, created_at) VALUES ($1, $2, $3, $4, $5)",
        scope.tenant_id,
        agent_id,
        version,
        _encoder.encode(definition).decode(),
        at,
    )


async def _on_paused(scope: Scope, recorded: Recorded[AgentPaused | AgentResumed]) -> None:
    await scope.queries.execute(
        "UPDATE agents SET paused = $2, revision = $3 WHERE agent_id = $1",
        recorded.event.agent_id,
        isinstance(recorded.event, AgentPaused),
        recorded.version,
    )


async def _on_deleted(scope: Scope, recorded: Recorded[AgentDeleted]) -> None:
    await scope.queries.execute(
        "UPDATE agents SET deleted_at = $2, revision = $3 WHERE agent_id = $1",
        recorded.event.agent_id,
        recorded.recorded_at,
        recorded.version,
    )


projection = Projection(
    {
        AgentCreated: _on_created,
        AgentChanged: _on_changed,
        AgentPaused: _on_paused,
        AgentResumed: _on_paused,
        AgentDeleted: _on_deleted,
    }
)


# Queries


async def definition(scope: Scope, agent_id: UUID, version: int) -> AgentDefinition | None:
    """Return one version of an agent, deleted or not; None when there is none."""
    key = (scope.tenant_id, agent_id, version)
    found = cache.get(key)
    if found is not None:
        return found
    text: str | None = await scope.queries.fetchval(
        "SELECT definition FROM agent_versions WHERE agent_id = $1 AND version = $2", agent_id, version
    )
    return _kept(scope, key, text) if text is not None else None


def _kept(scope: Scope, key: Key, text: str) -> AgentDefinition:
    """Read a definition, and hold it once this transaction is through: it may be this one that wrote it."""
    found = _decoder.decode(text)
    scope.uow.after_commit(lambda: cache.put(key, found, len(text)))
    return found


async def by_id(scope: Scope, owner_id: UUID, agent_id: UUID, *, lock: bool = False) -> Agent | None:
    """Return an owner's agent; with ``lock``, nobody else changes it before this transaction ends."""
    row = await scope.queries.fetchrow(
        f"SELECT {_AGENT} FROM agents a WHERE a.agent_id = $1 AND a.owner_id = $2 AND a.deleted_at IS NULL"
        + (" FOR UPDATE" if lock else ""),
        agent_id,
        owner_id,
    )
    return await _agent(scope, row)


async def names(scope: Scope, agent_ids: Sequence[UUID]) -> list[tuple[UUID, UUID, str]]:
    """Return agents' ids, owners and names, deleted ones too."""
    rows = await scope.queries.fetch(
        "SELECT a.agent_id, a.owner_id, v.definition::json ->> 'name' FROM agents a "
        "JOIN agent_versions v USING (tenant_id, agent_id, version) WHERE a.agent_id = ANY($1::uuid[])",
        list(agent_ids),
    )
    return [(row[0], row[1], row[2]) for row in rows]


async def by_name(scope: Scope, owner_id: UUID, name: str) -> Agent | None:
    """Return the owner's agent of that name, without regard to case."""
    row = await scope.queries.fetchrow(
        f"SELECT {_AGENT} FROM agents a WHERE a.owner_id = $1 AND a.name_key = $2 AND a.deleted_at IS NULL",
        owner_id,
        normalised(name),
    )
    return await _agent(scope, row)


async def _agent(scope: Scope, row: Row | None) -> Agent | None:
    if row is None:
        return None
    found = await definition(scope, row["agent_id"], row["version"])
    return _from_row(row, found) if found is not None else None


def _from_row(row: Row, found: AgentDefinition) -> Agent:
    return Agent(
        agent_id=row["agent_id"],
        owner_id=row["owner_id"],
        version=row["version"],
        definition=found,
        paused=row["paused"],
        created_at=row["created_at"],
        changed_at=row["changed_at"],
        revision=row["revision"],
    )


async def name_taken(scope: Scope, owner_id: UUID, name: str) -> bool:
    """Return whether an agent of the owner has the name, and keep the answer true until this transaction ends.

    The lock is by owner, so only one of two requests at once that want the same name goes on.
    """
    await scope.queries.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 7))", f"agents:{owner_id}")
    found: bool = await scope.queries.fetchval(
        "SELECT EXISTS (SELECT FROM agents WHERE owner_id = $1 AND name_key = $2 AND deleted_at IS NULL)",
        owner_id,
        normalised(name),
    )
    return found


async def owned(scope: Scope, owner_id: UUID, after: UUID | None, limit: int) -> Sequence[Agent]:
    """Return the owner's agents, oldest first, from after an id on."""
    rows = await scope.queries.fetch(
        f"SELECT {_AGENT}, v.definition FROM agents a JOIN agent_versions v USING (tenant_id, agent_id, version) "
        "WHERE a.owner_id = $1 AND a.deleted_at IS NULL AND ($2::uuid IS NULL OR a.agent_id > $2) "
        "ORDER BY a.agent_id LIMIT $3",
        owner_id,
        after,
        limit,
    )
    return [_from_row(row, _decoder.decode(row["definition"])) for row in rows]


async def versions(
    scope: Scope, agent_id: UUID, before: int | None, limit: int
) -> Sequence[tuple[int, AgentDefinition, datetime]]:
    """Return an agent's versions, newest first, from before one on."""
    rows = await scope.queries.fetch(
        "SELECT version, definition, created_at FROM agent_versions WHERE agent_id = $1 AND version < $2 "
        "ORDER BY version DESC LIMIT $3",
        agent_id,
        2**31 - 1 if before is None else before,
        limit,
    )
    return [(row["version"], _decoder.decode(row["definition"]), row["created_at"]) for row in rows]
